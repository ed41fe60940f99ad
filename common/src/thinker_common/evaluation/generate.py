"""Responses of a causal language model to many prompts: batched, left-padded, in input order.

B rows of a batch, T positions.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from ..errors import SettingsError, UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OnBatch = Callable[[Sequence[int], Sequence["Generation"]], None]


@dataclass(frozen=True, slots=True)
class Generation:
    """One response.

    token_ids: sampled tokens, without padding and without the end-of-sequence token
    text: their text, special tokens shown
    truncated: no end-of-sequence token came within the limit
    """

    token_ids: tuple[int, ...]
    text: str
    truncated: bool


class Generator:
    """Greedy (`temperature=0`) or sampled responses by Hugging Face `generate`.

    Prompts are sorted by length into batches of at most `max_tokens_per_batch` tokens, room for the response counted; a
    row that exceeds it alone is a batch of its own. Greedy responses do not depend on the batching beyond rounding.
    Sampled ones follow from `seed` and the prompts of their batch.

    Only the arguments decide how tokens are chosen: the sampling defaults that many model folders ship (temperature,
    top-k, repetition penalty) are left aside. The end-of-sequence tokens are those of the model folder's generation
    config and of the tokenizer together.
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
    ) -> None:
        """`model`: a causal PreTrainedModel, or one with peft adapters. Raises SettingsError for impossible values."""
        for name, value, possible, accepted in (
            ("max_new_tokens", max_new_tokens, max_new_tokens >= 1, "at least 1"),
            ("temperature", temperature, temperature >= 0, "0 (greedy) or above"),
            ("top_p", top_p, 0 < top_p <= 1, "above 0 and at most 1"),
            ("top_k", top_k, top_k >= 0, "0 (the whole vocabulary) or above"),
            ("max_tokens_per_batch", max_tokens_per_batch, max_tokens_per_batch >= 1, "at least 1"),
        ):
            if not possible:
                raise SettingsError(f"{name} = {value!r}: must be {accepted}")
        self.model = model
        self.tokenizer = tokenizer
        self.max_new_tokens = max_new_tokens
        self.max_tokens_per_batch = max_tokens_per_batch
        self.seed = seed
        self._base: PreTrainedModel = model if isinstance(model, PreTrainedModel) else model.get_base_model()
        # Tokens of prompt and response together; None for models without a limit of their own.
        self.context: int | None = getattr(self._base.config.get_text_config(), "max_position_embeddings", None)
        self.eos_ids = _eos_ids(self._base, tokenizer)
        # Padding is masked, so any id will do where the tokenizer has none.
        self.pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(self.eos_ids, default=0)
        sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": top_k}
        self._config = GenerationConfig(
            max_new_tokens=max_new_tokens,
            eos_token_id=sorted(self.eos_ids) or None,
            pad_token_id=self.pad_id,
            bos_token_id=tokenizer.bos_token_id,
            num_beams=1,
            use_cache=True,
            **(sampling if temperature > 0 else {"do_sample": False}),
        )

    def generate(self, prompt_ids: Sequence[Sequence[int]], on_batch: OnBatch | None = None) -> list[Generation]:
        """One response a prompt, in input order.

        prompt_ids: token ids of each prompt, with every special token it needs
        on_batch: called as each batch finishes, with the positions of its prompts in the input and their responses

        Raises UserError when a prompt and `max_new_tokens` exceed the model's context.
        """
        self.check_lengths(prompt_ids)
        generations: dict[int, Generation] = {}
        with _evaluating(self.model), _only_this_config(self._base, self._config):
            for indices in self._batches([len(ids) for ids in prompt_ids]):
                batch = self._generate_batch([prompt_ids[index] for index in indices])
                generations.update(zip(indices, batch, strict=True))
                if on_batch is not None:
                    on_batch(indices, batch)
        return [generations[index] for index in range(len(prompt_ids))]

    def check_lengths(self, prompt_ids: Sequence[Sequence[int]]) -> None:
        """UserError when a prompt and `max_new_tokens` exceed the model's context. `generate` asks this first."""
        assert all(len(ids) > 0 for ids in prompt_ids), "a prompt has at least one token"
        longest = max((len(ids) for ids in prompt_ids), default=0)
        if self.context is not None and longest + self.max_new_tokens > self.context:
            room = self.context - longest
            advice = f"set it to at most {room}" if room > 0 else "leave out such prompts"
            raise UserError(
                f"the longest prompt has {longest} tokens; with max_new_tokens = {self.max_new_tokens} it exceeds the "
                f"model's context of {self.context} tokens: {advice}"
            )

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Positions of prompts, longest first: what does not fit into memory fails at once."""
        batch: list[int] = []
        for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
            width = (lengths[batch[0]] if batch else lengths[index]) + self.max_new_tokens
            if batch and width * (len(batch) + 1) > self.max_tokens_per_batch:
                yield batch
                batch = []
            batch.append(index)
        if batch:
            yield batch

    def _generate_batch(self, prompts: Sequence[Sequence[int]]) -> list[Generation]:
        device = self._base.device
        width = max(len(prompt) for prompt in prompts)
        pads = [width - len(prompt) for prompt in prompts]
        input_ids_BT = torch.tensor([[self.pad_id] * pad + list(p) for pad, p in zip(pads, prompts, strict=True)])
        mask_BT = torch.tensor([[0] * pad + [1] * (width - pad) for pad in pads])
        with _seeded(self.seed, prompts, device):
            output_BT = self.model.generate(
                input_ids=input_ids_BT.to(device), attention_mask=mask_BT.to(device), generation_config=self._config
            )
        return [self._generation(row) for row in output_BT[:, width:].tolist()]

    def _generation(self, row: list[int]) -> Generation:
        end = next((position for position, token in enumerate(row) if token in self.eos_ids), None)
        token_ids = row[:end]
        text = self.tokenizer.decode(token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return Generation(tuple(token_ids), text, truncated=end is None)


def _eos_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    config = model.generation_config
    of_model = config.eos_token_id if config is not None else None
    ids = of_model if isinstance(of_model, list) else [of_model]
    return frozenset(int(token) for token in (*ids, tokenizer.eos_token_id) if token is not None)


@contextlib.contextmanager
def _only_this_config(model: PreTrainedModel, config: GenerationConfig) -> Iterator[None]:
    """`generate` fills what a config leaves open from the model's own one; here that finds nothing to add."""
    own = model.generation_config
    model.generation_config = config
    try:
        yield
    finally:
        model.generation_config = own


@contextlib.contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


@contextlib.contextmanager
def _seeded(seed: int, prompts: Sequence[Sequence[int]], device: torch.device) -> Iterator[None]:
    """Random numbers that follow from the seed and the prompts; the caller's own stream goes on untouched."""
    digest = hashlib.sha256(repr((seed, [list(prompt) for prompt in prompts])).encode()).digest()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        yield
