"""AIME25: the 30 problems of the AIME I and II of 2025."""

from __future__ import annotations

from pathlib import Path

from .contests import load_contest
from .problem import BenchmarkInfo, LoadedBenchmark
from .sources import HubDataset

VERSION = 1
HUB = HubDataset("math-ai/aime25", "default", "563bb8404243c5f09de6ec262f2db674fe5bce9b", {"test": 30})
INFO = BenchmarkInfo(
    title="AIME 2025 (I and II)",
    kind="math",
    hub=HUB,
    license="copyright of the Mathematical Association of America, none granted: do not redistribute it",
    citation="Mathematical Association of America, American Invitational Mathematics Examination 2025",
    notes=(
        "Golds are integers from 0 to 999, in some copies as text or zero-padded; they become plain integers.",
        "30 questions: at 50 % a single run has a standard error near 9 points. Report the mean over many samples.",
    ),
)


def load(split: str, data_dir: Path | None, revision: str | None) -> LoadedBenchmark:
    """The 30 problems; locally `aime25/test.jsonl`."""
    return load_contest("aime25", split, data_dir, revision, hub=HUB, version=VERSION)
