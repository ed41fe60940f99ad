"""From graded rows to the figures of one benchmark. A row is one response; a problem may have several (samples)."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..benchmarks.problem import LoadedBenchmark, Problem
from . import statistics
from .generations import Row, by_problem, share_right
from .grading import same_answer
from .statistics import Estimate
from .voting import group_answers, maj_at_k

# Metadata that problems are grouped by, where a benchmark has them.
GROUPS = (
    *("subject", "area", "field", "subfield", "subdomain", "level", "difficulty"),
    *("answer_type", "error_type", "operations"),
)


@dataclass(frozen=True)
class Groups:
    """Accuracy by the values of one property of the problems (subject, level), in the order of the values.

    accuracies: value -> accuracy over its own problems
    macro: the plain mean of these; the benchmark's own accuracy is the micro average, over all problems
    """

    accuracies: dict[str, Estimate]
    macro: Estimate


@dataclass(frozen=True)
class EvaluationResult:
    """What a score has to be read with. Rates and accuracies are shares of 1; what does not exist is NaN.

    Standard errors are those of a mean over problems: responses to one problem are not independent.

    n: problems; samples: responses to each; dropped: source rows that became no problem, by reason
    accuracy, standard_error, wilson_interval: over all problems, the interval at 95 %; with several samples a problem's
        score is the share of its right ones (avg@k), see `statistics.interval_of_scores`
    at_k: "pass@4" -> estimate, "maj@4" -> estimate; empty with one sample
    chance: what blind guessing scores: the mean of 1/options, for yes or no the more frequent one's share
    accuracy_given_boxed, ..._standard_error: over the responses with a closed box
    boxed_rate, no_answer_rate, truncation_rate, ..._standard_error: responses with a closed box, from which no answer
        could be read, cut off at max_new_tokens
    timed_out: responses whose comparison was given up, counted as wrong
    answer_loglik, ..._standard_error, ..._n: nats, over the responses that have one
    mean_tokens, ..._standard_error: of a response
    groups: "subject" -> accuracies, for each of `GROUPS` that the benchmark has
    decoding: max_new_tokens, temperature, top_p, top_k, samples
    rows: one a response, in the benchmark's order
    """

    benchmark: str
    version: int
    split: str
    revision: str | None
    source: str
    dropped: dict[str, int]
    n: int
    samples: int
    accuracy: float
    standard_error: float
    wilson_interval: tuple[float, float]
    at_k: dict[str, Estimate]
    chance: float
    accuracy_given_boxed: float
    accuracy_given_boxed_standard_error: float
    boxed_rate: float
    boxed_rate_standard_error: float
    no_answer_rate: float
    no_answer_rate_standard_error: float
    truncation_rate: float
    truncation_rate_standard_error: float
    timed_out: int
    answer_loglik: float
    answer_loglik_standard_error: float
    answer_loglik_n: int
    mean_tokens: float
    mean_tokens_standard_error: float
    groups: dict[str, Groups]
    grader: str
    seed: int
    decoding: dict[str, Any]
    template: str
    chat_template: str
    rows: list[Row] = field(repr=False)

    @property
    def estimate(self) -> Estimate:
        """The accuracy."""
        return Estimate(self.accuracy, self.standard_error, self.n)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the rows, as JSON takes it: NaN becomes None."""
        return finite({name: value for name, value in dataclasses.asdict(self).items() if name != "rows"})


def summarise(
    benchmark: LoadedBenchmark,
    rows: Sequence[Row],
    *,
    samples: int,
    ks: Sequence[int],
    grader: str,
    seed: int,
    decoding: dict[str, Any],
    template: str,
    chat_template: str,
) -> EvaluationResult:
    """The figures of `rows`, which hold `samples` responses to each problem of `benchmark`.

    ks: for which pass@k and maj@k are estimated, with more than one sample
    seed: of the draws of maj@k
    """
    responses = by_problem(rows)

    def over_problems(key: str) -> Estimate:
        return statistics.clustered_mean([[row[key] for row in own] for own in responses.values()])

    scores = {problem_id: share_right(own) for problem_id, own in responses.items()}
    accuracy = statistics.mean(list(scores.values()))
    given_boxed = statistics.clustered_mean([[r["correct"] for r in own if r["boxed"]] for own in responses.values()])
    logliks = [[r["answer_loglik"] for r in own if r["answer_loglik"] is not None] for own in responses.values()]
    loglik = statistics.clustered_mean(logliks)
    boxed, truncated, tokens = over_problems("boxed"), over_problems("truncated"), over_problems("tokens")
    no_answer = statistics.clustered_mean([[r["extracted"] is None for r in own] for own in responses.values()])
    return EvaluationResult(
        benchmark=benchmark.name,
        version=benchmark.version,
        split=benchmark.split,
        revision=benchmark.revision,
        source=benchmark.source,
        dropped=dict(benchmark.dropped),
        n=len(scores),
        samples=samples,
        accuracy=accuracy.value,
        standard_error=accuracy.standard_error,
        wilson_interval=statistics.interval_of_scores(list(scores.values())),
        at_k=_at_k(benchmark.problems, responses, ks, grader, seed) if samples > 1 else {},
        chance=chance(benchmark.problems),
        accuracy_given_boxed=given_boxed.value,
        accuracy_given_boxed_standard_error=given_boxed.standard_error,
        boxed_rate=boxed.value,
        boxed_rate_standard_error=boxed.standard_error,
        no_answer_rate=no_answer.value,
        no_answer_rate_standard_error=no_answer.standard_error,
        truncation_rate=truncated.value,
        truncation_rate_standard_error=truncated.standard_error,
        timed_out=sum(row["timed_out"] for row in rows),
        answer_loglik=loglik.value,
        answer_loglik_standard_error=loglik.standard_error,
        answer_loglik_n=sum(map(len, logliks)),
        mean_tokens=tokens.value,
        mean_tokens_standard_error=tokens.standard_error,
        groups=group_accuracies(benchmark.problems, scores),
        grader=grader,
        seed=seed,
        decoding=decoding,
        template=template,
        chat_template=chat_template,
        rows=list(rows),
    )


def _at_k(
    problems: Sequence[Problem], responses: Mapping[str, Sequence[Row]], ks: Sequence[int], grader: str, seed: int
) -> dict[str, Estimate]:
    passes: dict[int, list[float]] = {k: [] for k in ks}
    majorities: dict[int, list[float]] = {k: [] for k in ks if k > 1}
    for problem in problems:
        rows = responses[problem.id]
        # Whose comparison with the gold was given up would cost as much in every other comparison.
        slow = {row["extracted"] for row in rows if row["timed_out"]}

        def same(first: str, second: str, problem: Problem = problem, slow: set[str] = slow) -> bool:
            return not {first, second} & slow and same_answer(problem, first, second, grader=grader)

        groups = group_answers([row["extracted"] for row in rows], same)
        right = [bool(row["correct"]) for row in rows]
        for k, values in passes.items():
            values.append(statistics.pass_at_k(len(rows), sum(right), k))
        for k, values in majorities.items():
            values.append(maj_at_k(groups, right, k, seed=seed, key=problem.id))
    return {
        f"{name}@{k}": statistics.mean(values)
        for name, by_k in (("pass", passes), ("maj", majorities))
        for k, values in by_k.items()
    }


def group_accuracies(problems: Sequence[Problem], scores: Mapping[str, float]) -> dict[str, Groups]:
    """For each of `GROUPS` with at least two values among the problems: accuracy by value, and their plain mean.

    scores: problem id -> score
    """
    found = {}
    for name in GROUPS:
        members: dict[Any, list[float]] = {}
        for problem in problems:
            if (value := problem.metadata.get(name)) is not None:
                members.setdefault(value, []).append(scores[problem.id])
        if len(members) >= 2:
            ordered = sorted(members, key=lambda value: (isinstance(value, str), value))
            accuracies = {str(value): statistics.mean(members[value]) for value in ordered}
            found[name] = Groups(accuracies, statistics.mean_of_means(list(accuracies.values())))
    return found


def chance(problems: Sequence[Problem]) -> float:
    """The accuracy of an answer that ignores the question; NaN where the answers are free."""
    shares = [1 / len(options) for problem in problems if (options := problem.options or stated_options(problem))]
    if problems and len(shares) == len(problems):
        return math.fsum(shares) / len(shares)
    if problems and all(problem.kind == "bool" for problem in problems):
        return max(Counter(problem.answer for problem in problems).values()) / len(problems)
    return math.nan


def stated_options(problem: Problem) -> tuple[str, ...]:
    """The possible answers that a question without lettered options names (ProsQA); () where it names none."""
    return tuple(problem.metadata.get("options") or ())


def finite(value: Any) -> Any:
    """The same data with None for every number that is not finite, and lists for tuples, as JSON takes it."""
    if isinstance(value, Mapping):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
