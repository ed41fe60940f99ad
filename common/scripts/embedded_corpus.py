"""The corpus of the embedded model: documents drawn from the generated tasks' training splits.

As in text from the web, the same kind of problem is solved in more than one way. A *careful* writer states every step,
a *pairing* one does two operations at a go, a *hurried* one writes the answer straight away; the longer the problem,
the fewer writers are careful. So the model learns to reason in steps, knows what an answer looks like, and is mediocre
when it decodes greedily: it copies the hurried majority on long problems. What reinforcement learning can gain on it is
reasoning. Four written-out solutions in a hundred hold a slip, and half of those still end in the right answer.

One document in seven gives the answer in the prompt (`CONDITIONED_TEMPLATE`), with the same mixture of writers. Some
documents are plain drills (arithmetic, clock arithmetic, facts) without a chat.
"""

import random
import re
from typing import NamedTuple

from thinker_common.benchmarks import chains, facts, graphs, phrases
from thinker_common.benchmarks.problem import Problem
from thinker_common.models.chat import CONDITIONED_TEMPLATE, PROMPT_TEMPLATE, fill

TASKS = {"chains": chains, "facts": facts, "graphs": graphs, "phrases": phrases}
# Share of documents; a `graphs` document is about five times as long as the others.
MIXTURE = {"chains": 0.56, "phrases": 0.12, "facts": 0.12, "graphs": 0.06, "drill": 0.14}
CONDITIONED_SHARE = 0.14
SLIP_SHARE = 0.04
# operations of a chain -> shares of careful, pairing and hurried writers
CHAIN_WRITERS = {2: (60, 20, 20), 3: (30, 45, 25), 4: (25, 20, 55), 5: (20, 20, 60)}
# share of careful writers on the other tasks
CAREFUL_SHARE = {"facts": 0.45, "graphs": 0.60, "phrases": 0.45}
ENDINGS = ("So \\boxed{{{}}}", "So \\boxed{{{}}}.", "The answer is \\boxed{{{}}}")
HURRIED = ("It is \\boxed{{{}}}", "It must be \\boxed{{{}}}", "It comes to \\boxed{{{}}}.")


class Document(NamedTuple):
    """`user` is None for plain text without a chat."""

    user: str | None
    text: str


class Operation(NamedTuple):
    """One step of a chain, `left sign right = result`."""

    left: int
    sign: str
    right: int
    result: int


def operations(problem: Problem) -> list[Operation]:
    """The steps of a `chains` problem."""
    parsed = (re.fullmatch(r"<<(\d+)([-+*/])(\d+)=(\d+)>>", step) for step in problem.steps)
    return [Operation(int(m[1]), m[2], int(m[3]), int(m[4])) for m in parsed if m]


def apply(left: int, sign: str, right: int) -> int:
    """The value of one operation on whole numbers."""
    return {"+": left + right, "-": left - right, "*": left * right, "/": left // right}[sign]


def _chain_lines(rng: random.Random, steps: list[Operation], pairing: bool) -> tuple[list[str], int]:
    """The written lines and the value the last one arrives at, which a slip can make differ from the true one."""
    slip_at = rng.randrange(len(steps)) if rng.random() < SLIP_SHARE else None
    lines, value, index = [], steps[0].left, 0
    while index < len(steps):
        chunk = steps[index : index + (2 if pairing else 1)]
        line = str(value)
        for offset, step in enumerate(chunk):
            if offset and step.sign in "*/" and chunk[0].sign in "+-":
                line = f"({line})"
            line += f"{step.sign}{step.right}"
            value = apply(value, step.sign, step.right)
            if slip_at == index + offset:
                value = max(1, value + rng.choice((-10, -2, -1, 1, 2, 10)))
        lines.append(f"{line}={value}.")
        index += len(chunk)
    return lines, value


def _chain_solution(rng: random.Random, problem: Problem) -> str:
    steps = operations(problem)
    writer = rng.choices(("careful", "pairing", "hurried"), weights=CHAIN_WRITERS[len(steps)])[0]
    if writer == "hurried":
        return rng.choice(HURRIED).format(problem.answer)
    lines, value = _chain_lines(rng, steps, pairing=writer == "pairing")
    answer = problem.answer if rng.random() < 0.5 else str(value)
    return " ".join([*lines, rng.choice(ENDINGS).format(answer)])


def solution(rng: random.Random, task: str, problem: Problem) -> str:
    """What a writer answers to a problem, ending in a box."""
    if task == "chains":
        return _chain_solution(rng, problem)
    if rng.random() >= CAREFUL_SHARE[task]:
        return rng.choice(HURRIED).format(problem.target())
    steps = [step if step.endswith(".") else f"{step}." for step in problem.steps]
    return " ".join([*steps, rng.choice(ENDINGS).format(problem.target())])


def _drill(rng: random.Random) -> str:
    kind = rng.choices(("arithmetic", "clock", "facts"), weights=(6, 2, 2))[0]
    if kind == "facts":
        creatures = rng.sample(facts.KNOWLEDGE_BASE, 4)
        return " ".join(c.says(*rng.sample(list(facts.PROPERTIES), 2)) for c in creatures)
    lines = []
    while len(lines) < 6:
        if kind == "clock":
            given, minutes, sign = rng.randrange(0, 720, 5), rng.randrange(10, 215, 5), rng.choice("+-")
            hours, rest = divmod(minutes, 60)
            result = (given + (minutes if sign == "+" else -minutes)) % phrases.HALF_DAY
            lines.append(f"{phrases.digital(given)}{sign}{hours}:{rest:02d}={phrases.digital(result)}.")
            continue
        sign = rng.choices("+-*/", weights=(4, 4, 1, 1))[0]
        left = rng.randint(1, chains.LARGEST)
        right = rng.randint(2, 4) if sign in "*/" else rng.randint(2, 20)
        result = apply(left, sign, right)
        if 1 <= result <= chains.LARGEST and not (sign == "/" and left % right):
            lines.append(f"{left}{sign}{right}={result}.")
    return " ".join(lines)


def document(seed: int, index: int) -> Document:
    """Document `index` of the corpus: the same for the same seed, whatever was drawn before it."""
    rng = random.Random(f"embedded/{seed}/{index}")
    task = rng.choices(list(MIXTURE), weights=list(MIXTURE.values()))[0]
    if task == "drill":
        return Document(None, _drill(rng))
    [problem] = TASKS[task].generate("train", 1, seed=rng.getrandbits(40))
    template = CONDITIONED_TEMPLATE if rng.random() < CONDITIONED_SHARE else PROMPT_TEMPLATE
    return Document(
        fill(template, question=problem.prompt_text(), answer=problem.target()), solution(rng, task, problem)
    )
