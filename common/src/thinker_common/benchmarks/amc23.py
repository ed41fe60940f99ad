"""AMC23: 40 problems of the AMC 12 of 2023, rephrased to have whole numbers as answers."""

from __future__ import annotations

from pathlib import Path

from .contests import load_contest
from .problem import BenchmarkInfo, LoadedBenchmark
from .sources import HubDataset

VERSION = 1
HUB = HubDataset("math-ai/amc23", "default", "80815d37005feb82cd7f8fbc6901d5d3eff43057", {"test": 40})
INFO = BenchmarkInfo(
    title="AMC23 (AMC 12, 2023)",
    kind="math",
    hub=HUB,
    license="copyright of the Mathematical Association of America, none granted: do not redistribute it",
    citation="Mathematical Association of America, American Mathematics Competitions 2023",
    notes=(
        "Golds are floats in some copies (27.0) and become integers; one is negative. Ids are not consecutive.",
        "One answer is 2.5 points: read the standard error, and prefer the mean over several samples.",
        "Some papers report AMC on the 83 problems of AI-MO/aimo-validation-amc: another set.",
    ),
)


def load(split: str, data_dir: Path | None, revision: str | None) -> LoadedBenchmark:
    """The 40 problems; locally `amc23/test.jsonl`."""
    return load_contest("amc23", split, data_dir, revision, hub=HUB, version=VERSION)
