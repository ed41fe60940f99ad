"""A progress bar on stderr where a person is looking, a line a minute where that is a file."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_SECONDS = 60.0


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[..., None]]:
    """Yields `update(done, total, status="")`."""
    console = Console(file=sys.stderr)
    if not console.is_terminal:
        yield _Lines(label)
        return
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[status]}"),
        console=console,
        speed_estimate_period=3600,  # a step of a large model takes longer than rich's 30 s, and two are needed
    )
    task = bar.add_task(label, total=None, status="")

    def update(done: int, total: int, status: str = "") -> None:
        bar.update(task, completed=done, total=total, status=status)

    with bar:
        yield update


class _Lines:
    """For the log of a cluster: from rank 0, and only of what takes longer than a minute."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._next = time.monotonic() + LINE_SECONDS

    def __call__(self, done: int, total: int, status: str = "") -> None:
        if time.monotonic() < self._next:
            return
        from ..distributed import ranks  # loads torch, which asking a teacher does without

        self._next = time.monotonic() + LINE_SECONDS
        if ranks.is_main():
            print(f"{self._label}: {done} of {total} {status}".rstrip(), file=sys.stderr, flush=True)
