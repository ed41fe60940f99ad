"""Statistics against values worked out by hand and against brute force."""

import itertools
import math
import random
import subprocess
import sys

import pytest

from thinker_common.evaluation.statistics import (
    Estimate,
    clustered_mean,
    holm,
    interval_of_scores,
    mcnemar_exact,
    mean,
    mean_of_means,
    paired_bootstrap,
    paired_bootstrap_of_suite,
    paired_difference,
    paired_permutation,
    pass_at_k,
    wilson,
)


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


def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample():
    for samples in range(1, 8):
        for right, k in itertools.product(range(samples + 1), range(1, samples + 1)):
            subsets = list(itertools.combinations([1] * right + [0] * (samples - right), k))
            assert pass_at_k(samples, right, k) == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-15)
    # The product form of Chen et al., for numbers too large to enumerate.
    samples, right, k = 200, 7, 64
    product = math.prod(1 - k / j for j in range(samples - right + 1, samples + 1))
    assert pass_at_k(samples, right, k) == pytest.approx(1 - product, rel=1e-12)
    for impossible in ((4, 2, 5), (4, 5, 2), (4, 2, 0)):
        with pytest.raises(ValueError, match="does not exist"):
            pass_at_k(*impossible)


def test_values_of_one_question_count_as_one_draw():
    """With as many values each: the question means. One value each: the plain mean. Doubling values adds nothing."""
    questions = [[1, 0, 1, 1], [0, 0, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0]]
    means = mean([sum(own) / 4 for own in questions])
    got = clustered_mean(questions)
    assert (got.value, got.n) == (means.value, 4) and got.standard_error == pytest.approx(means.standard_error)
    single = clustered_mean([[1], [], [0], [1]])
    assert (single.value, single.n) == (2 / 3, 3)
    assert single.standard_error == pytest.approx(mean([1, 0, 1]).standard_error)
    doubled = clustered_mean([own * 2 for own in questions])
    assert doubled.standard_error == pytest.approx(got.standard_error)
    assert got.standard_error > mean([value for own in questions for value in own]).standard_error


def test_values_of_questions_of_different_numbers_against_resampled_questions():
    rng = random.Random(5)
    questions = [[float(rng.random() < p) for _ in range(rng.randint(0, 6))] for p in (rng.random() for _ in range(80))]
    got = clustered_mean(questions)
    draws = []
    for _ in range(3000):
        values = [value for own in rng.choices(questions, k=80) for value in own]
        draws.append(sum(values) / len(values))
    centre = sum(draws) / len(draws)
    spread = math.sqrt(sum((draw - centre) ** 2 for draw in draws) / len(draws))
    assert got.standard_error == pytest.approx(spread, rel=0.08)
    assert math.isnan(clustered_mean([[], []]).value) and math.isnan(clustered_mean([[1.0, 0.0]]).standard_error)


def test_a_suites_average_adds_variances():
    got = mean_of_means([Estimate(0.2, 0.03, 10), Estimate(0.6, 0.04, 99)])
    assert got.value == pytest.approx(0.4) and got.standard_error == pytest.approx(0.05 / 2) and got.n == 2
    assert math.isnan(mean_of_means([Estimate(1.0, math.nan, 1), Estimate(0.5, 0.1, 4)]).standard_error)
    assert math.isnan(mean_of_means([]).value)


def test_interval_is_wilsons_and_narrower_where_samples_say_more():
    assert interval_of_scores([1, 0, 1, 1]) == wilson(3, 4)
    assert interval_of_scores([1.0]) == wilson(1, 1)
    assert interval_of_scores([1, 1, 1]) == wilson(3, 3)
    sampled = interval_of_scores([0.5, 0.75, 0.25, 0.5, 0.5])  # each a mean over samples, so the questions are alike
    assert wilson(2.5, 5)[0] < sampled[0] < 0.5 < sampled[1] < wilson(2.5, 5)[1]
    assert all(math.isnan(bound) for bound in interval_of_scores([]))


def test_permutation_of_zero_one_scores_is_mcnemars_test():
    for only_a, only_b in itertools.product(range(6), range(6)):
        a, b = [1] * only_a + [0] * only_b + [1], [0] * only_a + [1] * only_b + [1]
        assert paired_permutation(a, b) == pytest.approx(mcnemar_exact(a, b).p_value)


def test_permutation_by_hand_and_by_draws():
    a, b = [1.0, 0.5, 0.75, 0.25], [0.5, 0.25, 0.25, 0.5]  # differences 2, 1, 2, -1 quarters: sum 4
    flips = [
        sum(s * d for s, d in zip(signs, (2, 1, 2, -1), strict=True)) for signs in itertools.product((1, -1), repeat=4)
    ]
    assert paired_permutation(a, b) == sum(abs(value) >= 4 for value in flips) / 16
    rng = random.Random(1)
    a = [rng.random() for _ in range(40)]
    b = [value - 0.1 + rng.random() * 0.4 for value in a]
    drawn = paired_permutation(a, b, seed=3, draws=20_000)
    z = abs(paired_difference(a, b).value) / math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) / 40**2)
    assert drawn == pytest.approx(math.erfc(z / math.sqrt(2)), abs=0.01)
    assert drawn == paired_permutation(a, b, seed=3, draws=20_000)


def test_holm_stops_at_the_first_that_fails():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
    # The rule as it is stated: compare the j-th smallest with alpha / (B - j + 1).
    rng = random.Random(2)
    for _ in range(50):
        p_values = [rng.random() ** 4 for _ in range(7)]
        rejected = set()
        for j, index in enumerate(sorted(range(7), key=p_values.__getitem__)):
            if p_values[index] > 0.05 / (7 - j):
                break
            rejected.add(index)
        assert {i for i, p in enumerate(holm(p_values)) if p <= 0.05} == rejected


def test_bootstrap_of_a_suite_resamples_inside_each_benchmark():
    same = ([1, 0] * 50, [1, 0] * 50)
    better = ([1] * 60 + [0] * 40, [0] * 30 + [1] * 30 + [0] * 40)
    got, alone = paired_bootstrap_of_suite([same, better], seed=1), paired_bootstrap(*better, seed=1)
    assert (got.low, got.high) == pytest.approx((alone.low / 2, alone.high / 2), abs=0.01)
    assert paired_bootstrap_of_suite([better], seed=1) == alone
    with pytest.raises(ValueError, match="nothing to resample"):
        paired_bootstrap_of_suite([])


def test_unpaired_or_empty_scores_are_refused():
    for function in (paired_difference, mcnemar_exact, paired_bootstrap, paired_permutation):
        with pytest.raises(ValueError, match="there are 2 and 1"):
            function([1, 0], [1])
    with pytest.raises(ValueError, match="nothing to resample"):
        paired_bootstrap([], [])


def test_statistics_import_no_torch():
    code = "import sys, thinker_common.evaluation.statistics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
