"""Rows to score: JSON lines with a prompt, an answer or several, and where wanted what stands between and after them.

A row: `prompt`, then either `answer` or `answers`, all of them texts; where wanted `reasoning`, which comes between the
two, `suffix`, which ends every answer (see `closing` in `likelihood.scorer`), and `id`, by default the number of the
line. Texts are joined as they stand: an answer that a space should precede begins with one.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..benchmarks.jsonl import Line, parse_lines, read_bytes
from ..errors import DataError, SettingsError, did_you_mean

FIELDS = ("prompt", "reasoning", "answer", "answers", "suffix", "id")


@dataclass(frozen=True, slots=True)
class ScoringRow:
    """One row of the file, and the line it stands on."""

    line: Line
    id: str | int
    prompt: str
    reasoning: str
    answers: tuple[str, ...]
    suffix: str


def read_rows(path: str | Path, columns: Mapping[str, str] = MappingProxyType({})) -> list[ScoringRow]:
    """The rows of a file. `columns`: our field -> the file's column, for those that differ.

    Raises SettingsError for a mapping of an unknown field; DataError, with line and column, for a row that cannot be
    scored: broken UTF-8 or JSON, a prompt or answers that are missing, empty or no text, an id used twice.
    """
    path = Path(path)
    for field in columns:
        if field not in FIELDS:
            raise SettingsError(
                f"--column {field}={columns[field]}: unknown field {field!r}{did_you_mean(field, FIELDS)} "
                f"(fields: {', '.join(FIELDS)})"
            )
    reader = _Reader(columns)
    rows: list[ScoringRow] = []
    lines_of_ids: dict[str | int, int] = {}
    for line in parse_lines(path, read_bytes(path)):
        if not rows:
            reader.check_mapping(line)
        row = reader.row(line)
        if (first := lines_of_ids.setdefault(row.id, line.number)) != line.number:
            raise line.error(f"the id of line {first} again ({row.id!r}); ids must differ", reader.column("id"))
        rows.append(row)
    return rows


def sample(rows: Sequence[ScoringRow], limit: int, seed: int) -> list[ScoringRow]:
    """`limit` of the rows, drawn from `seed`, in their old order; all of them if there are no more."""
    if limit >= len(rows):
        return list(rows)
    return [rows[index] for index in sorted(random.Random(seed).sample(range(len(rows)), limit))]


class _Reader:
    """Lines to rows, under one column mapping."""

    def __init__(self, columns: Mapping[str, str]) -> None:
        self._columns = columns

    def column(self, field: str) -> str:
        return self._columns.get(field, field)

    def check_mapping(self, line: Line) -> None:
        """On the first row: every column that the mapping names must be there."""
        for field, theirs in self._columns.items():
            if theirs not in line.row:
                raise line.error(
                    f"no column {theirs!r} for {field}{did_you_mean(theirs, line.row)} "
                    f"(columns: {', '.join(line.row) or 'none'})"
                )

    def row(self, line: Line) -> ScoringRow:
        if self._value(line, "prompt") is None:
            raise line.error(
                f"the row has no prompt (column {self.column('prompt')!r}); map another one: --column prompt=NAME "
                f"(columns: {', '.join(line.row) or 'none'})",
                self.column("prompt"),
            )
        return ScoringRow(
            line=line,
            id=self._id(line),
            prompt=self._text(line, "prompt"),
            reasoning=self._text(line, "reasoning", may_be_empty=True),
            answers=self._answers(line),
            suffix=self._text(line, "suffix", may_be_empty=True),
        )

    def _value(self, line: Line, field: str) -> Any:
        return line.row.get(self.column(field))

    def _id(self, line: Line) -> str | int:
        value = self._value(line, "id")
        if value is None:
            return line.number
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise self._error(line, "id", f"must be a text or a whole number, and is {_kind(value)}")
        return value

    def _answers(self, line: Line) -> tuple[str, ...]:
        # A field that was mapped wins over a column that merely has the other's name.
        fields = [field for field in ("answer", "answers") if self._value(line, field) is not None]
        fields = [field for field in fields if field in self._columns] or fields
        if not fields:
            names = " nor ".join(repr(self.column(field)) for field in ("answer", "answers"))
            raise line.error(f"the row has neither answer nor answers (no column {names})")
        if len(fields) == 2:
            raise line.error("the row has both answer and answers: give one of them, or map it with --column")
        [field] = fields
        if field == "answer":
            return (self._text(line, "answer"),)
        answers = self._value(line, "answers")
        if not isinstance(answers, list) or not answers:
            raise self._error(line, "answers", f"must be a list of one text or more, and is {_kind(answers)}")
        for index, answer in enumerate(answers):
            self._check_text(line, "answers", answer, f"[{index}]")
        return tuple(answers)

    def _text(self, line: Line, field: str, *, may_be_empty: bool = False) -> str:
        value = self._value(line, field)
        if may_be_empty and value in (None, ""):
            return ""
        self._check_text(line, field, value)
        return value

    def _check_text(self, line: Line, field: str, value: Any, index: str = "") -> None:
        if not isinstance(value, str):
            raise self._error(line, field, f"must be a text, and is {_kind(value)}", index)
        if not value:
            raise self._error(line, field, "is empty", index)

    def _error(self, line: Line, field: str, message: str, index: str = "") -> DataError:
        theirs = self.column(field)
        column = "" if theirs == field else f" (column {theirs!r})"
        return line.error(f"{field}{index}{column} {message}", theirs)


def _kind(value: Any) -> str:
    kinds = {list: "a list", dict: "an object", str: "a text", bool: "true or false", type(None): "null"}
    return "an empty list" if value == [] else kinds.get(type(value), "a number")
