"""An inspection on the terminal and as a page that opens offline."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table as TerminalTable
from rich.text import Text

from ._common import Curves, Table, Texts, printable, write_report
from .inspection import Inspection, LatentStep

LEGEND = (
    "nearest vocabulary entries (cosine); > what the output head says there (with shift 1 at the token before); change "
    "of the embedding"
)


def show_inspection(found: Inspection, console: Console) -> None:
    """As tables on a terminal: a row for each iteration, a column for each latent."""

    def say(text: str, style: str = "") -> None:
        console.print(Text(printable(text), style=style), soft_wrap=True)

    say(found.problem.question, "bold")
    say(found.response + (" (cut off)" if found.truncated else ""))
    say(f"reference: {found.problem.target()}; {found.token_passes} token passes", "dim")
    if not found.steps:
        say("no latent step in this response")
    for number, step in enumerate(found.steps, start=1):
        title = f"latent step {number}" + (f", stands for {step.stands_for}" if step.stands_for else "")
        columns = ["k", "alignment", *(f"latent {place}" for place in range(1, len(step.at[0]) + 1))]
        table = TerminalTable(*columns, title=Text(printable(title)), title_justify="left", show_lines=True)
        for row in _rows(step):
            table.add_row(*(Text(printable(cell)) for cell in row))
        console.print()
        console.print(table)
    if found.steps:
        say(f"a latent: {LEGEND}")


def _rows(step: LatentStep) -> list[list[str]]:
    rows = []
    for k, latents in enumerate(step.at):
        cells = []
        for latent in latents:
            nearest = ", ".join(f"{token!r} {cosine:.2f}" for token, cosine in latent.nearest)
            says = ", ".join(f"{token!r} {probability:.0%}" for token, probability in latent.says)
            change = "" if latent.change is None else f"\nchange {latent.change:.2f}"
            cells.append(f"{nearest}\n> {says}{change}")
        rows.append([str(k), f"{step.alignment[k]:.3f}" if step.alignment else "-", *cells])
    return rows


def write_inspection(path: Path, found: Inspection, subtitle: str, accuracy: Sequence[Curves] = ()) -> None:
    """The same as a page that opens offline, with curves over the iterations. accuracy: curves to put behind them."""
    steps = "\n".join(f"{number}. {step}" for number, step in enumerate(found.problem.steps, start=1))
    texts = [
        ("question", found.problem.question),
        ("response", found.response + ("\n(cut off)" if found.truncated else "")),
        ("reference", "\n".join(part for part in (steps, found.problem.target()) if part)),
    ]
    sections: list[Texts | Table | Curves] = [Texts("Question and response", texts)]
    for number, step in enumerate(found.steps, start=1):
        columns = ["k", "alignment", *(f"latent {place}" for place in range(1, len(step.at[0]) + 1))]
        title = f"Latent step {number}" + (f", stands for {step.stands_for}" if step.stands_for else "")
        sections.append(Table(title, columns, _rows(step), note=LEGEND))
    changes = {
        f"step {number}, latent {place + 1}": [
            (k, change) for k, latents in enumerate(step.at) if (change := latents[place].change) is not None
        ]
        for number, step in enumerate(found.steps, start=1)
        for place in range(len(step.at[0]))
    }
    if any(len(line) > 1 for line in changes.values()):
        sections.append(
            Curves("Change between iterations", changes, x_label="iteration k", y_label="relative to the one before")
        )
    aligned = {
        f"step {number}": list(enumerate(step.alignment))
        for number, step in enumerate(found.steps, start=1)
        if step.alignment
    }
    if aligned:
        sections.append(Curves("Alignment distance", aligned, x_label="reading k", y_label="standard deviations"))
    write_report(path, "SpiralThinker: inside the latents", subtitle, [*sections, *accuracy])
