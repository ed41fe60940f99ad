"""Going on with another number of ranks: what can be converted, and that the training is the same."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from thinker_common.errors import UserError
from thinker_common.training import checkpoints
from thinker_common.training.checkpoints import Manifest
from thinker_common.training.universal import convert, mend_loaded

HERE = Path(__file__).parent


def torchrun(number: int, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={number}",
         HERE / "universal_ranks.py", *arguments],
        env={**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["1", "2", "3"])
@pytest.mark.parametrize("number", [1, 4])
def test_two_ranks_go_on_as_one_and_as_four(tmp_path, stage, number):
    """The tolerance is that of parity: another number of ranks adds in another order."""
    done = torchrun(2, tmp_path / "two", stage)
    assert done.returncode == 0, done.stderr[-3000:]
    original = tmp_path / "two" / "checkpoint-3"
    refused = torchrun(number, tmp_path / "other", stage, original)
    assert f"convert it with `python -m thinker_common.training.universal {original}" in refused.stderr
    converted = convert(original, tmp_path / "converted")
    checkpoints.verify(original)
    done = torchrun(number, tmp_path / "other", stage, converted)
    assert done.returncode == 0, done.stderr[-3000:]
    logs = [json.loads((tmp_path / name / "record.json").read_text())["history"] for name in ("two", "other")]
    assert [row["step"] for row in logs[1]] == [row["step"] for row in logs[0]] == [2, 4, 6, 8]
    for name in ("loss", "cross_entropy", "tokens"):
        assert [row[name] for row in logs[1]] == pytest.approx([row[name] for row in logs[0]], abs=1e-5), name
    two, other = (load_file(tmp_path / name / "weights.safetensors") for name in ("two", "other"))
    assert max((two[name] - other[name]).abs().max().item() for name in two) < 1e-5
    again = checkpoints.verify(tmp_path / "other" / "checkpoint-6")
    assert (again.ranks, again.universal) == (number, False), "saves of the new run are ordinary ones"


def test_what_deepspeed_shares_between_groups_is_taken_apart_again():
    """One step counter for two groups is counted up twice a step; see `mend_loaded`."""
    first, second = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    groups = [{"params": [first], "weight_decay": 0.1}, {"params": [second], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups)
    (first.sum() + second.sum()).backward()
    optimizer.step()
    optimizer.state[second]["step"] = optimizer.state[first]["step"]
    optimizer.param_groups[1]["weight_decay"] = 0.1
    mend_loaded(optimizer, [0.1, 0.0])
    optimizer.step()
    assert optimizer.state[first]["step"] == optimizer.state[second]["step"] == 2
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]


def test_ddp_goes_on_as_one_process(tmp_path):
    """Without DeepSpeed nothing is converted: weights and optimiser are whole on every rank."""
    spec = importlib.util.spec_from_file_location("tiny_training", HERE / "tiny_training.py")
    tiny = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny)
    trainer = tiny.trainer(tmp_path / "run", max_steps=3)
    trainer.train()
    path = tmp_path / "run" / "checkpoint-3"
    manifest = checkpoints.read_manifest(path)
    content = Manifest(**{**manifest.__dict__, "ranks": 2}).to_bytes()
    (path / checkpoints.MANIFEST).write_bytes(content)
    resumed = tiny.trainer(tmp_path / "run", max_steps=5)
    resumed.train(resume_from_checkpoint=path)
    assert resumed.state.global_step == 5
    content = Manifest(**{**manifest.__dict__, "ranks": 2, "rank_bound": True}).to_bytes()
    (path / checkpoints.MANIFEST).write_bytes(content)
    with pytest.raises(
        UserError, match="holds what each of 2 ranks was in the middle of, and this run has 1: go on with"
    ):
        tiny.trainer(tmp_path / "run", max_steps=5).train(resume_from_checkpoint=path)


def sealed(folder: Path, **changes) -> Path:
    inside = checkpoints.begin(folder) / "checkpoint-3"
    inside.mkdir()
    (inside / "latest").write_text("global_step3")
    values = {"step": 3, "ranks": 2, "engine": "zero-2", "examples_per_step": 8, "rank_bound": False}
    files = checkpoints.record_files(inside, ["latest"])
    return checkpoints.commit(folder, Manifest(**{**values, "settings": {}, "data": {}, "files": files, **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"engine": "plain"}, "is not of DeepSpeed: any number of ranks loads it as it is"),
        ({"engine": "zero-0"}, "holds whole parameters already"),
        ({"universal": True}, "holds whole parameters already"),
        ({"rank_bound": True}, "in the middle of a rollout, which belongs to its 2 ranks"),
    ],
)
def test_what_cannot_be_converted_is_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        convert(sealed(tmp_path, **changes), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_command_refuses_in_one_line(tmp_path):
    path = sealed(tmp_path)
    with pytest.raises(UserError, match="is not empty: name another folder"):
        convert(path, tmp_path)
    (path / "latest").write_text("global_step4")
    command = [sys.executable, "-m", "thinker_common.training.universal", path, tmp_path / "new"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "latest is damaged" in done.stderr and "Traceback" not in done.stderr
