"""The run folder: what it refuses, what it writes, and that a failed write leaves nothing behind."""

import errno
import getpass
import json
import os
import platform
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from thinker_common import __version__
from thinker_common.errors import UserError
from thinker_common.training import run_folder
from thinker_common.training.run_folder import RunFolder, releasing_folders, source_commit, write_atomic


def test_create_makes_parents_and_accepts_an_empty_folder(tmp_path):
    run = RunFolder.create(tmp_path / "a" / "b")
    assert run.path.is_dir()
    assert RunFolder.create(run.path).path == run.path
    assert list(run.path.iterdir()) == []


def test_create_refuses_a_folder_with_another_run(tmp_path):
    run = RunFolder.create(tmp_path / "run")
    run.write_config("method: {}\n")
    with pytest.raises(UserError, match="holds another run"):
        RunFolder.create(run.path)
    assert [entry.name for entry in run.path.iterdir()] == ["config.yaml"]


def test_create_refuses_a_folder_with_other_files(tmp_path):
    for name in ("thesis.tex", "b", "c", "d"):
        (tmp_path / name).write_text("x")
    with pytest.raises(UserError, match=r"is not empty \(it holds b, c, d, ...\)"):
        RunFolder.create(tmp_path)


def test_asking_whether_a_folder_is_free_makes_nothing(tmp_path):
    RunFolder(tmp_path / "a" / "b").check_free()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "config.yaml").touch()
    with pytest.raises(UserError, match="holds another run"):
        RunFolder(tmp_path).check_free()


def test_create_refuses_a_file_and_a_path_below_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError, match="is or lies below a file"):
            RunFolder.create(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_create_refuses_a_folder_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot be made"):
        RunFolder.create(tmp_path / "run")
    tmp_path.chmod(0o700)


@pytest.mark.parametrize("name", ["../other", "/etc/passwd", "a/../../b", ".", "", "link/x"])
def test_names_cannot_leave_the_run_folder(tmp_path, name):
    run = RunFolder.create(tmp_path / "run")
    (run.path / "link").symlink_to(tmp_path)
    with pytest.raises(UserError, match="is not a name inside the run folder"):
        run.file(name)


def test_file_makes_nothing(tmp_path):
    run = RunFolder.create(tmp_path / "run")
    assert run.file("evaluation/chains/generations.jsonl") == run.path / "evaluation/chains/generations.jsonl"
    assert list(run.path.iterdir()) == []


def test_metrics_are_appended_as_json_lines(tmp_path):
    run = RunFolder.create(tmp_path)
    run.append_metrics({"step": 1, "loss": 0.5})
    run.append_metrics({"step": 2, "loss": float("nan"), "nested": {"x": [float("inf"), 1]}})
    lines = run.metrics.read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 1, "loss": 0.5},
        {"step": 2, "loss": None, "nested": {"x": [None, 1]}},
    ]
    assert "NaN" not in run.metrics.read_text()


def test_a_metrics_line_that_does_not_fit_leaves_no_part_behind(tmp_path):
    run = RunFolder.create(tmp_path)
    run.append_metrics({"step": 1})
    before = run.metrics.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 5, limits[1]))
        with pytest.raises(OSError, match="too large") as caught:
            run.append_metrics({"step": 2, "text": "x" * 100})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.filename == str(run.metrics)
    assert run.metrics.read_bytes() == before


def test_tensor_and_array_scalars_are_numbers(tmp_path):
    import numpy as np
    import torch

    run = RunFolder.create(tmp_path)
    run.write_results({"a": torch.tensor(1.5), "b": np.float32(0.5), "c": (1, 2), "d": np.int64(3)})
    assert json.loads((run.path / "results.json").read_text()) == {"a": 1.5, "b": 0.5, "c": [1, 2], "d": 3.0}


def test_write_atomic_replaces_and_honours_the_umask(tmp_path):
    write_atomic(tmp_path / "f", "old")
    write_atomic(tmp_path / "f", "new ä")
    (tmp_path / "plain").write_text("x")
    assert (tmp_path / "f").read_text(encoding="utf-8") == "new ä"
    assert (tmp_path / "f").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["f", "plain"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("old", [None, "old"])
def test_a_full_disk_leaves_the_old_file_and_no_temporary_one(tmp_path, monkeypatch, call, old):
    path = tmp_path / "results.json"
    if old is not None:
        path.write_text(old)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(run_folder.os, call, full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_atomic(path, "new")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    assert [entry.name for entry in tmp_path.iterdir()] == ([] if old is None else ["results.json"])
    assert old is None or path.read_text() == old


def test_a_write_that_fails_half_way_leaves_nothing(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        with pytest.raises(OSError, match="too large"):
            write_atomic(tmp_path / "f", "x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_environment_says_versions_and_machine_but_names_nobody(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    run = RunFolder.create(tmp_path)
    run.write_environment()
    text = (run.path / "environment.json").read_text()
    content = json.loads(text)
    assert content["packages"]["thinker-common"] == __version__
    assert {"torch", "transformers", "trl"} <= set(content["packages"])
    assert content["python"] == platform.python_version()
    assert content["threads"] >= 1
    assert content["devices"]
    private = ("hf_secret", platform.node(), os.path.expanduser("~"), str(tmp_path))
    assert not [word for word in private if word and word in text]
    assert f'"{getpass.getuser()}"' not in text


def test_source_commit_counts_tracked_files_only(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        done = subprocess.run(
            ["git", "-C", tmp_path, *identity, *arguments], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    source = tmp_path / "module.py"
    source.write_text("x = 1\n")
    monkeypatch.setattr(run_folder, "__file__", str(source))
    assert source_commit() is None  # no repository
    git("init", "-q")
    (tmp_path / "other").write_text("x")
    git("add", "other")
    git("commit", "-qm", "another project")
    assert source_commit() is None  # a repository that does not hold the file
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/results.md").write_text("1")
    git("add", "module.py", "docs")
    git("commit", "-qm", "ours")
    (tmp_path / "docs/results.md").write_text("2")
    assert source_commit() == {"commit": git("rev-parse", "HEAD"), "changed": False}
    source.write_text("x = 2\n")
    assert source_commit() == {"commit": git("rev-parse", "HEAD"), "changed": True}


def named(number):
    return rf" \({number}\)" if Path("/proc/locks").exists() else ""


@pytest.mark.skipif(sys.platform == "win32", reason="needs fcntl")
def test_a_folder_is_trained_in_by_one_process_at_a_time(tmp_path):
    hold = f"from thinker_common.training.run_folder import RunFolder; RunFolder({str(tmp_path)!r}).hold()"
    other = subprocess.Popen(
        [sys.executable, "-c", f"{hold}; print('held', flush=True); input()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert other.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=rf"another process{named(other.pid)} is training in it"):
        RunFolder(tmp_path).hold()
    other.kill()
    other.wait()

    @releasing_folders()
    def train():
        for _ in range(2):  # a second training in one process is its own business
            RunFolder(tmp_path).hold()
        third = subprocess.run([sys.executable, "-c", hold], capture_output=True, text=True)
        assert third.returncode == 1
        assert re.search(rf"another process{named(os.getpid())} is training in it", third.stderr)
        raise UserError("the training fails")

    with pytest.raises(UserError, match="the training fails"):
        train()
    assert subprocess.run([sys.executable, "-c", hold]).returncode == 0
