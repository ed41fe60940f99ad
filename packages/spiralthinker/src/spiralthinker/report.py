"""`report.html` of a run: results and curves of its stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ._common import COLUMNS, Curves, RunFolder, Table, Texts, cells, to_yaml, write_report
from .config import Settings

if TYPE_CHECKING:
    from .train import StageResult

# title -> metrics of metrics.jsonl, and what they are measured in
CURVES: dict[str, tuple[tuple[str, ...], str]] = {
    "Cross-entropy": (("cross_entropy",), "nats a target token"),
    "Alignment": (("alignment",), "standard deviations of the teacher's states"),
    "Validation accuracy": (("validation/accuracy", "validation/boxed_rate"), "share of problems"),
    "Gradient norm": (("grad_norm",), ""),
}
SHOWN_GENERATIONS = 5


def write_run_report(
    folder: RunFolder, settings: Settings, found: Mapping[str, Any], results: Sequence[StageResult]
) -> None:
    """Writes the page into the run folder."""
    sections: list[Any] = []
    rows = [list(cells(each, result.stage)) for result in results for each in result.evaluations.values()]
    if rows:
        sections.append(Table("Greedy evaluation", list(COLUMNS), rows, note="value ± standard error"))
    for result in results:
        for title, (names, unit) in CURVES.items():
            series = {
                name: [(row["step"], row[name]) for row in result.history if row.get(name) is not None]
                for name in names
                if any(row.get(name) is not None for row in result.history)
            }
            if series:
                sections.append(
                    Curves(f"{title}, {result.stage} stage", series, x_label="optimiser step", y_label=unit)
                )
        for name, evaluation in result.evaluations.items():
            shown = [
                (row["id"], f"{row['text']}\n\nreference: {row['answer']}")
                for row in evaluation.rows[:SHOWN_GENERATIONS]
            ]
            sections.append(Texts(f"Generations, {name}, {result.stage} stage", shown))
    sections.append(Texts("Settings", [("config.yaml", to_yaml(settings))]))
    method = settings.method
    write_report(
        folder.report,
        "SpiralThinker",
        f"{settings.model.name_or_path}, N = {method.latents}, K = {method.iterations}, {method.schedule}, "
        f"seed {found['seed']}, {found['seconds']:.0f} s",
        sections,
    )
