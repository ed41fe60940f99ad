"""What a teacher is asked: to explain the answer that is given (rationalisation), in a form that can be parsed."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from ..questions import LETTERS, Question

CHARACTERS_PER_TOKEN = 4  # roughly, for English

INSTRUCTION = """\
Explain the answer to a multiple-choice question to somebody who has to learn the subject. The right answer is given.

First write the key information: one to three sentences of general knowledge that the question turns on, in words that \
would help with similar questions too. Do not name the letter of an option there.
Then judge every option on a line of its own, in order, and say why. Write nothing else. Keep to this form:

Key Information: <general knowledge>
A is <correct or incorrect>. Because <reason>
B is <correct or incorrect>. Because <reason>
and so on for every option."""


class Example(NamedTuple):
    question: str
    options: tuple[str, ...]
    gold: int
    knowledge: str
    reasons: tuple[str, ...]


EXAMPLES = (
    Example(
        "Where would you put a wet umbrella when you come home?",
        ("bookcase", "umbrella stand", "oven", "bed"),
        1,
        "A wet umbrella drips, so it should stand where water does no harm. Many homes have a stand for it near the "
        "door.",
        (
            "water would ruin the books that are kept there.",
            "it holds umbrellas upright by the door and catches the water that drips from them.",
            "an oven is for heating food, and an umbrella would melt or burn in it.",
            "the bed would become wet, and nobody wants to sleep in it then.",
        ),
    ),
    Example(
        "Could a person walk from Portugal to Poland without crossing a sea?",
        ("yes", "no"),
        0,
        "Portugal and Poland both lie on the mainland of Europe. Spain, France and Germany lie between them and border "
        "on each other.",
        (
            "the countries between them form one stretch of land that can be walked.",
            "no sea has to be crossed, since both countries are on the same continent.",
        ),
    ),
    Example(
        "A metal spoon in hot soup becomes hot because metal",
        ("floats", "conducts heat", "is shiny", "has a smell", "is heavy"),
        1,
        "Heat moves through some materials more easily than through others. Metals are good conductors of heat.",
        (
            "a spoon sinks in soup, and floating would not warm its handle.",
            "heat passes through the metal from the soup to the handle.",
            "a shiny surface reflects light, which does not carry the soup's heat along the spoon.",
            "smell has nothing to do with how heat moves.",
            "a heavy object takes longer to warm up, if anything.",
        ),
    ),
)


def teacher_prompt(question: Question, shots: int) -> str:
    """The whole request as one message. shots: worked examples, at most as many as there are."""
    worked = [
        f"{_asked(e.question, e.options, e.gold)}\n{reply_text(e.knowledge, e.reasons, e.gold)}"
        for e in EXAMPLES[:shots]
    ]
    return "\n\n".join([INSTRUCTION, *worked, _asked(question.text, question.options, question.gold)])


def prompt_version(shots: int) -> str:
    """Changes when the wording of the prompt does."""
    example = Question("", "?", ("a", "b"), 0)
    return hashlib.sha256(teacher_prompt(example, shots).encode()).hexdigest()[:16]


def reply_text(knowledge: str, reasons: tuple[str, ...], correct: int) -> str:
    """An explanation in the form that a teacher is asked for."""
    judged = [
        f"{LETTERS[option]} is {'correct' if option == correct else 'incorrect'}. Because {reason}"
        for option, reason in enumerate(reasons)
    ]
    return "\n".join([f"Key Information: {knowledge}", *judged])


def estimated_tokens(text: str) -> int:
    """For prices and limits, where the teacher's own tokenizer is not at hand."""
    return -(-len(text) // CHARACTERS_PER_TOKEN)


def _asked(text: str, options: tuple[str, ...], gold: int) -> str:
    listed = " ".join(f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=False))
    return f"Question: {text}\nOptions: {listed}\nRight answer: {LETTERS[gold]}"
