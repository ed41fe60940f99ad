"""`chains`: multi-step arithmetic word problems with GSM8K-style steps, generated.

One quantity changes two to five times; the question asks what is left. Every value is a whole number from 1 to 60; a
change adds or takes away 2 to 20, multiplies by 2 to 4, or divides by 2 to 4 without a remainder. `Problem.steps` holds
the exact chain, one operation a step in GSM8K's calculator notation (`<<14+9=23>>`). In one problem of five, a sentence
with a number that does not matter stands among the others.
"""

import random

from .generated import draw, load_generated
from .problem import LoadedBenchmark, Problem

VERSION = 1
LARGEST = 60

PEOPLE = (
    ("Mia", "she", "her"), ("Ann", "she", "her"), ("Eva", "she", "her"), ("Lucy", "she", "her"),
    ("Rosa", "she", "her"), ("Nora", "she", "her"), ("Tom", "he", "his"), ("Ben", "he", "his"),
    ("Sam", "he", "his"), ("Leo", "he", "his"), ("Max", "he", "his"), ("Paul", "he", "his"),
)  # fmt: skip
THINGS = (
    "apples", "books", "cards", "coins", "eggs", "flowers", "marbles", "pens",
    "plums", "shells", "stamps", "stones", "tickets", "toys",
)  # fmt: skip
# {name}, {he}, {his}, {friend}, {things}, {n}; every sentence describes one change.
SENTENCES: dict[str, tuple[str, ...]] = {
    "+": (
        "{He} buys {n} more.",
        "{He} finds {n} {things}.",
        "{friend} gives {name} {n} {things}.",
        "{name} gets {n} more from {his} aunt.",
        "Then {n} {things} are added.",
    ),
    "-": (
        "{He} gives {n} to {friend}.",
        "{name} loses {n} of them.",
        "{He} sells {n} {things}.",
        "{friend} takes {n} of them.",
        "Then {n} {things} break.",
    ),
    "*": (
        "{friend} makes it {n} times as many.",
        "After a trade {name} has {n} times as many.",
        "Then the {things} grow to {n} times the number.",
    ),
    "/": (
        "{He} shares them equally among {n} people and keeps one share.",
        "{name} puts them in {n} equal boxes and keeps only one box.",
        "Then only one part in {n} is left.",
    ),
}
IDLE = ("{friend} is {n} years old.", "It is day {n} of the month.", "The shop is {n} steps away.")


def _change(rng: random.Random, value: int) -> tuple[str, int, int]:
    """A change of `value` as (operation, operand, result), the result from 1 to LARGEST."""
    while True:
        operation = rng.choices("+-*/", weights=(35, 35, 18, 12))[0]
        operand = rng.randint(2, 4) if operation in "*/" else rng.randint(2, 20)
        if operation == "/" and value % operand:
            continue
        result = {"+": value + operand, "-": value - operand, "*": value * operand, "/": value // operand}[operation]
        if 1 <= result <= LARGEST:
            return operation, operand, result


def _draw_one(rng: random.Random, problem_id: str) -> tuple[Problem, str]:
    name, he, his = rng.choice(PEOPLE)
    friend = rng.choice([person for person, *_ in PEOPLE if person != name])
    words = {"name": name, "he": he, "He": he.capitalize(), "his": his, "friend": friend, "things": rng.choice(THINGS)}

    value = start = rng.randint(3, 30)
    sentences, steps = [], []
    for _ in range(rng.choices((2, 3, 4, 5), weights=(2, 3, 3, 2))[0]):
        operation, operand, result = _change(rng, value)
        sentences.append(rng.choice(SENTENCES[operation]).format(n=operand, **words))
        steps.append(f"<<{value}{operation}{operand}={result}>>")
        value = result
    content = f"{start} {' '.join(steps)}"
    if rng.random() < 0.2:
        idle = rng.choice(IDLE).format(n=rng.randint(2, 20), **words)
        sentences.insert(rng.randrange(len(sentences) + 1), idle)

    question = " ".join(
        [
            "{name} has {start} {things}.".format(start=start, **words),
            *sentences,
            "How many {things} does {name} have now?".format(**words),
        ]
    )
    problem = Problem(
        id=problem_id,
        question=question,
        answer=str(value),
        kind="math",
        steps=tuple(steps),
        metadata={"operations": len(steps)},
    )
    return problem, content


def generate(split: str, count: int, seed: int = 0) -> list[Problem]:
    """`count` problems of a split; the same for the same arguments on every machine."""
    return draw("chains", split, count, seed, _draw_one)


def load(split: str, data_dir: str | None = None, revision: str | None = None) -> LoadedBenchmark:
    """The split at its default size. `data_dir` and `revision` have no meaning for a generated benchmark."""
    return load_generated("chains", VERSION, split, generate)
