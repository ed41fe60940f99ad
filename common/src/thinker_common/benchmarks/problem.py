"""The one record that every benchmark yields, and the set of records that a loader returns."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from .sources import HubDataset

Kind = Literal["math", "mcq", "bool", "text"]
KINDS: tuple[str, ...] = get_args(Kind)

LETTERS = "ABCDEFGHIJ"  # of the options, by position; no benchmark here has more than ten


@dataclass(frozen=True, slots=True)
class Problem:
    """One question with its gold answer.

    id: stable, "<benchmark>/<split>/<row id or index>"
    question: the question without its options
    answer: the gold: a letter for "mcq", "yes" or "no" for "bool", otherwise the answer as a string
    kind: how answers are compared (see `evaluation.grading`): "math" by value, "mcq" by letter, "bool" by yes or no,
        "text" by the normalised string, which must equal `answer` or one of `aliases`
    options: texts of the options in order, "mcq" only
    aliases: further accepted wordings of the answer
    steps: exact reference steps, where the benchmark has them
    metadata: groups for break-downs (subject, level, ...), the untouched source row for audits ("row"), and what
        comparing this answer needs, each only where the row has it:
        "unit": text; a prediction that carries the unit counts too
        "tolerance": float, absolute; a number this far from the gold still counts
        "relative_tolerance": float, as a share of the gold; set by an option of a benchmark only
        "multiple_answers": True where `answer` is a set of values, separated by commas: order is free, repeats do not
            count, and each must be there
    """

    id: str
    question: str
    answer: str
    kind: Kind
    options: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        assert self.kind in KINDS, self.kind
        assert self.question.strip() and self.answer.strip(), f"{self.id}: a problem has a question and an answer"
        if self.kind == "mcq":
            assert 2 <= len(self.options) <= len(LETTERS), f"{self.id}: {len(self.options)} options"
            assert self.answer in self.letters, f"{self.id}: {self.answer!r} is no letter of its options"
        else:
            assert not self.options, f"{self.id}: only multiple choice has options"
        if self.kind == "bool":
            assert self.answer in ("yes", "no"), f"{self.id}: {self.answer!r} is neither yes nor no"

    @property
    def letters(self) -> tuple[str, ...]:
        """The letters that this question's options have."""
        return tuple(LETTERS[: len(self.options)])

    def prompt_text(self) -> str:
        """What the model is asked: the question, and each option after a blank line as "A. text"."""
        lines = [f"{letter}. {text}" for letter, text in zip(self.letters, self.options, strict=True)]
        return "\n\n".join([self.question, *lines])

    def target(self) -> str:
        """What stands in the box of an ideal response: the gold, for "mcq" with its text ("C. the text")."""
        if self.kind != "mcq":
            return self.answer
        return f"{self.answer}. {self.options[self.letters.index(self.answer)]}"


def kept_and_dropped(results: Iterable[Problem | str]) -> tuple[tuple[Problem, ...], dict[str, int]]:
    """The problems, and for the rest, which are reasons for leaving a row out, how often each occurs."""
    kept: list[Problem] = []
    reasons: Counter[str] = Counter()
    for result in results:
        if isinstance(result, Problem):
            kept.append(result)
        else:
            reasons[result] += 1
    return tuple(kept), dict(reasons)


def question_key(problem: Problem) -> str:
    """Equal for problems that ask the same: question and options, whatever their order, case and white space."""
    parts = [problem.question, *sorted(problem.options)]
    return "\n".join("".join(unicodedata.normalize("NFKC", part).casefold().split()) for part in parts)


@dataclass(frozen=True, slots=True)
class BenchmarkInfo:
    """What a reader of a result should know of a benchmark, apart from its rows.

    title: its name in the literature
    kind: of its problems; "mixed" for a training mixture
    hub: where it is published; None for generated tasks, and for data sets that are files only
    license: of the data, and how far it is known
    citation: authors, year, arXiv number
    notes: traps, one or two sentences each
    shares: "benchmark/split" of other data sets here that are of the same origin, so that they share questions, or
        must share none; `check.check_benchmark` counts those
    """

    title: str
    kind: Kind | Literal["mixed"]
    hub: HubDataset | None
    license: str
    citation: str
    notes: tuple[str, ...] = ()
    shares: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LoadedBenchmark:
    """The problems of one split, and what a result has to say about where they come from.

    name, split: of the benchmark ("gsm8k", "test")
    problems: in the order of the source
    revision: of the hub data set, or "sha256:<hex>" of the local file; None for generated tasks
    source: in words: hub id, file or generator, and whether it is a sample
    version: of our own reader or generator; a change that moves scores changes it
    dropped: reason -> number of source rows that became no problem for it
    """

    name: str
    split: str
    problems: tuple[Problem, ...]
    revision: str | None
    source: str
    version: int
    dropped: Mapping[str, int] = field(default_factory=dict, hash=False)
