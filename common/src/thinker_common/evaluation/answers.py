r"""Comparable forms of an answer: what two wordings of the same answer have in common.

Pure functions on strings. The rules are those of the light normalisation and of the letter rules in the project's
benchmark notes; nothing here evaluates anything.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from decimal import Decimal

# Wrappers that change how an answer looks and not what it says.
_WRAPPER = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mbox|emph)\s*\{([^{}]*)\}")
_WORDS = re.compile(r"[(]?[^\W\d_]+(?:[ '\-][^\W\d_]+)*[)]?")
_TYPOGRAPHY = str.maketrans({"−": "-", "’": "'", "‘": "'", "“": '"', "”": '"', "\u00a0": " ", "：": ":"})

# Not after a backslash: in a matrix, `\\\\ ` ends a row.
_SPACING = re.compile(r"(?<!\\)(?:\\[,;: ]|\\q?quad(?![A-Za-z]))|~")
_THOUSANDS_MARK = re.compile(r"(?<=\d)(?:\\[,;:! ]|~|\{,\}|,\\!)(?=\d{3}(?!\d))")
_GROUPED_NUMBER = re.compile(r"-?\d{1,3}(?:[, ]\d{3})+(?:\.\d+)?")
_SCIENTIFIC = re.compile(r"(?<![\w.\\])(\d+\.?\d*|\.\d+)[eE]([+-]?\d+)(?![\w.])")
_REPEATING = re.compile(r"(\d*)\.(\d*)\\overline\{(\d+)\}")
_PLAIN_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)")


def unwrap(text: str) -> str:
    r"""`\text{...}` and its kin replaced by their content, wherever they stand."""
    previous = None
    while previous != text:
        previous, text = text, _WRAPPER.sub(r"\1", text)
    return text


def plain_text(text: str) -> str:
    """The form in which free-text answers are compared: case, spacing, wrappers, quotes and outer punctuation gone."""
    text = unwrap(unicodedata.normalize("NFKC", text.translate(_TYPOGRAPHY))).replace("$", "")
    return " ".join(text.split()).strip(" .,;:!?'\"`*").casefold()


def words(text: str) -> str | None:
    r"""A gold that is wholly a wrapped word (`\text{east}`, `\text{(C)}`) as plain text, otherwise None.

    Such an answer is compared as a word: a computer-algebra system takes it for a product of letters, in any order.
    """
    match = _WRAPPER.fullmatch(text.strip().strip("$").strip())
    if match is None or not _WORDS.fullmatch(match.group(1).strip()):
        return None
    return plain_word(match.group(1))


def plain_word(text: str) -> str:
    """Plain text without parentheses around it."""
    return plain_text(text).removeprefix("(").removesuffix(")").strip()


def normalise_math(text: str) -> str:
    r"""A mathematical answer in a form that LaTeX parsers read as a reader would.

    `$`, `\left`, `\right`, spacing commands and a final full stop go; `\dfrac` becomes `\frac`; `6.02e23` becomes
    `6.02 \times 10^{23}` (parsers take e for Euler's number); a thousands mark written as a spacing command or `{,}`
    goes (parsers read `1\,000` as 1 times 000); `1./3` becomes `1/3`, and `1.\overline{3}` a fraction (parsers stop at
    the point).
    """
    text = text.translate(_TYPOGRAPHY).strip()
    text = text.replace(r"\$", "").replace("$", "")
    text = re.sub(r"\\(?:left|right)(?:\s*\.|(?![A-Za-z]))", "", text)
    text = re.sub(r"\\[dtc]frac(?![A-Za-z])", r"\\frac", text)
    text = _THOUSANDS_MARK.sub("", text)
    text = text.replace(r"\!", "").replace("{,}", ",")
    text = _SPACING.sub(" ", text)
    text = re.sub(r"(?<!\\)%", r"\\%", text)
    text = _SCIENTIFIC.sub(r"\1 \\times 10^{\2}", text)
    text = _REPEATING.sub(_fraction, text)
    text = re.sub(r"(?<=\d)\.(?=\s*(?:[/*)\]}]|$))", "", text.strip())
    return text.removesuffix(".").strip()


def _fraction(repeating: re.Match[str]) -> str:
    r"""`0.1\overline{6}` is (16 - 1) / 90."""
    whole, fixed, period = repeating.groups()
    numerator = int(whole + fixed + period) - int(whole + fixed or "0")
    return rf"\frac{{{numerator}}}{{{10 ** len(fixed) * (10 ** len(period) - 1)}}}"


def compact(text: str) -> str:
    """Without white space, except one blank where it separates two letters or digits."""
    return re.sub(r"(?<=\w) (?=\w)", "\0", " ".join(text.split())).replace(" ", "").replace("\0", " ")


def number(text: str, *, grouped: bool = False) -> Decimal | None:
    """The value of a plain integer or decimal (`-5`, `027`, `27.0`, `.5`), otherwise None.

    grouped: read `2,125` and `2 125` as one number too. Only right where the gold is a single number: elsewhere `1,300`
        may be a pair.
    """
    text = text.strip()
    if grouped and _GROUPED_NUMBER.fullmatch(text):
        text = text.replace(",", "").replace(" ", "")
    return Decimal(text) if _PLAIN_NUMBER.fullmatch(text) else None


_ANSWER_WORDS = re.compile(
    r"(?:the\s+)?(?:(?:final|correct|best|right)\s+)?(?:answer|option|choice)(?:\s+is)?\s*:?\s*", re.IGNORECASE
)
_LONE_LETTER = re.compile(r"[(\[]?([A-Ja-j])[)\]]?[.:]?")
_LETTER_AND_TEXT = re.compile(r"(?:[(\[]([A-J])[)\]]\s*[.:\-]?|([A-J])(?:[.):]|\s*-(?=\s)))\s*(.+)", re.DOTALL)
_STATED_ANSWER = re.compile(r"\banswer\s*(?:is|:)", re.IGNORECASE)


def option_letter(text: str, options: Sequence[str], letters: Sequence[str]) -> str | None:
    """The letter that `text` names, by a letter, a letter and text, or the text of exactly one option; otherwise None.

    Only `letters`, those that this question has, count. A text that names several of them names none.
    """
    text = " ".join(unwrap(text).replace("$", "").replace("*", "").split())
    text = _ANSWER_WORDS.sub("", text, count=1) if _ANSWER_WORDS.match(text) else text
    if lone := _LONE_LETTER.fullmatch(text):
        letter = lone.group(1).upper()
        return letter if letter in letters else None
    texts = [plain_text(option) for option in options]
    if texts.count(plain_text(text)) == 1:
        return letters[texts.index(plain_text(text))]
    labelled = _LETTER_AND_TEXT.fullmatch(text)
    if labelled is None:
        return None
    letter, rest = labelled.group(1) or labelled.group(2), labelled.group(3)
    if letter not in letters:
        return None
    if plain_text(rest) == texts[letters.index(letter)]:
        return letter
    others = set(re.findall(r"(?<![\w'])([A-J])(?![\w'])", rest)) & set(letters) - {letter}
    return None if others else letter


def yes_or_no(text: str) -> str | None:
    """ "yes" or "no" where the text is, or begins with, one of yes, true, no and false; otherwise None."""
    first = re.match(r"(?:the answer is\s+)?(yes|true|no|false)\b", plain_text(text))
    if first is None:
        return None
    return "yes" if first.group(1) in ("yes", "true") else "no"


def stated_answer(text: str) -> str | None:
    """What follows the last "answer is" or "Answer:" of a text, up to the end of its line; None without one."""
    stated = list(_STATED_ANSWER.finditer(text))
    return text[stated[-1].end() :].strip().partition("\n")[0] if stated else None
