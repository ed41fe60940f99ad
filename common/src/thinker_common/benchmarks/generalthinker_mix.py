"""GeneralThinker's training mixture, as far as its paper defines it: CrossThink-QA with ten options, and MATH.

The paper (arXiv 2605.27934) trains on 21,204 problems and validates on 1,000, about 36 % of them mathematics. Which
problems of the two sources these are was not published; here a seeded draw takes that many at that share, so the sizes
and the share agree with the paper and the problems do not.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path

from ..errors import DataError, SettingsError
from . import crossthink, math_train
from .problem import BenchmarkInfo, LoadedBenchmark, Problem, question_key

VERSION = 1
SIZES = {"train": 21_204, "valid": 1_000}
INFO = BenchmarkInfo(
    title="GeneralThinker's mixture",
    kind="mixed",
    hub=None,
    license="MIT (MATH), CC BY 4.0 (Nemotron-CrossThink)",
    citation="GeneralThinker, arXiv 2605.27934; the sources as in crossthink and math_train",
    notes=(
        "Sizes and share of mathematics are the paper's (the share is inferred); which problems it took is not known.",
        "Where the sources hold too few problems the mixture is smaller, at the same share, and a warning says so.",
    ),
    shares=("math500/test",),
)


def load(
    split: str, data_dir: Path | None, revision: str | None, *, math_share: float = 0.36, draw_seed: int = 0
) -> LoadedBenchmark:
    """The problems of "train" or "valid", which are disjoint, in a shuffled order.

    math_share: of the problems of each split
    draw_seed: of the draw and the order

    A revision has no meaning here: each source is read at the one its module pins.
    """
    if split not in SIZES:
        raise DataError(f"generalthinker_mix has no split {split!r}; it has {', '.join(SIZES)}")
    if revision is not None:
        raise SettingsError("generalthinker_mix is drawn from two data sets and has no revision of its own")
    if isinstance(math_share, bool) or not isinstance(math_share, int | float) or not 0 < math_share < 1:
        raise SettingsError(f"math_share = {math_share!r}: must be a number between 0 and 1")
    sources = (math_train.load("train", data_dir, None), crossthink.load("train", data_dir, None))
    pools = [_shuffled(_distinct(source.problems), draw_seed) for source in sources]
    shares = (math_share, 1 - math_share)
    total = sum(SIZES.values())
    available = min(total, *(int(len(pool) / share) for pool, share in zip(pools, shares, strict=True)))
    if available < total:
        warnings.warn(
            f"generalthinker_mix: the sources allow {available} problems at this share, not {total}", stacklevel=2
        )
    repeated = sum(len(source.problems) for source in sources) - sum(len(pool) for pool in pools)
    chosen: list[Problem] = []
    for pool, share in zip(pools, shares, strict=True):
        whole, held_out = round(share * available), round(share * available * SIZES["valid"] / total)
        chosen += pool[:held_out] if split == "valid" else pool[held_out:whole]
    return LoadedBenchmark(
        name="generalthinker_mix",
        split=split,
        problems=tuple(_shuffled(chosen, draw_seed)),
        revision=", ".join(str(source.revision) for source in sources),
        source=f"{', '.join(source.source for source in sources)}; drawn with seed {draw_seed}, {math_share:.0%} MATH",
        version=VERSION,
        dropped={
            "a question that is there already": repeated,
            **{f"{source.name}: {reason}": count for source in sources for reason, count in source.dropped.items()},
        },
    )


def _distinct(problems: Sequence[Problem]) -> list[Problem]:
    """Each question once, so that none is trained on and validated on."""
    return list({question_key(problem): problem for problem in reversed(problems)}.values())


def _shuffled(problems: Sequence[Problem], seed: int) -> list[Problem]:
    """An order that follows from the seed and each problem's id alone."""
    return sorted(problems, key=lambda problem: hashlib.sha256(f"{seed}/{problem.id}".encode()).digest())
