r"""MATH without MATH-500, to train on: 12,000 problems on the hub, 4,500 of them in the local file.

The original sets are 7,500 for training and 5,000 for testing. What is left of them without the 500 of MATH-500 is the
12,000 that the field trains on. The file `math_test_minus_500.jsonl` holds only the 4,500 of the original test set.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from .math500 import COLUMNS, HUB_ID, HUB_REVISION, competition_problems
from .problem import BenchmarkInfo, LoadedBenchmark
from .sources import HubDataset, read_rows

VERSION = 1
HUB = HubDataset(HUB_ID, "default", HUB_REVISION, {"train": 12_000})
INFO = BenchmarkInfo(
    title="MATH, without MATH-500",
    kind="math",
    hub=HUB,
    license="MIT",
    citation="Hendrycks et al. 2021, Measuring Mathematical Problem Solving With the MATH Dataset, arXiv 2103.03874",
    notes=(
        "4,500 of its problems are of the original MATH test set: evaluate on MATH-500, never on all 5,000.",
        r"The local file has no answer column; the gold is the last \boxed{} of the solution.",
    ),
    shares=("math500/test",),
)
FILES = ("train.jsonl", "math_test_minus_500.jsonl")
LOCAL_ROWS = {"math_test_minus_500.jsonl": 4_500}


def load(split: str, data_dir: Path | None, revision: str | None) -> LoadedBenchmark:
    """The split "train", with `subject` and `level` (1 to 5, or None) as groups."""
    found = read_rows(
        "math_train", split, data_dir, revision, hub=HUB, columns=COLUMNS, files=FILES, local_rows=LOCAL_ROWS
    )
    if len(found.rows) in LOCAL_ROWS.values():
        found = dataclasses.replace(
            found, source=f"{found.source}, {len(found.rows)} of the {HUB.rows['train']} problems"
        )
    return competition_problems("math_train", split, found, VERSION)
