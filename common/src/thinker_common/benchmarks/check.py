"""Is a copy of a benchmark the one its reader expects, does its gold score, and do its splits share questions?"""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError
from . import benchmark_module, load_benchmark
from .problem import Problem, question_key

MAX_FAILURES = 20  # that a report describes; the counts are complete


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What the check of one split found.

    name, split, source, revision, version: of what was loaded
    problems: number of them
    expected_rows: the numbers of source rows that the benchmark's table accepts, () where it knows none
    dropped: reason -> number of rows that became no problem
    gold_right, wrong_right: number of problems whose gold answer, and whose wrong answer, was graded as right
    failures: the first MAX_FAILURES problems that were graded wrongly, in words
    warnings: what the reader warned of, the number of rows among it
    duplicates: groups of ids with the same question
    overlaps: "benchmark/split" -> the ids of this split whose question is there too; None where it cannot be read
    """

    name: str
    split: str
    source: str
    revision: str | None
    version: int
    problems: int
    expected_rows: tuple[int, ...]
    dropped: dict[str, int]
    gold_right: int
    wrong_right: int
    failures: tuple[str, ...]
    warnings: tuple[str, ...]
    duplicates: tuple[tuple[str, ...], ...]
    overlaps: dict[str, tuple[str, ...] | None]

    @property
    def passed(self) -> bool:
        """Every gold is right and every wrong answer is wrong. The rest is for a reader to judge."""
        return self.gold_right == self.problems and self.wrong_right == 0

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed}


def check_benchmark(
    name: str,
    *,
    split: str = "test",
    data_dir: str | Path | None = None,
    grade: Callable[[Problem, str], bool],
    revision: str | None = None,
    **options: Any,
) -> CheckReport:
    """Load one split of a benchmark, grade the gold and a wrong answer of each problem, look for repeated questions.

    grade: whether a response answers a problem (`evaluation.grading` is a floor higher, so its caller brings it)
    options: the benchmark's own

    The split is compared with the other splits of its benchmark, and with the data sets that its INFO says it shares
    questions with. Raises what `load_benchmark` raises; missing columns and broken rows are among it.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loaded = load_benchmark(name, split=split, data_dir=data_dir, revision=revision, **options)
    info = benchmark_module(name).INFO
    rows = info.hub.rows.get(split, ()) if info.hub else ()

    failures, gold_right, wrong_right = [], 0, 0
    for problem in loaded.problems:
        wrong = wrong_answer(problem)
        gold_is_right = grade(problem, boxed(problem.target()))
        wrong_is_right = grade(problem, boxed(wrong))
        gold_right += gold_is_right
        wrong_right += wrong_is_right
        if not gold_is_right:
            failures.append(f"{problem.id}: the gold {problem.target()!r} is graded as wrong")
        if wrong_is_right:
            failures.append(f"{problem.id}: {wrong!r} is graded as right, and the gold is {problem.target()!r}")

    ids_of_questions = defaultdict(list)
    for problem in loaded.problems:
        ids_of_questions[question_key(problem)].append(problem.id)
    others = [f"{name}/{other}" for other in (info.hub.rows if info.hub else ()) if other != split]
    return CheckReport(
        name=name,
        split=split,
        source=loaded.source,
        revision=loaded.revision,
        version=loaded.version,
        problems=len(loaded.problems),
        expected_rows=rows if isinstance(rows, tuple) else (rows,),
        dropped={reason: count for reason, count in loaded.dropped.items() if count},
        gold_right=gold_right,
        wrong_right=wrong_right,
        failures=tuple(failures[:MAX_FAILURES]),
        warnings=tuple(str(warning.message) for warning in caught),
        duplicates=tuple(tuple(ids) for ids in ids_of_questions.values() if len(ids) > 1),
        overlaps={other: _overlap(ids_of_questions, other, data_dir) for other in (*others, *info.shares)},
    )


def _overlap(ids_of_questions: dict[str, list[str]], other: str, data_dir: str | Path | None) -> tuple[str, ...] | None:
    name, _, split = other.partition("/")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the check of that split says them
            problems = load_benchmark(name, split=split, data_dir=data_dir).problems
    except DataError:
        return None
    theirs = {question_key(problem) for problem in problems}
    return tuple(row for question, ids in ids_of_questions.items() if question in theirs for row in ids)


def boxed(answer: str) -> str:
    r"""An ideal response with this answer."""
    return f"Thus \\boxed{{{answer}}}."


def wrong_answer(problem: Problem) -> str:
    """An answer that is wrong, and near the gold where one can be named: the next letter, the number and one more."""
    match problem.kind:
        case "mcq":
            letters = problem.letters
            return letters[(letters.index(problem.answer) + 1) % len(letters)]
        case "bool":
            return "no" if problem.answer == "yes" else "yes"
        case "math":
            try:
                gold = int(problem.answer)
            except ValueError:
                return "7919.5"
            tolerated = problem.metadata.get("tolerance", 0) + problem.metadata.get("relative_tolerance", 0) * abs(gold)
            return str(gold + 1 + math.ceil(tolerated))
        case _:
            return f"not {problem.answer}"
