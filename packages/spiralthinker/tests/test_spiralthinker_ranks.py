"""A run on two ranks, which share the problems of an evaluation: while training and behind each stage."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from spiralthinker.evaluations import evaluate_latent
from spiralthinker.generation import LatentGenerator
from spiralthinker.model import SpiralThinkerModel
from thinker_common import load_benchmark

TOKENS = 48
RUN = [
    "training.max_steps=2", "stage1.max_steps=1", "training.per_device_train_batch_size=4", "method.latents=2",
    "method.iterations=2", "evaluation.limit=5", "evaluation.every_steps=1", "evaluation.validation_limit=3",
    f"evaluation.max_new_tokens={TOKENS}", "data.limit=24", "training.logging_steps=1",
]  # fmt: skip
LAYOUTS = {"DDP": [], "ZeRO-1": ["--zero", "1"], "ZeRO-2": ["--zero", "2"], "ZeRO-3": ["--zero", "3"]}
NAMES = ("n", "accuracy", "boxed_rate", "mean_tokens")


def train(output: Path, *options: str) -> None:
    command = [sys.executable, "-m", "spiralthinker", "train", *RUN, *options, "--output", str(output)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="DeepSpeed is for Linux")
@pytest.mark.parametrize("extra", [[], ["model.lora.r=2"]], ids=["full", "LoRA"])
@pytest.mark.parametrize("options", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_two_ranks_evaluate_as_one_process(tmp_path: Path, options: list[str], extra: list[str]) -> None:
    output = tmp_path / "run"
    train(output, "--gpus", "2", *options, *extra)
    results = json.loads((output / "results.json").read_text())
    for stage, folder in (("explicit", output / "stage1"), ("implicit", output)):
        generator = LatentGenerator(SpiralThinkerModel.from_pretrained(folder / "model"), max_new_tokens=TOKENS)
        alone = evaluate_latent(generator, load_benchmark("chains", limit=5)).to_dict()
        found = results["stages"][stage]["evaluations"]["chains"]
        assert {name: found[name] for name in NAMES} == {name: pytest.approx(alone[name]) for name in NAMES}
        files = list((folder / "evaluation" / "chains").iterdir())
        assert [path.name for path in files] == ["generations.jsonl"]
        assert len(files[0].read_text().splitlines()) == 1 + 5
    validated = [row for row in metrics(output) if "validation/accuracy" in row]
    assert [row["step"] for row in validated] == [1, 2]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="DeepSpeed is for Linux")
def test_a_validation_on_two_ranks_is_that_of_one_process(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    train(one, "training.per_device_train_batch_size=8")
    train(two, "--gpus", "2", "--zero", "3")
    for part in ("stage1", ""):
        found, expected = ([row for row in metrics(run / part) if "validation/accuracy" in row] for run in (two, one))
        assert found and len(found) == len(expected)
        for row, reference in zip(found, expected, strict=True):
            assert row == pytest.approx(reference)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="DeepSpeed is for Linux")
def test_the_verb_evaluate_on_two_ranks_is_that_of_one_process(tmp_path: Path) -> None:
    train(tmp_path / "run", "evaluation.at_end=false", "evaluation.every_steps=null")
    points = {}
    for name, options in (("one", []), ("two", ["--gpus", "2"]), ("sharded", ["--gpus", "2", "--zero", "3"])):
        folder = tmp_path / name
        command = [
            sys.executable, "-m", "spiralthinker", "evaluate", str(tmp_path / "run/model"), "--benchmark", "chains",
            "--limit", "5", "--iterations", "1,2", "--max-new-tokens", str(TOKENS), "--output", str(folder),
            *options,
        ]  # fmt: skip
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        points[name] = json.loads((folder / "results.json").read_text())["points"]
    assert [point["iterations"] for point in points["one"]] == [1, 2]
    for name in ("two", "sharded"):
        for found, one in zip(points[name], points["one"], strict=True):
            assert found["responses"] == 5
            assert {name: found[name] for name in NAMES} == {name: pytest.approx(one[name]) for name in NAMES}
            assert found["cost_of_a_response"]["token_passes"] == one["cost_of_a_response"]["token_passes"]
