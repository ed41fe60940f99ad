"""The commands that start ranks: local, on the hosts of a hostfile, in a Slurm allocation."""

import os
import shlex
import subprocess
import sys

import pytest

from thinker_common.distributed import launch
from thinker_common.distributed.hosts import Host
from thinker_common.distributed.launch import LaunchSettings, plan_launch, remote_command, slurm_hosts, slurm_script
from thinker_common.errors import SettingsError, UserError

PYTHON = sys.executable
JOB = ["method", "train", "--output", "runs/a b"]
WORKER = ["thinker_common.distributed.worker", *JOB]


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch):
    for name in list(os.environ):
        if name.startswith("SLURM_") or name in {"RANK", "WORLD_SIZE", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"}:
            monkeypatch.delenv(name)


def plan(visible=(), /, **settings):
    made = plan_launch(LaunchSettings(**settings), JOB[0], JOB[1:], gpus=list(visible))
    assert made is not None
    return made


def test_one_device_without_deepspeed_needs_no_launch():
    for settings, gpus in (({}, []), ({}, ["0"]), ({"gpus": 1}, ["0", "1"])):
        assert plan_launch(LaunchSettings(**settings), JOB[0], JOB[1:], gpus=gpus) is None


def test_every_gpu_is_used_unless_fewer_are_asked_for():
    assert plan("01234567").world_size == 8
    assert plan("01234567", gpus=2).world_size == 2
    assert plan("0", zero=2).world_size == 1, "DeepSpeed needs its launcher for one process too"


def test_a_rank_launches_nothing(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert plan_launch(LaunchSettings(gpus=2, zero=2), JOB[0], JOB[1:]) is None


def test_deepspeed_command(monkeypatch):
    made = plan("0123", gpus=2, zero=2, master_port=1234)
    assert list(made.commands[0]) == [
        PYTHON, "-m", "deepspeed.launcher.runner", "--quiet", "--num_gpus", "2", "--master_addr", "127.0.0.1",
        "--master_port", "1234", "--no_local_rank", "--module", *WORKER,
    ]  # fmt: skip
    assert made.hosts == (Host("localhost", 2),) and made.environment == {} and made.local
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,3,6")
    made = plan(["5", "3", "6"], gpus=2)
    assert "localhost:5,3" in made.commands[0] and "--num_gpus" not in made.commands[0]
    assert made.removed == ("CUDA_VISIBLE_DEVICES",)
    with pytest.raises(UserError, match="names GPUs by their UUID"):
        plan(["GPU-1", "GPU-2"])


def test_deepspeed_reads_the_command(monkeypatch):
    """DeepSpeed's own parser takes it apart as it is meant."""
    from deepspeed.launcher.runner import parse_args

    arguments = plan("0123", gpus=2, zero=2).commands[0][3:]
    parsed = parse_args(arguments)
    assert (parsed.num_gpus, parsed.module, parsed.no_local_rank) == (2, True, True)
    assert [parsed.user_script, *parsed.user_args] == WORKER


def test_torchrun_command():
    made = plan("01", launcher="torchrun", master_port=1234)
    assert list(made.commands[0]) == [
        PYTHON, "-m", "torch.distributed.run", "--nnodes", "1", "--node-rank", "0", "--nproc-per-node", "2",
        "--master-addr", "127.0.0.1", "--master-port", "1234", "-m", *WORKER,
    ]  # fmt: skip


def test_more_gpus_than_there_are(monkeypatch):
    with pytest.raises(UserError, match=r"launch.gpus = 4: this machine has 2 GPUs$"):
        plan("01", gpus=4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(UserError, match="this machine has 1 GPUs that CUDA_VISIBLE_DEVICES shows"):
        plan("0", gpus=4)


def test_cpu_ranks_share_the_processors(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert plan(gpus=2).environment == {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "4"}
    assert plan(gpus=16).environment["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert plan(gpus=2).environment == {"DS_ACCELERATOR": "cpu"}


# --- hosts ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def hostfile(tmp_path):
    file = tmp_path / "hosts"
    file.write_text("a slots=8\nb slots=8\nc slots=8\n")
    return str(file)


def test_one_command_for_each_host(hostfile):
    made = plan(hostfile=hostfile, nodes=2, gpus=4, zero=3)
    assert made.hosts == (Host("a", 4), Host("b", 4)) and made.world_size == 8 and not made.local
    assert list(made.commands[1]) == [
        PYTHON, "-m", "deepspeed.launcher.runner", "--quiet", "--hostfile", hostfile, "--num_nodes", "2", "--num_gpus",
        "4", "--no_ssh", "--node_rank", "1", "--master_addr", "a", "--master_port", "29500", "--no_local_rank",
        "--module", *WORKER,
    ]  # fmt: skip
    made = plan(hostfile=hostfile, launcher="torchrun", master_addr="10.0.0.1")
    assert made.world_size == 24
    assert shlex.join(made.commands[2]).startswith(
        f"{PYTHON} -m torch.distributed.run --nnodes 3 --node-rank 2 --nproc-per-node 8 --master-addr 10.0.0.1"
    )


def test_more_than_the_hostfile_has(hostfile):
    with pytest.raises(UserError, match=r"launch.nodes = 4: .* names 3 hosts"):
        plan(hostfile=hostfile, nodes=4)
    with pytest.raises(UserError, match=r"launch.gpus = 16: a has 8 slots"):
        plan(hostfile=hostfile, gpus=16)


def test_remote_command_keeps_folder_and_variables_but_no_key(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "eth0")
    monkeypatch.setenv("HF_TOKEN", "secret")
    code = "import os, sys; print(os.getcwd(), *map(os.environ.get, sys.argv[1:3]), *sys.argv[3:], sys.stdin.read())"
    names = ["NCCL_SOCKET_IFNAME", "THINKER_TOKEN"]
    command = remote_command("a", [PYTHON, "-c", code, *names, "x y", "it's"], {"THINKER_TOKEN": "t0ken"})
    assert command[:4] == ["ssh", "-o", "BatchMode=yes", "a"]
    assert "secret" not in command[4] and "t0ken" not in command[4]
    # What sshd does: hands the text to a shell in another folder.
    done = subprocess.run(
        ["sh", "-c", command[4]],
        cwd="/", env={"PATH": os.environ["PATH"]}, input="t0ken\nmore", capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout == f"{tmp_path} eth0 t0ken x y it's \n", done.stderr


def test_plan_is_printed_with_everything_that_runs(hostfile):
    lines = plan(gpus=2, zero=2).lines()
    assert lines[0] == "hosts: localhost (2 ranks)"
    assert lines[1].startswith("environment: DS_ACCELERATOR=cpu OMP_NUM_THREADS=")
    assert shlex.split(lines[2].removeprefix("command: "))[-len(JOB) :] == JOB
    assert len([line for line in plan(hostfile=hostfile).lines() if line.startswith("command: ")]) == 3


# --- Slurm ----------------------------------------------------------------------------------------------------------------


def test_slurm_starts_ranks_inside_an_allocation_only(monkeypatch):
    with pytest.raises(UserError, match="SLURM_JOB_ID is not set"):
        plan(launcher="slurm", gpus=2)
    monkeypatch.setenv("SLURM_JOB_ID", "12345")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "gpu1,gpu2")
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "4")
    made = plan(launcher="slurm", zero=3)
    assert list(made.commands[0]) == [
        "srun", "--nodes=2", "--ntasks=8", "--ntasks-per-node=4", "--kill-on-bad-exit=1", PYTHON, "-m", *WORKER
    ]  # fmt: skip
    assert made.hosts == (Host("gpu1", 4), Host("gpu2", 4))
    assert made.environment == {"MASTER_ADDR": "gpu1", "MASTER_PORT": "29845"}
    with pytest.raises(UserError, match=r"launch.nodes = 4: the Slurm allocation has 2"):
        plan(launcher="slurm", nodes=4)
    monkeypatch.delenv("SLURM_GPUS_ON_NODE")
    with pytest.raises(UserError, match="say with --gpus"):
        plan(launcher="slurm")


def test_slurm_hosts_are_expanded_by_slurm(monkeypatch, tmp_path):
    assert slurm_hosts("a") == ["a"] and slurm_hosts("a,b") == ["a", "b"]
    tool = tmp_path / "scontrol"
    tool.write_text('#!/bin/sh\n[ "$*" = "show hostnames gpu[1-2],x" ] && printf "gpu1\\ngpu2\\nx\\n"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert slurm_hosts("gpu[1-2],x") == ["gpu1", "gpu2", "x"]
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="scontrol could not expand"):
        slurm_hosts("gpu[1-2]")


def test_slurm_script_is_a_script(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = LaunchSettings(launcher="slurm", nodes=8, gpus=8, zero=3, slurm_options=["--partition=gpu", "--time=24:00:00"])  # fmt: skip
    text = slurm_script(settings, [PYTHON, "-c", "import sys; print(sys.argv[1:])", "a b", "$HOME"], name="run", log="run/slurm-%j.log")  # fmt: skip
    script = tmp_path / "run.sbatch"
    script.write_text(text)
    subprocess.run(["bash", "-n", script], check=True)
    for option in ("--nodes=8", "--ntasks-per-node=8", "--gpus-per-node=8", "--partition=gpu", "--time=24:00:00", "--signal=B:TERM@120"):  # fmt: skip
        assert f"\n#SBATCH {option}\n" in text
    assert subprocess.run(["bash", script], capture_output=True, text=True, cwd="/").stdout == "['a b', '$HOME']\n"
    with pytest.raises(SettingsError, match="say how many with --gpus"):
        slurm_script(LaunchSettings(launcher="slurm"), ["x"], name="run", log="log")


def test_nothing_of_launching_imports_torch():
    modules = ["launch", "launch_settings", "hosts", "exit_codes", "phases", "worker", "child", "supervisor", "engine", "deepspeed_config"]  # fmt: skip
    names = ", ".join(f"thinker_common.distributed.{module}" for module in modules)
    script = (
        f"import sys, {names}, thinker_common.cli.launch; print('torch' in sys.modules, 'deepspeed' in sys.modules)"
    )
    done = subprocess.run([PYTHON, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"


def test_worker_is_found_by_the_package_it_is_in():
    assert launch.WORKER == "thinker_common.distributed.worker"
