"""`phrases`: short free-text answers with several correct wordings, generated.

Clock arithmetic: something starts at a time and lasts a while (or ends, and lasted a while); the answer is a time in
words. Every time has three wordings or more ("3:45", "quarter to four", "three forty-five"): one of them, drawn at
random, is the reference answer and the others are `Problem.aliases`. A comparison with the reference string calls the
others wrong; the likelihood of the reference does not care which wording the model itself would have used.
"""

import random

from .generated import draw, load_generated
from .problem import LoadedBenchmark, Problem

VERSION = 1

HOURS = ("twelve", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven")
MINUTES = {
    5: "five", 10: "ten", 15: "fifteen", 20: "twenty", 25: "twenty-five", 30: "thirty",
    35: "thirty-five", 40: "forty", 45: "forty-five", 50: "fifty", 55: "fifty-five",
}  # fmt: skip
EVENTS = ("film", "game", "class", "trip", "party", "show", "walk", "flight", "concert", "race")
HALF_DAY = 12 * 60


def digital(time: int) -> str:
    """A time in minutes after twelve as `h:mm` on a twelve-hour clock."""
    return f"{time // 60 % 12 or 12}:{time % 60:02d}"


def wordings(time: int) -> tuple[str, ...]:
    """Every accepted wording of a time, in minutes after twelve, a multiple of five."""
    hour, minute = HOURS[time // 60 % 12], time % 60
    following = HOURS[(time // 60 + 1) % 12]
    if minute == 0:
        return digital(time), f"{hour} o'clock", f"exactly {hour}"
    spoken = f"{hour} oh five" if minute == 5 else f"{hour} {MINUTES[minute]}"
    if minute == 30:
        return digital(time), spoken, f"half past {hour}"
    if minute < 30:
        near, anchor = minute, f"past {hour}"
    else:
        near, anchor = 60 - minute, f"to {following}"
    quarter = (f"quarter {anchor}",) if near == 15 else ()
    return digital(time), spoken, f"{MINUTES[near]} {anchor}", *quarter


def duration(minutes: int) -> str:
    """A duration in words, such as `2 hours and 20 minutes`."""
    hours, rest = divmod(minutes, 60)
    parts = [f"{hours} hour{'s' * (hours > 1)}"] * (hours > 0) + [f"{rest} minutes"] * (rest > 0)
    return " and ".join(parts)


def _draw_one(rng: random.Random, problem_id: str) -> tuple[Problem, str]:
    event = rng.choice(EVENTS)
    given = rng.randrange(0, HALF_DAY, 5)
    minutes = rng.randrange(10, 215, 5)
    forward = rng.random() < 0.6
    result = (given + (minutes if forward else -minutes)) % HALF_DAY
    said = rng.choice(wordings(given))
    if forward:
        question = f"The {event} starts at {said} and lasts {duration(minutes)}. When does it end?"
    else:
        question = f"The {event} ends at {said} and lasted {duration(minutes)}. When did it start?"
    accepted = list(wordings(result))
    reference = accepted.pop(rng.randrange(len(accepted)))
    hours, rest = divmod(minutes, 60)
    problem = Problem(
        id=problem_id,
        question=question,
        answer=reference,
        kind="text",
        aliases=tuple(accepted),
        steps=(f"{digital(given)}{'+' if forward else '-'}{hours}:{rest:02d}={digital(result)}",),
        metadata={"time": digital(result)},
    )
    return problem, f"{event} {given} {minutes} {forward}"


def generate(split: str, count: int, seed: int = 0) -> list[Problem]:
    """`count` problems of a split; the same for the same arguments on every machine."""
    return draw("phrases", split, count, seed, _draw_one)


def load(split: str, data_dir: str | None = None, revision: str | None = None) -> LoadedBenchmark:
    """The split at its default size. `data_dir` and `revision` have no meaning for a generated benchmark."""
    return load_generated("phrases", VERSION, split, generate)
