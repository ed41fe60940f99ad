"""Faults injected into saves: whatever fails or dies, the last good checkpoint is there and the next save succeeds."""

import errno
import importlib.util
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
import torch

from thinker_common.errors import UserError
from thinker_common.training import durable
from thinker_common.training.resume import choose

HERE = Path(__file__).parent
KILLS = 50


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tiny = load("tiny_training")


# ------------------------------------------------------------------------------------------- every operation of a save


def fail_saves(shim: Path, folder: Path, *arguments: str) -> dict:
    done = subprocess.run(
        [sys.executable, HERE / "fault_saves.py", folder, *arguments],
        env={**os.environ, "LD_PRELOAD": str(shim), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_death_at_every_write_fsync_rename_and_removal_of_a_save(shim, tmp_path, record_property):
    """kill -9 in the middle of each of them, writes half done; what is checked stands in fault_saves.py."""
    outcome = fail_saves(shim, tmp_path, "die")
    operations = outcome["operations"]
    record_property("a save's operations, each died at", str(operations))
    assert operations["write"] + operations["writev"] > 20 and operations["fsync"] > 10 and operations["rename"] == 2
    assert outcome["step 2 left"] + outcome["step 3 left"] == sum(operations.values())
    assert outcome["step 2 left"] > 50 and outcome["step 3 left"] > 10


@pytest.mark.parametrize(
    ("mode", "part"),
    [(mode, ("0", "4")) for mode in ("full", "broken")]
    + [pytest.param(mode, ("0", "1"), marks=pytest.mark.slow) for mode in ("full", "broken")],
    ids=str,
)
def test_a_disk_that_is_full_or_broken_from_any_operation_on(shim, tmp_path, mode, part):
    """The error says which, and which checkpoint is complete. In `tests` every fourth operation, in `slow` all."""
    outcome = fail_saves(shim, tmp_path, mode, *part)
    assert outcome["step 2 left"] > outcome["step 3 left"] > 0


# ------------------------------------------------------------------------------------------- folders


def test_a_folder_that_vanishes_is_not_made_again(tmp_path):
    class Vanishing(tiny.SupervisedTrainer):
        def training_step(self, *args, **kwargs):
            if self.state.global_step == 2:
                shutil.rmtree(self.args.output_dir, ignore_errors=True)
            return super().training_step(*args, **kwargs)

    with pytest.raises(UserError, match=r"step 3: cannot begin a checkpoint: the folder has vanished"):
        tiny.trainer(tmp_path / "run", cls=Vanishing).train()
    assert not (tmp_path / "run").exists()


def test_a_folder_that_becomes_read_only(tmp_path, monkeypatch):
    """As the superuser, whom file modes do not stop: the operations refuse instead."""
    trainer = tiny.trainer(tmp_path)

    def refuse(path, *content):
        if trainer.state.global_step == 3:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        real[refuse.name](path, *content)

    real = {name: getattr(durable, name) for name in ("make_folder", "write_file")}
    refuse.name = "make_folder"
    monkeypatch.setattr(durable, "make_folder", refuse)
    monkeypatch.setattr(durable, "why_not_writable", lambda folder: os.strerror(errno.EROFS))
    with pytest.raises(
        UserError, match=r"step 3: cannot begin .*: Read-only file system \(.*checkpoint-2 is complete\)"
    ):
        trainer.train()
    assert choose(tmp_path, "auto").checkpoint.manifest.step == 2


@pytest.fixture
def disk(tmp_path):
    """A file system of its own, which can be made read-only for the superuser as well."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "none", path]
    if sys.platform != "linux" or os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this machine does not let the tests mount a file system")
    yield path
    subprocess.run(["umount", path], check=True)


def test_a_file_system_that_becomes_read_only(disk):
    """As the kernel does it to a disk with errors."""

    class Remounting(tiny.SupervisedTrainer):
        def training_step(self, *args, **kwargs):
            if self.state.global_step == 2:
                subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
            return super().training_step(*args, **kwargs)

    with pytest.raises(UserError, match=r"step 3: .*: Read-only file system.*checkpoint-2 is complete"):
        tiny.trainer(disk / "run", cls=Remounting).train()
    assert choose(disk / "run", "auto").checkpoint.manifest.step == 2
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    again = tiny.trainer(disk / "run")
    again.train(resume_from_checkpoint=str(disk / "run/checkpoint-2"))
    assert again.state.global_step == 10


# ------------------------------------------------------------------------------------------- kills


@pytest.mark.slow
def test_fifty_kills_at_random_instants_and_the_same_weights_in_the_end(tmp_path, record_property):
    table = kills(tmp_path, KILLS)
    record_property("kills survived", f"{sum(row['survived'] for row in table)}/{KILLS}")
    assert all(row["survived"] for row in table)


def kills(folder: Path, number: int) -> list[dict]:
    """Trains to the end through `number` real kill -9, and compares with a training that nobody touched.

    Each process is killed within half a second of its first new checkpoint, so that the instants fall anywhere in
    steps and saves. A row per kill: how far the checkpoints were, what was passed over, whether one was complete.
    """
    draw = random.Random(0)
    steps = str(20 * number)
    run, whole = folder / "killed", folder / "whole"
    table = []
    for _ in range(number):
        before = newest(run)
        process = start(run, steps)
        while newest(run) == before and process.poll() is None:
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 0.5))
        alive = process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        point = choose(run, "auto")
        table.append(
            {
                "killed": alive,
                "step": point.checkpoint.manifest.step if point.checkpoint else None,
                "skipped": [skipped.reason for skipped in point.skipped],
                "survived": alive and point.checkpoint is not None and newest(run) == point.checkpoint.manifest.step,
            }
        )
    for path in (run, whole):
        assert start(path, steps).wait() == 0
    same = torch.equal(torch.load(run / "final.pt"), torch.load(whole / "final.pt"))
    return [{**row, "survived": row["survived"] and same} for row in table]


def newest(run: Path) -> int:
    return max((int(path.name.rpartition("-")[2]) for path in run.glob("checkpoint-*")), default=0)


def start(run: Path, steps: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, HERE / "tiny_training.py", run, steps],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


if __name__ == "__main__":
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as scratch:
        found = kills(Path(scratch), int(sys.argv[1]) if len(sys.argv) > 1 else KILLS)
    for number, row in enumerate(found, start=1):
        print(number, *row.values(), sep=" | ")
    print(f"{sum(row['survived'] for row in found)}/{len(found)} survived, weights equal bit for bit")
