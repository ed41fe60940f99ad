"""Evaluation results and comparisons as text, for a terminal and a report alike."""

import math
from collections.abc import Iterable

from rich.table import Table

from .comparison import Comparison
from .evaluate import EvaluationResult

# Percentages; the reference answer's log-likelihood in nats; tokens of a response.
COLUMNS = ("benchmark", "model", "n", "accuracy %", "given a box %", "boxed %", "cut %", "answer loglik", "tokens")


def cells(result: EvaluationResult, model: str) -> tuple[str, ...]:
    """One row under `COLUMNS`, each estimate with its standard error."""
    return (
        result.benchmark,
        model,
        str(result.n),
        _percent(result.accuracy, result.standard_error),
        _percent(result.accuracy_given_boxed, result.accuracy_given_boxed_standard_error),
        _percent(result.boxed_rate),
        _percent(result.truncation_rate),
        _number(result.answer_loglik, result.answer_loglik_standard_error),
        f"{result.mean_tokens:.1f}",
    )


def terminal_table(rows: Iterable[tuple[EvaluationResult, str]]) -> Table:
    """Results and the names of their models as a table for a terminal."""
    table = Table(
        title="greedy, value ± standard error", box=None, padding=(0, 1, 0, 0)
    )  # fits a terminal of 80 columns
    texts = [cells(result, model) for result, model in rows]
    for index, column in enumerate(COLUMNS):
        # Headings may wrap, values never.
        widest = max((len(row[index]) for row in texts), default=0)
        table.add_column(column, justify="left" if column in ("benchmark", "model") else "right", min_width=widest)
    for row in texts:
        table.add_row(*row)
    return table


def sentence(comparison: Comparison) -> str:
    """A paired comparison in one line."""
    low, high = comparison.interval
    return (
        f"{100 * comparison.difference:+.1f} points, 95 % interval {100 * low:+.1f} to {100 * high:+.1f} "
        f"(paired bootstrap), exact McNemar p = {comparison.p_value:.2g}, n = {comparison.n}"
    )


def _percent(value: float, error: float | None = None) -> str:
    if math.isnan(value):
        return "-"
    return f"{100 * value:.1f}" if error is None else f"{100 * value:.1f}±{100 * error:.1f}"


def _number(value: float, error: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}±{error:.2f}"
