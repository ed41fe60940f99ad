"""What only a machine with CUDA can show: `nox -s gpu`. Without one each test is skipped, visibly."""

import subprocess
import sys

import pytest
import torch

from thinker_common.cli.selftest import CHECKS, run_check

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.timeout(1000)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_selftest(check):
    outcome = run_check(check)
    if outcome.result == "not here":
        pytest.skip(outcome.detail)
    assert outcome.result == "passed", outcome


@pytest.mark.parametrize("zero", [0, 2, 3])
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two GPUs")
def test_two_ranks_train_over_nccl(tmp_path, zero):
    command = [
        sys.executable, "-m", "generalthinker", "train", "--gpus", "2", "--zero", str(zero), "--output", str(tmp_path / "run"),
        "training.max_steps=2", "training.per_device_train_batch_size=8", "training.num_generations=4",
        "generation.max_new_tokens=16", "evaluation.at_start=false", "evaluation.at_end=false", "evaluation.every_steps=null",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()
