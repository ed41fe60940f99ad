"""A run that goes on from a checkpoint ends bit for bit where it would have ended, also from the middle of a rollout.

Free sampling throughout: random numbers, rollout, optimiser, schedule and data position all have to be found again.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from generalthinker.cli import app

STEPS = 6
# Two optimiser steps train on one rollout, so that every other checkpoint lies in the middle of a round.
RUN = [
    f"training.max_steps={STEPS}", "training.per_device_train_batch_size=4", "training.num_generations=4",
    "training.steps_per_generation=2", "training.gradient_accumulation_steps=1", "training.learning_rate=5e-4",
    "training.save_steps=1", "training.save_total_limit=null", "training.logging_steps=2", "data.limit=40",
    "generation.max_new_tokens=32", "evaluation.at_start=false", "evaluation.at_end=false", "evaluation.every_steps=null",
]  # fmt: skip


def train(output: Path, *arguments: str) -> None:
    result = CliRunner().invoke(app, ["train", *RUN, "--output", str(output), *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output


def command(output: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "generalthinker", "train", *RUN, "--output", str(output), *arguments]


def run(output: Path, *arguments: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command(output, *arguments), env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "model" / "model.safetensors")


def assert_same_end(output: Path, straight: Path) -> None:
    ours, theirs = weights(output), weights(straight)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As in the processes that these tests start: with another number of threads sums round otherwise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("straight") / "run"
    train(folder)
    return folder


@pytest.mark.parametrize("step", range(1, STEPS))
def test_every_step(straight: Path, tmp_path: Path, step: int) -> None:
    train(tmp_path / "run", "--resume", str(straight / "checkpoints" / f"checkpoint-{step}"))
    assert_same_end(tmp_path / "run", straight)
    rows = [
        {
            row["step"]: row
            for row in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
            if "kl" in row
        }
        for folder in (tmp_path / "run", straight)
    ]
    assert rows[0], "something was logged after the resumption"
    for number, row in rows[0].items():
        for name in ("reward", "kl", "entropy", "grad_norm", "loss", "answer_logprob", "credit/log_ratio_std"):
            assert row.get(name) == rows[1][number].get(name), f"step {number}, {name}"


def test_several_rollouts_in_a_step(tmp_path: Path) -> None:
    options = ("training.max_steps=3", "training.steps_per_generation=1", "training.gradient_accumulation_steps=2")
    train(tmp_path / "straight", *options)
    train(tmp_path / "run", *options, "--resume", str(tmp_path / "straight/checkpoints/checkpoint-1"))
    assert_same_end(tmp_path / "run", tmp_path / "straight")


@pytest.mark.parametrize("written", ["checkpoints/checkpoint-3", "model/model.safetensors"])
def test_the_same_command_goes_on_after_a_kill(straight: Path, tmp_path: Path, written: str) -> None:
    output = tmp_path / "run"
    process = subprocess.Popen(command(output), env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not (output / written).exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    (output / "results.json").unlink(missing_ok=True)  # it is written right behind the model
    run(output)
    results = json.loads((output / "results.json").read_text())
    assert results["resumed_at"] >= 3
    steps = [
        row["step"] for row in map(json.loads, (output / "metrics.jsonl").read_text().splitlines()) if "loss" in row
    ]
    assert steps == [2, 4, 6], "no row is lost or repeated"
    assert torch.equal(*(w["model.embed_tokens.weight"] for w in (weights(output), weights(straight))))


def test_a_signal_saves_and_ends_with_a_code_of_its_own(straight: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    process = subprocess.Popen(
        command(output), env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True
    )
    while not (output / "checkpoints/checkpoint-2").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    if process.returncode == 0:
        pytest.skip("the run was over before the signal came")
    assert process.returncode == 75
    assert "SIGTERM: saved" in err and "run the same command again" in err
    run(output)
    assert torch.equal(*(w["model.embed_tokens.weight"] for w in (weights(output), weights(straight))))


def test_changed_settings_are_named_and_refused(straight: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(straight, copy)
    (copy / "results.json").unlink()
    shutil.rmtree(copy / "model")
    refused = CliRunner().invoke(app, ["train", *RUN, "method.credit_strength=0.2", "--output", str(copy)])
    assert "method.credit_strength was 0.1 and is 0.2" in str(refused.exception)
    finished = CliRunner().invoke(app, ["train", *RUN, "--output", str(straight)])
    assert "is finished: choose another --output" in str(finished.exception)


@pytest.mark.skipif(sys.platform != "linux", reason="DeepSpeed is for Linux")
@pytest.mark.parametrize("zero", [pytest.param(2), pytest.param(3, marks=pytest.mark.slow)])
def test_two_ranks_in_the_middle_of_a_round(tmp_path: Path, zero: int) -> None:
    options = ("--gpus", "2", "--zero", str(zero))
    run(tmp_path / "straight", *options)
    for step in (3,) if zero == 2 else (2, 3, 5):
        output = tmp_path / f"from-{step}"
        run(output, *options, "--resume", str(tmp_path / f"straight/checkpoints/checkpoint-{step}"))
        assert_same_end(output, tmp_path / "straight")
