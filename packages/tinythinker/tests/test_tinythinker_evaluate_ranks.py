"""`evaluate` on two ranks: the questions are shared out, and the figures and rows are those of one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_students import KINDS, save, student

from tinythinker.student import write_form

FIGURES = ("n", "accuracy", "boxed_rate", "truncation_rate", "mean_tokens", "answer_loglik")


def evaluate(model: str, output: Path, *options: str) -> tuple[dict[str, float], list[dict[str, object]]]:
    """What results.json says of facts, and the rows behind it."""
    command = [
        sys.executable, "-m", "tinythinker", "evaluate", model, "--benchmark", "facts", "--limit", "5",
        "--answer", "self_consistency", "--samples", "3", "--seed", "4", "--output", str(output), *options,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    lines = (output / "facts/generations.jsonl").read_text().splitlines()
    return json.loads((output / "results.json").read_text())["benchmarks"]["facts"], list(map(json.loads, lines[1:]))


SHARDED = pytest.mark.skipif(sys.platform != "linux", reason="DeepSpeed is for Linux")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("sharded", [False, pytest.param(True, marks=SHARDED)], ids=["whole", "ZeRO-3"])
@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_evaluate_as_one_process(kind: str, sharded: bool, tmp_path: Path) -> None:
    one = student(kind, seed=2)
    model = save(one, tmp_path / "model")
    write_form(tmp_path / "model", one.form)
    alone, rows = evaluate(model, tmp_path / "one")
    options = ["--gpus", "2", "--launcher", "torchrun", *(["--zero", "3"] if sharded else [])]
    found, shared = evaluate(model, tmp_path / "two", *options)
    assert len(rows) == 5 and any(row["text"] for row in rows)
    for name in FIGURES:
        assert found[name] == pytest.approx(alone[name], abs=1e-4), name
    for row, other in zip(rows, shared, strict=True):
        assert other.pop("answer_loglik") == pytest.approx(row.pop("answer_loglik"), abs=1e-4)
        assert other == row
    assert not list((tmp_path / "two/facts").rglob("*rank*")), "the ranks' own files are taken over"
