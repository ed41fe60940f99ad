"""Explanations that people wrote: StrategyQA's facts, OpenBookQA's fact1, ECQA's properties of CommonsenseQA's options.

The facts are what is recalled. Only ECQA says something of single options, in properties that do not name the option
they are about: a property belongs to the options whose text it contains. Every other analysis is one of two fixed
sentences, which judge the option and give no reason; `reasons_written` counts those that a person wrote.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from .._common import DataError, Line, parse_lines, read_bytes
from ..questions import Explanation, Question

FOLLOWS = "this follows from what is known."
DOES_NOT_FOLLOW = "this does not follow from what is known."


class Properties(NamedTuple):
    """ECQA's properties that speak for the right option, and those that speak against others."""

    positives: tuple[str, ...]
    negatives: tuple[str, ...]


class Human(NamedTuple):
    explanation: Explanation
    reasons_written: int


def from_facts(question: Question) -> Human | None:
    """None where the data set has no facts for the question."""
    if not question.facts:
        return None
    reasons = [FOLLOWS if option == question.gold else DOES_NOT_FOLLOW for option in range(len(question.options))]
    return Human(Explanation(_joined(question.facts), tuple(reasons)), 0)


def from_properties(question: Question, properties: Properties) -> Human | None:
    """None where nothing speaks for the right option."""
    if not properties.positives:
        return None
    reasons, written = [], 0
    for position, option in enumerate(question.options):
        own = properties.positives if position == question.gold else properties.negatives
        about = [text for text in own if option.casefold() in text.casefold()]
        written += bool(about)
        reasons.append(_joined(about) if about else FOLLOWS if position == question.gold else DOES_NOT_FOLLOW)
    return Human(Explanation(_joined(properties.positives), tuple(reasons)), written)


def read_ecqa(path: Path) -> Mapping[str, Properties]:
    """`ecqa.jsonl` as published: the id of the CommonsenseQA question -> its properties.

    DataError, with file and line, for a row of another shape.
    """
    found: dict[str, Properties] = {}
    for line in parse_lines(path, read_bytes(path)):
        row_id = line.row.get("id")
        if not isinstance(row_id, str):
            raise line.error("the row has no id", "id")
        # A few questions are there twice; the published script keeps the last, with the same text but for some.
        found[row_id] = Properties(_texts(line, "positives"), _texts(line, "negatives"))
    return found


def properties_of(question: Question, ecqa: Mapping[str, Properties]) -> Properties:
    """DataError when the file does not know the question."""
    own_id = question.id.rpartition("/")[2]
    if own_id not in ecqa:
        raise DataError(f"{question.id}: not in this ECQA file, which is for CommonsenseQA's labelled questions")
    return ecqa[own_id]


def _texts(line: Line, column: str) -> tuple[str, ...]:
    value = line.row.get(column)
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise line.error(f"{column} must be a list of texts", column)
    return tuple(text.strip() for text in value if text.strip())


def _joined(texts: Sequence[str]) -> str:
    return " ".join(text if text.endswith((".", "!", "?")) else f"{text}." for text in texts)
