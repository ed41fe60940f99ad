"""A causal language model with what SpiralThinker adds: markers, latent adapter, readings that reuse a prefix.

Any causal model of transformers will do whose decoder takes `inputs_embeds`, a cache and `position_ids` and
attends to all that is before (tested: Llama, Qwen2, GPT-2). The additions are a submodule `latent_parts` of the model
itself, so that trainers, DeepSpeed and PEFT treat them like the rest of it:

- the latent adapter (`iteration.LatentAdapter`);
- under LoRA, which freezes the embeddings, the markers' rows of embeddings and head (`MarkerRows`), trained in full.

Readings (`iteration.Read`) that go on from a prefix get a fresh `DynamicCache` each, filled with the prefix's keys and
values: the cache is changed by what is read, and gradients must flow into the prefix from every reading. Position ids
are always explicit. transformers' own activation checkpointing drops the cache with a warning that nobody reads, so it
is refused here; `checkpoint_segments` recomputes whole readings instead.

Saved, a model is an ordinary Hugging Face folder with two files more, `latent_adapter.safetensors` and
`spiralthinker.json`.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicLayer
from transformers.generation import GenerateDecoderOnlyOutput

from ._common import (
    CACHE,
    CHUNK_TOKENS,
    SettingsError,
    UserError,
    causal_head,
    load_policy,
    load_tokenizer,
    log_softmax,
    merge_and_export,
    model_file,
)
from .annotation import IGNORED, Annotation, Markers, add_markers, marker_ids
from .columns import Batch
from .generate_arguments import GenerateArguments, mask_of
from .iteration import SCHEDULES, AdapterStart, Iterated, LatentAdapter, Past, Reading, Schedule, iterate

if TYPE_CHECKING:
    from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria

    from ._common import sections

# B rows, T columns, S columns of a reading, R rounds, U latent steps, N targets, C kept columns, L layers, D hidden
# size, M markers, V vocabulary

PARTS = "latent_parts"
ADAPTER_FILE = "latent_adapter.safetensors"
SETTINGS_FILE = "spiralthinker.json"
FORMAT = 1
DeviceMap = str | int | torch.device | Mapping[str, str | int | torch.device] | None


@dataclass(frozen=True)
class LatentSettings:
    """What a model was trained with, and decodes with unless told otherwise.

    iterations: K; schedule, shift: see `iteration`; adapter_width: A, None for the hidden size; adapter_start: how a
    new adapter begins; feedback: what becomes of the last layer's states before they are input embeddings again: the
    latent adapter's output, or nothing (state)
    """

    annotation: Annotation = dataclasses.field(default_factory=Annotation)
    iterations: int = 5
    schedule: Schedule = "sequential"
    shift: int = 0
    adapter_width: int | None = None
    adapter_start: AdapterStart = "normalisation"
    feedback: Literal["adapter", "state"] = "adapter"

    def __post_init__(self) -> None:
        if self.iterations < 0:
            raise SettingsError(f"iterations = {self.iterations}: expected at least 0")
        if self.schedule not in SCHEDULES:
            raise SettingsError(f"schedule = {self.schedule!r}: expected one of {', '.join(SCHEDULES)}")
        if self.schedule == "autoregressive" and self.iterations > 0:
            raise SettingsError(f"iterations = {self.iterations}: expected 0, the autoregressive schedule has none")
        if self.adapter_start not in ("normalisation", "random"):
            raise SettingsError(f"adapter_start = {self.adapter_start!r}: expected normalisation or random")
        if self.feedback not in ("adapter", "state"):
            raise SettingsError(f"feedback = {self.feedback!r}: expected adapter or state")
        if self.shift not in (0, 1):
            raise SettingsError(f"shift = {self.shift}: expected 0 or 1")
        if self.adapter_width is not None and self.adapter_width < 1:
            raise SettingsError(f"adapter_width = {self.adapter_width}: expected at least 1, or null")


class MarkerRows(nn.Module):
    """The markers' rows of the embeddings, and of the head, while all other rows are frozen."""

    def __init__(self, embeddings_MD: Tensor, head_MD: Tensor | None) -> None:
        """`head_MD`: None where the head shares the embeddings' weights."""
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(embeddings_MD.float().clone(), freeze=False)
        self.head = nn.Linear(embeddings_MD.shape[1], len(embeddings_MD), bias=False)
        self.head.weight = self.embedding.weight if head_MD is None else nn.Parameter(head_MD.float().clone())


class LatentParts(nn.Module):
    """What is added to the model: see the top of this file."""

    def __init__(self, adapter: LatentAdapter, rows: MarkerRows | None) -> None:
        super().__init__()
        self.adapter = adapter
        self.rows = rows


class SpiralThinkerModel(nn.Module):
    """The model, its tokenizer with the markers, and its settings.

    `base` is what a trainer trains: the causal model itself, or a PEFT model of it, with the added parts inside.
    """

    def __init__(
        self,
        base: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        settings: LatentSettings,
    ) -> None:
        """For a base with its parts; see `from_base` and `from_pretrained`."""
        super().__init__()
        self.base = base
        self.tokenizer = tokenizer
        self.settings = settings
        self.markers: Markers = marker_ids(tokenizer)
        self.checkpoint_segments = False

    @classmethod
    def from_base(
        cls,
        base: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        settings: LatentSettings,
        *,
        lora: sections.LoraSettings | None = None,
    ) -> SpiralThinkerModel:
        """Makes a SpiralThinker model of a pretrained one: `base` and `tokenizer` are changed in place.

        lora: trains a low-rank adapter, the latent adapter and the markers' rows; without it everything is trained.

        Raises:
            UserError: a model that cannot be read as the method does or that is a low-rank adapter, or a tokenizer that
                has a marker already.
        """
        if not isinstance(base, PreTrainedModel):
            raise UserError("this is a low-rank adapter: merge it first (thinker export), and give the folder")
        check_readable(base)
        target_rms = embedding_rms(base)
        markers = add_markers(tokenizer)
        _begin_rows(base, markers, len(tokenizer))
        hidden_size = base.config.get_text_config().hidden_size
        width = settings.adapter_width or hidden_size
        adapter = LatentAdapter(hidden_size, width, target_rms, start=settings.adapter_start)
        if base.generation_config is not None:  # for whoever generates without this package
            suppressed = base.generation_config.suppress_tokens or []
            base.generation_config.suppress_tokens = [*suppressed, markers.latent, markers.eol]
        return cls(_with_parts(base, adapter.to(base.device), markers, lora), tokenizer, settings)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        revision: str | None = None,
        dtype: str | torch.dtype | None = None,
        torch_dtype: str | torch.dtype | None = None,
        device_map: DeviceMap = None,
        attn_implementation: str | None = None,
        base: PreTrainedModel | None = None,
        latents: int | None = None,
        iterations: int | None = None,
        lora: sections.LoraSettings | None = None,
    ) -> SpiralThinkerModel:
        """A model that `save_pretrained` wrote: a folder, or an id on the hub.

        dtype: of the weights, or its name; auto, the default, is bfloat16 on a GPU that computes in it, else float32.
            `torch_dtype` is its older name in transformers
        device_map: the device of the whole model; "auto" is the accelerator, if there is one. It is not divided
        attn_implementation: as in transformers; default the model's own
        base: the causal model in it, if that is loaded already and perhaps divided between ranks; the three above are
            of no account then
        latents, iterations: N and K, others than it was trained with if wanted, with a warning
        lora: to train it on with a fresh low-rank adapter

        Raises:
            UserError: not such a model, or one that cannot be loaded.
        """
        settings = read_settings(name_or_path, revision=revision)
        warn_of_other_numbers(settings, latents=latents, iterations=iterations, of=f"{name_or_path}: ")
        settings = with_numbers(settings, latents=latents, iterations=iterations)
        causal: PreTrainedModel | PeftModel
        if base is None:
            device, wanted_dtype = _one_device(device_map), dtype if dtype is not None else torch_dtype or "auto"
            causal = load_policy(
                name_or_path,
                revision=revision,
                dtype=str(wanted_dtype).removeprefix("torch."),
                attn_implementation=attn_implementation,
            )
            if device is not None:
                causal.to(device)  # type: ignore[arg-type]  # transformers' own signature is lost on a decorator
        else:
            causal = base
        tokenizer = load_tokenizer(name_or_path, revision=revision)
        check_readable(causal)
        state = load_file(_file(name_or_path, ADAPTER_FILE, revision))
        width, hidden_size = state["inner.weight"].shape
        adapter = LatentAdapter(hidden_size, width, target_rms=1.0)
        adapter.load_state_dict(state)
        markers = marker_ids(tokenizer)
        return cls(_with_parts(causal, adapter.to(causal.device), markers, lora), tokenizer, settings)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the model, with low-rank adapters merged into it, which `base` has none of afterwards.

        Raises:
            UserError: the folder is not empty, or the weights are not numbers.
            OSError: the disk is full or cannot be written.
        """
        folder = Path(folder)
        if folder.exists() and any(folder.iterdir()):
            raise UserError(f"{folder}: this folder is not empty; remove it or save to another")
        parts = self.parts
        partial = folder.with_name(f".{folder.name}.{uuid4().hex}")
        causal = self.causal
        delattr(causal, PARTS)  # its weights have a file of their own
        try:
            if parts.rows is not None:
                _write_rows(causal, parts.rows, self.markers)
                parts.rows = None
            self.base = merge_and_export(self.base, self.tokenizer, partial)
            save_file(parts.adapter.state_dict(), partial / ADAPTER_FILE)
            (partial / SETTINGS_FILE).write_text(
                json.dumps({"format": FORMAT, **dataclasses.asdict(self.settings)}, indent=2) + "\n", encoding="utf-8"
            )
            folder.parent.mkdir(parents=True, exist_ok=True)
            os.replace(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            setattr(self.causal, PARTS, parts)

    # ------------------------------------------------------------------------------------------------ the parts

    @property
    def causal(self) -> PreTrainedModel:
        """The causal model, without PEFT around it."""
        causal: Any = self.base.get_base_model() if isinstance(self.base, PeftModel) else self.base
        return causal

    @property
    def parts(self) -> LatentParts:
        parts = getattr(self.causal, PARTS)
        return parts if isinstance(parts, LatentParts) else parts.modules_to_save[parts.active_adapters[0]]

    @property
    def device(self) -> torch.device:
        return self.causal.device

    @property
    def context(self) -> int | None:
        """How many positions the model has; None without a limit."""
        return getattr(self.causal.config.get_text_config(), "max_position_embeddings", None)

    def embed(self, ids_BS: Tensor) -> Tensor:
        """Input embeddings, (B, S, D)."""
        embeds_BSD = self.base.get_input_embeddings()(ids_BS)
        rows = self.parts.rows
        if rows is None:
            return embeds_BSD
        is_marker_BSM = ids_BS[..., None] == torch.tensor(self.markers, device=ids_BS.device)
        markers_BSD = rows.embedding(is_marker_BSM.int().argmax(-1)).to(embeds_BSD.dtype)
        return torch.where(is_marker_BSM.any(-1, keepdim=True), markers_BSD, embeds_BSD)

    def refine(self, states_BND: Tensor) -> Tensor:
        """The next input embeddings of latents: g of the last layer's states; with feedback `state`, these states."""
        return states_BND if self.settings.feedback == "state" else self.parts.adapter(states_BND)

    @property
    def uses_adapter(self) -> bool:
        """Whether any reading goes through the latent adapter."""
        settings = self.settings
        return settings.feedback == "adapter" and (settings.iterations > 0 or settings.schedule == "autoregressive")

    def head(self) -> Callable[[Tensor], Tensor]:
        """The function from the last layer's states to logits, (N, D) to (N, V).

        Raises:
            UserError: a model whose head is not understood.
        """
        head = causal_head(self.base)
        if head is None:
            raise UserError(
                f"{self.causal.config.model_type}: what this model does behind its output head is not known, so that "
                "its logits cannot be computed from the states of a latent reading: choose another model"
            )
        rows = self.parts.rows
        if rows is None:
            return head
        markers_M = torch.tensor(self.markers, device=self.device)
        bias_V: Tensor | None = getattr(head.projection, "bias", None)  # of few models' heads

        def projection(states_ND: Tensor) -> Tensor:
            logits_NV = head.projection(states_ND)
            own_NM = rows.head(states_ND.to(rows.head.weight.dtype)).to(logits_NV.dtype)
            if bias_V is not None:
                own_NM = own_NM + bias_V[markers_M]
            return logits_NV.index_copy(1, markers_M, own_NM)

        return dataclasses.replace(head, projection=projection)  # type: ignore[arg-type]  # a function does

    # ------------------------------------------------------------------------------------------------ readings

    def reader(self, mask_BT: Tensor) -> Reader:
        """Reads the columns that `mask_BT` describes."""
        return Reader(self.base, mask_BT, checkpointed=self.checkpoint_segments)

    def forward(
        self,
        batch: Batch,
        *,
        through_iterations: bool = True,
        every_reading: bool = False,
    ) -> tuple[Iterated, int]:
        """Reads a batch (`columns.lay_out`) with its iterations.

        Returns:
            (what was read, token passes): a token pass is one real token in one reading.
        """
        read = self.reader(batch["mask"])
        iterated = iterate(
            read,
            self.embed(batch["input_ids"]),
            batch["bols"].tolist(),
            self.refine,
            latents=self.settings.annotation.latents,
            iterations=self.settings.iterations,
            schedule=self.settings.schedule,
            shift=self.settings.shift,
            through_iterations=through_iterations,
            every_reading=every_reading,
        )
        return iterated, read.token_passes

    @torch.no_grad()
    def teacher_states(self, batch: Batch, prefix: Past | None = None) -> tuple[Tensor, int]:
        """h_eot: every layer's states at the `<eot>` of the steps that the batch's latent steps stand for.

        Args:
            batch: with at least one round.
            prefix: keys and values before the first `<bol>`, from this model; without them they are computed.

        Returns:
            ((L, U, D), token passes), latent steps in row-major order of `has_block`.
        """
        shared = int(batch["bols"][0])
        read = self.reader(torch.cat([batch["mask"][:, :shared], batch["explicit_mask"]], dim=1))
        if prefix is None:
            prefix = read(self.embed(batch["input_ids"][:, :shared]), None).past
        eot_LUD, _ = self._read_explicit(read, batch, prefix.detach())
        return eot_LUD, read.token_passes

    def explicit_version(self, batch: Batch, prefix: Past) -> tuple[Tensor, Tensor, int]:
        """The same with gradients, which flow into the prefix too; for a teacher that is trained beside the student.

        Returns:
            (h_eot, (L, U, D); the last layer's states behind the prefix, (B, E, D); token passes)
        """
        read = self.reader(torch.cat([batch["mask"][:, : prefix.length], batch["explicit_mask"]], dim=1))
        eot_LUD, states_BED = self._read_explicit(read, batch, prefix)
        return eot_LUD, states_BED, read.token_passes

    def _read_explicit(self, read: Reader, batch: Batch, prefix: Past) -> tuple[Tensor, Tensor]:
        explicit = range(batch["explicit_ids"].shape[1])
        reading = read(self.embed(batch["explicit_ids"]), prefix, keep=explicit)
        rows_U, rounds_U = batch["has_block"].nonzero(as_tuple=True)
        return reading.kept_LBCD[:, rows_U, batch["eots"][rows_U, rounds_U]], reading.states_BSD

    def nll(self, states_BTD: Tensor, batch: Batch, *, chunks: int | None = None) -> Tensor:
        """The negative log-likelihood, in nats, of all target tokens of the batch together.

        Each is predicted at the real token before it, past any padding. The head works on one chunk of them at a time.

        Args:
            chunks: how many; default as many as `CHUNK_TOKENS` wants. Under ZeRO-3, where the head is gathered for each
                of them, all ranks must have the same number.
        """
        real_BT = batch["mask"].bool()
        labels, states = batch["labels"][real_BT], states_BTD[real_BT]
        rows = real_BT.nonzero()[:, 0]
        wanted = (labels[1:] != IGNORED) & (rows[1:] == rows[:-1])
        return self.nll_of(states[:-1][wanted], labels[1:][wanted], chunks=chunks)

    def spelling_nll(self, written_KRBND: Tensor, step_ids_BRN: Tensor, *, chunks: int | None = None) -> Tensor:
        """The negative log-likelihood, in nats, of the steps' tokens by what is written to the latents.

        Not in the paper: see docs/results/spiralthinker-diagnosis.md.

        Args:
            written_KRBND: see `iteration.Iterated`.
            step_ids_BRN: the token that each latent is to spell, IGNORED where there is none.
            chunks: see `nll`.

        Returns:
            The sum over the tokens, as the mean over the K iterations.
        """
        wanted_BRN = step_ids_BRN != IGNORED
        states_KUD = written_KRBND.transpose(1, 2)[:, wanted_BRN]
        targets_KU = step_ids_BRN[wanted_BRN].expand(len(states_KUD), -1)
        return self.nll_of(states_KUD.flatten(0, 1), targets_KU.flatten(), chunks=chunks) / len(states_KUD)

    def nll_of(self, states_ND: Tensor, targets_N: Tensor, *, chunks: int | None = None) -> Tensor:
        """The negative log-likelihood, in nats, of `targets_N` together, each by its state. chunks: see `nll`."""
        head = self.head()

        def nll(states_CD: Tensor, targets_C: Tensor) -> Tensor:
            return -log_softmax(head(states_CD)).gather(-1, targets_C[:, None]).sum()

        number = needed_chunks(len(targets_N)) if chunks is None else chunks
        parts = zip(states_ND.tensor_split(number), targets_N.tensor_split(number), strict=True)
        sums = [checkpoint(nll, states_CD, targets_C, use_reentrant=False) for states_CD, targets_C in parts]
        return torch.stack(sums).sum()

    @property
    def eos_token_ids(self) -> set[int]:
        """What ends a response: as the model's generation configuration has it, and its tokenizer."""
        config = self.causal.generation_config
        named = None if config is None else config.eos_token_id
        ends: set[Any] = {*(named if isinstance(named, list) else [named]), self.tokenizer.eos_token_id}
        return ends - {None}

    def generate(
        self,
        inputs: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        input_ids: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: Sequence[LogitsProcessor] = (),
        stopping_criteria: Sequence[StoppingCriteria] = (),
        seed: int = 0,
        iterations: int | None = None,
        decoding: Schedule | None = None,
        max_tokens_per_batch: int = 8192,
        **arguments: Any,
    ) -> Tensor | GenerateDecoderOnlyOutput:
        """Responses with their latent steps, as transformers' `generate` returns them.

        Args:
            inputs: prompts, (B, T), padded on whichever side `attention_mask` says; or `input_ids`.
            generation_config: values of the arguments below, where they are not given by name. Without one they have
                the defaults below, whatever the model's own configuration says; but its end-of-sequence tokens count.
            logits_processor, stopping_criteria: called for one row at a time, without its padding.
            seed: of sampling, which does not depend on torch's global generator.
            iterations, decoding: K and the schedule, if they are to be others than the model's own.
            max_tokens_per_batch: rows times the longest prompt and response that are read at once.
            arguments: of transformers: `max_new_tokens` (256) or `max_length`, `min_new_tokens` or `min_length`,
                `do_sample` (False), `temperature`, `top_p`, `top_k`, `repetition_penalty`, `suppress_tokens`,
                `num_return_sequences`, `eos_token_id`, `pad_token_id`, `return_dict_in_generate`. Others are accepted
                where they ask for nothing (`num_beams=1`).

        Returns:
            (B * num_return_sequences, T + longest response): the prompts as they came, then responses with the token
            that ended them, padded on the right. With `return_dict_in_generate` that as `sequences`.

        Raises:
            UserError: an argument that a model with latent steps cannot follow, or prompts that cannot be read.
            SettingsError: an impossible value.
        """
        from .generation import LatentGenerator

        ids_BT = inputs if input_ids is None else input_ids
        if ids_BT is None or ids_BT.dim() != 2 or (inputs is not None and input_ids is not None):
            raise UserError("generate: give the prompts once, as inputs or as input_ids, a tensor of (rows, tokens)")
        asked = GenerateArguments.read(generation_config, arguments, prompt_columns=ids_BT.shape[1])
        ends = self.eos_token_ids if asked.eos_token_ids is None else set(asked.eos_token_ids)
        mask_BT = mask_of(ids_BT, self.tokenizer, ends) if attention_mask is None else attention_mask
        if not mask_BT.any(dim=1).all():
            raise UserError("generate: a prompt without any token; leave the row out")
        generator = LatentGenerator(
            self,
            max_new_tokens=asked.max_new_tokens,
            temperature=asked.temperature,
            top_p=asked.top_p,
            top_k=asked.top_k,
            iterations=iterations,
            decoding=decoding,
            max_tokens_per_batch=max_tokens_per_batch,
            seed=seed,
            min_new_tokens=asked.min_new_tokens,
            eos_token_ids=sorted(ends),
            processors=[*asked.processors(), *logits_processor],
            stopping=stopping_criteria,
        )
        prompts = [row[real.bool()].tolist() for row, real in zip(ids_BT, mask_BT, strict=True)]
        sequences = [
            torch.tensor([*ids_BT[each.index].tolist(), *each.token_ids, *([] if each.end is None else [each.end])])
            for each in generator.respond(prompts, asked.num_return_sequences)
        ]
        padding = next((i for i in (asked.pad_token_id, self.tokenizer.pad_token_id) if i is not None), min(ends))
        padded: Any = pad_sequence(sequences, batch_first=True, padding_value=padding).to(ids_BT.device)
        return GenerateDecoderOnlyOutput(sequences=padded) if asked.as_dict else padded


def needed_chunks(targets: int) -> int:
    """In how many chunks the head works on so many positions."""
    return max(1, -(-targets // CHUNK_TOKENS))


class Reader:
    """`iteration.Read` on a model; it counts what it reads."""

    def __init__(self, base: PreTrainedModel | PeftModel, mask_BT: Tensor, *, checkpointed: bool = False) -> None:
        self._decoder: Callable[..., Any] = base.get_decoder()
        self._library_checkpoints = base.is_activation_checkpointing and base.training
        self._checkpointed = checkpointed
        self._mask_BT = mask_BT
        self._positions_BT = (mask_BT.long().cumsum(-1) - 1).clamp(min=0)
        self._real_T = mask_BT.sum(0)
        self._passes: list[Tensor] = []

    @property
    def token_passes(self) -> int:
        """Real tokens, summed over the readings so far."""
        return int(torch.stack(self._passes).sum()) if self._passes else 0

    def __call__(
        self, embeds_BSD: Tensor, past: Past | None, *, keep: Sequence[int] = (), final: bool = False
    ) -> Reading:
        begin = 0 if past is None else past.length
        end = begin + embeds_BSD.shape[1]
        cached = past is not None or not final
        if cached and self._library_checkpoints and torch.is_grad_enabled():
            raise UserError(
                "the model's activation checkpointing is on, with which transformers drops the keys and values of a "
                "prefix: turn it off (model.activation_checkpointing_disable()) and set checkpoint_segments = True"
            )
        self._passes.append(self._real_T[begin:end].sum())
        layers = () if past is None else past.layers
        arguments: tuple[Any, ...] = (embeds_BSD, begin, end, tuple(keep), cached)
        arguments += tuple(tensor for layer in layers for tensor in layer)
        if self._checkpointed and torch.is_grad_enabled():
            states_BSD, kept_LBCD, *flat = checkpoint(self._read, *arguments, use_reentrant=False)
        else:
            states_BSD, kept_LBCD, *flat = self._read(*arguments)
        return Reading(states_BSD, kept_LBCD, Past(tuple(zip(flat[::2], flat[1::2], strict=True)), end))

    def _read(
        self, embeds_BSD: Tensor, begin: int, end: int, keep: tuple[int, ...], cached: bool, *past: Tensor
    ) -> tuple[Tensor, ...]:
        output = self._decoder(
            inputs_embeds=embeds_BSD,
            attention_mask=self._mask_BT[:, :end],
            position_ids=self._positions_BT[:, begin:end],
            use_cache=cached,
            output_hidden_states=bool(keep),
            **{CACHE: _filled(past) if cached else None},
        )
        states_BSD = output.last_hidden_state
        kept_LBCD = (
            torch.stack([states[:, list(keep)] for states in output.hidden_states[1:]])
            if keep
            else states_BSD.new_zeros(0)
        )
        layers = output[CACHE].layers if cached else []
        return (states_BSD, kept_LBCD, *(tensor for layer in layers for tensor in (layer.keys, layer.values)))


def _filled(past: Sequence[Tensor]) -> DynamicCache:
    """A new cache that holds these keys and values, layer by layer, without copying them."""
    cache = DynamicCache()
    for keys, values in zip(past[::2], past[1::2], strict=True):
        layer = DynamicLayer()
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
        cache.layers.append(layer)
    return cache


# ------------------------------------------------------------------------------------------------ making and loading


def check_readable(base: PreTrainedModel | PeftModel) -> None:
    """UserError for a model whose decoder cannot be read as the method does."""
    config = base.config.get_text_config()
    name = config.model_type
    if base.config.is_encoder_decoder:
        raise UserError(f"{name}: an encoder-decoder model; latent steps need a causal language model")
    taken = inspect.signature(base.get_decoder().forward).parameters
    missing = [needed for needed in ("inputs_embeds", CACHE, "position_ids") if needed not in taken]
    if missing:
        raise UserError(f"{name}: its decoder takes no {', '.join(missing)}, which latent steps need")
    if any(type(layer) is not DynamicLayer for layer in DynamicCache(config=config).layers):
        raise UserError(f"{name}: not all of its layers attend to everything before, so that no prefix can be reused")


@torch.no_grad()
def embedding_rms(model: PreTrainedModel, *, chunk: int = 8192) -> float:
    """Root mean square of the entries of the input embeddings, as the model's own module gives them."""
    embeddings = model.get_input_embeddings()
    ids = torch.arange(len(_weights(model)[0]), device=model.device)
    squares = [embeddings(part).double().square().mean(-1).sum().item() for part in ids.split(chunk)]
    return (sum(squares) / len(ids)) ** 0.5


@torch.no_grad()
def _begin_rows(base: PreTrainedModel, markers: Markers, tokens: int) -> None:
    """Draws the markers' rows of embeddings and head with the means and deviations of the tokens' before them.

    The matrices are made as long as `tokens` needs. Those of some models are longer than the vocabulary, and the
    markers come to stand in spare rows, in which is what pretraining has left there.
    """
    begin, end = min(len(_weights(base)[0]), *markers), max(markers) + 1
    if end > len(_weights(base)[0]):
        base.resize_token_embeddings(tokens, mean_resizing=False)
    for weight in _weights(base):
        old, new = weight[:begin].float(), weight[begin:end]
        weight[begin:end] = (old.mean(0) + old.std(0) * torch.randn_like(new, dtype=torch.float32)).to(weight)


def _with_parts(
    base: PreTrainedModel | PeftModel,
    adapter: LatentAdapter,
    markers: Markers,
    lora: sections.LoraSettings | None,
) -> PreTrainedModel | PeftModel:
    assert isinstance(base, PreTrainedModel)
    rows = _marker_rows(base, markers) if lora is not None else None
    setattr(base, PARTS, LatentParts(adapter, rows).train(base.training))
    if lora is None:
        return base
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # PEFT divides it by r, any number does
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        exclude_modules=rf"{PARTS}\..*",
        modules_to_save=[PARTS],
        task_type=TaskType.CAUSAL_LM,
    )
    try:
        return get_peft_model(base, config)
    except ValueError as error:
        raise SettingsError(f"lora.target_modules = {lora.target_modules!r}: {error}") from error


def _marker_rows(base: PreTrainedModel, markers: Markers) -> MarkerRows:
    embeddings_MD, *head_MD = (weight.detach()[list(markers)] for weight in _weights(base))
    return MarkerRows(embeddings_MD, head_MD[0] if head_MD else None)


@torch.no_grad()
def _write_rows(base: PreTrainedModel, rows: MarkerRows, markers: Markers) -> None:
    """Puts the trained rows where an ordinary model has them."""
    for weight, own in zip(_weights(base), (rows.embedding.weight, rows.head.weight), strict=False):
        weight[list(markers)] = own.to(weight)


def _weights(base: PreTrainedModel) -> list[Tensor]:
    """The matrix of the embeddings and, if that is another one, that of the head: (V, D) each."""
    matrices: list[Any] = [base.get_input_embeddings().weight, base.get_output_embeddings().weight]
    return matrices[:1] if matrices[1] is matrices[0] else matrices


def with_numbers(settings: LatentSettings, *, latents: int | None, iterations: int | None) -> LatentSettings:
    """The settings with another N or K, where one is given."""
    annotation = settings.annotation
    if latents is not None:
        annotation = dataclasses.replace(annotation, latents=latents)
    return dataclasses.replace(
        settings, annotation=annotation, iterations=settings.iterations if iterations is None else iterations
    )


def warn_of_other_numbers(
    trained: LatentSettings, *, latents: int | None = None, iterations: int | None = None, of: str = ""
) -> None:
    """Another N or K than a model was trained with can be used, and is rarely meant. None: as it was trained."""
    for name, used, before in (
        ("latents", latents, trained.annotation.latents),
        ("iterations", iterations, trained.iterations),
    ):
        if used is not None and used != before:
            warnings.warn(f"{of}trained with {name} = {before}, used with {used}", stacklevel=3)


def read_settings(name_or_path: str | Path, *, revision: str | None = None) -> LatentSettings:
    """The settings of a saved model.

    Raises:
        UserError: not a SpiralThinker model, or settings that are damaged or of another version.
    """
    file = _file(name_or_path, SETTINGS_FILE, revision)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content.pop("format") != FORMAT:
            raise UserError(f"{file}: written by another version of this package; this one reads format {FORMAT}")
        annotation = Annotation(**content.pop("annotation"))
        return LatentSettings(annotation=annotation, **content)
    except (ValueError, KeyError, TypeError, AttributeError, SettingsError) as error:
        raise UserError(f"{file}: not the settings of a SpiralThinker model ({error})") from error


def _one_device(device_map: DeviceMap) -> torch.device | None:
    """UserError for a map that would divide the model."""
    if isinstance(device_map, Mapping) and len(set(device_map.values())) == 1:
        device_map = next(iter(device_map.values()))
    if device_map is None:
        return None
    if device_map == "auto":
        return torch.accelerator.current_accelerator() or torch.device("cpu")
    try:
        return torch.device(device_map)  # type: ignore[arg-type]  # what is no device is refused below
    except (RuntimeError, TypeError) as error:
        raise UserError(
            f"device_map = {device_map!r}: a model with latent steps stays on one device; expected auto, or a device "
            "such as cuda:0 (to divide its weights, `spiralthinker evaluate --gpus N --zero 3`)"
        ) from error


def is_saved_model(name_or_path: str | Path, *, revision: str | None = None) -> bool:
    """Whether a folder or a hub id holds a SpiralThinker model, and not just a causal one."""
    return model_file(name_or_path, SETTINGS_FILE, revision=revision) is not None


def _file(name_or_path: str | Path, file: str, revision: str | None) -> Path:
    found = model_file(name_or_path, file, revision=revision)
    if found is None:
        raise UserError(
            f"{name_or_path}: no {file}, so this is not a SpiralThinker model; "
            "`spiralthinker train model.name_or_path=...` makes one of it"
        )
    return found
