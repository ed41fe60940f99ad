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

Shape legend: B rows, T tokens a row, K kept positions (the last ones), N scored tokens of all rows, C those of one
chunk, D hidden size, V vocabulary size.
"""

from __future__ import annotations

import math
import sys
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Literal

import torch

from .batching import token_budget_batches
from .boundary import encode_answer, encode_mid_text, encode_start
from .logprobs import CHUNK_TOKENS, evaluation_mode, log_softmax, predicting_states

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
    """One item in tokens. `closing_ids` are the tokens that count as its last one; None if only that itself does."""

    context_ids: list[int]
    scored_ids: tuple[int, ...]
    closing_ids: tuple[int, ...] | None

    @property
    def length(self) -> int:
        return len(self.context_ids) + len(self.scored_ids)


class AnswerScorer:
    """Scores answers under a causal language model, in length-sorted batches, without gradients.

    Args:
        max_tokens_per_batch: a batch holds at most this many tokens, padding included; an item that is longer on its
            own makes a batch of one.
        closing: how the suffix counts, see the top of this file.

    Dropout is off while scoring; the model is left in the mode it was in.
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
        self._model = model
        self._tokenizer = tokenizer
        self._max_tokens_per_batch = max_tokens_per_batch
        self._closing = closing
        # Sorted, the tokens that begin with a given string are neighbours.
        self._vocabulary = sorted(tokenizer.get_vocab().items())
        self._max_positions: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)

    @torch.no_grad()
    def score(self, items: Sequence[ScoringItem]) -> list[AnswerScore]:
        """The items' scores, in their order.

        Raises:
            ValueError: an item without context or without scored tokens, or one longer than the model's positions; the
                message names its index. Nothing is ever cut to fit.
        """
        rows = [self._row(index, item) for index, item in enumerate(items)]
        scores: dict[int, AnswerScore] = {}
        with evaluation_mode(self._model):
            for batch in token_budget_batches([row.length for row in rows], self._max_tokens_per_batch):
                scores.update(zip(batch, self._score_batch([rows[i] for i in batch]), strict=True))
        return [scores[i] for i in range(len(rows))]

    def _row(self, index: int, item: ScoringItem) -> _Row:
        try:
            row = self._encode(item)
        except ValueError as error:
            raise ValueError(f"item {index}: {error}") from error
        if not row.context_ids:
            raise ValueError(f"item {index}: nothing comes before the answer, so nothing predicts its first token")
        if self._max_positions is not None and row.length > self._max_positions:
            raise ValueError(
                f"item {index}: {row.length} tokens are more than the {self._max_positions} positions of the model"
            )
        return row

    def _encode(self, item: ScoringItem) -> _Row:
        tokenizer = self._tokenizer
        prompt_ids = encode_start(tokenizer, item.prompt) if isinstance(item.prompt, str) else item.prompt
        reasoning_ids = item.reasoning
        if isinstance(reasoning_ids, str):
            reasoning_ids = encode_mid_text(tokenizer, reasoning_ids) if reasoning_ids else []
        context_ids = [*prompt_ids, *reasoning_ids]

        if isinstance(item.answer, str):
            encoded = encode_answer(tokenizer, item.answer, opening=item.opening, closing=item.suffix)
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
                scored_ids += tuple(encode_mid_text(tokenizer, item.suffix))
        closing_ids = None
        if item.suffix and self._closing == "prefix_mass":
            closing_ids = self._ids_beginning_like(scored_ids[-1])
        return _Row(context_ids, scored_ids, closing_ids)

    def _ids_beginning_like(self, token_id: int) -> tuple[int, ...]:
        """All tokens of the vocabulary whose text begins with this token's."""
        text: str = self._tokenizer.convert_ids_to_tokens([token_id])[0]
        first = bisect_left(self._vocabulary, (text,))
        after = bisect_left(self._vocabulary, (text + chr(sys.maxunicode),))
        return tuple(vocabulary_id for _, vocabulary_id in self._vocabulary[first:after])

    def _score_batch(self, rows: list[_Row]) -> list[AnswerScore]:
        # Padding on the right: under causal attention no real token ever sees it.
        width = max(row.length for row in rows)
        input_ids_BT = torch.zeros(len(rows), width, dtype=torch.long)
        attention_mask_BT = torch.zeros_like(input_ids_BT)
        scored_BT = torch.zeros_like(input_ids_BT, dtype=torch.bool)
        for b, row in enumerate(rows):
            input_ids_BT[b, : row.length] = torch.tensor([*row.context_ids, *row.scored_ids])
            attention_mask_BT[b, : row.length] = 1
            scored_BT[b, len(row.context_ids) : row.length] = True
        device = self._model.device
        input_ids_BT, scored_BT = input_ids_BT.to(device), scored_BT.to(device)
        keep = width - min(len(row.context_ids) for row in rows)
        states_BKD, head = predicting_states(self._model, input_ids_BT, attention_mask_BT.to(device), keep)
        states_ND, targets_N = states_BKD[scored_BT[:, -keep:]], input_ids_BT[scored_BT]

        # Where the last scored token of each row stands among the N, and what else counts there.
        ends = accumulate(len(row.scored_ids) for row in rows)
        closing_at = {end - 1: row.closing_ids for end, row in zip(ends, rows, strict=True) if row.closing_ids}
        chunks = []
        for start in range(0, len(targets_N), CHUNK_TOKENS):
            chunk = slice(start, start + CHUNK_TOKENS)
            logprobs_CV = log_softmax(head(states_ND[chunk]))
            logprobs_C = logprobs_CV.gather(-1, targets_N[chunk, None]).squeeze(-1)
            for position in closing_at.keys() & range(start, start + CHUNK_TOKENS):
                closing_ids = torch.tensor(closing_at[position], device=device)
                logprobs_C[position - start] = logprobs_CV[position - start, closing_ids].logsumexp(-1)
            chunks.append(logprobs_C)
        per_row = torch.cat(chunks).cpu().split([len(row.scored_ids) for row in rows])
        return [
            AnswerScore(row.scored_ids, tuple(logprobs.tolist())) for row, logprobs in zip(rows, per_row, strict=True)
        ]
