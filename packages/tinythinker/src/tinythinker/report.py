"""`report.html` of a run, and what the terminal shows at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table as TerminalTable
from rich.text import Text

from ._common import (
    Comparison,
    Curves,
    EvaluationResult,
    RunFolder,
    Table,
    Texts,
    compare,
    percent,
    printable,
    sentence,
    to_yaml,
    write_report,
)
from .config import Settings

COLUMNS = ("benchmark", "student", "answers", "n", "accuracy %", "abstained %", "cut %", "answer loglik", "tokens")
# title -> metrics of metrics.jsonl, and what they are measured in
CURVES: dict[str, tuple[tuple[str, ...], str]] = {
    "Cross-entropy": (
        ("cross_entropy/recall", "cross_entropy/analyze", "cross_entropy/summarize"),
        "nats a target token",
    ),
    "Preference loss": (("preference",), "nats a pair"),
    "NLL of what is preferred": (("nll",), "nats a token"),
    "Pairs that the student agrees with": (("agreement",), "share of pairs"),
    "Validation accuracy": (("validation/accuracy", "validation/abstained"), "share of questions"),
    "Gradient norm": (("grad_norm",), ""),
}
PAIR_COLUMNS = (
    "iteration", "questions", "chains right %", "all right", "all wrong", "recall pairs", "from teacher",
    "analyze pairs", "steps",
)  # fmt: skip
SHOWN_CHAINS = 5

Tests = Mapping[str, Mapping[str, EvaluationResult]]


def cells(result: EvaluationResult, student: str) -> tuple[str, ...]:
    """One row under `COLUMNS`: accuracy with its standard error, the rest as a mean."""
    return (
        result.benchmark,
        student,
        str(result.decoding["answering"]),
        str(result.n),
        percent(result.accuracy, result.standard_error),
        percent(1 - result.boxed_rate),
        percent(result.truncation_rate),
        f"{result.answer_loglik:.2f}",
        f"{result.mean_tokens:.1f}",
    )


def terminal_table(rows: Sequence[tuple[EvaluationResult, str]]) -> TerminalTable:
    """Results and the names of their students."""
    table = TerminalTable(title="value ± standard error", title_justify="left")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in COLUMNS[:3] else "right")
    for result, student in rows:
        table.add_row(*(Text(printable(cell)) for cell in cells(result, student)))
    return table


def against_the_first(tests: Tests) -> dict[str, dict[str, Comparison]]:
    """Phase -> "benchmark-answering" -> the phase against the first, on the same questions."""
    first = next(iter(tests), None)
    return {
        phase: {key: compare(result.rows, tests[first][key].rows) for key, result in found.items()}
        for phase, found in tests.items()
        if first is not None and phase != first
    }


def print_results(results: Mapping[str, Any], tests: Tests, folder: RunFolder, console: Console) -> None:
    rows = [(result, phase) for phase, found in tests.items() for result in found.values()]
    if rows:
        console.print(terminal_table(rows))
    for warning in results["tests_trained_on"]:
        console.print(printable(warning), style="yellow", highlight=False, markup=False, soft_wrap=True)
    for phase, found in against_the_first(tests).items():
        for key, comparison in found.items():
            console.print(
                f"{key}, {phase} - {next(iter(tests))}: {sentence(comparison)}", highlight=False, soft_wrap=True
            )
    console.print(f"exported: {results['exported']}, to {folder.model}", highlight=False, soft_wrap=True)
    console.print(f"report: {folder.report}", highlight=False, soft_wrap=True)


def write_run_report(
    folder: RunFolder,
    settings: Settings,
    results: Mapping[str, Any],
    tests: Tests,
    metrics: Mapping[str, Sequence[Mapping[str, Any]]],
) -> None:
    """Writes the page into the run folder."""
    sections: list[Any] = []
    rows = [list(cells(result, phase)) for phase, found in tests.items() for result in found.values()]
    if rows:
        note = "; ".join(["value ± standard error; an abstention is wrong", *results["tests_trained_on"]])
        sections.append(Table("Tests", list(COLUMNS), rows, note=note))
    compared = [
        [key, phase, sentence(comparison)]
        for phase, found in against_the_first(tests).items()
        for key, comparison in found.items()
    ]
    if compared:
        sections.append(Table("Against phase 1, paired", ["benchmark", "student", "difference"], compared))
    validated = {
        "accuracy": [
            (number, found["validation"]["validation/accuracy"])
            for number, found in enumerate(results["phases"].values())
            if found["validation"]
        ]
    }
    if len(validated["accuracy"]) > 1:
        note = f"0 is phase 1; the exported student is that of {results['exported']}"
        sections.append(
            Curves("Validation by iteration", validated, x_label="iteration", y_label="share of questions", note=note)
        )
    pairs = [list(_pair_cells(name, found)) for name, found in results["phases"].items() if "pairs" in found]
    if pairs:
        sections.append(
            Table("Chains and pairs of phase 2", list(PAIR_COLUMNS), pairs, note="of the training questions")
        )
    for phase, own in metrics.items():
        sections += curve_sections(own, phase)
    for phase, found in tests.items():
        for key, result in found.items():
            shown = [(row["id"], f"{row['text']}\n\ngold: {row['answer']}") for row in result.rows[:SHOWN_CHAINS]]
            sections.append(Texts(f"Chains, {key}, {phase}", shown))
    sections.append(Texts("Settings", [("config.yaml", to_yaml(settings))]))
    method = settings.method
    what = f"baseline {method.baseline}" if method.baseline else f"{method.iterations} x phase 2"
    write_report(
        folder.report,
        "TinyThinker",
        f"{settings.model.name_or_path}, {what}, seed {results['seed']}, {results['seconds']:.0f} s",
        sections,
    )


def curve_sections(rows: Sequence[Mapping[str, Any]], phase: str) -> list[Curves]:
    """The curves of whatever a phase logged."""
    sections = []
    for title, (names, unit) in CURVES.items():
        series = {
            name: [(row["step"], row[name]) for row in rows if row.get(name) is not None]
            for name in names
            if any(row.get(name) is not None for row in rows)
        }
        if series:
            sections.append(Curves(f"{title}, {phase}", series, x_label="optimiser step", y_label=unit))
    return sections


def _pair_cells(name: str, found: Mapping[str, Any]) -> tuple[str, ...]:
    passes = [found[key] for key in ("recall_pass", "analyze_pass") if key in found]
    chains, right = (sum(one[key] for one in passes) for key in ("chains", "right"))
    return (
        name,
        str(found["questions"]),
        percent(right / chains),
        " + ".join(str(one["questions_all_right"]) for one in passes),
        " + ".join(str(one["questions_all_wrong"]) for one in passes),
        str(found["pairs"]["recall"]),
        str(found["pairs"]["recall_from_teacher"]),
        str(found["pairs"]["analyze"]),
        str(found["steps"]),
    )
