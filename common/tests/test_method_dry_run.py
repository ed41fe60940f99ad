"""`train --dry-run` of every method on two ranks: what it prints is what would run, and it writes nothing."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from generalthinker.cli import app
from thinker_common.cli.app import run

# method -> (what its plan says of steps and tokens, DeepSpeed configurations, examples of an optimiser step in each)
PLANS = {
    "generalthinker": (
        [
            "steps: 40, each on 256 responses; a rollout has 32 prompts of 8 responses",
            "tokens: at most 40960 a step (256 rows x (96 of the longest prompt + 64 of a response))",
        ],
        [256],
    ),
    "spiralthinker": (
        ["explicit stage: 300 steps of 16 examples", "implicit stage: 1200 steps of 16 examples", "token passes:"],
        [16, 16],
    ),
    "tinythinker": (
        ["phase 1: 1500 steps of 16 rows", "tokens: 195 the longest row", "phase 2: 2 iterations"],
        [16, 16],
    ),
}
SIZES = {"MiB": 2**20, "GiB": 2**30}


def configurations(printed: str) -> list[dict[str, Any]]:
    starts = [found.end() - 1 for found in re.finditer(r"DeepSpeed: \{", printed)]
    return [json.JSONDecoder().raw_decode(printed, start)[0] for start in starts]


def peaks(printed: str) -> list[tuple[float, float]]:
    """(what stands behind "peak a rank", the sum of `always` and the largest other part), in bytes."""
    found = []
    for block in printed.split("memory of one rank, estimated:")[1:]:
        parts: dict[str, float] = {}
        part = ""
        for line in block.splitlines()[1:]:
            if peak := re.match(r"\s*peak a rank: ([\d.]+) (MiB|GiB) in", line):
                largest = max(size for name, size in parts.items() if name != "always")
                found.append((float(peak[1]) * SIZES[peak[2]], parts["always"] + largest))
                break
            if title := re.match(r"\s*([a-z ]+):$", line):
                part = title[1]
            elif item := re.search(r"\s([\d.]+) (MiB|GiB)\s+= ", line):
                parts[part] = parts.get(part, 0.0) + float(item[1]) * SIZES[item[2]]
    return found


@pytest.mark.parametrize("method", PLANS)
def test_a_plan_says_what_would_run_and_writes_nothing(tmp_path: Path, method: str) -> None:
    said, examples = PLANS[method]
    output = tmp_path / "run"
    command = [sys.executable, "-m", method, "train", "--dry-run", "--gpus", "2", "--zero", "2", "--output", output]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "COLUMNS": "120",
    }
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    flat = " ".join(done.stdout.split())
    for text in [*said, "hosts: localhost (2 ranks)"]:
        assert text in flat, text
    found = configurations(done.stdout)
    assert [each["train_batch_size"] for each in found] == examples
    for each in found:
        assert each["zero_optimization"]["stage"] == 2
        ranks = each["train_batch_size"] / each["train_micro_batch_size_per_gpu"] / each["gradient_accumulation_steps"]
        assert ranks == 2
    estimates = peaks(done.stdout)
    assert len(estimates) == len(found)
    for printed, summed in estimates:
        assert printed == pytest.approx(summed, rel=0.05), "the peak is the sum of the lines above it"
    assert re.search(r"2\.0 M x 2 x 4 B, / 2 ranks", flat), "Adam's moments, which ZeRO-2 shards"
    [launch] = re.findall(r"command: (.*)", done.stdout)
    assert "deepspeed.launcher.runner" in launch and "--num_gpus 2" in launch
    assert f"{method} train" in launch and str(output) in launch
    assert list(tmp_path.iterdir()) == []


def test_no_offload_reaches_ranks_whose_recipe_says_otherwise(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("launch: {gpus: 2, zero: 2, offload: true}\n")
    arguments = ["train", "--config", str(recipe), "--dry-run", "--output", str(tmp_path / "run")]
    for option, offloads in (["--no-offload"], False), ([], True):
        with pytest.raises(SystemExit):
            run(app, [*arguments, *option])
        printed = capsys.readouterr().out
        [configuration], [command] = configurations(printed), re.findall(r"command: (.*)", printed)
        assert ("offload_optimizer" in configuration["zero_optimization"]) is offloads
        assert ("--no-offload" in command.split()) is not offloads
