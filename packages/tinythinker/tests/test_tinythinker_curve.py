"""The stored training curves: a change that is not about numerics leaves them unchanged.

A change that is meant to move them stores them anew:

    python parity_tinythinker.py '{}' FOLDER acquisition t5      # then FOLDER/record.json, "history"
"""

import json
from pathlib import Path

import pytest
from test_tinythinker_parity import CASES, worker

CURVES = Path(__file__).parent / "curves"
FIGURES = {
    "acquisition": ("cross_entropy/recall", "cross_entropy/analyze", "cross_entropy/summarize"),
    "preference": ("preference", "nll", "margin", "agreement"),
}


@pytest.mark.parametrize(("phase", "kind"), CASES)
def test_twenty_steps(phase, kind, tmp_path):
    worker.main("{}", str(tmp_path), phase, kind)
    now = json.loads((tmp_path / "record.json").read_text())["history"]
    stored = json.loads((CURVES / f"{phase}-{kind}.json").read_text())
    assert len(now) == len(stored) == worker.parity.STEPS
    for row, expected in zip(now, stored, strict=True):
        for name in ("loss", "grad_norm", *FIGURES[phase]):
            assert (name in row) == (name in expected), f"step {expected['step']}, {name}"
            if name in row:
                assert row[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-4), (
                    f"step {expected['step']}, {name}"
                )
    if phase == "acquisition":  # one stage a step
        assert all(sum(name in row for name in FIGURES[phase]) == 1 for row in now)
    # The same rows, epoch after epoch.
    steps = {"acquisition": 10, "preference": 7}[phase]
    first, second = (sum(row["loss"] for row in stored[start : start + steps]) / steps for start in (0, steps))
    assert second < first - 0.1, "a curve that does not move would show nothing"
