"""A user's own questions: a JSON-lines file, one object a line, with a column mapping where the names differ."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from ..errors import SettingsError, did_you_mean
from .jsonl import Line, fingerprint, parse_lines, read_bytes
from .problem import KINDS, LETTERS, Kind, LoadedBenchmark, Problem

VERSION = 1

REQUIRED = ("question", "answer")
OPTIONAL = ("id", "options", "aliases", "steps")
FIELDS = REQUIRED + OPTIONAL


def load_jsonl(
    path: str | Path, columns: Mapping[str, str] = MappingProxyType({}), *, kind: Kind = "math"
) -> LoadedBenchmark:
    """The problems of a JSON-lines file.

    columns: our field -> the file's column, for those that differ: {"question": "prompt", "answer": "solution"}. The
        fields are question, answer, and, where the file has them, id, options, aliases and steps.
    kind: how the answers are compared. "mcq" needs options, and a letter as the answer; "bool" takes true, false, yes
        and no.

    An id is "<file>/file/<id column, else line number>", the revision a fingerprint of the file.

    Raises SettingsError for an impossible mapping or kind; DataError, with line and column, for a row that is no
    problem: broken UTF-8 or JSON, a question or an answer that is missing or empty, an id used twice.
    """
    path = Path(path)
    if kind not in KINDS:
        raise SettingsError(f"kind = {kind!r}: must be one of {', '.join(KINDS)}")
    for ours in columns:
        if ours not in FIELDS:
            raise SettingsError(
                f"columns: unknown field {ours!r}{did_you_mean(ours, FIELDS)} (fields: {', '.join(FIELDS)})"
            )
    content = read_bytes(path)
    reader = _Reader({field: columns.get(field, field) for field in FIELDS}, kind, prefix=f"{path.stem}/file")
    problems: list[Problem] = []
    lines_of_ids: dict[str, int] = {}
    for line in parse_lines(path, content):
        if not problems:
            reader.check_columns(line, mapped=set(columns))
        problem = reader.problem(line)
        if (first := lines_of_ids.setdefault(problem.id, line.number)) != line.number:
            raise line.error(f"the id of line {first} again; ids must differ", reader.columns["id"])
        problems.append(problem)
    return LoadedBenchmark(path.stem, "file", tuple(problems), fingerprint(content), str(path), VERSION)


class _Reader:
    """Rows to problems, under one column mapping."""

    def __init__(self, columns: Mapping[str, str], kind: Kind, prefix: str) -> None:
        self.columns = columns
        self.kind = kind
        self.prefix = prefix

    def check_columns(self, line: Line, mapped: set[str]) -> None:
        """On the first row: a column that a mapping names must be there, and the required ones."""
        required = {*REQUIRED, *mapped, *(["options"] if self.kind == "mcq" else [])}
        for field in FIELDS:
            theirs = self.columns[field]
            if field in required and theirs not in line.row:
                near = did_you_mean(theirs, line.row) if field in mapped else f", map it: columns.{field}=NAME"
                raise line.error(f"no column {theirs!r} for {field}{near} (columns: {', '.join(line.row) or 'none'})")

    def problem(self, line: Line) -> Problem:
        options = self._texts(line, "options")
        if self.kind == "mcq" and not 2 <= len(options) <= len(LETTERS):
            raise line.error(f"{len(options)} options; there must be 2 to {len(LETTERS)}", self.columns["options"])
        row_id = line.row.get(self.columns["id"])
        return Problem(
            id=f"{self.prefix}/{line.number if row_id is None else row_id}",
            question=self._required(line, "question"),
            answer=self._answer(line, len(options)),
            kind=self.kind,
            options=options if self.kind == "mcq" else (),
            aliases=self._texts(line, "aliases"),
            steps=self._texts(line, "steps"),
            metadata={"row": line.row},
        )

    def _required(self, line: Line, field: str) -> str:
        theirs = self.columns[field]
        value = line.row.get(theirs)
        if value is None:
            raise line.error(f"the row has no {field} (column {theirs!r})", theirs)
        if isinstance(value, bool) and self.kind == "bool" and field == "answer":
            return "yes" if value else "no"
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise line.error(f"{field} must be a string or a number, and is {type(value).__name__}", theirs)
        text = str(value).strip()
        if not text:
            raise line.error(f"the row has an empty {field} (column {theirs!r})", theirs)
        return text

    def _answer(self, line: Line, options: int) -> str:
        answer = self._required(line, "answer")
        if self.kind == "bool":
            words = {"yes": "yes", "true": "yes", "no": "no", "false": "no"}
            if answer.lower() not in words:
                raise line.error(f"answer {answer!r} is neither yes nor no", self.columns["answer"])
            return words[answer.lower()]
        if self.kind == "mcq" and answer not in LETTERS[:options]:
            raise line.error(f"answer {answer!r} is no letter from A to {LETTERS[options - 1]}", self.columns["answer"])
        return answer

    def _texts(self, line: Line, field: str) -> tuple[str, ...]:
        theirs = self.columns[field]
        value = line.row.get(theirs)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(text, str) and text.strip() for text in value):
            raise line.error(f"{field} must be a list of non-empty strings", theirs)
        return tuple(text.strip() for text in value)
