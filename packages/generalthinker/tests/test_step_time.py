"""The script that measures steps, on the embedded model: what is compared is complete, whatever the seconds are."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts/measure_step_time.py"
SMALL = "--model embedded --prompt-tokens 40 --response-tokens 24 --warm-up-tokens 16 --group 2 --steps 1 --json"


def measured(*options: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, SCRIPT, *SMALL.split(), *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout[done.stdout.index("{\n") :])
    assert found["well_formed_rate"] == 1.0
    return found


def test_the_parts_make_up_the_step_also_of_a_model_with_a_larger_vocabulary() -> None:
    """The reference has that vocabulary too."""
    found = measured("--profile", "--vocabulary", "2500")
    assert set(found["parts"]) == {
        "generation", "scoring", "conditioned", "reference", "other rollout work", "update"
    }  # fmt: skip
    assert min(found["parts"].values()) >= 0.0
    assert sum(found["parts"].values()) == pytest.approx(found["seconds"])


def test_a_step_is_compared_with_trls_with_and_without_generation() -> None:
    found = measured("--generation", "trl", "--grpo-head", "completions")
    for part in ("step", "without_generation"):
        ours_s, theirs_s = found[part]["generalthinker_seconds"], found[part]["grpo_seconds"]
        assert found[part]["ratio"] == pytest.approx(ours_s / theirs_s)
        assert found[part]["ratio_range"] == pytest.approx([found[part]["ratio"]] * 2)  # one step
    assert found["without_generation"]["grpo_seconds"] < found["step"]["grpo_seconds"]
