r"""MATH-500: 500 competition problems of the MATH test set.

The gold is LaTeX without delimiters and equals the last `\boxed{}` of the solution. `HuggingFaceH4/MATH-500` holds the
same problems. The other 12,000 problems of MATH are `math_train`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from .boxed import last_boxed
from .problem import BenchmarkInfo, LoadedBenchmark, Problem, kept_and_dropped
from .sources import HubDataset, Layout, Rows, read_rows

VERSION = 1
HUB_ID = "nlile/hendrycks-MATH-benchmark"
HUB_REVISION = "465bcdb36f5962aa3512891498966df785fc3c18"
HUB = HubDataset(HUB_ID, "default", HUB_REVISION, {"test": 500})
INFO = BenchmarkInfo(
    title="MATH-500",
    kind="math",
    hub=HUB,
    license="MIT",
    citation="Hendrycks et al. 2021, Measuring Mathematical Problem Solving With the MATH Dataset, arXiv 2103.03874; "
    "the 500 are those of Lightman et al. 2023, Let's Verify Step by Step, arXiv 2305.20050",
    notes=(
        "Answers may be words, letters, amounts with units, intervals, matrices, and tuples that look like intervals.",
        "Copies name the subject `subject` or `type`, and give the level as 3, `Level 3` or `Level ?`; each is read.",
        "A model trained on `math_train` cannot be evaluated on all 5,000 problems of the MATH test set.",
    ),
    shares=("math_train/train",),
)
COLUMNS: tuple[Layout, ...] = ({"problem": str, "solution": str},)


def load(split: str, data_dir: Path | None, revision: str | None) -> LoadedBenchmark:
    """The 500 problems, with `subject` and `level` (1 to 5, or None) as groups."""
    found = read_rows("math500", split, data_dir, revision, hub=HUB, columns=COLUMNS)
    return competition_problems("math500", split, found, VERSION)


def competition_problems(name: str, split: str, found: Rows, version: int) -> LoadedBenchmark:
    """Rows of any copy of MATH as problems; those without a question or an answer are dropped."""
    problems, dropped = kept_and_dropped(
        _problem(row, f"{name}/{split}", index) for index, row in enumerate(found.rows)
    )
    return LoadedBenchmark(name, split, problems, found.revision, found.source, version, dropped)


def _problem(row: dict[str, Any], prefix: str, index: int) -> Problem | str:
    gold = (row.get("answer") or last_boxed(row["solution"]) or "").strip()
    if not gold or not row["problem"].strip():
        return "no question, or no answer"
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
