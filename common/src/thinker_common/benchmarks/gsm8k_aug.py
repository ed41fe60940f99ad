"""GSM8K-Aug: GSM8K with its training split augmented by a model, and solutions cut down to their equations.

The authors' files are text, a row a line: `question||<<4-2=2>> <<2/.5=4>> #### 4`. The hub's copies hold the steps as a
list (`steps`) or as one string (`cot`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ..errors import DataError, SettingsError
from .jsonl import BYTE_ORDER_MARK, Line, decode_line
from .problem import BenchmarkInfo, LoadedBenchmark, Problem, kept_and_dropped
from .sources import HubDataset, Layout, Rows, parse_file, read_rows

VERSION = 1
HUB = HubDataset(
    "whynlp/gsm8k-aug",
    "default",
    None,
    {"train": 385_620, "valid": 500, "test": 1_319},
    {"valid": "validation"},
)
INFO = BenchmarkInfo(
    title="GSM8K-Aug",
    kind="math",
    hub=HUB,
    license="MIT (of the repository da03/Internalize_CoT_Step_by_Step)",
    citation="Deng et al. 2023, Implicit Chain of Thought Reasoning via Knowledge Distillation, arXiv 2311.01460",
    notes=(
        "Its 500 validation questions are all in GSM8K's training split: `gsm8k_train` leaves them out on request.",
        "Its test questions are those of GSM8K: count the two results as one.",
        "Some rows have no steps (6 of the 500); they stay, and `source` says how many. A step may be `<<800=800>>`.",
        "The training golds are machine-made.",
    ),
    shares=("gsm8k/train", "gsm8k/test"),
)
COLUMNS: tuple[Layout, ...] = (
    {"question": str, "steps": list, "answer": str},
    {"question": str, "cot": str, "answer": str},
)
_STEP = re.compile(r"<<([^<>]*)>>")


def load(split: str, data_dir: Path | None, revision: str | None, *, calculator_marks: bool = True) -> LoadedBenchmark:
    """The problems of "train", "valid" or "test"; locally `gsm8k_aug/valid.txt` or `valid.jsonl`.

    calculator_marks: `steps` keep their `<<` and `>>`
    """
    if not isinstance(calculator_marks, bool):
        raise SettingsError(f"calculator_marks = {calculator_marks!r}: must be true or false")
    files = (f"{split}.txt", f"{split}.jsonl")
    found = read_rows("gsm8k_aug", split, data_dir, revision, hub=HUB, columns=COLUMNS, files=files, parse=_parse)
    problems, dropped = kept_and_dropped(
        _problem(found, index, f"gsm8k_aug/{split}", calculator_marks) for index in range(len(found.rows))
    )
    without_steps = sum(not problem.steps for problem in problems)
    source = found.source + (f", {without_steps} rows without steps" if without_steps else "")
    return LoadedBenchmark("gsm8k_aug", split, problems, found.revision, source, VERSION, dropped)


def _parse(path: Path, content: bytes) -> Iterator[Line]:
    """The rows of the authors' text file, in the hub's shape; other files as everywhere."""
    if path.suffix != ".txt":
        yield from parse_file(path, content)
        return
    empty = True
    for number, raw in enumerate(content.removeprefix(BYTE_ORDER_MARK).split(b"\n"), start=1):
        text = decode_line(path, number, raw).strip()
        if not text:
            continue
        # A question may hold neither mark; an equation may hold no ####.
        question, bars, rest = text.partition("||")
        steps, mark, answer = rest.rpartition("####")
        line = Line(path, number, text, {"question": question, "steps": _STEP.findall(steps), "answer": answer.strip()})
        if not bars or not mark:
            raise line.error("a row must be: question||steps #### answer")
        line.row["steps"] = [f"<<{step}>>" for step in line.row["steps"]]
        empty = False
        yield line
    if empty:
        raise DataError(f"{path}: the file holds no rows")


def _problem(found: Rows, index: int, prefix: str, calculator_marks: bool) -> Problem | str:
    row = found.rows[index]
    question, gold = row["question"].strip(), row["answer"].rpartition("####")[2].strip().replace(",", "")
    if not question or not gold:
        return "no question, or no answer"
    text = row["cot"] if found.layout == 1 else " ".join(map(str, row["steps"]))
    return Problem(
        id=f"{prefix}/{index}",
        question=question,
        answer=gold,
        kind="math",
        steps=tuple(f"<<{step}>>" if calculator_marks else step for step in _STEP.findall(text)),
        metadata={"row": row},
    )
