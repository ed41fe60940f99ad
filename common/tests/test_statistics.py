"""Statistics against values worked out by hand and against brute force."""

import itertools
import math
import random
import subprocess
import sys

import pytest

from thinker_common.evaluation.statistics import mcnemar_exact, mean, paired_bootstrap, paired_difference, wilson


def test_accuracy_of_three_in_four():
    estimate = mean([1, 1, 0, 1])
    assert (estimate.value, estimate.n) == (0.75, 4)
    assert estimate.standard_error == pytest.approx(math.sqrt(0.75 * 0.25 / 3), abs=1e-15)


def test_mean_of_other_scores():
    estimate = mean([1.0, 2.0, 6.0])  # mean 3, squared deviations 4 + 1 + 9 = 14, variance 7, se sqrt(7/3)
    assert estimate.value == 3.0
    assert estimate.standard_error == pytest.approx(math.sqrt(7 / 3))


def test_what_does_not_exist_is_nan():
    assert math.isnan(mean([]).value) and math.isnan(mean([]).standard_error) and mean([]).n == 0
    assert mean([1.0]).value == 1.0 and math.isnan(mean([1.0]).standard_error)
    assert all(math.isnan(bound) for bound in wilson(0, 0))


def test_wilson_solves_its_defining_equation():
    """Its bounds are the proportions p0 from which the observed p is exactly z standard errors (under p0) away."""
    for right, n in ((3, 10), (1, 50), (49, 50), (660, 1319)):
        for bound in wilson(right, n):
            assert abs(right / n - bound) == pytest.approx(1.96 * math.sqrt(bound * (1 - bound) / n), rel=1e-9)


def test_wilson_at_the_edges():
    # Nothing right: low 0, high z^2 / (n + z^2).
    assert wilson(0, 20) == pytest.approx((0.0, 1.96**2 / (20 + 1.96**2)))
    low, high = wilson(20, 20)
    assert (low, high) == (pytest.approx(20 / (20 + 1.96**2)), pytest.approx(1.0))
    with pytest.raises(ValueError, match="3 of 2"):
        wilson(3, 2)


def test_paired_difference_is_the_formula_for_zero_one_scores():
    a, b = [1, 1, 1, 0, 0, 1], [0, 1, 0, 1, 0, 0]
    only_a, only_b, n = 3, 1, 6
    estimate = paired_difference(a, b)
    assert estimate.value == pytest.approx((only_a - only_b) / n)
    population_sd = math.sqrt((only_a + only_b - (only_a - only_b) ** 2 / n) / n)
    assert estimate.standard_error == pytest.approx(population_sd / math.sqrt(n - 1))


def test_mcnemar_by_hand():
    # 5 right only in a, 1 only in b: p = 2 * (C(6,0) + C(6,1)) / 2^6 = 14/64.
    a = [1] * 5 + [0] + [1] * 4 + [0] * 3
    b = [0] * 5 + [1] + [1] * 4 + [0] * 3
    test = mcnemar_exact(a, b)
    assert (test.both, test.only_a, test.only_b, test.neither) == (4, 5, 1, 3)
    assert test.p_value == 14 / 64


def test_mcnemar_against_every_sign_pattern():
    for only_a, only_b in itertools.product(range(6), range(6)):
        flips = list(itertools.product((1, -1), repeat=only_a + only_b))
        as_extreme = sum(abs(sum(signs)) >= abs(only_a - only_b) for signs in flips)
        a, b = [1] * only_a + [0] * only_b, [0] * only_a + [1] * only_b
        assert mcnemar_exact(a, b).p_value == pytest.approx(as_extreme / len(flips)), (only_a, only_b)


def test_mcnemar_without_disagreement_and_with_very_many():
    assert mcnemar_exact([1, 0, 1], [1, 0, 1]).p_value == 1.0
    assert mcnemar_exact([1] * 3000, [0] * 3000).p_value == 0.0  # 2^-2999 is below the smallest double
    assert mcnemar_exact([True] * 40, [False] * 40).p_value == 2.0**-39


def test_mcnemar_refuses_fractions():
    with pytest.raises(ValueError, match="scores of 0 and 1"):
        mcnemar_exact([0.5, 1], [0, 1])


def test_bootstrap_against_all_resamples():
    """Four questions have 4^4 resamples; the exact distribution of their means gives the percentiles and the p-value."""
    a, b = [1.0, 0.5, 0.0, 1.0], [0.0, 0.25, 0.5, 0.5]
    d = [x - y for x, y in zip(a, b, strict=True)]
    means = sorted(sum(d[i] for i in picked) / 4 for picked in itertools.product(range(4), repeat=4))
    got = paired_bootstrap(a, b, seed=1, draws=200_000)
    assert got.low == pytest.approx(means[int(0.025 * len(means))], abs=1e-9)
    assert got.high == pytest.approx(means[int(0.975 * len(means))], abs=1e-9)
    exact_p = 2 * sum(value <= 0 for value in means) / len(means)
    assert got.p_value == pytest.approx(exact_p, abs=0.005)


def test_bootstrap_agrees_with_plain_resampling_of_rows():
    rng = random.Random(3)
    a, b = [rng.random() < 0.6 for _ in range(200)], [rng.random() < 0.5 for _ in range(200)]
    d = [int(x) - int(y) for x, y in zip(a, b, strict=True)]
    plain = sorted(sum(rng.choices(d, k=200)) / 200 for _ in range(10_000))
    got = paired_bootstrap(a, b, seed=0)
    assert got.low == pytest.approx(plain[250], abs=0.011)
    assert got.high == pytest.approx(plain[9750], abs=0.011)
    assert got.low < paired_difference(a, b).value < got.high


def test_bootstrap_follows_from_its_seed_and_is_symmetric_in_sign():
    a, b = [1, 1, 0, 1, 0, 1, 1, 0], [0, 1, 0, 0, 1, 1, 0, 0]
    assert paired_bootstrap(a, b, seed=7) == paired_bootstrap(a, b, seed=7)
    assert paired_bootstrap(a, b, seed=7) != paired_bootstrap(a, b, seed=8)
    forward, backward = paired_bootstrap(a, b, draws=100_000), paired_bootstrap(b, a, draws=100_000)
    step = 1 / len(a)  # means of eight differences lie on a grid
    assert (forward.low, forward.high) == pytest.approx((-backward.high, -backward.low), abs=1.01 * step)


def test_equal_systems_have_p_one():
    got = paired_bootstrap([1, 0, 1], [1, 0, 1])
    assert (got.low, got.high, got.p_value) == (0.0, 0.0, 1.0)


def test_unpaired_or_empty_scores_are_refused():
    for function in (paired_difference, mcnemar_exact, paired_bootstrap):
        with pytest.raises(ValueError, match="there are 2 and 1"):
            function([1, 0], [1])
    with pytest.raises(ValueError, match="nothing to resample"):
        paired_bootstrap([], [])


def test_statistics_import_no_torch():
    code = "import sys, thinker_common.evaluation.statistics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
