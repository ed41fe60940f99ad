"""Where a published benchmark comes from: its hub data set, or the original files. Two doors, the same rows."""

from __future__ import annotations

import errno
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import Any, get_args

from ..errors import DataError
from .jsonl import Line, fingerprint, parse_array, parse_csv, parse_lines, read_bytes

# A layout of rows: column -> the type its values must have. Copies of a data set differ in column names and nesting.
Layout = Mapping[str, type | UnionType]

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class HubDataset:
    """A data set on the Hugging Face hub.

    revision: the commit that is loaded unless the caller names another; None where none was ever verified, which loads
        what the hub holds today. Results record the commit that was loaded.
    rows: our split -> number of rows to expect, or several numbers where copies are known to differ
    splits: our split -> the hub's name for it, where that is another: test questions may lie in a split called "train"
    """

    id: str
    config: str
    revision: str | None
    rows: Mapping[str, int | tuple[int, ...]]
    splits: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rows:
    """The untouched rows of one split.

    rows, places: in the order of the source; where each stands, for messages ("FILE, line 3")
    source: in words
    revision: the hub's commit, or the fingerprint of the file
    layout: which of the layouts the rows have, as its index
    """

    rows: list[dict[str, Any]]
    places: list[str]
    source: str
    revision: str
    layout: int = 0

    def error(self, index: int, message: str) -> DataError:
        """A DataError that names the place of row `index`."""
        return DataError(f"{self.places[index]}: {message}")


def parse_file(path: Path, content: bytes) -> Iterator[Line]:
    """The rows of a data file, by the ending of its name: .json (an array of objects), .csv (with a header), .jsonl."""
    match path.suffix:
        case ".json":
            return parse_array(path, content)
        case ".csv":
            return parse_csv(path, content)
        case _:
            return parse_lines(path, content)


def read_rows(
    name: str,
    split: str,
    data_dir: Path | None,
    revision: str | None,
    *,
    hub: HubDataset,
    columns: Sequence[Layout],
    files: Sequence[str] = (),
    parse: Callable[[Path, bytes], Iterator[Line]] = parse_file,
    local_rows: Mapping[str, int] = MappingProxyType({}),
) -> Rows:
    """The rows of `split`: from a file in `<data_dir>/<name>/`, or from the hub where `data_dir` is None.

    data_dir: may also be the folder `<name>` itself; a revision has no meaning then.
    columns: the layouts that the benchmark's reader knows; the first whose columns are all there is `layout` of the
        result, and each row must then hold values of its types. Null counts as missing.
    files: the names that the original file of this split goes by, the first that is there being read; "<split>.jsonl"
        if none are given
    parse: how a file becomes rows
    local_rows: file -> rows to expect of it, where it is known to hold another number than the hub's split

    Another number of rows than expected is a warning, since copies differ.

    Raises DataError for an unknown split, for files that are missing or broken, for columns that fit no layout, and for
    a hub that cannot be reached.
    """
    check_split(name, split, hub)
    expected = hub.rows[split]
    if data_dir is None:
        rows, commit = download(name, split, hub, revision or hub.revision)
        source = f"{hub.id} ({hub.config}, {hub.splits.get(split, split)}) at {commit}"
        places = [f"{source}: row {number}" for number in range(1, len(rows) + 1)]
    else:
        path = find_file(name, data_dir, files or (f"{split}.jsonl",))
        content = read_bytes(path)
        lines = list(parse(path, content))
        rows, places = [line.row for line in lines], [line.place for line in lines]
        source, commit = str(path), fingerprint(content)
        expected = local_rows.get(path.name, expected)
    layout = _layout(source, rows[0], columns)
    found = Rows(rows, places, source, commit, layout)
    _check_types(found, columns[layout])
    expect_rows(source, len(rows), expected)
    return found


def check_split(name: str, split: str, hub: HubDataset) -> None:
    """DataError for a split that the data set does not have."""
    if split not in hub.rows:
        raise DataError(f"{name} has no split {split!r}; it has {', '.join(hub.rows)}")


def expect_rows(source: str, count: int, expected: int | tuple[int, ...]) -> None:
    """Warn of another number of rows than expected."""
    accepted = expected if isinstance(expected, tuple) else (expected,)
    if count not in accepted:
        wanted = " or ".join(str(number) for number in accepted)
        warnings.warn(f"{source}: {count} rows where {wanted} were expected; say so beside any figure", stacklevel=4)


def find_file(name: str, data_dir: Path, files: Sequence[str]) -> Path:
    """The first of `files` that is there, below `<data_dir>/<name>/` or in `data_dir` itself; DataError without one."""
    candidates = [folder / file for folder in (data_dir / name, data_dir) for file in files]
    for path in candidates:
        if path.is_file():
            return path
    *others, last = map(str, candidates)
    raise DataError(f"{name}: there is neither {', '.join(others)} nor {last}")


def download(name: str, split: str, hub: HubDataset, revision: str | None) -> tuple[list[dict[str, Any]], str]:
    """The rows of our split `split` from the hub, and the commit they come from.

    Raises DataError when the hub cannot be reached, or refuses.
    """
    import datasets  # not at the top: it is slow to import, and generated tasks need none

    theirs = hub.splits.get(split, split)
    try:
        builder = datasets.load_dataset_builder(hub.id, hub.config, revision=revision)
        builder.download_and_prepare()
        rows = [dict(row) for row in builder.as_dataset(split=theirs)]
    # Unreachable, offline and not cached, unknown revision, gated; ValueError: no such config or split.
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise DataError(
            f"{hub.id} ({hub.config}, {theirs}) cannot be loaded from the Hugging Face hub ({reason}). Go online, or "
            f"give the original files: --data-dir DIR with DIR/{name}/"
        ) from error
    commit = builder.hash if builder.hash and _COMMIT.fullmatch(builder.hash) else revision or "main"
    if revision is not None and _COMMIT.fullmatch(revision) and commit != revision:
        # Offline, `datasets` serves the newest copy in its cache, whatever was asked for.
        warnings.warn(f"{hub.id}: the copy that was loaded is {commit}, not {revision}", stacklevel=3)
    if not rows:
        raise DataError(f"{hub.id} ({hub.config}, {theirs}) at {commit}: the split holds no rows")
    return rows, commit


def _layout(source: str, row: Mapping[str, Any], layouts: Sequence[Layout]) -> int:
    for index, layout in enumerate(layouts):
        if all(column in row for column in layout):
            return index
    present = f"(there are: {', '.join(row)})"
    if len(layouts) == 1:
        missing = ", ".join(column for column in layouts[0] if column not in row)
        raise DataError(f"{source}: no column {missing} {present}")
    known = "; or ".join(", ".join(layout) for layout in layouts)
    raise DataError(f"{source}: the columns are not those of any known copy: {known} {present}")


def _check_types(found: Rows, layout: Layout) -> None:
    for index, row in enumerate(found.rows):
        for column, accepted in layout.items():
            if not isinstance(row.get(column), accepted):
                kinds = get_args(accepted) or (accepted,)
                wanted = " or ".join("text" if kind is str else kind.__name__ for kind in kinds)
                raise found.error(index, f"no {wanted} in column {column}")
