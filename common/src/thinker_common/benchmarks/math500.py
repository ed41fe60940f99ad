r"""MATH-500: 500 competition problems of the MATH test set (Hendrycks et al. 2021, arXiv 2103.03874). MIT.

The gold is LaTeX without delimiters and equals the last `\boxed{}` of the solution. "test" are the 500; "train" are the
other 12,000 problems of MATH, of which 4,500 belong to its original test set: a model trained on them cannot be
evaluated on the full MATH test. The test split is the same as that of `HuggingFaceH4/MATH-500`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from .boxed import last_boxed
from .problem import LoadedBenchmark, Problem
from .sources import HubDataset, read_rows

VERSION = 1
HUB = HubDataset(
    "nlile/hendrycks-MATH-benchmark",
    "default",
    "465bcdb36f5962aa3512891498966df785fc3c18",
    {"train": 12_000, "test": 500},
)
COLUMNS = ("problem", "solution")  # copies without `answer` have it in the solution's box


def load(split: str, data_dir: Path | None, revision: str | None) -> LoadedBenchmark:
    """The problems of "train" or "test", with `subject` and `level` (1 to 5, or None) as groups."""
    found = read_rows("math500", split, data_dir, revision, hub=HUB, columns=COLUMNS)
    problems = [_problem(row, f"math500/{split}", index) for index, row in enumerate(found.rows)]
    kept = tuple(problem for problem in problems if problem is not None)
    dropped = {"no question, or no answer": len(problems) - len(kept)}
    return LoadedBenchmark("math500", split, kept, found.revision, found.source, VERSION, dropped)


def _problem(row: dict[str, Any], prefix: str, index: int) -> Problem | None:
    gold = (row.get("answer") or last_boxed(row["solution"]) or "").strip()
    if not gold or not row["problem"].strip():
        return None
    level = re.search(r"[1-5]", str(row.get("level")))  # 3, "Level 3" or "Level ?"
    return Problem(
        id=f"{prefix}/{row.get('unique_id') or index}",
        question=row["problem"].strip(),
        answer=gold,
        kind="math",
        steps=(row["solution"],),
        metadata={
            "subject": row.get("subject") or row.get("type"),
            "level": int(level.group()) if level else None,
            "row": row,
        },
    )
