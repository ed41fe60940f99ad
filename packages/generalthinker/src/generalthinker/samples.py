"""`samples.jsonl` of a run: the same few validation problems and the greedy response to each, through training.

One row a problem and validation, those before the first step with step 0. The file is small and always replaced whole,
so that a run that is killed leaves no part of a row.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ._common import DataError, Problem, write_atomic

NAME = "samples.jsonl"
PROBLEMS = 4
OF_A_GENERATION = ("answer", "text", "tokens", "extracted", "correct", "boxed", "truncated", "answer_loglik")


def sample_rows(
    step: int, problems: Sequence[Problem], generations: Iterable[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The rows of one validation.

    Args:
        step: optimiser steps so far.
        generations: rows of an evaluation, those of `problems` among them; `answer_loglik` is log p(a* }} | x, y_R) in
            nats, null without a box.
    """
    by_id = {row["id"]: row for row in generations}
    return [
        {
            "step": step,
            "id": problem.id,
            "question": problem.prompt_text(),
            **{name: by_id[problem.id][name] for name in OF_A_GENERATION},
        }
        for problem in problems
    ]


def write_samples(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows))


def read_samples(path: Path) -> list[dict[str, Any]]:
    """The rows of `samples.jsonl`; none if there is no such file. Raises DataError as `read_rows` does."""
    rows = read_rows(path)
    for number, row in enumerate(rows, start=1):
        missing = [name for name in ("id", "question", *OF_A_GENERATION) if name not in row]
        if missing:
            raise DataError(f"{path}, line {number}: not a sample (it has no {missing[0]})")
    return rows


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a run's JSONL file, each with its step; none if there is no such file.

    A last line without an end is one that is being written, and left out.

    Raises:
        DataError: a line that is no such row, with its number.
    """
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: not JSON ({error})") from error
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            raise DataError(f"{path}, line {number}: not a row of a run (it has no step)")
        rows.append(row)
    return rows
