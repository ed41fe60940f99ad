"""StrategyQA: yes-or-no questions whose reasoning steps are left implicit, with the facts that settle them.

The official test questions have no labels, so the labelled ones are divided here: a question belongs to "test", "valid"
or "train" (1 : 1 : 8) by the hash of its text. That holds for both doors and for every copy, so no mixture of sources
can carry a test question into training; two rows with the same question never part.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from ..errors import DataError
from .problem import BenchmarkInfo, LoadedBenchmark, Problem, kept_and_dropped
from .sources import HubDataset, Layout, Rows, check_split, read_rows

VERSION = 1
HUB_ID = "ChilleD/StrategyQA"
HUB_REVISION = "705562638fe1d8ca6bb98c66fc8f94d45fda8c83"
# Our division of the authors' train file; all labelled questions, which the hub has, give a ninth more.
HUB = HubDataset(HUB_ID, "default", HUB_REVISION, {"train": 1_661, "valid": 199, "test": 201, "dev": 229})
# The hub's own division of all 2,290 labelled questions, those of the official dev file among them.
HUB_PARTS = HubDataset(HUB_ID, "default", HUB_REVISION, {"train": 1_603, "test": 687})
INFO = BenchmarkInfo(
    title="StrategyQA",
    kind="bool",
    hub=HUB,
    license="MIT",
    citation="Geva et al. 2021, Did Aristotle Use a Laptop? A Question Answering Benchmark with Implicit Reasoning "
    "Strategies, arXiv 2101.02235",
    notes=(
        "train, valid and test are ours, by the hash of the question; dev is the official dev file.",
        "The hub's train and test are read as one and divided the same way; its rows include the dev questions.",
        "53.2 % of the 2,061 original training answers are no: print that rate beside a score.",
        "The facts and the decomposition give the answer away: they are in steps and in the row, not in the question.",
        "The task of the same name in BIG-bench has another prompt.",
    ),
)
# `facts` is a list in the authors' file, and one string in the hub's copy.
COLUMNS: tuple[Layout, ...] = ({"qid": str, "question": str, "answer": bool, "facts": list | str},)
LOCAL_ROWS = {"train.json": 2_061, "dev.json": 229}


def load(split: str, data_dir: Path | None, revision: str | None) -> LoadedBenchmark:
    """The questions of one split; locally from `strategyqa/train.json`, and `strategyqa/dev.json` for "dev".

    `steps` are the facts.
    """
    check_split("strategyqa", split, HUB)
    found = _hub_rows(split, revision) if data_dir is None else _local_rows(split, data_dir)
    seen: set[str] = set()
    results = []
    for index, row in enumerate(found.rows):
        if split != "dev" and split_of(row["question"]) != split:
            continue
        results.append("the same qid again" if row["qid"] in seen else _problem(found, index, f"strategyqa/{split}"))
        seen.add(row["qid"])
    problems, dropped = kept_and_dropped(results)
    source = found.source if split == "dev" else f"{found.source}, part {split} of our division"
    return LoadedBenchmark("strategyqa", split, problems, found.revision, source, VERSION, dropped)


def split_of(question: str) -> str:
    """The split that owns a question: 1 in 10 is test, 1 in 10 valid, the rest train."""
    text = " ".join(question.split()).casefold()
    bucket = int.from_bytes(hashlib.sha256(f"strategyqa/{text}".encode()).digest()[:8]) % 10
    return "test" if bucket == 0 else "valid" if bucket == 1 else "train"


def sentences(facts: str) -> list[str]:
    """Facts that a copy holds as one string, a sentence a fact. In 82 % of the authors' rows that gives their list."""
    return re.split(r"(?<=[.!?])\s+", facts.strip())


def _local_rows(split: str, data_dir: Path) -> Rows:
    file = "dev.json" if split == "dev" else "train.json"
    return read_rows(
        "strategyqa", "train", data_dir, None, hub=HUB_PARTS, columns=COLUMNS, files=(file,), local_rows=LOCAL_ROWS
    )


def _hub_rows(split: str, revision: str | None) -> Rows:
    """All rows of the hub's copy, whatever split it keeps them in."""
    if split == "dev":
        raise DataError(
            "strategyqa: the hub's copy does not keep the official dev questions apart; give the original file, "
            "--data-dir DIR with DIR/strategyqa/dev.json"
        )
    parts = [read_rows("strategyqa", part, None, revision, hub=HUB_PARTS, columns=COLUMNS) for part in HUB_PARTS.rows]
    return Rows(
        [row for part in parts for row in part.rows],
        [place for part in parts for place in part.places],
        " and ".join(part.source for part in parts),
        parts[0].revision,
    )


def _problem(found: Rows, index: int, prefix: str) -> Problem | str:
    row = found.rows[index]
    if not row["question"].strip():
        return "no question"
    facts = row["facts"]
    steps = sentences(facts) if isinstance(facts, str) else facts
    if not all(isinstance(step, str) for step in steps):
        raise found.error(index, "column facts is no list of texts")
    return Problem(
        id=f"{prefix}/{row['qid']}",
        question=row["question"].strip(),
        answer="yes" if row["answer"] else "no",
        kind="bool",
        steps=tuple(step.strip() for step in steps if step.strip()),
        metadata={"row": row},
    )
