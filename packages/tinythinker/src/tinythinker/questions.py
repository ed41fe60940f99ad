"""The records that this package works on: a question with its options, and an explanation of its options.

Options stay a list from the reader to the loss. They are never read back out of a prompt's text, so they may hold
commas, parentheses and letters, and questions of one data set may have different numbers of them.
"""

from __future__ import annotations

import hashlib
import json
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LETTERS = string.ascii_uppercase  # of the options, by position


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a teacher, a person or a generator says about a question.

    knowledge: general knowledge that the question turns on (the target of recall)
    reasons: for each option, in order, why it is right or wrong (the targets of analyze)
    """

    knowledge: str
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """A multiple-choice question; a yes-or-no question has the options "yes" and "no".

    id: unique in its data set, and stable
    gold: position of the right option
    facts: what people wrote to justify the answer, where the data set has it
    reference: the exact explanation, where the data set has one
    """

    id: str
    text: str
    options: tuple[str, ...]
    gold: int
    facts: tuple[str, ...] = ()
    reference: Explanation | None = None

    def __post_init__(self) -> None:
        assert self.text.strip(), self.id
        assert 2 <= len(self.options) <= len(LETTERS), self.id
        assert 0 <= self.gold < len(self.options), self.id
        assert self.reference is None or len(self.reference.reasons) == len(self.options), self.id

    @property
    def letters(self) -> str:
        """The letters that this question's options have."""
        return LETTERS[: len(self.options)]

    @property
    def answer(self) -> str:
        """The letter of the right option."""
        return LETTERS[self.gold]


def repeated_options(options: Sequence[str]) -> tuple[str, str] | None:
    """The letters of the first two options with one text, whatever its white space; None if all differ."""
    seen: dict[str, str] = {}
    for letter, option in zip(LETTERS, options, strict=False):
        first = seen.setdefault(plain(option), letter)
        if first != letter:
            return first, letter
    return None


def plain(text: str) -> str:
    """The text with every stretch of white space as one space: what decides whether two texts are the same."""
    return " ".join(text.split())


def asked(question: Question) -> tuple[str, tuple[str, ...]]:
    """Equal for questions that ask the same: text and options, whatever their order, case and white space."""
    return plain(question.text).casefold(), tuple(sorted(plain(option).casefold() for option in question.options))


def fingerprint(questions: Iterable[Question]) -> str:
    """Identifies a set of questions by what they ask and by their right answers, wherever they were read from.

    The order does not count, nor do facts and explanations.
    """
    lines = sorted(json.dumps([q.id, plain(q.text), [plain(o) for o in q.options], q.gold]) for q in questions)
    return f"sha256:{hashlib.sha256(chr(10).join(lines).encode()).hexdigest()}"
