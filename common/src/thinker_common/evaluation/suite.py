"""Several benchmarks together: their average, and two systems compared on all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import statistics
from .comparison import Comparison, compare, paired_scores
from .generations import Row
from .results import finite
from .statistics import Estimate

# Their questions are in part the same, so that an average counts these twice and its standard error is too small.
SHARED_QUESTIONS = (("gpqa", "gpqa_diamond"), ("mmlu", "mmlu_redux"), ("gsm8k", "gsm8k_aug"))


def average(estimates: Mapping[str, Estimate]) -> Estimate:
    """The plain mean over benchmarks; its standard error takes them as independent."""
    return statistics.mean_of_means(list(estimates.values()))


def shared_questions(names: Sequence[str]) -> list[str]:
    """Which of the benchmarks hold the same questions, in words; [] if none do."""
    return [f"{a} and {b} share questions" for a, b in SHARED_QUESTIONS if {a, b} <= set(names)]


@dataclass(frozen=True)
class SuiteComparison:
    """Systems a and b on several benchmarks.

    comparisons: of each benchmark
    adjusted_p_values: Holm's, of the benchmarks' p-values; below a level they are significant at it all together
    difference, standard_error: of the averages over benchmarks, a - b; interval, p_value: by the paired bootstrap that
        resamples inside each benchmark
    """

    comparisons: dict[str, Comparison]
    adjusted_p_values: dict[str, float]
    difference: float
    standard_error: float
    interval: tuple[float, float]
    p_value: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it: NaN becomes None. Each benchmark has its adjusted p-value with it."""
        by_name = {
            name: {**comparison.to_dict(), "adjusted_p_value": self.adjusted_p_values[name]}
            for name, comparison in self.comparisons.items()
        }
        average = {
            "difference": self.difference,
            "standard_error": self.standard_error,
            "interval": self.interval,
            "p_value": self.p_value,
        }
        return finite({"benchmarks": by_name, "average": average if len(by_name) > 1 else None})


def compare_suite(
    rows_a: Mapping[str, Sequence[Row]], rows_b: Mapping[str, Sequence[Row]], *, seed: int = 0
) -> SuiteComparison:
    """Rows by benchmark, of the same ones for both. Raises UserError as `compare`, for any of them."""
    assert rows_a.keys() == rows_b.keys() and rows_a
    comparisons = {name: compare(rows, rows_b[name], seed=seed) for name, rows in rows_a.items()}
    adjusted = statistics.holm([comparison.p_value for comparison in comparisons.values()])
    average = statistics.mean_of_means(
        [Estimate(one.difference, one.standard_error, one.n) for one in comparisons.values()]
    )
    pairs = [paired_scores(rows, rows_b[name]) for name, rows in rows_a.items()]
    bootstrap = statistics.paired_bootstrap_of_suite(pairs, seed=seed)
    return SuiteComparison(
        comparisons=comparisons,
        adjusted_p_values=dict(zip(comparisons, adjusted, strict=True)),
        difference=average.value,
        standard_error=average.standard_error,
        interval=(bootstrap.low, bootstrap.high),
        p_value=bootstrap.p_value,
    )
