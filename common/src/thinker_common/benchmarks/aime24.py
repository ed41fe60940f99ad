"""AIME24: the 30 problems of the AIME I and II of 2024."""

from __future__ import annotations

from pathlib import Path

from .contests import load_contest
from .problem import BenchmarkInfo, LoadedBenchmark
from .sources import HubDataset

VERSION = 1
HUB = HubDataset(
    "HuggingFaceH4/aime_2024",
    "default",
    "2fe88a2f1091d5048c0f36abc874fb997b3dd99a",
    {"test": 30},
    {"test": "train"},
)
INFO = BenchmarkInfo(
    title="AIME 2024 (I and II)",
    kind="math",
    hub=HUB,
    license="copyright of the Mathematical Association of America, none granted: do not redistribute it",
    citation="Mathematical Association of America, American Invitational Mathematics Examination 2024",
    notes=(
        'Golds are integers from 0 to 999, zero-padded in some copies ("025"); they become plain integers.',
        "The hub's copy holds the questions in a split called train.",
        "30 questions: at 50 % a single run has a standard error near 9 points. Report the mean over many samples.",
    ),
)


def load(split: str, data_dir: Path | None, revision: str | None) -> LoadedBenchmark:
    """The 30 problems, as the split "test"; locally `aime24/test.jsonl`."""
    return load_contest("aime24", split, data_dir, revision, hub=HUB, version=VERSION)
