"""AIME and AMC: competitions whose answers are whole numbers, in the shapes of their many copies."""

from __future__ import annotations

from pathlib import Path

from .boxed import last_boxed
from .problem import LoadedBenchmark, Problem, kept_and_dropped
from .sources import HubDataset, Layout, Rows, read_rows

NUMBER = str | int | float
COLUMNS: tuple[Layout, ...] = (
    {"problem": str, "answer": NUMBER},
    {"question": str, "answer": NUMBER},
    {"Problem": str, "Answer": NUMBER},
    {"problem": str, "solution": str},  # the answer is in its box
)


def load_contest(
    name: str, split: str, data_dir: Path | None, revision: str | None, *, hub: HubDataset, version: int
) -> LoadedBenchmark:
    """The problems of a contest, the gold a plain integer: "025", 25 and 25.0 are all "25"."""
    found = read_rows(name, split, data_dir, revision, hub=hub, columns=COLUMNS)
    problems, dropped = kept_and_dropped(_problem(found, index, f"{name}/{split}") for index in range(len(found.rows)))
    return LoadedBenchmark(name, split, problems, found.revision, found.source, version, dropped)


def _problem(found: Rows, index: int, prefix: str) -> Problem | str:
    row = found.rows[index]
    question_column, gold_column = COLUMNS[found.layout]
    gold = row[gold_column]
    integer = whole_number(last_boxed(gold) if gold_column == "solution" else gold)
    if integer is None or not row[question_column].strip():
        return "no question, or no whole number as the answer"
    solution = row.get("solution") or row.get("Solution")
    row_id = next((row[column] for column in ("id", "ID", "problem_idx") if row.get(column) is not None), index)
    return Problem(
        id=f"{prefix}/{row_id}",
        question=row[question_column].strip(),
        answer=str(integer),
        kind="math",
        steps=(solution,) if solution else (),
        metadata={"row": row},
    )


def whole_number(value: str | float | None) -> int | None:
    """The integer that "025", "27", 27 or 27.0 is; None for anything else."""
    if value is None or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return int(number) if number.is_integer() else None
