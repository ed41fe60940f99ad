"""Honest statistics of scores: standard errors, intervals and paired tests.

Scores are one number a question: 0 or 1, or a mean over that question's samples. Formulas: section 9 of the project's
benchmark notes. Where a figure does not exist (no rows; the spread of one row) it is NaN, never zero.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
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


def clustered_mean(values: Sequence[Sequence[float]]) -> Estimate:
    """The mean of all values, of which several belong to one question (its samples, or those that have a box).

    Samples of one question are not independent, so the spread is that between questions: with S_i the sum and m_i the
    number of question i's values, r = sum S_i / sum m_i, and Q the number of questions with any value,

        se^2 = Q / (Q - 1) * sum (S_i - r m_i)^2 / (sum m_i)^2.

    With as many values for every question this is `mean` of the question means. `n` of the result is Q.
    """
    sums = [(math.fsum(own), len(own)) for own in values if len(own) > 0]
    total = sum(count for _, count in sums)
    if total == 0:
        return Estimate(math.nan, math.nan, 0)
    ratio = math.fsum(own for own, _ in sums) / total
    if len(sums) == 1:
        return Estimate(ratio, math.nan, 1)
    squares = math.fsum((own - ratio * count) ** 2 for own, count in sums)
    return Estimate(ratio, math.sqrt(len(sums) / (len(sums) - 1) * squares) / total, len(sums))


def mean_of_means(estimates: Sequence[Estimate]) -> Estimate:
    """The plain mean of independent estimates, sqrt(sum se_b^2) / B: a macro average over groups, a suite's average.

    `n` of the result is the number of estimates. NaN where one of them is.
    """
    count = len(estimates)
    if count == 0:
        return Estimate(math.nan, math.nan, 0)
    value = math.fsum(estimate.value for estimate in estimates) / count
    error = math.sqrt(math.fsum(estimate.standard_error**2 for estimate in estimates)) / count
    return Estimate(value, error, count)


def pass_at_k(samples: int, right: int, k: int) -> float:
    """The unbiased estimate of the chance that one of k samples is right, from `right` of `samples` (Chen et al. 2021).

    1 - C(samples - right, k) / C(samples, k). Raises ValueError unless 0 <= right <= samples and 1 <= k <= samples.
    """
    if not (0 <= right <= samples and 1 <= k <= samples):
        raise ValueError(f"pass@{k} of {right} in {samples} samples does not exist")
    return 1 - math.comb(samples - right, k) / math.comb(samples, k)


def interval_of_scores(scores: Sequence[float]) -> tuple[float, float]:
    """A 95 % interval of the mean of question scores between 0 and 1.

    Wilson's for 0/1 scores. For means over samples, Wilson's with the number of 0/1 questions that would have the same
    standard error, 1 + p (1 - p) / se^2: the samples of a question add less than as many questions would.
    """
    estimate = mean(scores)
    if estimate.n == 0:
        return math.nan, math.nan
    n = float(estimate.n)
    if estimate.standard_error > 0:  # not where it is NaN
        n = max(n, 1 + estimate.value * (1 - estimate.value) / estimate.standard_error**2)
    return wilson(min(estimate.value, 1.0) * n, n)


def wilson(right: float, n: float, z: float = Z_95) -> tuple[float, float]:
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
        raise ValueError("McNemar's test takes scores of 0 and 1; for means over samples use the permutation test")
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
    """Resample questions with all their samples, the same ones for both systems, `draws` times from `seed`.

    p = 2 (1 + #{mean* of the other sign or zero}) / (draws + 1), at most 1.

    Raises ValueError when the two differ in length or are empty.
    """
    return paired_bootstrap_of_suite([(a, b)], seed=seed, draws=draws)


def paired_bootstrap_of_suite(
    benchmarks: Sequence[tuple[Sequence[float], Sequence[float]]], *, seed: int = 0, draws: int = 10_000
) -> Bootstrap:
    """The same for the plain mean of several benchmarks' differences: questions are resampled inside each of them."""
    if not benchmarks:
        raise ValueError("there is nothing to resample")
    random = np.random.default_rng(seed)
    differences = [_differences(a, b) for a, b in benchmarks]
    means = np.mean([_resampled_means(own, random, draws) for own in differences], axis=0)
    low, high = np.percentile(means, [2.5, 97.5])
    observed = np.mean([own.mean() for own in differences])
    against = np.count_nonzero(means * np.sign(observed) <= 0)
    return Bootstrap(float(low), float(high), min(1.0, 2 * (1 + int(against)) / (draws + 1)), draws)


EXACT_FLIPS = 16  # up to 2^16 sign patterns are enumerated, above that they are drawn


def paired_permutation(a: Sequence[float], b: Sequence[float], *, seed: int = 0, draws: int = 10_000) -> float:
    """The two-sided p-value of "no difference" from flipping the sign of each question's difference at random.

    Exact, over all sign patterns, with at most `EXACT_FLIPS` questions that differ; otherwise from `draws` patterns,
    p = (1 + #{|mean*| >= |mean|}) / (draws + 1). For 0/1 scores the exact one is McNemar's.

    Raises ValueError when the two differ in length or are empty.
    """
    differences = _differences(a, b)
    differences = differences[differences != 0]
    if len(differences) == 0:
        return 1.0
    observed = abs(differences.sum())
    as_far = observed - 1e-9 * np.abs(differences).sum()  # a sum in another order may round differently
    if len(differences) <= EXACT_FLIPS:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=len(differences))))
        return float(np.mean(np.abs(signs @ differences) >= as_far))
    random = np.random.default_rng(seed)
    count = 0
    for size in _blocks(draws, len(differences)):
        signs = random.integers(0, 2, size=(size, len(differences)), dtype=np.int8) * 2.0 - 1.0
        count += int(np.count_nonzero(np.abs(signs @ differences) >= as_far))
    return (1 + count) / (draws + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given: those below a level may be rejected at it, all together.

    The j-th smallest of B becomes (B - j + 1) p, at least the adjusted one before it, at most 1.
    """
    adjusted = [math.nan] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = min(1.0, max(largest, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _differences(a: Sequence[float], b: Sequence[float]) -> np.ndarray:
    _check_paired(a, b)
    if len(a) == 0:
        raise ValueError("there is nothing to resample")
    return np.subtract(np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64))


def _resampled_means(differences: np.ndarray, random: np.random.Generator, draws: int) -> np.ndarray:
    """Means of n questions drawn with replacement, `draws` times.

    Drawing n questions is drawing how often each *distinct* difference occurs; 0/1 scores have three of them.
    """
    n = len(differences)
    values, counts = np.unique(differences, return_counts=True)
    blocks = _blocks(draws, len(values))
    return np.concatenate([random.multinomial(n, counts / n, size=size) @ values / n for size in blocks])


def _blocks(draws: int, width: int) -> Iterator[int]:
    """`draws` rows of `width` numbers in blocks of about a million numbers."""
    block = max(1, 1_000_000 // width)
    return (min(block, draws - done) for done in range(0, draws, block))


def _check_paired(a: Sequence[float], b: Sequence[float]) -> None:
    if len(a) != len(b):
        raise ValueError(f"paired scores must be of the same questions; there are {len(a)} and {len(b)}")
