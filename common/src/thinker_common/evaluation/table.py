"""Evaluation results and comparisons as text, for a terminal and a report alike."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from .comparison import Comparison
from .statistics import Estimate

if TYPE_CHECKING:
    from .ranking import RankingResult
    from .results import EvaluationResult
    from .suite import SuiteComparison

# Percentages; the reference answer's log-likelihood in nats; tokens of a response.
COLUMNS = ("benchmark", "model", "n", "accuracy %", "given a box %", "boxed %", "cut %", "answer loglik", "tokens")
RANKING_COLUMNS = ("benchmark", "model", "n", "accuracy %", "per token %", "chance %", "ties", "answer loglik")

LONGEST_NAME = 24  # characters of a model's name that a table keeps on one line


def cells(result: "EvaluationResult", model: str) -> tuple[str, ...]:
    """One row under `COLUMNS`, each estimate with its standard error."""
    return (
        result.benchmark,
        model,
        str(result.n),
        percent(result.accuracy, result.standard_error),
        percent(result.accuracy_given_boxed, result.accuracy_given_boxed_standard_error),
        percent(result.boxed_rate),
        percent(result.truncation_rate),
        _number(result.answer_loglik, result.answer_loglik_standard_error),
        f"{result.mean_tokens:.1f}",
    )


def ranking_cells(result: "RankingResult", model: str) -> tuple[str, ...]:
    """One row under `RANKING_COLUMNS`."""
    return (
        result.benchmark,
        model,
        str(result.n),
        percent(result.accuracy, result.standard_error),
        percent(result.accuracy_per_token, result.accuracy_per_token_standard_error),
        percent(result.chance),
        str(result.tied),
        _number(result.answer_loglik, result.answer_loglik_standard_error),
    )


def terminal_table(rows: Iterable[tuple["EvaluationResult", str]]) -> Table:
    """Results and the names of their models as a table for a terminal."""
    given = list(rows)
    decodings = dict.fromkeys(decoding_in_words(result) for result, _ in given)
    return _table(
        f"{' and '.join(decodings) or 'nothing evaluated'}, value ± standard error",
        COLUMNS,
        [cells(result, model) for result, model in given],
    )


def ranking_table(rows: Iterable[tuple["RankingResult", str]]) -> Table:
    """The same for rankings of options."""
    given = list(rows)
    forms = " and ".join(dict.fromkeys(result.form for result, _ in given))
    return _table(
        f"options by likelihood of their {forms}, value ± standard error",
        RANKING_COLUMNS,
        [ranking_cells(result, model) for result, model in given],
    )


def at_k_cells(results: Sequence["EvaluationResult"], kind: str = "") -> tuple[list[str], list[list[str]]]:
    """(columns, rows) of avg@k, pass@k and maj@k, or of avg@k and one kind; no rows without samples."""
    names = [name for name in dict.fromkeys(n for result in results for n in result.at_k) if name.startswith(kind)]
    sampled = [result for result in results if result.samples > 1]
    averages = "avg@" + "/".join(str(samples) for samples in dict.fromkeys(result.samples for result in sampled))
    rows = [
        [
            result.benchmark,
            percent(result.accuracy, result.standard_error),
            *(percent(result.at_k[n].value, result.at_k[n].standard_error) if n in result.at_k else "-" for n in names),
        ]
        for result in sampled
    ]
    return ["benchmark", f"{averages} %", *(f"{name} %" for name in names)], rows


def at_k_tables(results: Sequence["EvaluationResult"]) -> list[Table]:
    """`at_k_cells` for a terminal: one table of pass@k and one of maj@k, for both together are too wide."""
    tables = []
    for kind, title in (("pass", "one of k responses is right"), ("maj", "a vote among k responses is right")):
        columns, rows = at_k_cells(results, kind)
        if rows and len(columns) > 2:
            tables.append(_table(f"{title}, value ± standard error", columns, rows))
    return tables


def decoding_in_words(result: "EvaluationResult") -> str:
    """How its responses were chosen."""
    if not result.decoding.get("temperature"):
        return "greedy"
    times = f"{result.samples} samples" if result.samples > 1 else "1 sample"
    parts = [f"{times} at temperature {result.decoding['temperature']:g}"]
    if result.decoding["top_p"] < 1:
        parts.append(f"top-p {result.decoding['top_p']:g}")
    if result.decoding["top_k"]:
        parts.append(f"top-k {result.decoding['top_k']}")
    return ", ".join(parts)


def average_sentence(average: Estimate, shared: Sequence[str]) -> str:
    """The average over benchmarks in one line, with what makes it less than it seems."""
    doubts = f" ({'; '.join(shared)}, so the error is too small)" if shared else ""
    return f"average of {average.n} benchmarks: {percent(average.value, average.standard_error)} %{doubts}"


def sentence(comparison: Comparison) -> str:
    """A paired comparison in one line."""
    low, high = comparison.interval
    left_out = comparison.left_out_a + comparison.left_out_b
    part = f" shared problems ({left_out} of the larger evaluation are left out)" if left_out else ""
    return (
        f"{100 * comparison.difference:+.1f} points, 95 % interval {100 * low:+.1f} to {100 * high:+.1f} "
        f"(paired bootstrap), {comparison.test} p = {comparison.p_value:.2g}, n = {comparison.n}{part}"
    )


def suite_sentences(suite: "SuiteComparison") -> list[str]:
    """What several benchmarks add to their own sentences; nothing where there is one."""
    if len(suite.comparisons) < 2:
        return []
    low, high = suite.interval
    adjusted = ", ".join(f"{name} {p_value:.2g}" for name, p_value in suite.adjusted_p_values.items())
    together = (
        f"average of {len(suite.comparisons)} benchmarks: {100 * suite.difference:+.1f} points, 95 % interval "
        f"{100 * low:+.1f} to {100 * high:+.1f} (paired bootstrap), p = {suite.p_value:.2g}"
    )
    return [together, f"p-values adjusted for {len(suite.comparisons)} tests (Holm): {adjusted}"]


def comparison_cells(comparisons: Mapping[str, Comparison], adjusted: Mapping[str, float]) -> list[list[str]]:
    """Under `COMPARISON_COLUMNS`, one row a benchmark."""
    return [
        [
            name,
            str(one.n),
            f"{100 * one.accuracy_b:.1f}",
            f"{100 * one.accuracy_a:.1f}",
            f"{100 * one.difference:+.1f}" + _error(one.standard_error),
            f"{100 * one.interval[0]:+.1f} to {100 * one.interval[1]:+.1f}",
            str(one.only_a),
            str(one.only_b),
            f"{one.p_value:.2g}",
            f"{adjusted[name]:.2g}",
        ]
        for name, one in comparisons.items()
    ]


COMPARISON_COLUMNS = (
    "benchmark", "n", "before %", "after %", "difference", "95 % interval", "gained", "lost", "p", "p, Holm",
)  # fmt: skip


def percent(value: float, error: float | None = None) -> str:
    """A share of 1 with its standard error; without one where that does not exist, "-" where the value does not."""
    if math.isnan(value):
        return "-"
    return f"{100 * value:.1f}" + ("" if error is None else _error(error))


def _error(error: float) -> str:
    return "" if math.isnan(error) else f"±{100 * error:.1f}"


def _number(value: float, error: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.2f}" if math.isnan(error) else f"{value:.2f}±{error:.2f}"


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table that fits a terminal of 80 columns; the name of the only model stands above it."""
    if "model" in columns and len({row[columns.index("model")] for row in rows}) == 1:
        place = columns.index("model")
        title = f"{rows[0][place]}\n{title}"
        columns = [column for column in columns if column != "model"]
        rows = [[*row[:place], *row[place + 1 :]] for row in rows]
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    for index, column in enumerate(columns):
        # Headings may wrap, and the names of models; values never.
        widest = max((len(row[index]) for row in rows), default=0)
        least = min(widest, LONGEST_NAME) if column == "model" else widest
        justify = "left" if column in ("benchmark", "model") else "right"
        table.add_column(column, justify=justify, min_width=least, overflow="fold")  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*row)
    return table
