"""A run folder, finished or still training: its curves, and the same problems through training."""

import itertools
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .._common import Curves, RunFolder, Texts, UserError, printable, write_report
from ..report import CURVES, by_id, curve, curve_sections, evenly, sample_sections, verdict
from ..samples import NAME, read_rows, read_samples

SHADES = "▁▂▃▄▅▆▇█"
CURVE_WIDTH = 18
SHOWN_VALIDATIONS = 6  # of one problem, on a terminal


def show_run(folder: RunFolder, console: Console, page: Path | None) -> None:
    """Prints the run, and writes it to a page if `page` names one.

    Raises:
        UserError: nothing is logged yet, or a file that is no run's.
    """
    metrics, samples = read_rows(folder.metrics), read_samples(folder.file(NAME))
    if not metrics:
        raise UserError(f"{folder.path}: this run has logged nothing yet")
    last = metrics[-1]["step"]
    finished = (folder.path / "results.json").exists()
    state = f"{last} steps, {'finished' if finished else 'not finished'}"
    console.print(Text(f"{folder.path}: {state}", style="bold"), soft_wrap=True)
    console.print()
    console.print(_curves(metrics))
    _show_samples(samples, console)
    if page is not None:
        sections: list[Curves | Texts] = [*curve_sections(metrics), *sample_sections(samples)]
        config = (folder.path / "config.yaml").read_text(encoding="utf-8", errors="replace")
        write_report(
            page, "Training run", f"{folder.path}\n{state}", [*sections, Texts("Settings", [("config.yaml", config)])]
        )


def _curves(metrics: Sequence[dict[str, Any]]) -> Table:
    """A row for each metric: first and last value, the range, and its course."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    for name in ("first", "last", "least", "most"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("course", no_wrap=True)
    for names, _ in CURVES.values():
        for name in names:
            values = [value for _, value in curve(metrics, name) if isfinite(value)]
            if values:
                numbers = (values[0], values[-1], min(values), max(values))
                table.add_row(name, *(f"{number:.3g}" for number in numbers), sparkline(values))
    return table


def sparkline(values: Sequence[float], width: int = CURVE_WIDTH) -> str:
    """A line of at most `width` blocks, each the mean of its share of the values, from the least to the greatest."""
    width = min(width, len(values))
    bounds = [round(place * len(values) / width) for place in range(width + 1)]
    means = [sum(values[low:high]) / (high - low) for low, high in itertools.pairwise(bounds)]
    low, span = min(means), max(means) - min(means)
    if span == 0:
        return SHADES[0] * width
    return "".join(SHADES[round((mean - low) / span * (len(SHADES) - 1))] for mean in means)


def _show_samples(samples: Sequence[dict[str, Any]], console: Console) -> None:
    if not samples:
        console.print("\nno samples: they are kept when evaluation.every_steps is set", style="dim")
        return
    for name, own in by_id(samples).items():
        console.print()
        console.print(Text(printable(name), style="bold"))
        console.print(Text(printable(own[0]["question"])))
        console.print(Text(f"reference: {printable(own[0]['answer'])}"))
        for row in evenly(own, SHOWN_VALIDATIONS):
            colour = "green" if row["correct"] else "red"
            console.print(Text(printable(verdict(row)), style=colour))
            console.print(Text(printable(row["text"]), style="dim"))
