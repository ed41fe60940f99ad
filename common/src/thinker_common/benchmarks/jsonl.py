"""Data files as people send them: JSON lines, JSON arrays, CSV. Every complaint names the file and the line."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Line:
    """One row and where it stands.

    number: of the line on which it begins, from 1
    text: the row as it is in the file; empty for CSV
    row: column -> value
    """

    path: Path
    number: int
    text: str
    row: dict[str, Any]

    @property
    def place(self) -> str:
        """Where the row stands, for messages."""
        return f"{self.path}, line {self.number}"

    def error(self, message: str, key: str | None = None) -> DataError:
        """A DataError at this line; its column is that of `key`, or 1."""
        column = self.text.find(json.dumps(key, ensure_ascii=False)) + 1 if key is not None else 1
        return DataError(f"{self.place}, column {max(column, 1)}: {message}")


def read_bytes(path: Path) -> bytes:
    """The content of a data file; DataError when it is not there or cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise DataError(f"{path}: this is a folder; a file is needed") from None
    except PermissionError:
        raise DataError(f"{path}: no permission to read it") from None


def fingerprint(content: bytes) -> str:
    """What identifies a local file in results, in the place of a hub revision."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def parse_lines(path: Path, content: bytes) -> Iterator[Line]:
    """The rows of a JSON-lines file; blank lines are skipped.

    Raises DataError for bytes that are not UTF-8, for broken JSON, for a line that is not an object, and for a file
    without rows.
    """
    empty = True
    for number, raw in enumerate(content.removeprefix(BYTE_ORDER_MARK).split(b"\n"), start=1):
        text = decode_line(path, number, raw)
        if not text.strip():
            continue
        empty = False
        yield Line(path, number, text, _parse(path, number, text))
    if empty:
        raise DataError(f"{path}: the file holds no rows")


def parse_array(path: Path, content: bytes) -> Iterator[Line]:
    """The rows of a file that is one JSON array of objects.

    Raises DataError as `parse_lines` does, and for a file that is no array.
    """
    text = "\n".join(
        decode_line(path, number, raw)
        for number, raw in enumerate(content.removeprefix(BYTE_ORDER_MARK).split(b"\n"), start=1)
    )
    decoder = json.JSONDecoder()
    position = _skip_space(text, 0)
    number = 1 + text.count("\n", 0, position)  # of the line on which `position` is

    def broken(reason: str) -> DataError:
        column = position - text.rfind("\n", 0, position)
        return DataError(f"{path}, line {number}, column {column}: {reason}")

    if text[position : position + 1] != "[":
        raise broken("the file must be one JSON array of objects, in [ ]")
    if text[(after := _skip_space(text, position + 1)) : after + 1] == "]":
        raise DataError(f"{path}: the file holds no rows")
    separator = "["
    while separator != "]":
        begin = _skip_space(text, position + 1)
        number += text.count("\n", position, begin)
        position = begin
        try:
            row, end = decoder.raw_decode(text, begin)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {error.lineno}, column {error.colno}: broken JSON ({error.msg})") from None
        except (RecursionError, ValueError) as error:
            raise broken(f"JSON that cannot be read ({error})") from None
        yield Line(path, number, text[begin:end], _as_object(row, text[begin:end], broken))
        position = _skip_space(text, end)
        number += text.count("\n", begin, position)
        separator = text[position : position + 1]
        if separator not in (",", "]"):
            raise broken("broken JSON (a comma, or ] at the end, is missing)")
    if rest := text[position + 1 :].strip():
        raise broken(f"{rest[:20]!r} after the end of the array")


def _skip_space(text: str, position: int) -> int:
    while text[position : position + 1] in (" ", "\n", "\r", "\t"):
        position += 1
    return position


def parse_csv(path: Path, content: bytes, header: Sequence[str] = ()) -> Iterator[Line]:
    """The rows of a CSV file, every value a string; cells in quotes may hold commas and line breaks.

    header: the columns, for a file that does not name them in its first row.

    Raises DataError for bytes that are not UTF-8, for a row with more or fewer cells than columns, and for a file
    without rows.
    """
    content = content.removeprefix(BYTE_ORDER_MARK)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        begin = content.rfind(b"\n", 0, error.start) + 1
        decode_line(path, content.count(b"\n", 0, begin) + 1, content[begin:])
        raise AssertionError("a line that cannot be decoded") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    columns, empty, number = list(header), True, 1
    try:
        for cells in reader:
            if not columns:
                columns = [cell.strip() for cell in cells]
            elif cells:
                empty = False
                if len(cells) != len(columns):
                    raise DataError(f"{path}, line {number}: {len(cells)} cells, and there are {len(columns)} columns")
                yield Line(path, number, "", dict(zip(columns, cells, strict=True)))
            number = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}, line {number}: broken CSV ({error})") from None
    if empty:
        raise DataError(f"{path}: the file holds no rows")


def decode_line(path: Path, number: int, raw: bytes) -> str:
    """Line `number` of a file as text; DataError, with the column, for bytes that are not UTF-8."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        column = len(raw[: error.start].decode("utf-8")) + 1
        raise DataError(
            f"{path}, line {number}, column {column}: not UTF-8 (byte 0x{raw[error.start]:02x}); save the file as UTF-8"
        ) from None


def _parse(path: Path, number: int, text: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {number}, column {error.colno}: broken JSON ({error.msg})") from None
    except (RecursionError, ValueError) as error:  # nested too deeply; a number with thousands of digits
        raise DataError(f"{path}, line {number}, column 1: JSON that cannot be read ({error})") from None
    return _as_object(row, text, lambda reason: DataError(f"{path}, line {number}, column 1: {reason}"))


def _as_object(row: Any, text: str, broken: Callable[[str], DataError]) -> dict[str, Any]:
    if not isinstance(row, dict):
        kind = {list: "a list", str: "a string", type(None): "null"}.get(type(row), "a bare value")
        raise broken(f"a row must be a JSON object, and this is {kind}")
    if "\\ud" in text.lower():  # an escape such as \ud83d, which is half of a character
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise broken(f"\\u{ord(error.object[error.start]):04x} alone is half of a character") from None
    return row
