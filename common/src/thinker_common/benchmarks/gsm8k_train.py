"""GSM8K's training split, to train on; on request without the 500 questions on which GSM8K-Aug validates."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ..errors import DataError, SettingsError
from . import gsm8k, gsm8k_aug
from .problem import LoadedBenchmark, question_key

VERSION = 1
INFO = dataclasses.replace(
    gsm8k.INFO,
    title="GSM8K, training split",
    hub=dataclasses.replace(gsm8k.HUB, rows={"train": 7_473}),
    notes=("GSM8K-Aug's 500 validation questions are among them; without_aug_valid = true leaves them out.",),
    shares=("gsm8k/test", "gsm8k_aug/valid"),
)


def load(
    split: str,
    data_dir: Path | None,
    revision: str | None,
    *,
    without_aug_valid: bool = False,
    most_steps: int | None = None,
    steps: gsm8k.Steps = "lines",
) -> LoadedBenchmark:
    """The split "train"; locally `gsm8k/train.jsonl`.

    without_aug_valid: leave out, and count, the questions of GSM8K-Aug's validation split, which must be there too
    most_steps, steps: see `gsm8k.load`
    """
    if split != "train":
        raise DataError(f"gsm8k_train has no split {split!r}; it has train")
    if not isinstance(without_aug_valid, bool):
        raise SettingsError(f"without_aug_valid = {without_aug_valid!r}: must be true or false")
    loaded = gsm8k.load(split, data_dir, revision, most_steps=most_steps, steps=steps)
    loaded = dataclasses.replace(loaded, name="gsm8k_train", version=VERSION)
    if not without_aug_valid:
        return loaded
    held_out = {question_key(problem) for problem in gsm8k_aug.load("valid", data_dir, None).problems}
    kept = tuple(problem for problem in loaded.problems if question_key(problem) not in held_out)
    return dataclasses.replace(
        loaded,
        problems=kept,
        source=f"{loaded.source}, without the validation questions of GSM8K-Aug",
        dropped={**loaded.dropped, "a validation question of GSM8K-Aug": len(loaded.problems) - len(kept)},
    )
