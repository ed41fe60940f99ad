"""GPQA-Diamond: the 198 questions of GPQA on which experts agree and others fail."""

from __future__ import annotations

from pathlib import Path

from .gpqa import CITATION, HUB_ID, HUB_REVISION, LICENSE, NOTES, load_set
from .problem import BenchmarkInfo, LoadedBenchmark
from .sources import HubDataset

VERSION = 1
INFO = BenchmarkInfo(
    title="GPQA-Diamond",
    kind="mcq",
    hub=HubDataset(HUB_ID, "gpqa_diamond", HUB_REVISION, {"test": 198}, {"test": "train"}),
    license=LICENSE,
    citation=CITATION,
    notes=NOTES,
    shares=("gpqa/test",),
)


def load(
    split: str,
    data_dir: Path | None,
    revision: str | None,
    *,
    option_order: str = "shuffled",
    option_seed: int = 0,
) -> LoadedBenchmark:
    """The questions ("test"); locally `gpqa/gpqa_diamond.csv`. Options as in `gpqa`, with the same letters."""
    return load_set("gpqa_diamond", INFO, VERSION, split, data_dir, revision, option_order, option_seed)
