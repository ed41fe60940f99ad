"""A progress bar on stderr where a person is looking, and nothing where not."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[..., None]]:
    """Yields `update(done, total, status="")`."""
    console = Console(file=sys.stderr)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[status]}"),
        console=console,
        disable=not console.is_terminal,
        speed_estimate_period=3600,  # a step of a large model takes longer than rich's 30 s, and two are needed
    )
    task = bar.add_task(label, total=None, status="")

    def update(done: int, total: int, status: str = "") -> None:
        bar.update(task, completed=done, total=total, status=status)

    with bar:
        yield update
