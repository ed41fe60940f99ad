"""The evaluations of a run on two ranks, which share the problems: before, while training and after."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from thinker_common import evaluate, load_benchmark, load_policy, load_tokenizer

RUN = [
    "training.max_steps=1", "training.per_device_train_batch_size=4", "training.num_generations=4",
    "generation.max_new_tokens=32", "evaluation.limit=5", "evaluation.every_steps=1", "evaluation.validation_limit=3",
    "evaluation.max_new_tokens=48", "data.limit=40",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="DeepSpeed is for Linux")
@pytest.mark.parametrize("options", [[], ["--zero", "3"]], ids=["DDP", "ZeRO-3"])
def test_two_ranks_evaluate_as_one_process(tmp_path: Path, options: list[str]) -> None:
    output = tmp_path / "run"
    command = [sys.executable, "-m", "generalthinker", "train", *RUN, "--gpus", "2", *options, "--output", str(output)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"

    results = json.loads((output / "results.json").read_text())
    for when, model in (("before", "embedded"), ("after", output / "model")):
        alone = evaluate(
            load_policy(model), load_tokenizer(model), load_benchmark("chains", limit=5), max_new_tokens=48
        ).to_dict()
        found = results["evaluations"][when]["chains"]
        for name in ("n", "accuracy", "boxed_rate", "mean_tokens", "answer_loglik"):
            assert found[name] == pytest.approx(alone[name], abs=1e-4), f"{name} {when}"
        files = list((output / "evaluation" / when / "chains").iterdir())
        assert [path.name for path in files] == ["generations.jsonl"]
        assert len(files[0].read_text().splitlines()) == 1 + 5
    metrics = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert ["validation/accuracy" in row for row in metrics].count(True) == 1

    # The rollout is that of one process too: its prompts, and what is sampled for each.
    alone = tmp_path / "alone"
    whole = ["training.per_device_train_batch_size=8", "evaluation.at_start=false", "evaluation.at_end=false"]
    command = [sys.executable, "-m", "generalthinker", "train", *RUN, *whole, "--output", str(alone)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    metrics_alone = [json.loads(line) for line in (alone / "metrics.jsonl").read_text().splitlines()]
    [of_one], [of_two] = ([row for row in rows if "reward" in row] for rows in (metrics_alone, metrics))
    assert of_one["completions/mean_length"] == of_two["completions/mean_length"]
    for name in ("reward", "answer_logprob"):
        assert of_one[name] == pytest.approx(of_two[name], abs=1e-4), name
    assert {json.loads(line)["step"] for line in (output / "samples.jsonl").read_text().splitlines()} == {0, 1}
