"""The stored training curve: a change that is not about numerics leaves it unchanged."""

import importlib.util
import json
from pathlib import Path

import pytest

HERE = Path(__file__).parent
STORED = json.loads((HERE / "curves/embedded1.json").read_text(encoding="utf-8"))


def test_twenty_steps_on_recorded_responses(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("replay", HERE / "replay.py")
    replay = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(replay)
    curves, _ = replay.run(tmp_path, STORED["responses"])
    assert len(curves) == len(STORED["curves"]) == replay.STEPS
    for step, (now, stored) in enumerate(zip(curves, STORED["curves"], strict=True), start=1):
        for name in replay.CURVES:
            assert now[name] == pytest.approx(stored[name], rel=1e-4, abs=1e-4), f"step {step}, {name}"
    assert STORED["curves"][-1]["kl"] > 1e-3, "a curve of a policy that does not move would show nothing"
