"""The stored training curves: a change that is not about numerics leaves them unchanged.

A change that is meant to move them stores them anew:

    python parity_spiralthinker.py '{}' FOLDER schedule=sequential      # then FOLDER/record.json, "history"
"""

import json
from pathlib import Path

import pytest
from test_spiralthinker_parity import worker

CURVES = Path(__file__).parent / "curves"


SETTINGS = {
    "sequential": "schedule=sequential",
    "simultaneous": "schedule=simultaneous",
    "codi": "name=codi",
    "coconut": "name=coconut",
}


@pytest.mark.parametrize("curve", SETTINGS)
def test_twenty_steps_of_stage_2(curve, tmp_path):
    worker.main("{}", str(tmp_path), SETTINGS[curve])
    now = json.loads((tmp_path / "record.json").read_text())["history"]
    stored = json.loads((CURVES / f"{curve}.json").read_text())
    assert len(now) == len(stored) == worker.parity.STEPS
    for row, expected in zip(now, stored, strict=True):
        for name in expected.keys() - {"step"}:
            assert row[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-4), f"step {expected['step']}, {name}"
    assert stored[-1]["loss"] < stored[0]["loss"] - 0.1, "a curve that does not move would show nothing"
