r"""Multiple choice by likelihood: which option does the model find most probable as its answer? Nothing is generated.

An option is scored in the place of the answer of a response without reasoning, `The answer is \boxed{option}`: the log-
probability of `{option}` after the prompt and what precedes it. It also ranks base models, which cannot format. Where
the tokenizer cannot write a box (T5's has no braces), the response is `The answer is (option)`.

Forms of an option:

- "letter" (the default): its letter alone. The options have the same length, and the prompt shows which letter is what.
- "text": its text. The raw sum favours short options, the mean per token long ones; both figures are given, and the sum
  decides.

Questions without lettered options but with possible answers, yes and no or the two sentences of ProsQA, are ranked by
these texts whatever the form. If t options share the highest score, one of them the gold, the question scores 1/t.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from ..benchmarks.problem import LoadedBenchmark, Problem
from ..distributed import ranks
from ..errors import SettingsError, UserError
from ..likelihood.boundary import writes_box
from ..likelihood.scorer import AnswerScore, AnswerScorer, ScoringItem
from ..models.chat import PROMPT_TEMPLATE
from . import statistics
from .evaluate import model_fingerprint, problem_hash, prompt_ids, protocol, short_hash
from .generations import Row
from .results import GROUPS, Groups, finite, group_accuracies, stated_options
from .shares import Append, all_rows
from .statistics import Estimate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Form = Literal["letter", "text"]
FORMS: tuple[str, ...] = get_args(Form)

# What comes before an option, and what encloses it and is scored with it: vocabularies merge a brace with what follows.
BOXED = (r"The answer is \boxed", "{", "}")
UNBOXED = ("The answer is", " (", ")")

PROBLEMS_A_WRITE = 32


@dataclass(frozen=True)
class RankingResult:
    """Accuracies are shares of 1 and their errors those of a mean over the n problems.

    accuracy, ...: of the option with the highest sum; accuracy_per_token, ...: of that with the highest mean per token
    tied, tied_per_token: problems where options share the highest score; equal texts for instance
    chance: the mean of 1/options
    answer_loglik, ...: the sum of the gold option, in nats
    groups: as in `EvaluationResult`, of `accuracy`
    rows: one a problem; `options` holds each option's sum, mean and tokens
    """

    benchmark: str
    version: int
    split: str
    revision: str | None
    source: str
    dropped: dict[str, int]
    n: int
    form: str
    accuracy: float
    standard_error: float
    wilson_interval: tuple[float, float]
    tied: int
    accuracy_per_token: float
    accuracy_per_token_standard_error: float
    tied_per_token: int
    chance: float
    answer_loglik: float
    answer_loglik_standard_error: float
    groups: dict[str, Groups]
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


def rank(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    benchmark: LoadedBenchmark,
    *,
    form: str = "letter",
    output: str | Path | None = None,
    template: str = PROMPT_TEMPLATE,
    chat_template: str = "auto",
    max_tokens_per_batch: int = 8192,
    progress: Callable[[int, int], None] | None = None,
) -> RankingResult:
    """Rank the options of every problem of `benchmark`; problems without options are left out and counted.

    On several ranks as `evaluate`.

    output: `ranking.jsonl`; rows are appended as they are scored, and a run that was killed goes on from them
    template, chat_template, progress: as for `evaluate`

    Raises UserError when no problem has options, a prompt is too long, or `output` was written under other settings;
    SettingsError for an unknown form.
    """
    if form not in FORMS:
        raise SettingsError(f"form = {form!r}: must be one of {', '.join(FORMS)}")
    problems = [problem for problem in benchmark.problems if _options(problem, form)]
    if not problems:
        raise UserError(f"{benchmark.name}: no problem has options to rank; evaluate it by generating")
    prompts = {
        problem.id: prompt_ids(model, tokenizer, problem, template=template, chat_template=chat_template)
        for problem in problems
    }
    settings = {
        **protocol(benchmark, template=template, chat_template=chat_template, grader="likelihood", decoding={}),
        "ranking": form,
        "n": len(problems),
        "problems": short_hash([(problem.id, problem_hash(problem)) for problem in problems]),
        "model": model_fingerprint(model),
        "prompts": short_hash(list(prompts.values())),
    }
    place = BOXED if writes_box(tokenizer) else UNBOXED
    if place != BOXED:
        settings["ranked_as"] = "The answer is (option)"
        if ranks.is_main():
            warnings.warn(
                r"this model's tokenizer cannot write \boxed{}: options are ranked as `The answer is (option)`",
                stacklevel=2,
            )
    scorer = AnswerScorer(model, tokenizer, max_tokens_per_batch=max_tokens_per_batch)

    def make(share: Sequence[Problem], append: Append) -> None:
        # Longest first, so that what does not fit fails at once, and similar lengths stand together.
        for start in range(0, len(share), PROBLEMS_A_WRITE):
            block = share[start : start + PROBLEMS_A_WRITE]
            append(_rows(scorer, block, [prompts[problem.id] for problem in block], form, place))

    rows = all_rows(
        problems,
        make,
        key=lambda problem: (problem.id, 0),
        length=lambda problem: len(prompts[problem.id]),
        output=output,
        settings=settings,
        progress=progress,
        name=benchmark.name,
        model=model,
    )
    return _result(benchmark, problems, rows, form, template, chat_template)


def _options(problem: Problem, form: str) -> tuple[str, ...]:
    """What is scored for each option, in their order; () if there is nothing to choose from."""
    if problem.kind == "mcq":
        return problem.letters if form == "letter" else problem.options
    return ("yes", "no") if problem.kind == "bool" else stated_options(problem)


def _gold(problem: Problem) -> int:
    """The place of the gold among the options. Texts may occur twice, so a letter decides where there is one."""
    if problem.kind == "mcq":
        return problem.letters.index(problem.answer)
    return _options(problem, "text").index(problem.answer)


def _rows(
    scorer: AnswerScorer,
    problems: Sequence[Problem],
    prompts: Sequence[Sequence[int]],
    form: str,
    place: tuple[str, str, str],
) -> list[Row]:
    lead, opening, closing = place
    items = [
        ScoringItem(prompt, lead, option, suffix=closing, opening=opening)
        for problem, prompt in zip(problems, prompts, strict=True)
        for option in _options(problem, form)
    ]
    try:
        scores = iter(scorer.score(items))
    except ValueError as error:  # a prompt longer than the model's positions
        raise UserError(f"options cannot be scored: {error}") from error
    return [_row(problem, [next(scores) for _ in _options(problem, form)], form) for problem in problems]


def _row(problem: Problem, scores: Sequence[AnswerScore], form: str) -> Row:
    gold = _gold(problem)
    sums, means = [score.sum for score in scores], [score.mean for score in scores]
    best, best_per_token = _leaders(sums), _leaders(means)
    return {
        "id": problem.id,
        "prompt_hash": problem_hash(problem),
        "answer": problem.target(),
        "extracted": _options(problem, form)[best[0]] if len(best) == 1 else None,
        "correct": (gold in best) / len(best),
        "tied": len(best) > 1,
        "correct_per_token": (gold in best_per_token) / len(best_per_token),
        "tied_per_token": len(best_per_token) > 1,
        "answer_loglik": sums[gold],
        "options": [{"sum": score.sum, "mean": score.mean, "tokens": len(score.token_ids)} for score in scores],
        "grader": "likelihood",
        "groups": {name: problem.metadata[name] for name in GROUPS if name in problem.metadata},
    }


TIE = 1e-5  # nats; options with the same tokens may differ by rounding, for they can stand in different batches


def _leaders(values: Sequence[float]) -> list[int]:
    return [index for index, value in enumerate(values) if value >= max(values) - TIE]


def _result(
    benchmark: LoadedBenchmark,
    problems: Sequence[Problem],
    rows: Sequence[Row],
    form: str,
    template: str,
    chat_template: str,
) -> RankingResult:
    accuracy = statistics.mean([row["correct"] for row in rows])
    per_token = statistics.mean([row["correct_per_token"] for row in rows])
    loglik = statistics.mean([row["answer_loglik"] for row in rows])
    without = len(benchmark.problems) - len(problems)
    options = [len(_options(problem, form)) for problem in problems]
    return RankingResult(
        benchmark=benchmark.name,
        version=benchmark.version,
        split=benchmark.split,
        revision=benchmark.revision,
        source=benchmark.source,
        dropped={**benchmark.dropped, **({"no options to rank": without} if without else {})},
        n=len(rows),
        form=form,
        accuracy=accuracy.value,
        standard_error=accuracy.standard_error,
        wilson_interval=statistics.interval_of_scores([row["correct"] for row in rows]),
        tied=sum(row["tied"] for row in rows),
        accuracy_per_token=per_token.value,
        accuracy_per_token_standard_error=per_token.standard_error,
        tied_per_token=sum(row["tied_per_token"] for row in rows),
        chance=math.fsum(1 / count for count in options) / len(options),
        answer_loglik=loglik.value,
        answer_loglik_standard_error=loglik.standard_error,
        groups=group_accuracies(problems, {row["id"]: row["correct"] for row in rows}),
        template=template,
        chat_template=chat_template,
        rows=list(rows),
    )
