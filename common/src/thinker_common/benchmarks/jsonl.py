"""JSON lines as people send them: every complaint names the file, the line and the column."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Line:
    """One row and where it stands.

    number: of the line, from 1
    text: the line as it is in the file
    row: the JSON object it holds
    """

    path: Path
    number: int
    text: str
    row: dict[str, Any]

    def error(self, message: str, key: str | None = None) -> DataError:
        """A DataError at this line; its column is that of `key`, or 1."""
        column = self.text.find(json.dumps(key, ensure_ascii=False)) + 1 if key is not None else 1
        return DataError(f"{self.path}, line {self.number}, column {max(column, 1)}: {message}")


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
        text = _decode(path, number, raw)
        if not text.strip():
            continue
        empty = False
        yield Line(path, number, text, _parse(path, number, text))
    if empty:
        raise DataError(f"{path}: the file holds no rows")


def _decode(path: Path, number: int, raw: bytes) -> str:
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
    if not isinstance(row, dict):
        kind = {list: "a list", str: "a string", type(None): "null"}.get(type(row), "a bare value")
        raise DataError(f"{path}, line {number}, column 1: a row must be a JSON object, and this is {kind}")
    return row
