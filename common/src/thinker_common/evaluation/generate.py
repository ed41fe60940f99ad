"""Responses of a language model to many prompts, in input order whatever the batching.

`Backend` is what an evaluation needs of a generator. `Generator` is the one on Hugging Face `generate`;
`vllm_backend.VllmBackend` is another.

Shape legend: B rows of a batch, T tokens a row.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache, GenerationConfig, PreTrainedModel, StoppingCriteriaList
from transformers.modeling_outputs import BaseModelOutput

from ..distributed.out_of_memory import naming_what_to_lower
from ..errors import SettingsError, UserError
from ..likelihood.batching import token_budget_batches
from ..likelihood.encoder_decoder import EncodedPrompts, encode_prompts
from ..likelihood.logprobs import evaluation_mode
from .decoding import Decoding, empty_decoder_cache
from .in_flight import CACHE, EnoughEnded, InFlight, RoomyCache, can_change_rows
from .prefill import like_lengths, shared_prefill
from .sampling import sampling_processors, stream_seed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OnGenerated = Callable[[Sequence[int], Sequence["Generation"]], None]
OnSampled = Callable[[Sequence[int], Sequence[list["Generation"]]], None]

# Rows leave and enter after so many new tokens, or once this share of the rows has ended, which bounds the work on rows
# that have; each time the keys and values of the others are copied.
SEGMENT_TOKENS = 16
LEAVING = 0.1
# Of encoder-decoder models, where no row enters and the copies hold those of the prompts as well.
LEAVING_DECODER = 0.25


@dataclass(frozen=True, slots=True)
class Generation:
    """One response.

    token_ids: the model's tokens, without padding and without the end-of-sequence token
    text: their text, special tokens shown
    truncated: no end-of-sequence token came within the limit
    end_id: the end-of-sequence token, of which a model may have several; None where it is truncated, or where the
        backend does not say which it was
    """

    token_ids: tuple[int, ...]
    text: str
    truncated: bool
    end_id: int | None = None


class Backend(Protocol):
    """What generates.

    context: tokens of prompt and response together; None where the model has no such limit
    module: the model of transformers that is called; None where an engine of its own has it
    """

    @property
    def context(self) -> int | None: ...

    @property
    def module(self) -> Any: ...

    def check_lengths(self, prompt_ids: Sequence[Sequence[int]]) -> None:
        """UserError when a prompt and the longest response exceed what the model takes."""

    def sample(
        self,
        prompt_ids: Sequence[Sequence[int]],
        samples: int = 1,
        *,
        keys: Sequence[str] | None = None,
        on_batch: OnSampled | None = None,
    ) -> list[list[Generation]]:
        """`samples` responses to each prompt, in input order; see `Generator.sample`."""


class Generator:
    """Greedy (`temperature=0`) or sampled responses by Hugging Face `generate`, of causal and encoder-decoder models.

    Rows are batched by length so that rows times the longest (prompt and `max_new_tokens`) stay within
    `max_tokens_per_batch`; a row that exceeds it alone is a batch of its own. With causal models whose layers are all
    attention, a finished row makes room for the next prompt at once, and what prompts begin with alike is read once
    (`prefill`). An encoder-decoder model reads equal prompts once, and finished rows leave its batch. With others a
    batch ends with its longest row.

    Responses do not depend on the batching beyond the rounding of the logits, the greedy ones and the sampled ones
    alike: sampled tokens follow from `seed`, the key of the prompt and the number of the sample (see `sampling`). That
    takes a model whose rows do not touch each other, which mixtures of experts with a capacity limit, and rotary
    embeddings that are rescaled by the longest row, are not.

    Only the arguments decide how tokens are chosen: the sampling defaults that many model folders ship (temperature,
    top-k, repetition penalty) are left aside. The end-of-sequence tokens are those of the model folder's generation
    config and of the tokenizer together, where `eos_ids` names no others.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        max_tokens_per_batch: int = 8192,
        seed: int = 0,
        eos_ids: Collection[int] | None = None,
    ) -> None:
        """`model`: a PreTrainedModel, or one with peft adapters; `eos_ids`: what ends a response, in place of the
        model's own end-of-sequence tokens. Raises SettingsError for impossible values."""
        check_decoding(max_new_tokens, temperature, top_p, top_k)
        if max_tokens_per_batch < 1:
            raise SettingsError(f"max_tokens_per_batch = {max_tokens_per_batch!r}: must be at least 1")
        self.model = model
        self.tokenizer = tokenizer
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.top_p = top_p
        self.top_k = top_k
        self.max_tokens_per_batch = max_tokens_per_batch
        self.seed = seed
        self._base: PreTrainedModel = model if isinstance(model, PreTrainedModel) else model.get_base_model()
        self._encoder_decoder = bool(self._base.config.is_encoder_decoder)
        self._positions: int | None = getattr(self._base.config.get_text_config(), "max_position_embeddings", None)
        self.eos_ids = _eos_ids(self._base, tokenizer) if eos_ids is None else frozenset(eos_ids)
        # Padding is masked, so any id will do where the tokenizer has none.
        self.pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(self.eos_ids, default=0)
        self._config = GenerationConfig(
            max_new_tokens=max_new_tokens,
            eos_token_id=sorted(self.eos_ids) or None,
            pad_token_id=self.pad_id,
            bos_token_id=tokenizer.bos_token_id,
            decoder_start_token_id=_decoder_start(self._base) if self._encoder_decoder else None,
            num_beams=1,
            do_sample=False,  # `sampling` chooses among the logits itself
            use_cache=True,
            return_dict_in_generate=True,
        )

    @property
    def context(self) -> int | None:
        """Tokens of prompt and response together; None without a limit, and where each has a side of its own."""
        return None if self._encoder_decoder else self._positions

    @property
    def module(self) -> Any:
        return self.model

    def generate(
        self,
        prompt_ids: Sequence[Sequence[int]],
        on_batch: OnGenerated | None = None,
        *,
        keys: Sequence[str] | None = None,
    ) -> list[Generation]:
        """One response a prompt: `sample` without the inner lists."""

        def on_sampled(indices: Sequence[int], responses: Sequence[list[Generation]]) -> None:
            if on_batch is not None:
                on_batch(indices, [response for (response,) in responses])

        return [response for (response,) in self.sample(prompt_ids, keys=keys, on_batch=on_sampled)]

    def sample(
        self,
        prompt_ids: Sequence[Sequence[int]],
        samples: int = 1,
        *,
        keys: Sequence[str] | None = None,
        on_batch: OnSampled | None = None,
    ) -> list[list[Generation]]:
        """`samples` responses a prompt, in input order.

        prompt_ids: token ids of each prompt, with every special token it needs
        keys: what sampled tokens follow from, with the seed and the number of the sample; a problem's id for instance.
            Without them the prompt's ids are its key, and equal prompts have equal responses.
        on_batch: called as prompts finish, with their positions in the input and all their responses

        Raises UserError when a prompt and `max_new_tokens` exceed what the model takes, and when memory runs out;
        SettingsError for a number of samples below 1, or above 1 without a temperature.
        """
        check_samples(samples, self.temperature)
        self.check_lengths(prompt_ids)
        names = keys if keys is not None else [repr(list(ids)) for ids in prompt_ids]
        assert len(names) == len(prompt_ids), "a key for each prompt"
        rows = [
            _Row(index, sample, tuple(ids), stream_seed(self.seed, name, sample))
            for index, (ids, name) in enumerate(zip(prompt_ids, names, strict=True))
            for sample in range(samples)
        ]
        rows.sort(key=_longest_first)
        responses: dict[int, dict[int, Generation]] = {index: {} for index in range(len(prompt_ids))}
        with evaluation_mode(self.model), _only_this_config(self._base, self._config):
            for finished in self._finished(rows):
                for row in finished:
                    responses[row.index][row.sample] = self._generation(row)
                whole = list(dict.fromkeys(r.index for r in finished if len(responses[r.index]) == samples))
                if on_batch is not None and whole:
                    on_batch(whole, [_in_order(responses[index]) for index in whole])
        return [_in_order(responses[index]) for index in range(len(prompt_ids))]

    def check_lengths(self, prompt_ids: Sequence[Sequence[int]]) -> None:
        """UserError when a prompt and `max_new_tokens` exceed what the model takes. `sample` asks this first."""
        longest = max((len(ids) for ids in prompt_ids), default=0)
        assert all(len(ids) > 0 for ids in prompt_ids), "a prompt has at least one token"
        if self._encoder_decoder:
            self._check_sides(longest)
        else:
            check_context(longest, self.max_new_tokens, self.context)

    def _check_sides(self, longest: int) -> None:
        if self._positions is None:
            return
        if longest > self._positions:
            raise UserError(
                f"the longest prompt has {longest} tokens; the model's encoder takes {self._positions}: "
                "leave out such prompts"
            )
        if self.max_new_tokens >= self._positions:  # the decoder's start takes one place
            raise UserError(
                f"max_new_tokens = {self.max_new_tokens} exceeds what the model's decoder takes: "
                f"set it to at most {self._positions - 1}"
            )

    def _finished(self, rows: Sequence[_Row]) -> Iterator[list[_Row]]:
        """The rows as they finish."""
        with naming_what_to_lower(
            "generating",
            f"max_tokens_per_batch (now {self.max_tokens_per_batch}) for fewer responses at once, or max_new_tokens "
            f"(now {self.max_new_tokens}) for shorter ones",
        ):
            if self._encoder_decoder:
                yield from self._decoded(rows)
            else:
                yield from self._with_refill(rows) if rows and self._rows_can_change() else self._in_batches(rows)

    def _rows_can_change(self) -> bool:
        one_BT = torch.full((1, 1), self.pad_id)
        return can_change_rows(self._call(one_BT, torch.ones_like(one_BT), new_tokens=1).get(CACHE))

    def _batches(self, rows: Sequence[_Row]) -> Iterator[list[_Row]]:
        """Rows that fit into one call, with the longest response that they may have."""
        lengths = [len(row.prompt) + self.max_new_tokens for row in rows]
        for batch in token_budget_batches(lengths, self.max_tokens_per_batch):
            yield [rows[index] for index in batch]

    def _in_batches(self, rows: Sequence[_Row]) -> Iterator[list[_Row]]:
        """Each batch until its longest response has ended."""
        for together in self._batches(rows):
            ids_BT, mask_BT = self._padded([row.prompt for row in together], "left")
            output = self._call(ids_BT, mask_BT, new_tokens=self.max_new_tokens, rows=together)
            self._take(together, output.sequences[:, ids_BT.shape[1] :])
            yield together

    def _decoded(self, rows: Sequence[_Row]) -> Iterator[list[_Row]]:
        """Of encoder-decoder models: each batch in calls that end when enough rows have, which then leave it."""
        for together in self._batches(rows):
            running, decoding = together, self._encoded(together)
            while running:
                self._decode(decoding, running)
                finished = [row for row in running if row.ended or len(row.response) == self.max_new_tokens]
                if finished:
                    yield finished
                stay = [position for position, row in enumerate(running) if row not in finished]
                if len(stay) < len(running):
                    running = [running[position] for position in stay]
                    if running:
                        decoding.select(stay)

    def _encoded(self, rows: Sequence[_Row]) -> Decoding:
        """Rows before their first token. Those with the same prompt share its encoding, and what every layer of the
        decoder makes of it."""
        distinct = list(dict.fromkeys(row.prompt for row in rows))
        ids_PS, mask_PS = self._padded(distinct, "right")
        with torch.no_grad():
            encoded = encode_prompts(self.model, ids_PS, mask_PS)
        begun = self._call(ids_PS, mask_PS, new_tokens=1, encoded=encoded)
        decoding = Decoding(begun.sequences[:, :1], encoded, empty_decoder_cache(begun.get(CACHE)))
        position = {prompt: index for index, prompt in enumerate(distinct)}
        decoding.select([position[row.prompt] for row in rows])
        return decoding

    def _decode(self, decoding: Decoding, rows: Sequence[_Row]) -> None:
        """One call, until enough of the rows have ended; where rows cannot leave, until all have."""
        width = decoding.ids_BT.shape[1]
        left = self.max_new_tokens - len(rows[0].response)  # all began together
        stopping = None
        if decoding.cache is not None:
            stopping = StoppingCriteriaList([EnoughEnded(self.eos_ids, width, LEAVING_DECODER)])
        output = self._call(
            decoding.ids_BT, decoding.encoded.mask_PS, new_tokens=left, rows=rows,
            cache=decoding.cache, encoded=decoding.encoded, stopping=stopping,
        )  # fmt: skip
        self._take(rows, output.sequences[:, width:])
        decoding.ids_BT = output.sequences

    def _with_refill(self, rows: Sequence[_Row]) -> Iterator[list[_Row]]:
        """Segments of all rows in flight; between two of them finished rows go and waiting ones come."""
        waiting = deque(rows)
        running: list[_Row] = []
        flight: InFlight | None = None
        split: InFlight | None = None  # the prompt of the newest row in flight, where waiting rows have it too
        while waiting or running:
            lengths = [len(row.prompt) + self.max_new_tokens for row in (*running, *waiting)]
            # As many of any rows fit as of the longest.
            room = len(token_budget_batches(lengths, self.max_tokens_per_batch)[0]) - len(running)
            if room > 0:
                new = [waiting.popleft() for _ in range(room)]
                goes_on = bool(waiting) and waiting[0].prompt == new[-1].prompt
                entering, split = self._prefilled(new, split, keep=goes_on)
                if flight is None:
                    flight = entering
                else:
                    flight.join(entering)
                running += new
            assert flight is not None
            step = min(SEGMENT_TOKENS, *(self.max_new_tokens - len(row.response) for row in running))
            self._advance(flight, running, step)
            finished = [row for row in running if row.ended or len(row.response) == self.max_new_tokens]
            if finished:
                yield finished
                stay = [position for position, row in enumerate(running) if row not in finished]
                running = [running[position] for position in stay]
                if running:
                    flight.select(stay)
                else:
                    flight = None

    def _prefilled(
        self, rows: Sequence[_Row], begun: InFlight | None, *, keep: bool
    ) -> tuple[InFlight, InFlight | None]:
        """(rows before their first token, their last prompt by itself if `keep`); every prompt is read once.

        begun: the first prompt, where rows that entered before have it too; what prompts begin with alike is read once
        """
        prompts = list(dict.fromkeys(row.prompt for row in rows))
        order, unread = ([], prompts) if begun is None else (prompts[:1], prompts[1:])
        parts = [] if begun is None else [begun]
        cache = shared_prefill(self.model, unread) if unread else None
        if cache is not None:
            order = order + unread
            parts.append(InFlight(*self._padded(unread, "left"), cache))
        else:
            for indices in like_lengths(unread):
                together = [unread[index] for index in indices]
                order = order + together
                parts.append(self._read(together))
        flight = parts[0]
        for part in parts[1:]:
            flight.join(part)
        positions = {prompt: position for position, prompt in enumerate(order)}
        last = flight.copy_of(positions[rows[-1].prompt]) if keep else None
        flight.select([positions[row.prompt] for row in rows])
        return flight, last

    def _read(self, prompts: Sequence[Sequence[int]]) -> InFlight:
        """Prompts before their first new token, by one pass over all of them."""
        ids_BT, mask_BT = self._padded(prompts, "left")
        cache = RoomyCache()
        self._call(ids_BT, mask_BT, new_tokens=1, cache=cache)
        cache.crop(-1)  # every row goes through its last token again, each with its own noise
        return InFlight(ids_BT, mask_BT, cache)

    def _advance(self, flight: InFlight, rows: Sequence[_Row], new_tokens: int) -> None:
        """Up to `new_tokens` tokens for each row; fewer where enough of the rows end before."""
        width = flight.ids_BT.shape[1]
        stopping = StoppingCriteriaList([EnoughEnded(self.eos_ids, width, LEAVING)])
        output = self._call(
            flight.ids_BT, flight.mask_BT, new_tokens=new_tokens, rows=rows, cache=flight.cache, stopping=stopping
        )
        new_BT = output.sequences[:, width:]
        self._take(rows, new_BT)
        flight.ids_BT = output.sequences
        flight.mask_BT = torch.cat([flight.mask_BT, torch.ones_like(new_BT)], dim=1)

    def _call(
        self,
        ids_BT: Tensor,
        mask_BT: Tensor,
        *,
        new_tokens: int,
        rows: Sequence[_Row] = (),
        cache: DynamicCache | EncoderDecoderCache | None = None,
        encoded: EncodedPrompts | None = None,
        stopping: StoppingCriteriaList | None = None,
    ) -> Any:
        """One call of `generate`, for up to `new_tokens` tokens; the tokens are of use where `rows` are given.

        encoded: of encoder-decoder models; the ids are then the decoder's where `rows` are given, and of no use
            otherwise
        """
        config = copy.copy(self._config)
        config.max_new_tokens = new_tokens
        inputs: dict[str, Any] = {
            "input_ids": ids_BT,
            "attention_mask": mask_BT,
            "generation_config": config,
            # Under ZeRO-3 the ranks would wait for each other at every token. They have prompts of their own here, or
            # none, and the model is whole on each of them (`gathered`) or read by turns (`in_step`).
            "synced_gpus": False,
        }
        if encoded is not None:
            del inputs["input_ids"]
            if rows:
                # Without its mask `generate` would take the ids for new ones, and read what the cache has once more.
                inputs |= {"decoder_input_ids": ids_BT, "decoder_attention_mask": torch.ones_like(ids_BT)}
            inputs["encoder_outputs"] = BaseModelOutput(last_hidden_state=encoded.states_PSD)
            inputs["attention_mask"] = encoded.mask_PS
        if cache is not None:
            inputs[CACHE] = cache
        if stopping is not None:
            inputs["stopping_criteria"] = stopping
        if rows and self.temperature > 0:
            streams, positions = [row.stream for row in rows], [len(row.response) for row in rows]
            inputs["logits_processor"] = sampling_processors(
                self.temperature, self.top_k, self.top_p, streams, positions
            )
        return self.model.generate(**inputs)

    def _padded(self, prompts: Sequence[Sequence[int]], side: Literal["left", "right"]) -> tuple[Tensor, Tensor]:
        width = max(len(prompt) for prompt in prompts)
        ids_BT = torch.full((len(prompts), width), self.pad_id)
        mask_BT = torch.zeros_like(ids_BT)
        for row, prompt in enumerate(prompts):
            columns = slice(width - len(prompt), None) if side == "left" else slice(len(prompt))
            ids_BT[row, columns] = torch.tensor(prompt)
            mask_BT[row, columns] = 1
        return ids_BT.to(self._base.device), mask_BT.to(self._base.device)

    def _take(self, rows: Sequence[_Row], new_BT: Tensor) -> None:
        """Appends what `generate` returned for each row, up to its end-of-sequence token."""
        for row, tokens in zip(rows, new_BT.tolist(), strict=True):
            end = next((position for position, token in enumerate(tokens) if token in self.eos_ids), None)
            row.response += tokens[:end]
            row.end_id = None if end is None else tokens[end]

    def _generation(self, row: _Row) -> Generation:
        return replace(generation(self.tokenizer, row.response, truncated=not row.ended), end_id=row.end_id)


@dataclass(slots=True, eq=False)
class _Row:
    """One sample of one prompt; `response` grows until an end-of-sequence token, `end_id`, or the limit."""

    index: int
    sample: int
    prompt: tuple[int, ...]
    stream: int
    response: list[int] = field(default_factory=list)
    end_id: int | None = None

    @property
    def ended(self) -> bool:
        return self.end_id is not None


def _longest_first(row: _Row) -> tuple[int, tuple[int, ...]]:
    """What does not fit into memory fails at once; of similar lengths, prompts that begin alike are neighbours."""
    return -int(math.log(len(row.prompt)) / math.log(1.1)), row.prompt


def generation(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int], *, truncated: bool) -> Generation:
    """The record of a response whose end-of-sequence token is cut off."""
    text = tokenizer.decode(list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return Generation(tuple(token_ids), text, truncated)


def check_decoding(max_new_tokens: int, temperature: float, top_p: float, top_k: int) -> None:
    """SettingsError for values that no backend can decode with."""
    for name, value, possible, accepted in (
        ("max_new_tokens", max_new_tokens, max_new_tokens >= 1, "at least 1"),
        ("temperature", temperature, 0 <= temperature < math.inf, "0 (greedy) or above"),
        ("top_p", top_p, 0 < top_p <= 1, "above 0 and at most 1"),
        ("top_k", top_k, top_k >= 0, "0 (the whole vocabulary) or above"),
    ):
        if not possible:
            raise SettingsError(f"{name} = {value!r}: must be {accepted}")


def check_samples(samples: int, temperature: float) -> None:
    """SettingsError for a number of samples that makes no sense."""
    if samples < 1:
        raise SettingsError(f"samples = {samples!r}: must be at least 1")
    if samples > 1 and temperature == 0:
        raise SettingsError(f"samples = {samples}: greedy responses are all equal, set temperature above 0")


def check_context(longest: int, max_new_tokens: int, context: int | None) -> None:
    """UserError when the longest prompt and `max_new_tokens` exceed the model's context."""
    if context is not None and longest + max_new_tokens > context:
        room = context - longest
        advice = f"set it to at most {room}" if room > 0 else "leave out such prompts"
        raise UserError(
            f"the longest prompt has {longest} tokens; with max_new_tokens = {max_new_tokens} it exceeds the "
            f"model's context of {context} tokens: {advice}"
        )


def _in_order(of_samples: dict[int, Generation]) -> list[Generation]:
    return [of_samples[sample] for sample in sorted(of_samples)]


def _eos_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    config = model.generation_config
    of_model = config.eos_token_id if config is not None else None
    ids = of_model if isinstance(of_model, list) else [of_model]
    return frozenset(int(token) for token in (*ids, tokenizer.eos_token_id) if token is not None)


def _decoder_start(model: PreTrainedModel) -> int:
    """The token that a decoder begins with, from the model folder's generation config or its config."""
    config = model.generation_config
    start = config.decoder_start_token_id if config is not None else None
    if start is None:
        start = getattr(model.config, "decoder_start_token_id", None)
    if start is None:
        raise UserError(
            f"the {model.config.model_type} model does not say what its decoder begins with: "
            "set decoder_start_token_id in its generation_config.json"
        )
    return int(start)


@contextlib.contextmanager
def _only_this_config(model: PreTrainedModel, config: GenerationConfig) -> Iterator[None]:
    """`generate` fills what a config leaves open from the model's own one; here that finds nothing to add."""
    own = model.generation_config
    model.generation_config = config
    try:
        yield
    finally:
        model.generation_config = own
