r"""Is a response right? One rule a kind of problem, three graders.

- `default`: the last `\boxed{}`; mathematics by string, then number, then math-verify, after light normalisation and
  by what the row says of its answer (a unit, a tolerance, several values in any order); multiple choice by letter,
  where a response without a box may also end in "the answer is B".
- `generalthinker`: the rules of the code published with arXiv 2605.27934, kept with their weak spots so that figures
  can be compared: no fallback without a box, no repair of `6.02e23` or `1\,000`, letters up to J whatever the options,
  a label pattern that also eats the first letter of words such as "bank", `\boxed{\text{A}}` is wrong.
- `unboxed`: as `default` where a box was opened. Where none was, as the codes published with latent reasoning (Coconut,
  arXiv 2412.06769; CODI, arXiv 2502.21074) read responses of models that are trained without boxes: the last number
  where the gold is one, and otherwise the yes or no, or the text, that the response ends with. A response that trails
  off may end in a right number by chance, so that its figures are not those of `default`.

"bool" and "text" are not part of the published protocol and have one rule: yes or no, and the text itself after case,
spacing and punctuation are evened out. Where a question of kind "text" names its possible answers (ProsQA), `default`
takes a box that names exactly one of them by a word of its own, `generalthinker` a box with the whole sentence, and
`unboxed` without a box the whole sentence. Nothing a model wrote is ever evaluated as code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from ..benchmarks.boxed import last_boxed
from ..benchmarks.problem import LETTERS, Problem
from ..errors import SettingsError
from ..likelihood.boundary import BOX
from . import answers, math_equality
from .math_equality import Verdict
from .math_worker import near

Grader = Literal["default", "generalthinker", "unboxed"]
GRADERS: tuple[str, ...] = get_args(Grader)

# A longer box is wrong unless it is the gold itself: parsing it would cost time, and Python refuses integers of more
# than 4,300 digits.
MAX_ANSWER_CHARACTERS = 2_000
# Of an answer with several values; no gold has more than 16, and each pair may cost a comparison.
MAX_ELEMENTS = 40


@dataclass(frozen=True, slots=True)
class Grade:
    """What the grader found in one response.

    correct: the answer is right
    boxed: a closed box was written
    extracted: the answer read from the response: a letter for "mcq", yes or no for "bool", otherwise the box's content;
        None where none could be read, which is wrong
    timed_out: the comparison was given up; counted as wrong, and apart
    """

    correct: bool
    boxed: bool
    extracted: str | None
    timed_out: bool = False


def grade(problem: Problem, completion: str, *, grader: str = "default") -> Grade:
    """Compare the answer in `completion` (the response alone, without the prompt) with the gold of `problem`.

    Raises SettingsError for an unknown grader, UserError when math-verify is needed and does not work.
    """
    if grader not in GRADERS:
        raise SettingsError(f"grader = {grader!r}: must be one of {', '.join(GRADERS)}")
    box = last_boxed(completion)
    if grader == "unboxed" and BOX not in completion and problem.kind != "mcq":
        return _grade_unboxed(problem, completion)
    match problem.kind:
        case "mcq" if grader == "generalthinker":
            return _grade_choice_generalthinker(problem, box)
        case "mcq":
            return _grade_choice(problem, completion, box)
        case "bool":
            answer = box if box is not None else answers.stated_answer(completion)
            extracted = answers.yes_or_no(answer) if answer is not None else None
            return Grade(extracted == problem.answer, box is not None, extracted)
        case "text" if grader != "generalthinker" and problem.metadata.get("options"):
            named = answers.named_option(box, problem.metadata["options"]) if box is not None else None
            return Grade(named == problem.answer, box is not None, named)
        case "text":
            accepted = {answers.plain_text(wording) for wording in (problem.answer, *problem.aliases)}
            return Grade(box is not None and answers.plain_text(box) in accepted, box is not None, box or None)
        case "math":
            if not box:
                return Grade(False, box is not None, None)
            if grader == "generalthinker":
                verdicts = {_math_verdict_generalthinker(gold, box) for gold in (problem.answer, *problem.aliases)}
            else:
                verdicts = {_math_verdict(gold, box, problem.metadata) for gold in (problem.answer, *problem.aliases)}
            correct = "equal" in verdicts
            return Grade(correct, True, box, timed_out=not correct and "timed_out" in verdicts)


_NUMBER = re.compile(r"(?:(?<![\w)\]])-)?\d(?:,?\d)*(?:\.\d+)?")
_CLOSING_WORD = re.compile(r"\b(yes|no|true|false)\W*$", re.IGNORECASE)


def _grade_unboxed(problem: Problem, completion: str) -> Grade:
    """By how a response without a box ends."""
    golds = (problem.answer, *problem.aliases)
    if problem.kind == "bool":
        word = _CLOSING_WORD.search(completion)
        extracted = answers.yes_or_no(word[1]) if word else None
        return Grade(extracted == problem.answer, False, extracted)
    if problem.kind == "text":
        said = answers.plain_text(completion)
        named = [text for text in (*golds, *problem.metadata.get("options", ())) if _ends_with(said, text)]
        longest = max(named, key=len, default=None)
        return Grade(longest in golds, False, longest)
    numbers = _NUMBER.findall(completion) if all(answers.number(gold) is not None for gold in golds) else []
    if not numbers:
        return Grade(False, False, None)
    last = numbers[-1].replace(",", "")
    return Grade(any(_math_verdict(gold, last, problem.metadata) == "equal" for gold in golds), False, last)


def _ends_with(said: str, text: str) -> bool:
    """Whether plain text ends with the words of `text`, whole ones."""
    words = answers.plain_text(text)
    return bool(words) and re.search(rf"(?<!\w){re.escape(words)}$", said) is not None


def same_answer(problem: Problem, first: str, second: str, *, grader: str = "default") -> bool:
    """Whether two `Grade.extracted` of `problem` are one answer, by the grader's rules; the gold plays no part."""
    if first == second:
        return True
    match problem.kind:
        case "math" if grader == "generalthinker":
            return _math_verdict_generalthinker(first, second) == "equal"
        case "math":
            return _math_verdict(first, second, problem.metadata) == "equal"
        case "mcq" if grader == "generalthinker":  # a text where the published rules found no letter
            return _gt_text(first) == _gt_text(second)
        case "text":
            return answers.plain_text(first) == answers.plain_text(second)
        case _:
            return False


def _math_verdict(gold: str, prediction: str, metadata: Mapping[str, Any]) -> Verdict:
    """Cheap and certain tests first; math-verify has the last word. `metadata`: of the problem, see `Problem`."""
    if len(prediction) > MAX_ANSWER_CHARACTERS:
        return "equal" if prediction.strip() == gold.strip() else "different"
    if (word := answers.words(gold)) is not None:
        return "equal" if answers.plain_word(prediction) == word else "different"
    unit = metadata.get("unit") or ""
    tolerance = Tolerance(metadata.get("tolerance") or 0.0, metadata.get("relative_tolerance") or 0.0)
    if metadata.get("multiple_answers"):
        golds = answers.elements(gold)
        if not any(value.startswith("(") for value in golds):  # no tuples, so (1, 2) is two numbers
            prediction = answers.without_parentheses(prediction)
        verdict = _set_verdict(golds, answers.elements(prediction), unit, tolerance)
        if verdict == "different" and (grouped := answers.elements(prediction, grouped=True)):
            verdict = _set_verdict(golds, grouped, unit, tolerance)
        return verdict
    return _value_verdict(gold, prediction, unit, tolerance)


class Tolerance(NamedTuple):
    """How far a number may be from the gold and still count: as a number, and as a share of the gold."""

    absolute: float = 0.0
    relative: float = 0.0


def _set_verdict(golds: list[str], predictions: list[str], unit: str, tolerance: Tolerance) -> Verdict:
    """Each gold is among the predictions and each prediction among the golds; order and repeats do not count."""
    if len(predictions) > MAX_ELEMENTS:
        return "different"
    timed_out = False
    unmatched = set(range(len(predictions)))
    for gold in golds:
        verdicts = [_value_verdict(gold, prediction, unit, tolerance) for prediction in predictions]
        unmatched -= {index for index, verdict in enumerate(verdicts) if verdict == "equal"}
        timed_out |= "timed_out" in verdicts
        if "equal" not in verdicts:
            return "timed_out" if timed_out else "different"
    if unmatched:
        return "timed_out" if timed_out else "different"
    return "equal"


def _value_verdict(gold: str, prediction: str, unit: str, tolerance: Tolerance) -> Verdict:
    if unit:
        gold, prediction = answers.without_unit(gold, unit), answers.without_unit(prediction, unit)
    gold, prediction = answers.normalise_math(gold), answers.normalise_math(prediction)
    if answers.compact(answers.unwrap(gold)) == answers.compact(answers.unwrap(prediction)):
        return "equal"
    gold_number = answers.number(gold)
    prediction_number = answers.number(prediction, grouped=gold_number is not None)
    if gold_number is not None and prediction_number is not None:
        if gold_number == prediction_number:
            return "equal"
        if any(tolerance):
            return "equal" if near(float(gold_number), float(prediction_number), *tolerance) else "different"
        if gold_number == int(gold_number) and prediction_number == int(prediction_number):
            return "different"
    return math_equality.compare(gold, prediction, *tolerance)


def _math_verdict_generalthinker(gold: str, prediction: str) -> Verdict:
    """math-verify alone. Plain integers are compared here: it gives the same verdict on them, later."""
    integer = re.compile(r"-?\d{1,18}")
    if integer.fullmatch(gold) and integer.fullmatch(prediction):
        return "equal" if int(gold) == int(prediction) else "different"
    if len(prediction) > MAX_ANSWER_CHARACTERS:
        return "different"
    return math_equality.compare(gold.strip(), prediction)


def _grade_choice(problem: Problem, completion: str, box: str | None) -> Grade:
    answer = box if box is not None else answers.stated_answer(completion)
    letter = answers.option_letter(answer, problem.options, problem.letters) if answer is not None else None
    return Grade(letter == problem.answer, box is not None, letter)


# The published patterns, case-insensitive: an optional lead, a letter in optional parentheses, a separator.
_GT_LEAD = r"(?:option|(?:final )?answer|(?:the|correct) answer is)"
_GT_BARE = rf"\(?\s*([{LETTERS}])\s*"
_GT_SEPARATOR = r"[-.):\uff1a]"
_GT_LETTER = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"{_GT_BARE}\)?",
        rf"{_GT_BARE}{_GT_SEPARATOR}\s+.+",
        rf"{_GT_LEAD}\s*[:\uff1a]?\s*{_GT_BARE}\)?\s*(?:{_GT_SEPARATOR}.*)?",
    )
]
_GT_LABEL = re.compile(rf"(?:{_GT_LEAD}\s*)?[:\uff1a]?\s*{_GT_BARE}\)?\s*{_GT_SEPARATOR}?\s*", re.IGNORECASE)


def _grade_choice_generalthinker(problem: Problem, box: str | None) -> Grade:
    if box is None:
        return Grade(False, False, None)
    for pattern in _GT_LETTER:
        if found := pattern.fullmatch(box):
            letter = found.group(1).upper()
            return Grade(letter == problem.answer, True, letter)
    label = _GT_LABEL.match(box)
    text = box[label.end() :] if label else box
    option = problem.options[problem.letters.index(problem.answer)]
    return Grade(_gt_text(text) == _gt_text(option), True, box or None)


def _gt_text(text: str) -> str:
    text = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", text)
    text = " ".join(re.sub(r"[${}]", "", text).split())
    return text.strip(" .:;!?'\"`~").lower()
