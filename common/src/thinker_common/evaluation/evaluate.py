r"""One model on one benchmark: generate, grade, score the reference answers, count.

The answer log-likelihood of a row is log p(target } | prompt, y_R): how likely the model finds the reference in the
place of its own answer, after its own reasoning y_R, which ends with the `{` of its last `\boxed{`. It also tells apart
models that are all wrong, or all right. A response without a closed box has none.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..benchmarks.problem import LoadedBenchmark, Problem
from ..errors import DataError
from ..likelihood.boundary import encode_answer, split_response
from ..likelihood.scorer import AnswerScorer, ScoringItem
from ..models.chat import PROMPT_TEMPLATE, fill, render_prompt
from . import math_equality, statistics
from .comparison import Comparison, compare
from .generate import Generation, Generator
from .generations import GenerationsFile, Row
from .grading import grade

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Comparison", "EvaluationResult", "compare", "evaluate", "model_fingerprint", "problem_hash"]


@dataclass(frozen=True)
class EvaluationResult:
    """What a score has to be read with. Rates and accuracies are shares of 1; what does not exist is NaN.

    n: problems; dropped: source rows that became none, by reason
    accuracy, standard_error, wilson_interval: over all n, the interval at 95 %
    accuracy_given_boxed, ..._standard_error: over the n * boxed_rate responses with a closed box
    no_answer_rate: responses from which no answer could be read
    truncation_rate: responses cut off at max_new_tokens
    timed_out: responses whose comparison was given up, counted as wrong
    answer_loglik, ..._standard_error, ..._n: nats, over the responses that have one
    mean_tokens: of a response
    decoding: max_new_tokens, temperature, top_p, top_k
    rows: one a problem, in the benchmark's order
    """

    benchmark: str
    version: int
    split: str
    revision: str | None
    source: str
    dropped: dict[str, int]
    n: int
    accuracy: float
    standard_error: float
    wilson_interval: tuple[float, float]
    accuracy_given_boxed: float
    accuracy_given_boxed_standard_error: float
    boxed_rate: float
    no_answer_rate: float
    truncation_rate: float
    timed_out: int
    answer_loglik: float
    answer_loglik_standard_error: float
    answer_loglik_n: int
    mean_tokens: float
    grader: str
    seed: int
    decoding: dict[str, Any]
    template: str
    chat_template: str
    rows: list[Row] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the rows, as JSON takes it: NaN becomes None."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self) if item.name != "rows"}
        values["wilson_interval"] = [_finite(bound) for bound in self.wilson_interval]
        return {name: _finite(value) if isinstance(value, float) else value for name, value in values.items()}


def evaluate(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    benchmark: LoadedBenchmark,
    *,
    output: str | Path | None = None,
    template: str = PROMPT_TEMPLATE,
    chat_template: str = "auto",
    max_new_tokens: int = 1024,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    max_tokens_per_batch: int = 8192,
    seed: int = 0,
    grader: str = "default",
    score_answers: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> EvaluationResult:
    """Evaluate `model` on every problem of `benchmark`.

    output: `generations.jsonl`; rows are appended as batches finish, and a run that was killed goes on from them.
        None keeps the rows in memory only.
    template: with `{question}`, which becomes the problem's `prompt_text()`; `chat_template`: see `models.chat`
    score_answers: also score the reference answers
    progress: called with (problems done, problems in all), first with what an earlier run has done

    Raises UserError when `output` was written under other settings, or a prompt leaves no room for the response;
    SettingsError for an impossible setting.
    """
    problems = {problem.id: problem for problem in benchmark.problems}
    assert len(problems) == len(benchmark.problems), "the ids of a benchmark differ"
    generator = Generator(
        model,
        tokenizer,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        max_tokens_per_batch=max_tokens_per_batch,
        seed=seed,
    )
    prompts = {
        problem.id: render_prompt(
            tokenizer, fill(template, question=problem.prompt_text()), chat_template=chat_template
        )
        for problem in benchmark.problems
    }
    generator.check_lengths(list(prompts.values()))  # before the file is begun
    decoding = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p, "top_k": top_k}
    settings = {
        "benchmark": benchmark.name,
        "version": benchmark.version,
        "split": benchmark.split,
        "revision": benchmark.revision,
        "n": len(problems),
        "problems": _hash([(problem.id, problem_hash(problem)) for problem in benchmark.problems]),
        "model": model_fingerprint(model),
        "template": template,
        "chat_template": chat_template,
        "prompts": _hash(list(prompts.values())),
        **decoding,
        "seed": seed,
        "grader": grader,
        "score_answers": score_answers,
    }
    if any(problem.kind == "math" for problem in benchmark.problems):
        math_equality.self_test()  # better now than after hours of generation
    scorer = None
    if score_answers:
        _check_answers(tokenizer, benchmark.problems)
        scorer = AnswerScorer(model, tokenizer, max_tokens_per_batch=max_tokens_per_batch)

    rows: dict[str, Row] = {}
    with GenerationsFile(output, settings) if output is not None else nullcontext() as file:
        rows.update((row["id"], row) for row in (file.rows if file is not None else []))
        pending = [problem for problem in benchmark.problems if problem.id not in rows]
        if progress is not None:
            progress(len(rows), len(problems))

        def on_batch(indices: Sequence[int], generations: Sequence[Generation]) -> None:
            batch = [pending[index] for index in indices]
            batch_prompts = [prompts[problem.id] for problem in batch]
            finished = _rows(batch, batch_prompts, generations, tokenizer, scorer, generator.context, grader)
            if file is not None:
                file.append(finished)
            rows.update((row["id"], row) for row in finished)
            if progress is not None:
                progress(len(rows), len(problems))

        generator.generate([prompts[problem.id] for problem in pending], on_batch=on_batch)

    ordered = [rows[problem.id] for problem in benchmark.problems]
    return _result(benchmark, ordered, grader, seed, decoding, template, chat_template)


def _rows(
    problems: Sequence[Problem],
    prompts: Sequence[Sequence[int]],
    generations: Sequence[Generation],
    tokenizer: PreTrainedTokenizerBase,
    scorer: AnswerScorer | None,
    context: int | None,
    grader: str,
) -> list[Row]:
    grades = [grade(p, generation.text, grader=grader) for p, generation in zip(problems, generations, strict=True)]
    logliks: list[float | None] = [None] * len(problems)
    if scorer is not None:
        items: dict[int, ScoringItem] = {}
        for index, (problem, prompt, generation) in enumerate(zip(problems, prompts, generations, strict=True)):
            if grades[index].boxed:
                # Not told of truncation: a response that was cut off after its box has an answer all the same.
                split = split_response(tokenizer, generation.token_ids, truncated=False)
                reasoning = generation.token_ids[: split.reasoning_length]
                answer = encode_answer(tokenizer, problem.target(), opening=split.opening)
                # A reference longer than the model's own answer may not fit into what is left of the context.
                if context is None or len(prompt) + len(reasoning) + len(answer.ids) <= context:
                    items[index] = ScoringItem(prompt, reasoning, problem.target(), suffix="}", opening=split.opening)
        for index, score in zip(items, scorer.score(list(items.values())), strict=True):
            logliks[index] = _finite(float(score.sum))
    return [
        {
            "id": problem.id,
            "prompt_hash": problem_hash(problem),
            "text": generation.text,
            "tokens": len(generation.token_ids),
            "truncated": generation.truncated,
            "answer": problem.target(),
            "extracted": graded.extracted,
            "boxed": graded.boxed,
            "correct": graded.correct,
            "timed_out": graded.timed_out,
            "answer_loglik": loglik,
            "grader": grader,
        }
        for problem, generation, graded, loglik in zip(problems, generations, grades, logliks, strict=True)
    ]


def _result(
    benchmark: LoadedBenchmark,
    rows: list[Row],
    grader: str,
    seed: int,
    decoding: dict[str, Any],
    template: str,
    chat_template: str,
) -> EvaluationResult:
    def share(key: str) -> float:
        return statistics.mean([row[key] for row in rows]).value

    accuracy = statistics.mean([row["correct"] for row in rows])
    given_boxed = statistics.mean([row["correct"] for row in rows if row["boxed"]])
    loglik = statistics.mean([row["answer_loglik"] for row in rows if row["answer_loglik"] is not None])
    return EvaluationResult(
        benchmark=benchmark.name,
        version=benchmark.version,
        split=benchmark.split,
        revision=benchmark.revision,
        source=benchmark.source,
        dropped=dict(benchmark.dropped),
        n=len(rows),
        accuracy=accuracy.value,
        standard_error=accuracy.standard_error,
        wilson_interval=statistics.wilson(sum(row["correct"] for row in rows), len(rows)),
        accuracy_given_boxed=given_boxed.value,
        accuracy_given_boxed_standard_error=given_boxed.standard_error,
        boxed_rate=share("boxed"),
        no_answer_rate=statistics.mean([row["extracted"] is None for row in rows]).value,
        truncation_rate=share("truncated"),
        timed_out=sum(row["timed_out"] for row in rows),
        answer_loglik=loglik.value,
        answer_loglik_standard_error=loglik.standard_error,
        answer_loglik_n=loglik.n,
        mean_tokens=share("tokens"),
        grader=grader,
        seed=seed,
        decoding=decoding,
        template=template,
        chat_template=chat_template,
        rows=rows,
    )


def _check_answers(tokenizer: PreTrainedTokenizerBase, problems: Sequence[Problem]) -> None:
    """DataError before any work, where a reference answer has no tokens under this tokenizer."""
    for problem in problems:
        try:
            encode_answer(tokenizer, problem.target())
        except ValueError as error:
            raise DataError(f"{problem.id}: {error}; evaluate without scoring the answers") from error


def problem_hash(problem: Problem) -> str:
    """Tells apart other wordings, other orders of options and other golds behind one id; no prompt template in it."""
    return _hash([problem.prompt_text(), problem.answer])


def model_fingerprint(model: torch.nn.Module) -> str:
    """A hash of names, shapes and about 1024 evenly spaced weights of each parameter; training changes it."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        flat = parameter.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // 1024)].float().cpu()
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
        digest.update(sample.numpy().tobytes())
    return f"sha256:{digest.hexdigest()[:16]}"


def _hash(value: Any) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
