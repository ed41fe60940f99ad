r"""The log-probability of given answers after given reasoning, for many items at once.

    scores = AnswerScorer(model, tokenizer).score([ScoringItem(prompt, reasoning, answer, suffix="}"), ...])

Each score is log p(opening + answer + suffix | prompt, reasoning), token by token. Where the tokens come from is the
boundary rule (`boundary.py`); how their log-probabilities are computed is `logprobs.py`.

How the suffix, what closes the answer, counts is the setting `closing`:

- "prefix_mass" (default): the last token of the suffix stands for all tokens of the vocabulary that begin with its
  text. Vocabularies merge `}` with what follows (`}.`, `}$`), so that scoring the one token `}` punishes a policy that
  writes `\boxed{5}.`; the summed probability of all tokens that begin with `}` does not. Where the suffix merges with
  the end of the answer (`)}`), the sum is over all tokens that begin with that.
- "token": the suffix's own tokens.
- "none": tokens that hold nothing but the suffix are left out. The answer is then scored as the beginning of a longer
  one, and the probabilities of several answers can sum to more than 1.

What the items share is computed once, found by their token ids alone: equal prompts, equal beginnings of responses,
several answers after one reasoning (`continuations.py`). Under an encoder-decoder model the prompt goes to the encoder,
once for all items that have it, and the reasoning and the answer to the decoder.

Shape legend: B rows, K columns from the first that predicts something, S scored tokens of a batch, D hidden size.
"""

from __future__ import annotations

import itertools
import math
import sys
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from .batching import token_budget_batches
from .boundary import encode_answer, encode_mid_text, encode_output_start, encode_start
from .continuations import MAX_PADDING, Continuation, Measured, measured, padded, targets_of
from .encoder_decoder import decoder_states, encode_prompts
from .logprobs import evaluation_mode
from .prefix_tree import pack

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Closing = Literal["prefix_mass", "token", "none"]


@dataclass(frozen=True, slots=True)
class ScoringItem:
    """An answer to score. Texts are tokenized separately, so that given ids stay as they are.

    prompt: text (the tokenizer's special tokens are added) or ids.
    reasoning: text or ids between the prompt and the answer, `y_R` of the boundary rule; may be empty.
    answer: text, or ids that are taken as they are.
    suffix: text that ends the answer, such as "}"; scored as the scorer's `closing` says.
    opening: `BoxSplit.opening` of the response that the reasoning is of.
    """

    prompt: str | Sequence[int]
    reasoning: str | Sequence[int]
    answer: str | Sequence[int]
    suffix: str = ""
    opening: str = ""


@dataclass(frozen=True, slots=True)
class AnswerScore:
    """Natural logarithms. token_ids and token_logprobs are those of the scored tokens, in order."""

    token_ids: tuple[int, ...]
    token_logprobs: tuple[float, ...]

    @property
    def sum(self) -> float:
        return math.fsum(self.token_logprobs)

    @property
    def mean(self) -> float:
        return self.sum / len(self.token_logprobs)

    @property
    def mean_probability(self) -> float:
        """Mean of the tokens' probabilities (RLPR, arXiv 2506.18254)."""
        return math.fsum(map(math.exp, self.token_logprobs)) / len(self.token_logprobs)

    @property
    def probability(self) -> float:
        """Product of the tokens' probabilities (VeriFree, arXiv 2505.21493)."""
        return math.exp(self.sum)

    @property
    def perplexity(self) -> float:
        return math.exp(-self.mean)


@dataclass(frozen=True, slots=True)
class _Row:
    """One item in tokens.

    prompt_ids: what the encoder reads; empty for a causal model.
    scored: what the decoder reads before the scored tokens, and these.
    """

    prompt_ids: tuple[int, ...]
    scored: Continuation


class AnswerScorer:
    """Scores answers under a causal or encoder-decoder language model, in length-sorted batches.

    Args:
        max_tokens_per_batch: a batch holds at most this many tokens, padding included; an item that is longer on its
            own makes a batch of one.
        closing: how the suffix counts, see the top of this file.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_tokens_per_batch: int = 8192,
        closing: Closing = "prefix_mass",
    ) -> None:
        if closing not in ("prefix_mass", "token", "none"):
            raise ValueError(f"closing must be prefix_mass, token or none, not {closing!r}")
        if max_tokens_per_batch < 1:
            raise ValueError(f"max_tokens_per_batch must be at least 1, not {max_tokens_per_batch}")
        config = model.config
        if config.is_encoder_decoder and config.decoder_start_token_id is None:
            raise ValueError("the model's configuration has no decoder_start_token_id, with which its outputs start")
        self._model = model
        self._tokenizer = tokenizer
        self._max_tokens_per_batch = max_tokens_per_batch
        self._closing = closing
        # Sorted, the tokens that begin with a given string are neighbours.
        self._vocabulary = sorted(tokenizer.get_vocab().items())
        self._max_positions: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)

    @torch.no_grad()
    def score(self, items: Sequence[ScoringItem]) -> list[AnswerScore]:
        """The items' scores, in their order. Dropout is off; the model is left in the mode it was in.

        Raises:
            ValueError: an item without context or without scored tokens, or one longer than the model's positions; the
                message names its index. Nothing is ever cut to fit.
        """
        return self.score_beside(items, [])[0]

    @torch.no_grad()
    def score_beside(
        self, items: Sequence[ScoringItem], others: Sequence[Continuation], *, with_entropy: bool = False
    ) -> tuple[list[AnswerScore], list[Tensor], list[Tensor]]:
        """`score`, and in the same passes the log-probabilities and entropies of other tokens under a causal model.

        What an item and a continuation begin with alike, such as an answer behind a part of a response and the response
        itself, is read once.

        Returns:
            (scores, logprobs, entropies): of the items, and of the continuations, each in their order. Without
            `with_entropy` there are no entropies.

        Raises:
            ValueError: as `score`.
        """
        rows = self._rows(items)
        logprobs: dict[int, Tensor] = {}
        entropies: dict[int, Tensor] = {}
        with evaluation_mode(self._model):
            for found in self._measured(rows, others, with_entropy=with_entropy):
                logprobs.update(zip(found.indices, found.logprobs_S.split(found.lengths), strict=True))
                if found.entropies_S is not None:
                    entropies.update(zip(found.indices, found.entropies_S.split(found.lengths), strict=True))
        values = torch.cat([logprobs[i] for i in range(len(rows))]).tolist() if rows else []  # from the device at once
        ends = list(itertools.accumulate(len(row.scored.ids) for row in rows))
        scores = [
            AnswerScore(tuple(row.scored.ids), tuple(values[end - len(row.scored.ids) : end]))
            for row, end in zip(rows, ends, strict=True)
        ]
        of_others = range(len(rows), len(rows) + len(others))
        return scores, [logprobs[i] for i in of_others], [entropies[i] for i in of_others] if with_entropy else []

    def logprobs(self, items: Sequence[ScoringItem], *, one_pass: bool = False) -> list[Tensor]:
        """For each item, in their order, the log-probabilities of its scored tokens, for training.

        With gradients where they are enabled, and with the model in the mode (train, eval) it is in. Like any loss, the
        graph of all items is held until the backward pass; `score` holds one batch at a time.

        Args:
            one_pass: all items of a causal model in one forward pass, however long. Under ZeRO-3, which gathers weights
                in each of them, ranks with other items then still do the same.

        Raises:
            ValueError: as `score`.
        """
        rows = self._rows(items)
        logprobs: dict[int, Tensor] = {}
        for found in self._measured(rows, one_pass=one_pass):
            logprobs.update(zip(found.indices, found.logprobs_S.split(found.lengths), strict=True))
        return [logprobs[i] for i in range(len(rows))]

    # --------------------------------------------------------------------------------------------- from items to tokens

    def _rows(self, items: Sequence[ScoringItem]) -> list[_Row]:
        # Items that share a prompt need not share the work of tokenizing it.
        prompt_ids = cache(self._encode_prompt)
        rows = []
        for index, item in enumerate(items):
            try:
                rows.append(self._encode(item, prompt_ids))
            except ValueError as error:
                raise ValueError(f"item {index}: {error}") from error
        return rows

    def _encode_prompt(self, prompt: str) -> list[int]:
        if self._model.config.is_encoder_decoder:  # a whole text, ended as the tokenizer ends it
            ids: list[int] = self._tokenizer(prompt, verbose=False)["input_ids"]
            return ids
        return encode_start(self._tokenizer, prompt)

    def _encode(self, item: ScoringItem, encode_prompt: Callable[[str], list[int]]) -> _Row:
        tokenizer = self._tokenizer
        encoder_decoder = self._model.config.is_encoder_decoder
        prompt_ids = encode_prompt(item.prompt) if isinstance(item.prompt, str) else item.prompt
        reasoning_ids = item.reasoning
        if isinstance(reasoning_ids, str):
            encode_reasoning = encode_output_start if encoder_decoder else encode_mid_text
            reasoning_ids = encode_reasoning(tokenizer, reasoning_ids) if reasoning_ids else []
        scored_ids, closing_ids = self._encode_answer(item, at_start=encoder_decoder and not reasoning_ids)

        if encoder_decoder:
            if not prompt_ids:
                raise ValueError("the prompt is empty, so the encoder has nothing to read")
            context_ids = [self._model.config.decoder_start_token_id, *reasoning_ids]
            self._check_length(len(prompt_ids))
            self._check_length(len(context_ids) + len(scored_ids))
            return _Row(tuple(prompt_ids), Continuation(context_ids, scored_ids, closing_ids))
        context_ids = [*prompt_ids, *reasoning_ids]
        if not context_ids:
            raise ValueError("nothing comes before the answer, so nothing predicts its first token")
        self._check_length(len(context_ids) + len(scored_ids))
        return _Row((), Continuation(context_ids, scored_ids, closing_ids))

    def _encode_answer(self, item: ScoringItem, *, at_start: bool) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
        """The scored ids, and those that count as the last of them if not only that itself does."""
        if isinstance(item.answer, str):
            encoded = encode_answer(
                self._tokenizer, item.answer, opening=item.opening, closing=item.suffix, at_start=at_start
            )
            scored_ids = encoded.ids
            if self._closing == "none":
                scored_ids = scored_ids[: sum(encoded.answer_mask)]  # the answer's tokens come first
        else:
            if item.opening:
                raise ValueError("an opening is encoded together with the answer, so the answer must be text")
            if not item.answer:
                raise ValueError("an empty answer has no tokens to score")
            scored_ids = tuple(item.answer)
            if item.suffix and self._closing != "none":
                scored_ids += tuple(encode_mid_text(self._tokenizer, item.suffix))
        closed = item.suffix and self._closing == "prefix_mass"
        return scored_ids, self._ids_beginning_like(scored_ids[-1]) if closed else None

    def _check_length(self, length: int) -> None:
        if self._max_positions is not None and length > self._max_positions:
            raise ValueError(f"{length} tokens are more than the {self._max_positions} positions of the model")

    def _ids_beginning_like(self, token_id: int) -> tuple[int, ...]:
        """All tokens of the vocabulary whose text begins with this token's."""
        text: str = self._tokenizer.convert_ids_to_tokens([token_id])[0]
        first = bisect_left(self._vocabulary, (text,))
        after = bisect_left(self._vocabulary, (text + chr(sys.maxunicode),))
        return tuple(vocabulary_id for _, vocabulary_id in self._vocabulary[first:after])

    # ------------------------------------------------------------------------------------- from tokens to probabilities

    def _measured(
        self,
        rows: Sequence[_Row],
        others: Sequence[Continuation] = (),
        *,
        one_pass: bool = False,
        with_entropy: bool = False,
    ) -> Iterator[Measured]:
        """The scored tokens of the rows, then those of the others by indices that go on."""
        if self._model.config.is_encoder_decoder:
            assert not others and not one_pass, "the encoder and the decoder have batches of their own"
            yield from self._encoder_decoder_batches(rows)
        elif asked := [*(row.scored for row in rows), *others]:
            yield from measured(
                self._model,
                asked,
                max_tokens_per_batch=self._max_tokens_per_batch,
                one_pass=one_pass,
                with_entropy=with_entropy,
            )

    def _in_batches(self, lengths: Sequence[int]) -> list[list[int]]:
        return token_budget_batches(lengths, self._max_tokens_per_batch, max_padding=MAX_PADDING)

    def _encoder_decoder_batches(self, rows: Sequence[_Row]) -> Iterator[Measured]:
        """Every distinct prompt is encoded once; the decoder's rows follow it, in batches of their own."""
        items_of: dict[tuple[int, ...], list[int]] = {}
        for i, row in enumerate(rows):
            items_of.setdefault(row.prompt_ids, []).append(i)
        all_prompts = list(items_of)
        for prompt_batch in self._in_batches([len(prompt) for prompt in all_prompts]):
            prompts = [all_prompts[p] for p in prompt_batch]
            encoded = encode_prompts(self._model, *padded(prompts, self._model.device))
            # Decoders of this kind count positions by columns, so that their rows never branch.
            packed = [
                (p, row)
                for p, prompt in enumerate(prompts)
                for row in pack({i: rows[i].scored.read_ids for i in items_of[prompt]})
            ]
            for decoder_batch in self._in_batches([len(prompts[p]) + len(row.ids) for p, row in packed]):
                prompts_B = torch.tensor([packed[b][0] for b in decoder_batch], device=self._model.device)
                packed_rows = [packed[b][1] for b in decoder_batch]
                ids_BT, mask_BT = padded([row.ids for row in packed_rows], self._model.device)
                indices, targets = targets_of(packed_rows, [row.scored for row in rows])
                states_BKD, head = decoder_states(
                    self._model, encoded.select(prompts_B), ids_BT, mask_BT, targets.first_column
                )
                lengths = [len(rows[i].scored.ids) for i in indices]
                yield Measured(indices, lengths, targets.logprobs(states_BKD, head), None)
