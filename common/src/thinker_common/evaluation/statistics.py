"""Honest statistics of scores: standard errors, intervals and paired tests.

Scores are one number a question: 0 or 1, or a mean over that question's samples. Formulas: section 9 of the project's
benchmark notes. Where a figure does not exist (no rows; the spread of one row) it is NaN, never zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Z_95 = 1.96  # two-sided 95 % of the normal distribution


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over `n` questions and its standard error; NaN where it does not exist."""

    value: float
    standard_error: float
    n: int


def mean(scores: Sequence[float]) -> Estimate:
    """The mean of one score a question, with standard error sd / sqrt(n), sd over n - 1.

    For 0/1 scores this is sqrt(p (1 - p) / (n - 1)).
    """
    n = len(scores)
    if n == 0:
        return Estimate(math.nan, math.nan, 0)
    value = math.fsum(scores) / n
    if n == 1:
        return Estimate(value, math.nan, 1)
    variance = math.fsum((score - value) ** 2 for score in scores) / (n - 1)
    return Estimate(value, math.sqrt(variance / n), n)


def wilson(right: int, n: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson's interval of a proportion; unlike p +- z se it is sound near 0 and 1 and for small n.

    Raises ValueError unless 0 <= right <= n.
    """
    if not 0 <= right <= n:
        raise ValueError(f"{right} of {n} is no proportion")
    if n == 0:
        return math.nan, math.nan
    p = right / n
    scale = 1 + z * z / n
    centre = (p + z * z / (2 * n)) / scale
    half_width = z / scale * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - half_width), min(1.0, centre + half_width)


def paired_difference(a: Sequence[float], b: Sequence[float]) -> Estimate:
    """mean(a - b) over the same questions, with the standard error of the differences.

    Raises ValueError when the two differ in length.
    """
    _check_paired(a, b)
    return mean([x - y for x, y in zip(a, b, strict=True)])


@dataclass(frozen=True, slots=True)
class McNemar:
    """Counts of two systems on the same questions, and the exact two-sided p-value of McNemar's test."""

    both: int
    only_a: int
    only_b: int
    neither: int
    p_value: float


def mcnemar_exact(a: Sequence[bool], b: Sequence[bool]) -> McNemar:
    """Do two systems differ in accuracy? Only questions that one of them gets right count.

    p = min(1, 2 * sum_{j <= min(b, c)} C(b + c, j) / 2^(b + c)), b and c the numbers right in one system only.

    Raises ValueError when the two differ in length, or a score is neither 0 nor 1.
    """
    _check_paired(a, b)
    if not {*a, *b} <= {0, 1}:
        raise ValueError("McNemar's test takes scores of 0 and 1; for means over samples use the paired bootstrap")
    pairs = [(bool(x), bool(y)) for x, y in zip(a, b, strict=True)]
    only_a, only_b = pairs.count((True, False)), pairs.count((False, True))
    disagreements = only_a + only_b
    tail = sum(math.comb(disagreements, j) for j in range(min(only_a, only_b) + 1))
    # Integers of any size: their quotient is rounded once.
    p_value = min(1.0, 2 * tail / 2**disagreements)
    return McNemar(pairs.count((True, True)), only_a, only_b, pairs.count((False, False)), p_value)


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """A 95 % percentile interval of mean(a - b), and the two-sided p-value of no difference."""

    low: float
    high: float
    p_value: float
    draws: int


def paired_bootstrap(a: Sequence[float], b: Sequence[float], *, seed: int = 0, draws: int = 10_000) -> Bootstrap:
    """Resample questions, the same ones for both systems, `draws` times from `seed`.

    p = 2 (1 + #{mean* of the other sign or zero}) / (draws + 1), at most 1.

    Raises ValueError when the two differ in length or are empty.
    """
    _check_paired(a, b)
    n = len(a)
    if n == 0:
        raise ValueError("there is nothing to resample")
    differences = np.subtract(np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64))
    # Drawing n questions is drawing how often each *distinct* difference occurs; 0/1 scores have three of them.
    values, counts = np.unique(differences, return_counts=True)
    random = np.random.default_rng(seed)
    block = max(1, 1_000_000 // len(values))
    means = np.concatenate(
        [
            random.multinomial(n, counts / n, size=min(block, draws - done)) @ values / n
            for done in range(0, draws, block)
        ]
    )
    low, high = np.percentile(means, [2.5, 97.5])
    observed = differences.mean()
    against = np.count_nonzero(means * np.sign(observed) <= 0)
    return Bootstrap(float(low), float(high), min(1.0, 2 * (1 + int(against)) / (draws + 1)), draws)


def _check_paired(a: Sequence[float], b: Sequence[float]) -> None:
    if len(a) != len(b):
        raise ValueError(f"paired scores must be of the same questions; there are {len(a)} and {len(b)}")
