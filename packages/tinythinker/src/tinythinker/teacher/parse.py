"""From a teacher's reply to an explanation, or to the reason why there is none.

The form: `Key Information: ...`, then for each option a line `X is correct. Because ...` or `X is incorrect. ...`.
Accepted besides: `Option X`, `(X)`, bold type and list marks around them, a heading `Explanations:`, blank lines, a
reason over several lines, and reasons that do not begin with "Because". Nothing is guessed: of a reply in another form
nothing is used.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple, get_args

from ..questions import LETTERS, Explanation, plain

Rejection = Literal[
    "truncated",  # it ended at the token limit
    "filtered",  # the endpoint's content filter ended it
    "empty",
    "wrong prefix",  # it does not begin with "Key Information:"
    "no key information",
    "missing option",
    "repeated option",
    "unknown option",
    "no reason",
    "no option called correct",
    "several options called correct",
]
REJECTIONS: tuple[Rejection, ...] = get_args(Rejection)

_KEY = re.compile(r"key information\s*:\s*", re.IGNORECASE)
_HEADING = re.compile(r"^explanations?\s*:\s*", re.IGNORECASE)
_VERDICT = re.compile(r"^(?:option\s+)?\(?([A-Za-z])\)?[.:]?\s+is\s+(correct|incorrect)\b\s*[.,:;]*\s*", re.IGNORECASE)
_BECAUSE = re.compile(r"^because\b[\s,:]*", re.IGNORECASE)


class Parsed(NamedTuple):
    """What a reply says.

    correct: position of the option that it calls correct
    """

    explanation: Explanation
    correct: int


def parse_reply(reply: str | None, finish_reason: str | None, options: int) -> Parsed | Rejection:
    """The explanation in a reply to a question with so many options.

    finish_reason: as the OpenAI protocol has it: "stop", "length", "content_filter"; None where it is not known
    """
    if finish_reason == "length":
        return "truncated"
    if finish_reason == "content_filter":
        return "filtered"
    if reply is None or not reply.strip():
        return "empty"
    lines = [_without_marks(line) for line in reply.strip().splitlines()]
    key = _KEY.match(lines[0])
    if key is None:
        return "wrong prefix"
    knowledge, judged = [lines[0][key.end() :]], list[tuple[str, str, list[str]]]()
    for line in lines[1:]:
        line = _HEADING.sub("", line)
        verdict = _VERDICT.match(line)
        if verdict:
            judged.append((verdict[1].upper(), verdict[2].lower(), [line[verdict.end() :]]))
        elif judged:
            judged[-1][2].append(line)
        else:
            knowledge.append(line)
    return _checked(_sentence(knowledge), judged, options)


def _checked(knowledge: str, judged: list[tuple[str, str, list[str]]], options: int) -> Parsed | Rejection:
    letters = [letter for letter, _, _ in judged]
    if not knowledge:
        return "no key information"
    if any(letter not in LETTERS[:options] for letter in letters):
        return "unknown option"
    if len(set(letters)) < len(letters):
        return "repeated option"
    if len(letters) < options:
        return "missing option"
    reasons = {letter: _sentence([_BECAUSE.sub("", first), *rest]) for letter, _, (first, *rest) in judged}
    if not all(reasons.values()):
        return "no reason"
    correct = [letter for letter, verdict, _ in judged if verdict == "correct"]
    if not correct:
        return "no option called correct"
    if len(correct) > 1:
        return "several options called correct"
    explanation = Explanation(knowledge, tuple(reasons[letter] for letter in LETTERS[:options]))
    return Parsed(explanation, LETTERS.index(correct[0]))


def _without_marks(line: str) -> str:
    """A line without Markdown's bold type and list marks."""
    return re.sub(r"^(?:[-*•]|#+)\s+", "", line.replace("**", "").strip())


def _sentence(lines: list[str]) -> str:
    """Lines as one text that ends like a sentence; empty where there is nothing but marks."""
    text = plain(" ".join(lines))
    if not re.search(r"\w", text):
        return ""
    return text if text.endswith((".", "!", "?", '"', "'")) else f"{text}."
