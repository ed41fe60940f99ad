"""Evaluation results as rows of text, for a terminal's table and a report's alike."""

import math

from .evaluate import EvaluationResult

COLUMNS = ("benchmark", "model", "n", "accuracy", "given a box", "boxed", "truncated", "answer log-lik.", "tokens")


def cells(result: EvaluationResult, model: str) -> tuple[str, ...]:
    """One row under `COLUMNS`: percentages and nats, each estimate with its standard error."""
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


def _percent(value: float, error: float | None = None) -> str:
    if math.isnan(value):
        return "-"
    return f"{100 * value:.1f} %" if error is None else f"{100 * value:.1f} ± {100 * error:.1f} %"


def _number(value: float, error: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f} ± {error:.2f}"
