"""Where a published benchmark comes from: its hub data set, or the original files on disk. Two doors, the same rows."""

from __future__ import annotations

import errno
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError
from .jsonl import fingerprint, parse_lines, read_bytes


@dataclass(frozen=True, slots=True)
class HubDataset:
    """A data set on the Hugging Face hub.

    revision: the commit that is loaded unless the caller names another
    rows: split -> number of rows to expect
    """

    id: str
    config: str
    revision: str
    rows: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Rows:
    """The untouched rows of one split, the source in words, and the revision or fingerprint of what was read."""

    rows: list[dict[str, Any]]
    source: str
    revision: str


def read_rows(
    name: str, split: str, data_dir: Path | None, revision: str | None, *, hub: HubDataset, columns: Sequence[str]
) -> Rows:
    """The rows of `split`: from `<data_dir>/<name>/<split>.jsonl`, or from the hub where `data_dir` is None.

    data_dir: may also be the folder `<name>` itself; a revision has no meaning then.
    columns: those that every copy must have, of text. Another number of rows than expected is a warning, since copies
        differ.

    Raises DataError for an unknown split, for files that are missing or broken, for missing columns, and for a hub that
    cannot be reached.
    """
    if split not in hub.rows:
        raise DataError(f"{name} has no split {split!r}; it has {', '.join(hub.rows)}")
    found = _hub_rows(name, split, hub, revision) if data_dir is None else _local_rows(name, split, data_dir)
    present = list(found.rows[0])
    if missing := [column for column in columns if column not in present]:
        raise DataError(f"{found.source}: no column {', '.join(missing)} (there are: {', '.join(present)})")
    for number, row in enumerate(found.rows, start=1):
        for column in columns:
            if not isinstance(row.get(column), str):
                raise DataError(f"{found.source}: row {number} has no text in column {column}")
    if len(found.rows) != hub.rows[split]:
        warnings.warn(
            f"{found.source}: {len(found.rows)} rows where {hub.rows[split]} were expected; say so beside any figure",
            stacklevel=3,
        )
    return found


def _local_rows(name: str, split: str, data_dir: Path) -> Rows:
    candidates = (data_dir / name / f"{split}.jsonl", data_dir / f"{split}.jsonl")
    for path in candidates:
        if path.is_file():
            content = read_bytes(path)
            return Rows([line.row for line in parse_lines(path, content)], str(path), fingerprint(content))
    raise DataError(f"{name}: there is neither {candidates[0]} nor {candidates[1]}")


def _hub_rows(name: str, split: str, hub: HubDataset, revision: str | None) -> Rows:
    import datasets  # not at the top: it is slow to import, and generated tasks need none

    revision = revision or hub.revision
    source = f"{hub.id} ({hub.config}, {split}) at {revision}"
    try:
        table = datasets.load_dataset(hub.id, hub.config, split=split, revision=revision)
    except OSError as error:  # unreachable, offline and not cached, unknown revision, gated
        if error.errno == errno.ENOSPC:
            raise
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise DataError(
            f"{source} cannot be loaded from the Hugging Face hub ({reason}). Go online, or give the original files: "
            f"--data-dir DIR with DIR/{name}/{split}.jsonl"
        ) from error
    rows = [dict(row) for row in table]
    if not rows:
        raise DataError(f"{source}: the split holds no rows")
    return Rows(rows, source, revision)
