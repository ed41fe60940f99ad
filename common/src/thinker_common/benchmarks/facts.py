"""`facts`: multiple-choice questions over a synthetic knowledge base, with the facts that decide each option.

The knowledge base is one and the same for every split and seed (what a model can know); the questions are disjoint. A
question names two properties and four creatures, of which exactly one has both. `Problem.steps` holds one sentence an
option, in the order of the options, with the facts that decide it; `metadata["knowledge"]` holds the facts of the gold
creature, as a recall of general knowledge would.
"""

import random
from typing import NamedTuple

from .generated import draw, load_generated
from .problem import LoadedBenchmark, Problem

VERSION = 1

CREATURES = (
    "alpo", "bimu", "cado", "dorf", "elka", "fosp", "glim", "hurn", "irbo", "jolk", "kesh", "lumo",
    "mard", "nilu", "opra", "pask", "quon", "rilk", "seld", "tova", "ulpi", "vask", "wend", "yorl",
    "zemi", "brup", "crel", "dwan", "flim", "grot", "klem", "plin",
)  # fmt: skip
# property -> (how a sentence says it of one creature, how the question asks for it, values)
PROPERTIES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "color": ("is {}", "is {}", ("red", "blue", "green", "white", "black", "yellow")),
    "home": ("lives in {}", "lives in {}", ("caves", "trees", "rivers", "sand", "grass", "snow")),
    "food": ("eats {}", "eats {}", ("moss", "seeds", "fish", "roots", "honey", "ants")),
    "habit": ("sleeps {}", "sleeps {}", ("at night", "at noon", "in winter", "in rain")),
}
LETTERS = "ABCD"


class Creature(NamedTuple):
    """A creature and its value of every property."""

    name: str
    values: dict[str, str]

    def says(self, *properties: str) -> str:
        """The creature's facts of these properties as one sentence."""
        facts = " and ".join(PROPERTIES[p][0].format(self.values[p]) for p in properties)
        article = "An" if self.name[0] in "aeiou" else "A"
        return f"{article} {self.name} {facts}."


def _knowledge_base() -> tuple[Creature, ...]:
    rng = random.Random("facts/knowledge-base")
    return tuple(Creature(name, {p: rng.choice(v) for p, (_, _, v) in PROPERTIES.items()}) for name in CREATURES)


KNOWLEDGE_BASE = _knowledge_base()


def _draw_one(rng: random.Random, problem_id: str) -> tuple[Problem, str]:
    while True:
        first, second = rng.sample(list(PROPERTIES), 2)
        gold = rng.choice(KNOWLEDGE_BASE)
        wanted = (gold.values[first], gold.values[second])
        others = [c for c in KNOWLEDGE_BASE if (c.values[first], c.values[second]) != wanted]
        # Half of the wrong creatures share one of the two properties, so that one fact alone does not decide.
        near = [c for c in others if c.values[first] == wanted[0] or c.values[second] == wanted[1]]
        if len(near) >= 2:
            break
    wrong = rng.sample(near, 2)
    wrong.append(rng.choice([c for c in others if c not in wrong]))
    options = [gold, *wrong]
    rng.shuffle(options)
    letter = LETTERS[options.index(gold)]
    ask_first = PROPERTIES[first][1].format(wanted[0])
    ask_second = PROPERTIES[second][1].format(wanted[1])
    names = " ".join(sorted(c.name for c in options))
    problem = Problem(
        id=problem_id,
        question=f"Which creature {ask_first} and {ask_second}?",
        answer=letter,
        kind="mcq",
        options=tuple(c.name for c in options),
        steps=tuple(c.says(first, second) for c in options),
        metadata={"knowledge": gold.says(*PROPERTIES), "properties": [first, second]},
    )
    return problem, f"{sorted(wanted)} {names}"


def generate(split: str, count: int, seed: int = 0) -> list[Problem]:
    """`count` problems of a split; the same for the same arguments on every machine."""
    return draw("facts", split, count, seed, _draw_one)


def load(split: str, data_dir: str | None = None, revision: str | None = None) -> LoadedBenchmark:
    """The split at its default size. `data_dir` and `revision` have no meaning for a generated benchmark."""
    return load_generated("facts", VERSION, split, generate)
