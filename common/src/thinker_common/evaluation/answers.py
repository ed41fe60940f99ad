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
_SHORT_FRACTION = re.compile(r"\\frac\s*(\d)\s*(\d)")
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

    `$`, `\left`, `\right`, spacing commands and a final full stop go; `\dfrac` becomes `\frac`, `\frac12` and `\sqrt2`
    get their braces; `6.02e23` becomes `6.02 \times 10^{23}` (parsers take e for Euler's number); a thousands mark
    written as a spacing command or `{,}` goes (parsers read `1\,000` as 1 times 000); `1./3` becomes `1/3`, and
    `1.\overline{3}` a fraction (parsers stop at the point); `np.sqrt(2)` becomes `\sqrt{2}` and `x**2` `x^{2}`, as some
    golds are written.
    """
    text = _python_to_latex(text.translate(_TYPOGRAPHY).strip())
    text = text.replace(r"\$", "").replace("$", "")
    text = re.sub(r"\\(?:left|right)(?:\s*\.|(?![A-Za-z]))", "", text)
    text = re.sub(r"\\[dtc]frac(?![A-Za-z])", r"\\frac", text)
    text = _SHORT_FRACTION.sub(r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\sqrt\s*(\d)", r"\\sqrt{\1}", text)
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


_PYTHON_NAME = re.compile(r"\b(?:np|numpy|math)\.(sqrt|exp|log10|log|sin|cos|tan|arcsin|arccos|arctan|pi)\b")
_PYTHON_LATEX = {"log": r"\ln", "log10": r"\log_{10}"}


def _python_to_latex(text: str) -> str:
    r"""`3*np.sqrt(2)` is `3*\sqrt{2}` and `x**(1/2)` is `x^{(1/2)}`: spellings only, nothing is evaluated."""
    text = re.sub(r"\*\*\s*([+-]?\w+(?:\.\d+)?)", r"^{\1}", text)
    text = _enclose(text, re.compile(r"\*\*\s*(?=\()"), "^{(", ")}")
    text = _PYTHON_NAME.sub(lambda found: _PYTHON_LATEX.get(found[1], rf"\{found[1]}") + " ", text)
    return _enclose(text, re.compile(r"\\sqrt (?=\()"), r"\sqrt{", "}")


def _enclose(text: str, before: re.Pattern[str], opening: str, closing: str) -> str:
    """The parentheses that follow each match of `before`, and the match, replaced by `opening` and `closing`."""
    while found := before.search(text):
        depth, end = 0, found.end()
        for end in range(found.end(), len(text)):
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            if depth == 0:
                break
        if depth != 0:
            return text
        inner = text[found.end() + 1 : end]
        text = text[: found.start()] + opening + inner + closing + text[end + 1 :]
    return text


# Spellings of units that are one; the first of a row is enough to recognise the others.
_UNIT_SPELLINGS = (
    ("%", r"\%", "percent"),
    (r"^\circ", "°", r"\degree", "degree", "deg"),
    ("h", "hr", "hour"),
    ("min", "minute"),
    ("s", "sec", "second"),
    ("m", "meter", "metre"),
    ("cm", "centimeter", "centimetre"),
    ("km", "kilometer", "kilometre"),
)


def without_unit(text: str, unit: str) -> str:
    r"""The answer without `unit` at its end, however that is wrapped and spelled: `\frac{41}{12} \text{ km}`."""
    unit = _bare(unit)
    spellings = next((row for row in _UNIT_SPELLINGS if unit.removesuffix("s") in row or unit in row), (unit,))
    bare = unwrap(text.translate(_TYPOGRAPHY)).replace("$", "").rstrip(" .")
    for spelling in spellings:
        # Braces and blanks may stand between any two characters: cm^{2}, km / h.
        pattern = r"[\s{}]*".join(re.escape(character) for character in spelling)
        found = re.search(rf"(?<=[\d}})\]\s,~])(?:\\[,;: ]|[\s~])*{pattern}s?[\s}}]*$", bare)
        if found:
            # A brace that the unit shares with what precedes it stays: \frac{1}{2}\%.
            kept = bare[: found.start()]
            return kept + "}" * max(0, kept.count("{") - kept.count("}"))
    return text


def _bare(unit: str) -> str:
    return re.sub(r"[\s{}]", "", unwrap(unit.translate(_TYPOGRAPHY)).replace("$", "").replace(r"\ ", ""))


_AND = re.compile(r",?\s*\\text(?:rm)?\s*\{\s*,?\s*(?:and|or)\s*\}|,?\s+(?:and|or)\s+|\\quad|\\qquad|;", re.IGNORECASE)
# x =, f(x) =, (x, y) =, x \in
_NAMED = re.compile(r"(?:[A-Za-z](?:\([A-Za-z]\))?|\([A-Za-z](?:\s*,\s*[A-Za-z])*\))\s*(?:=|\\in(?![A-Za-z]))\s*")


def elements(text: str, *, grouped: bool = False) -> list[str]:
    r"""The values of an answer that holds several: `1,-2`, `\{1, -2\}`, `1 \text{ and } -2`, `x=1,-2`, `-1/2 \pm 3/2`.

    Commas inside brackets do not separate: `(1,2),(3,4)` holds two pairs.

    grouped: read `2,500` as one number, where there is no blank after the comma
    """
    text = re.sub(r"\\(?:left|right)(?![A-Za-z])", "", text.translate(_TYPOGRAPHY)).replace("$", "")
    text = _AND.sub(",", text).strip()
    if grouped:
        text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    if named := _NAMED.match(text):
        text = text[named.end() :]
    if text.startswith(r"\{") and text.endswith(r"\}"):
        text = text[2:-2]
    parts = _split_at_commas(text)
    signs = (("+", "-"), ("-", "+"))
    return [
        re.sub(r"\\pm(?![A-Za-z])", plus, re.sub(r"\\mp(?![A-Za-z])", minus, _NAMED.sub("", part.strip(), count=1)))
        for part in parts
        if part.strip()
        for plus, minus in (signs if re.search(r"\\[pm][pm](?![A-Za-z])", part) else signs[:1])
    ]


def without_parentheses(text: str) -> str:
    """What stands between the first and the last character where they are parentheses; otherwise the text."""
    text = text.strip()
    return text[1:-1] if text.startswith("(") and text.endswith(")") else text


def _split_at_commas(text: str) -> list[str]:
    """The parts between commas that no bracket encloses; an interval may close with another kind of bracket."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


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
    text = " ".join(_without_marks(unwrap(text)).split())
    text = _ANSWER_WORDS.sub("", text, count=1) if _ANSWER_WORDS.match(text) else text
    if lone := _LONE_LETTER.fullmatch(text):
        letter = lone.group(1).upper()
        return letter if letter in letters else None
    texts = [plain_text(_without_marks(option)) for option in options]
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


def _without_marks(text: str) -> str:
    """Without dollars, and without asterisks, which mark bold type in one text and multiply in another."""
    return text.replace("$", "").replace("*", "")


def named_option(text: str, options: Sequence[str]) -> str | None:
    """The option that `text` names by a whole word that no other option has, with no word that it has not; else None.

    For options that are sentences and differ in a word ("Sam is a bompus.", "Sam is a sterpus."): "a bompus" is the
    first, "Bob is a bompus" is none.
    """
    words_of = [set(re.findall(r"\w+", plain_text(option))) for option in options]
    own = [words - set().union(*words_of[:i], *words_of[i + 1 :]) for i, words in enumerate(words_of)]
    said = set(re.findall(r"\w+", plain_text(text)))
    named = [i for i, words in enumerate(own) if words & said and said <= words_of[i]]
    return options[named[0]] if len(named) == 1 else None


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
