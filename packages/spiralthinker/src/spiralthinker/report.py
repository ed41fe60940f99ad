"""`report.html` of a run: results and curves of its stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table as TerminalTable

from ._common import COLUMNS, Curves, RunFolder, Table, Texts, cells, to_yaml, write_report
from .config import Settings

if TYPE_CHECKING:
    from .evaluations import Measured
    from .train import StageResult

# title -> metrics of metrics.jsonl, and what they are measured in
CURVES: dict[str, tuple[tuple[str, ...], str]] = {
    "Cross-entropy": (("cross_entropy",), "nats a target token"),
    "Alignment": (("alignment",), "standard deviations of h_eot"),
    "Spelling of the steps": (("latent_cross_entropy",), "nats a token of a step"),
    "Validation accuracy": (("validation/accuracy", "validation/boxed_rate"), "share of problems"),
    "Gradient norm": (("grad_norm",), ""),
}
SHOWN_GENERATIONS = 5
COST_COLUMNS = ["benchmark", "model", "text tokens", "latent tokens", "token passes", "seconds"]
COST_NOTE = "means over the responses; a token pass is one real token, of prompt or response, in one reading"


def cost_cells(measured: Measured, name: str) -> list[str]:
    """One row under `COST_COLUMNS`; "-" where no response was made in this call."""
    made = measured.responses
    if not made:
        return [measured.result.benchmark, name, f"{measured.result.mean_tokens:.1f}", "-", "-", "-"]
    latent = measured.latent_tokens / made
    return [
        measured.result.benchmark,
        name,
        f"{measured.result.mean_tokens - latent:.1f}",
        f"{latent:.1f}",
        f"{measured.token_passes / made:.0f}",
        f"{measured.seconds / made:.4f}",
    ]


def cost_table(rows: Sequence[tuple[Measured, str]]) -> TerminalTable:
    """The same for a terminal."""
    table = TerminalTable(*COST_COLUMNS, title="cost of a response", title_justify="left")
    for measured, name in rows:
        table.add_row(*cost_cells(measured, name))
    return table


def write_run_report(
    folder: RunFolder, settings: Settings, found: Mapping[str, Any], results: Sequence[StageResult]
) -> None:
    """Writes the page into the run folder."""
    sections: list[Any] = []
    evaluated = [(each, result.stage) for result in results for each in result.evaluations.values()]
    if evaluated:
        rows = [list(cells(measured.result, name)) for measured, name in evaluated]
        sections.append(Table("Greedy evaluation", list(COLUMNS), rows, note="value ± standard error"))
        costs = [cost_cells(*each) for each in evaluated]
        sections.append(Table("Cost of a response", COST_COLUMNS, costs, note=COST_NOTE))
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
                for row in evaluation.result.rows[:SHOWN_GENERATIONS]
            ]
            sections.append(Texts(f"Generations, {name}, {result.stage} stage", shown))
    sections.append(Texts("Settings", [("config.yaml", to_yaml(settings))]))
    method, latent = settings.method, settings.latent_settings()
    write_report(
        folder.report,
        "SpiralThinker",
        f"{method.name}: {settings.model.name_or_path}, N = {latent.annotation.latents}, K = {latent.iterations}, "
        f"{latent.schedule}, seed {found['seed']}, {found['seconds']:.0f} s",
        sections,
    )
