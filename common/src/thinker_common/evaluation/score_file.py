"""Scores of a file of answers, written as JSON lines while they are computed.

The file begins with a line of settings, like `generations.jsonl`. A line for each row (`score_input`) follows, in the
order of the rows: its `id` and its `scores`, one for each answer, in their order. A score holds `answer`, `rank` (1 is
the highest sum among the answers of the row; equal sums share a rank), `sum`, `mean`, `mean_probability`,
`probability`, `perplexity`, and for each scored token `token_ids`, `tokens`, `token_logprobs`. Logarithms are natural.
A number that is not finite is null. `tokens` shows a part of a character as the replacement sign; the ids are exact.

Rows are scored and written in blocks of a few batches, so that a run that is killed loses one of them at most, and the
next goes on behind the last whole line.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError, UserError
from ..likelihood.boundary import encode_answer, encode_mid_text, encode_output_start, encode_start
from ..likelihood.scorer import AnswerScore, AnswerScorer, Closing, ScoringItem
from ..models.chat import render_prompt
from . import statistics
from .evaluate import model_fingerprint
from .generations import GenerationsFile, read_generations
from .score_input import ScoringRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BATCHES_PER_BLOCK = 8


@dataclass(frozen=True)
class ScoreSummary:
    """What a file of scores amounts to. Natural logarithms; NaN where there is nothing to average.

    rows, answers, tokens: scored, by this run and by those before it that were stopped
    new_rows: scored by this run
    answer_logprob, ..._standard_error: of a whole answer; mean over the rows, each of which counts with the mean of its
        answers
    token_logprob: mean over all scored tokens
    perplexity: exp(-token_logprob)
    not_finite: answers without a finite score, which the means leave out
    """

    rows: int
    new_rows: int
    answers: int
    tokens: int
    answer_logprob: float
    answer_logprob_standard_error: float
    token_logprob: float
    perplexity: float
    not_finite: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it: what is not finite becomes None."""
        return {name: _finite(value) for name, value in vars(self).items()}


def score_rows(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[ScoringRow],
    output: str | Path,
    *,
    chat_template: str = "none",
    closing: Closing = "prefix_mass",
    max_tokens_per_batch: int = 8192,
    progress: Callable[[int, int], None] | None = None,
) -> ScoreSummary:
    """Score every row and append the scores to `output`, or go on where a run that was stopped left it.

    chat_template: "none" takes the prompts as they stand; otherwise each becomes a user's turn, see `models.chat`
    progress: called with (rows done, rows in all), first with what an earlier run has done

    Raises, before anything is written, DataError for a row that cannot be scored under this tokenizer or exceeds the
    model's positions, UserError when `output` was written under other settings, and for a model or a setting that the
    scorer refuses.
    """
    try:
        scorer = AnswerScorer(model, tokenizer, max_tokens_per_batch=max_tokens_per_batch, closing=closing)
    except ValueError as error:
        raise UserError(str(error)) from error
    digest = hashlib.sha256()
    lengths: dict[str | int, int] = {}
    for row in rows:
        token_ids = _encode(model, tokenizer, row, chat_template)
        lengths[row.id] = sum(map(len, token_ids))
        digest.update(repr((row.id, token_ids)).encode())
    settings = {
        "scores": 1,  # the version of this format
        "rows": _hash([(row.id, row.prompt, row.reasoning, row.answers, row.suffix) for row in rows]),
        "model": model_fingerprint(model),
        "chat_template": chat_template,
        "closing": closing,
        "tokens": f"sha256:{digest.hexdigest()[:16]}",
    }
    with GenerationsFile(output, settings) as file:
        done = {row["id"] for row in file.rows}
        pending = [row for row in rows if row.id not in done]
        if progress is not None:
            progress(len(done), len(rows))
        for block in _blocks(pending, lengths, BATCHES_PER_BLOCK * max_tokens_per_batch):
            items = [item for row in block for item in _items(tokenizer, row, chat_template)]
            scores = iter(scorer.score(items))
            file.append([_scored(tokenizer, row, [next(scores) for _ in row.answers]) for row in block])
            if progress is not None:
                progress(len(file.rows), len(rows))
        return _summary(file.rows, new_rows=len(pending))


def read_scores(path: str | Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(settings, rows) of a file that `score_rows` wrote. DataError for another kind of file."""
    settings, rows = read_generations(path)
    if "scores" not in settings:
        raise DataError(f"{path}: this file holds no scores")
    return settings, rows


def _items(tokenizer: PreTrainedTokenizerBase, row: ScoringRow, chat_template: str) -> list[ScoringItem]:
    prompt: str | list[int] = row.prompt
    if chat_template != "none":
        prompt = render_prompt(tokenizer, row.prompt, chat_template=chat_template)
    return [ScoringItem(prompt, row.reasoning, answer, row.suffix) for answer in row.answers]


def _encode(model: Any, tokenizer: PreTrainedTokenizerBase, row: ScoringRow, chat_template: str) -> list[list[int]]:
    """Token ids of prompt, reasoning and answers, as the scorer has them. DataError for what it would refuse."""
    encoder_decoder = model.config.is_encoder_decoder
    [item, *_] = _items(tokenizer, row, chat_template)
    try:
        if not isinstance(item.prompt, str):
            prompt = list(item.prompt)
        else:
            prompt = tokenizer(item.prompt)["input_ids"] if encoder_decoder else encode_start(tokenizer, item.prompt)
        encode_reasoning = encode_output_start if encoder_decoder else encode_mid_text
        reasoning = encode_reasoning(tokenizer, row.reasoning) if row.reasoning else []
        at_start = encoder_decoder and not reasoning
        answers = [
            list(encode_answer(tokenizer, answer, closing=row.suffix, at_start=at_start).ids) for answer in row.answers
        ]
    except ValueError as error:
        raise row.line.error(str(error)) from error
    vocabulary: int = model.get_input_embeddings().num_embeddings
    if (highest := max(max(ids, default=0) for ids in (prompt, reasoning, *answers))) >= vocabulary:
        raise row.line.error(
            f"the tokenizer gives token {highest} and the model has {vocabulary}: they do not belong together"
        )
    output = len(reasoning) + max(map(len, answers))
    longest = max(len(prompt), 1 + output) if encoder_decoder else len(prompt) + output
    limit: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and longest > limit:
        raise row.line.error(f"{longest} tokens with its longest answer, more than the model's {limit} positions")
    return [prompt, reasoning, *answers]


def _blocks(
    rows: Sequence[ScoringRow], lengths: Mapping[str | int, int], max_tokens: int
) -> Iterator[list[ScoringRow]]:
    """Consecutive rows of about so many tokens together."""
    block: list[ScoringRow] = []
    tokens = 0
    for row in rows:
        block.append(row)
        tokens += lengths[row.id]
        if tokens >= max_tokens:
            yield block
            block, tokens = [], 0
    if block:
        yield block


def _scored(tokenizer: PreTrainedTokenizerBase, row: ScoringRow, scores: Sequence[AnswerScore]) -> dict[str, Any]:
    return {
        "id": row.id,
        "scores": [
            {
                "answer": answer,
                "rank": 1 + sum(other.sum > score.sum for other in scores),
                **{name: _finite(value) for name, value in _aggregates(score).items()},
                "token_ids": list(score.token_ids),
                "tokens": [str(tokenizer.decode([token_id])) for token_id in score.token_ids],
                "token_logprobs": [_finite(logprob) for logprob in score.token_logprobs],
            }
            for answer, score in zip(row.answers, scores, strict=True)
        ],
    }


def _aggregates(score: AnswerScore) -> dict[str, float]:
    return {
        "sum": score.sum,
        "mean": score.mean,
        "mean_probability": score.mean_probability,
        "probability": score.probability,
        "perplexity": score.perplexity,
    }


def _summary(rows: Sequence[Mapping[str, Any]], *, new_rows: int) -> ScoreSummary:
    finite = [[score for score in row["scores"] if score["sum"] is not None] for row in rows]
    means = [statistics.mean([score["sum"] for score in scores]).value for scores in finite if scores]
    answer_logprob = statistics.mean(means)
    scored = [score for scores in finite for score in scores]
    logprobs = [logprob for score in scored for logprob in score["token_logprobs"]]
    token_logprob = statistics.mean(logprobs).value
    answers = [score for row in rows for score in row["scores"]]
    return ScoreSummary(
        rows=len(rows),
        new_rows=new_rows,
        answers=len(answers),
        tokens=sum(len(score["token_ids"]) for score in answers),
        answer_logprob=answer_logprob.value,
        answer_logprob_standard_error=answer_logprob.standard_error,
        token_logprob=token_logprob,
        perplexity=math.exp(-token_logprob),
        not_finite=len(answers) - len(scored),
    )


def _hash(rows: Sequence[Any]) -> str:
    return f"sha256:{hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]}"


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
