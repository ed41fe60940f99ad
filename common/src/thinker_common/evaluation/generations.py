"""`generations.jsonl`: one line for the settings, then one a response, appended as they finish.

A row is told apart by its `id`, that of the problem, and where a problem has several responses by its `sample` besides.

A killed run leaves whole lines, save perhaps the last, and goes on from them. One process at a time writes to a file:
where an evaluation is shared out, every rank but the first has its own beside it, `generations.rank-1.jsonl`.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..benchmarks.jsonl import parse_lines, read_bytes
from ..distributed import file_lock
from ..errors import DataError, UserError

Row = Mapping[str, Any]

_BEGINNING = b'{"settings": '  # of every such file


def read_generations(path: str | Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(settings, rows) of a file; a last line that was not written to its end does not count.

    Raises DataError, with the line, for a file that is missing or broken or no `generations.jsonl`.
    """
    path = Path(path)
    content = read_bytes(path)
    whole = content[: content.rfind(b"\n") + 1]
    if not whole:
        if not content.startswith(_BEGINNING[: len(content)]):  # nothing of ours, which must not be written over
            raise DataError(f"{path}: no settings of an evaluation here; this is another kind of file")
        return {}, []
    lines = list(parse_lines(path, whole))
    header = lines[0].row
    if not isinstance(header.get("settings"), dict):
        raise lines[0].error("no settings of an evaluation here; this is another kind of file")
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for line in lines[1:]:
        if "id" not in line.row:
            raise line.error("a row without an id")
        if row_key(line.row) in rows:
            sample = f", sample {line.row['sample']}," if "sample" in line.row else ""
            raise line.error(f"the problem {line.row['id']!r}{sample} again")
        rows[row_key(line.row)] = line.row
    return header["settings"], list(rows.values())


def row_key(row: Row) -> tuple[str, int]:
    """What tells a row apart: the problem's id and the number of the sample."""
    return row["id"], row.get("sample", 0)


def by_problem(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each problem in the order of their samples; problems in the order of their first row."""
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        grouped.setdefault(row["id"], []).append(row)
    return {problem_id: sorted(own, key=row_key) for problem_id, own in grouped.items()}


def share_right(rows: Sequence[Row]) -> float:
    """The score of one problem: the share of its samples that are right."""
    return sum(row["correct"] for row in rows) / len(rows)


def rank_file(path: str | Path, rank: int) -> Path:
    """Where a rank other than 0 writes its part of `path`."""
    path = Path(path)
    return path.with_name(f"{path.stem}.rank-{rank}{path.suffix}")


def rank_files(path: str | Path) -> list[Path]:
    """Those that there are."""
    path = Path(path)
    return sorted(path.parent.glob(f"{glob.escape(path.stem)}.rank-*{glob.escape(path.suffix)}"))


class GenerationsFile:
    """An open `generations.jsonl` of one evaluation: the rows it already holds, and a place to append more."""

    def __init__(self, path: str | Path, settings: Mapping[str, Any]) -> None:
        """Begin the file, or go on with one that was written under the same settings.

        Raises UserError, naming what differs, when it was written under others, and when it is open already, in
        another process or here: both would make and write the same rows. DataError when it is broken.
        """
        self.path = Path(path)
        self._settings = json.loads(json.dumps(settings))  # as they come back from a file: tuples are lists
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 - closed by `close`
        except IsADirectoryError:
            raise DataError(f"{self.path}: this is a folder; a file is needed") from None
        try:
            other = file_lock.lock(self._file.fileno())
            if other is not None:
                raise UserError(f"{self.path}: {other} is writing to it: wait for its end, or choose another output")
            written, self.rows = read_generations(self.path)
            if written and written != self._settings:
                raise _other_settings(self.path, written, self._settings)
            content = read_bytes(self.path)
            self._file.truncate(content.rfind(b"\n") + 1)
            if not written:
                self._write([{"settings": self._settings}])
        except BaseException:
            self.close()
            raise

    def append(self, rows: Sequence[Row]) -> None:
        """Add rows, on the disk when this returns. After an OSError (disk full) the file is as it was before."""
        self._write(rows)
        self.rows.extend(dict(row) for row in rows)

    def absorb_rank_files(self) -> None:
        """Take over the rows that the ranks of a killed run left in files of their own, and remove these.

        A row may be in both: the kill may have come between. Raises like the opening of the file.
        """
        for path in rank_files(self.path):
            written, rows = read_generations(path)
            if written and written != self._settings:
                raise _other_settings(path, written, self._settings)
            known = {row_key(row) for row in self.rows}
            self.append([row for row in rows if row_key(row) not in known])
            path.unlink()

    def close(self) -> None:
        self._file.close()

    def _write(self, rows: Sequence[Row]) -> None:
        content = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode()
        end = self._file.seek(0, os.SEEK_END)
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            self._file.truncate(end)
            error.filename = os.fspath(self.path)
            raise

    def __enter__(self) -> GenerationsFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def what_differs(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """`name was ... and is ...` for each setting that is not the same."""
    return "; ".join(
        f"{name} was {json.dumps(before.get(name))} and is {json.dumps(after.get(name))}"
        for name in {**before, **after}
        if before.get(name) != after.get(name)
    )


def _other_settings(path: Path, written: Mapping[str, Any], settings: Mapping[str, Any]) -> UserError:
    return UserError(
        f"{path} was written under other settings: {what_differs(written, settings)}. "
        "Choose another output, or remove that file to begin anew"
    )
