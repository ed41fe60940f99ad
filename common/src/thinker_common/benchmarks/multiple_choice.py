"""What the readers of multiple-choice data sets share: options in their shapes, and gold positions.

The gold is held as a position from the start. Looking it up again by its text can pick the wrong one of two options
with the same text, which several data sets have.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import SettingsError
from .problem import LETTERS, Problem
from .sources import Rows


def choice_problem(
    problem_id: str,
    question: str,
    options: Sequence[str],
    gold: int | None,
    *,
    metadata: Mapping[str, Any],
    steps: Sequence[str] = (),
) -> Problem | str:
    """A multiple-choice problem, or the reason why this is none. Outer white space of the texts goes, nothing else.

    gold: position of the right option among `options`; None where the row names none
    """
    if not question.strip():
        return "no question"
    if not 2 <= len(options) <= len(LETTERS):
        return f"fewer than 2 options, or more than {len(LETTERS)}"
    if gold is None or not 0 <= gold < len(options):
        return "no gold answer, or one that is none of the options"
    return Problem(
        id=problem_id,
        question=question.strip(),
        answer=LETTERS[gold],
        kind="mcq",
        options=tuple(option.strip() for option in options),
        steps=tuple(steps),
        metadata=metadata,
    )


def check_whole_number(name: str, value: object, least: int | None = None) -> None:
    """SettingsError for an option that is no whole number, or one below `least`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise SettingsError(f"{name} = {value!r}: must be a whole number")
    if least is not None and value < least:
        raise SettingsError(f"{name} = {value}: must be at least {least}")


def gold_position(gold: object) -> int | None:
    """The position that a gold names: 2, "2" and "C" are all the third option; None for anything else."""
    if isinstance(gold, int) and not isinstance(gold, bool):
        return gold
    if not isinstance(gold, str):
        return None
    gold = gold.strip()
    if re.fullmatch(r"\d", gold):
        return int(gold)
    return LETTERS.find(gold) if len(gold) == 1 and gold in LETTERS else None


def texts(found: Rows, index: int, column: str) -> list[str]:
    """The value of a column that holds a list of texts; DataError, with the place, where it does not."""
    value = found.rows[index][column]
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise found.error(index, f"column {column} is no list of texts")
    return value


def labelled_options(found: Rows, index: int, choices: object) -> tuple[list[str], list[str]]:
    """Labels and texts of the options in the authors' shape, a list of {label, text}, or in the hub's, two lists.

    DataError, with the place, where `choices` has neither shape.
    """
    if isinstance(choices, Mapping):
        labels, options = choices.get("label"), choices.get("text")
    elif isinstance(choices, list) and all(isinstance(choice, Mapping) for choice in choices):
        labels, options = [choice.get("label") for choice in choices], [choice.get("text") for choice in choices]
    else:
        labels = options = None
    if (
        not isinstance(labels, list)
        or not isinstance(options, list)
        or len(labels) != len(options)
        or not all(isinstance(text, str) for text in [*labels, *options])
    ):
        raise found.error(index, "column choices holds neither a list of label and text nor the lists of both")
    return labels, options


def nested_question(found: Rows, index: int) -> tuple[str, object]:
    """Stem and choices of a row in the authors' shape, where both lie below `question`; DataError, with the place."""
    question = found.rows[index]["question"]
    if not isinstance(question.get("stem"), str) or "choices" not in question:
        raise found.error(index, "column question holds no stem, or no choices")
    return question["stem"], question["choices"]
