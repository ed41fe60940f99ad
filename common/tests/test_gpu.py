"""What only a machine with CUDA can show: `nox -s gpu`. Without one each test is skipped, visibly."""

import subprocess
import sys

import pytest
import torch

from thinker_common.likelihood.scorer import AnswerScorer, ScoringItem
from thinker_common.models.load import load_policy, load_tokenizer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
ITEMS = [ScoringItem(f"What is {i} + 1?", "So ", answer=str(i + 1)) for i in range(16)]


def scores(dtype):
    model = load_policy("embedded", dtype=dtype).to("cuda")
    return torch.tensor([score.sum for score in AnswerScorer(model, load_tokenizer("embedded")).score(ITEMS)])


def test_scores_on_the_gpu_are_those_of_the_cpu():
    scorer = AnswerScorer(load_policy("embedded", dtype="float32"), load_tokenizer("embedded"))
    on_cpu = torch.tensor([score.sum for score in scorer.score(ITEMS)])
    torch.testing.assert_close(scores("float32"), on_cpu, atol=1e-3, rtol=1e-4)


def test_bfloat16_is_near_float32():
    torch.testing.assert_close(scores("bfloat16"), scores("float32"), atol=0.5, rtol=0.05)


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


def test_vllm_generates(tmp_path):
    pytest.importorskip("vllm")
    command = [sys.executable, "-m", "thinker_common.cli", "evaluate", "embedded", "--benchmark", "chains", "--limit", "8", "--max-new-tokens", "32", "--backend", "vllm", "--output", str(tmp_path / "out")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, done.stderr[-3000:]
