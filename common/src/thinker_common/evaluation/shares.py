"""An evaluation shared out over the ranks: each makes the rows of its share, and every rank gets the rows of all.

Rank 0 writes to the evaluation's own file, rank r to `generations.rank-r.jsonl` beside it. What a killed run left in
such files goes into the evaluation's own when it goes on, on however many ranks, so that no row is lost or repeated;
but what it left on a host that shares no folder with rank 0 is made anew.

A rank makes its rows on its own: it has the whole model, or a sharded one whose passes `in_step` keeps together. So a
share may well be empty. One process without a process group is rank 0 of 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from ..distributed import ranks
from ..distributed.in_step import in_step
from ..distributed.phases import phase
from ..errors import UserError
from .generations import GenerationsFile, Row, rank_file, rank_files, row_key, what_differs

T = TypeVar("T")
Append = Callable[[Sequence[Row]], None]


def all_rows(
    wanted: Sequence[T],
    make: Callable[[list[T], Append], None],
    *,
    key: Callable[[T], tuple[str, int]],
    length: Callable[[T], int],
    output: str | Path | None,
    settings: Mapping[str, Any],
    progress: Callable[[int, int], None] | None,
    name: str,
    model: Any,
) -> list[Row]:
    """The row of each of `wanted`, in their order, on every rank: made by one of them, now or by an earlier run.

    make: makes the rows of this rank's share, which it is given longest first, and hands them on as they finish
    key: that of the row, see `row_key`
    length: by which the shares are balanced; each rank gets every `world_size`-th, the longest first
    output, settings: see `GenerationsFile`; None keeps the rows in memory only
    progress: called with (rows done, rows in all) without the shares of others, first with what an earlier run has done
    name: of the evaluation, for messages
    model: what `make` calls, None if that is an engine of its own; its weights may be divided between the ranks

    Raises on every rank if any has an error, when all are through with their shares; UserError as `GenerationsFile`,
    and where the ranks were given different settings.
    """
    _check_same(settings)
    with ExitStack() as opened:
        file: GenerationsFile | None = None
        with _errors_on_all(f"open {output}"):
            if output is not None and ranks.is_main():
                file = opened.enter_context(GenerationsFile(output, settings))
                file.absorb_rank_files()
        earlier = ranks.from_main(file.rows if file is not None else [], "rows of an earlier run")
        rows: dict[tuple[str, int], Row] = {row_key(row): row for row in earlier}
        done = len(rows)
        share = ranks.shard(sorted((one for one in wanted if key(one) not in rows), key=lambda one: -length(one)))
        made: list[Row] = []

        def append(finished: Sequence[Row]) -> None:
            if file is not None:
                file.append(finished)
            made.extend(finished)
            if progress is not None:
                progress(done + len(made), done + len(share))

        with _errors_on_all(f"evaluate {name}"), phase(f"evaluate {name}"), in_step(model):
            if output is not None and not ranks.is_main():
                own = rank_file(output, ranks.rank())
                own.unlink(missing_ok=True)  # rank 0 has taken over those it sees
                file = opened.enter_context(GenerationsFile(own, settings))
            if progress is not None:
                progress(done, done + len(share))
            make(share, append)
        by_rank = ranks.gather(made, f"rows of {name}")
        with _errors_on_all(f"complete {output}"):
            if file is not None and ranks.is_main():
                file.append([row for of_other in by_rank[1:] for row in of_other])
                for path in rank_files(file.path):
                    path.unlink()
        with _errors_on_all(f"remove the parts of {output}"):
            if output is not None and not ranks.is_main():
                rank_file(output, ranks.rank()).unlink(missing_ok=True)  # where rank 0 does not see it
    rows.update((row_key(row), row) for of_rank in by_rank for row in of_rank)
    return [rows[key(one)] for one in wanted]


def _check_same(settings: Mapping[str, Any]) -> None:
    """UserError on every rank unless all of them evaluate the same model on the same problems in the same way."""
    first, *others = ranks.gather(dict(settings), "settings of the evaluation")
    for rank, other in enumerate(others, start=1):
        if other != first:
            raise UserError(
                f"the ranks were given different evaluations, rank 0 and rank {rank}: {what_differs(first, other)}. "
                "Every host needs the same model, data and versions"
            )


@contextmanager
def _errors_on_all(what: str) -> Iterator[None]:
    """An error inside, on any rank, is raised on every rank behind it, so that none waits for one that gave up."""
    error = None
    try:
        yield
    except Exception as failure:
        error = failure
    ranks.raise_together(error, what)
