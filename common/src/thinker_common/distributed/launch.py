"""From launch settings to the commands that start the ranks: the `deepspeed` launcher, `torchrun` or Slurm's `srun`.

Every rank is `python -m <this package>.worker MODULE ARGUMENTS`, which runs `python -m MODULE ARGUMENTS` and watches
it. On several hosts the launcher is started on each of them through `ssh`, with the hostfile that DeepSpeed reads; in
a Slurm allocation `srun` starts the ranks, and outside of one a script for `sbatch` is written.

One process is enough where there is one device and no DeepSpeed: then there is nothing to launch.
"""

import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..errors import SettingsError, UserError
from .hosts import Host, read_hostfile, visible_gpus
from .launch_settings import LaunchSettings
from .worker import TOKEN

WORKER = f"{__package__}.worker"
DEFAULT_PORT = 29500
# What the ranks on other hosts need from this environment; keys such as HF_TOKEN stay out of command lines.
_FORWARDED = (
    "DS_", "GLOO_", "NCCL_", "TORCH_NCCL_", "TORCH_EXTENSIONS_DIR", "OMP_NUM_THREADS", "PYTHONPATH", "HF_HOME",
    "HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "HF_DATASETS_CACHE", "TQDM_DISABLE", "THINKER_", "TMPDIR",
)  # fmt: skip


@dataclass(frozen=True)
class LaunchPlan:
    """What starts a run's ranks: one command for each host (Slurm: one for all)."""

    hosts: tuple[Host, ...]
    commands: tuple[tuple[str, ...], ...]
    environment: dict[str, str]  # added to this process's own
    removed: tuple[str, ...]  # taken out of it
    master_addr: str
    master_port: int
    settings: LaunchSettings

    @property
    def world_size(self) -> int:
        return sum(host.ranks for host in self.hosts)

    @property
    def local(self) -> bool:
        """Whether all ranks run on this machine."""
        return len(self.hosts) == 1 and is_this_host(self.hosts[0].name)

    def lines(self) -> list[str]:
        """The hosts, the environment and the exact commands, for `--dry-run`."""
        lines = [f"hosts: {', '.join(f'{host.name} ({_ranks(host.ranks)})' for host in self.hosts)}"]
        if self.environment or self.removed:
            changes = [f"{name}={value}" for name, value in self.environment.items()]
            lines.append(f"environment: {' '.join([*changes, *(f'-u {name}' for name in self.removed)])}")
        return lines + [f"command: {shlex.join(command)}" for command in self.commands]


def needs_launch(settings: LaunchSettings, gpus: Sequence[str]) -> bool:
    """Whether ranks have to be started: not for one process without DeepSpeed, and not in a rank itself."""
    if in_rank():
        return False
    return settings.uses_deepspeed or settings.launcher == "slurm" or _several(settings, gpus)


def in_rank() -> bool:
    """Whether this process is a rank that a launcher has started."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def launched_ranks() -> int:
    """The ranks that a launcher started, this one among them; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def plan_launch(
    settings: LaunchSettings, module: str, arguments: Sequence[str], *, gpus: Sequence[str] | None = None
) -> LaunchPlan | None:
    """The plan to run `python -m module arguments` on every rank, or None if this process is enough.

    Args:
        settings: how many ranks, where, by which launcher.
        module: what each rank runs; name it by `__package__`, so that a copy under another name runs its own.
        arguments: its command line, the same for all ranks: nothing in it may depend on the time or the process.
        gpus: the GPUs of this machine, as `visible_gpus` finds them (the default).

    Raises:
        UserError: more GPUs asked for than there are, a hostfile that cannot be used, Slurm without an allocation.
    """
    if gpus is None:
        gpus = [] if in_rank() else visible_gpus()
    if not needs_launch(settings, gpus):
        return None
    worker = [WORKER, module, *arguments]
    if settings.launcher == "slurm":
        return _slurm_plan(settings, worker)
    if settings.hostfile is not None:
        return _hostfile_plan(settings, worker)
    return _local_plan(settings, worker, gpus)


# ------------------------------------------------------------------------------------------------------------- one host


def _local_plan(settings: LaunchSettings, worker: Sequence[str], gpus: Sequence[str]) -> LaunchPlan:
    ranks = settings.gpus or max(1, len(gpus))
    if gpus and ranks > len(gpus):
        visible = " that CUDA_VISIBLE_DEVICES shows" if "CUDA_VISIBLE_DEVICES" in os.environ else ""
        raise UserError(f"launch.gpus = {ranks}: this machine has {len(gpus)} GPUs{visible}")
    port = settings.master_port or free_port()
    address = settings.master_addr or "127.0.0.1"
    environment = {} if gpus else cpu_environment(ranks)
    removed: tuple[str, ...] = ()
    if settings.launcher == "torchrun":
        command = _torchrun(worker, ranks, nodes=1, node=0, address=address, port=port)
    else:
        devices = ["--num_gpus", str(ranks)]
        if "CUDA_VISIBLE_DEVICES" in os.environ and gpus:
            # DeepSpeed's --num_gpus takes the first GPUs of the machine whatever this variable says.
            if not all(name.isdecimal() for name in gpus):
                raise UserError(
                    "CUDA_VISIBLE_DEVICES names GPUs by their UUID, which the deepspeed launcher does not read: "
                    "give their numbers, or use --launcher torchrun"
                )
            devices = ["--include", f"localhost:{','.join(gpus[:ranks])}"]
            removed = ("CUDA_VISIBLE_DEVICES",)
        command = [
            *_deepspeed(), *devices, "--master_addr", address, "--master_port", str(port), *_deepspeed_module(), *worker
        ]  # fmt: skip
    return LaunchPlan((Host("localhost", ranks),), (tuple(command),), environment, removed, address, port, settings)


def cpu_environment(ranks_on_host: int) -> dict[str, str]:
    """What CPU ranks need: DeepSpeed's CPU accelerator, and the processors shared out between them.

    ACCELERATE_USE_CPU is not among it: with it DeepSpeed is silently left out (see `engine.check_environment`).
    """
    environment = {"DS_ACCELERATOR": "cpu"}
    if "OMP_NUM_THREADS" not in os.environ:
        environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // ranks_on_host))
    return environment


def _deepspeed() -> list[str]:
    return [sys.executable, "-m", "deepspeed.launcher.runner", "--quiet"]


def _deepspeed_module() -> list[str]:
    return ["--no_local_rank", "--module"]


def _torchrun(worker: Sequence[str], ranks: int, *, nodes: int, node: int, address: str, port: int) -> list[str]:
    return [
        sys.executable, "-m", "torch.distributed.run", "--nnodes", str(nodes), "--node-rank", str(node),
        "--nproc-per-node", str(ranks), "--master-addr", address, "--master-port", str(port), "-m", *worker,
    ]  # fmt: skip


# -------------------------------------------------------------------------------------------------------- several hosts


def _hostfile_plan(settings: LaunchSettings, worker: Sequence[str]) -> LaunchPlan:
    assert settings.hostfile is not None
    listed = read_hostfile(settings.hostfile)
    if settings.nodes is not None:
        if settings.nodes > len(listed):
            raise UserError(f"launch.nodes = {settings.nodes}: {settings.hostfile} names {len(listed)} hosts")
        listed = listed[: settings.nodes]
    if settings.gpus is not None:
        for host in listed:
            if settings.gpus > host.ranks:
                raise UserError(
                    f"launch.gpus = {settings.gpus}: {host.name} has {host.ranks} slots in {settings.hostfile}"
                )
        listed = [replace(host, ranks=settings.gpus) for host in listed]
    address = settings.master_addr or listed[0].name
    port = settings.master_port or DEFAULT_PORT
    commands = []
    for node, host in enumerate(listed):
        if settings.launcher == "torchrun":
            command = _torchrun(worker, host.ranks, nodes=len(listed), node=node, address=address, port=port)
        else:
            command = [
                *_deepspeed(), "--hostfile", os.path.abspath(settings.hostfile), "--num_nodes", str(len(listed)),
                *(["--num_gpus", str(settings.gpus)] if settings.gpus is not None else []),
                "--no_ssh", "--node_rank", str(node), "--master_addr", address, "--master_port", str(port),
                *_deepspeed_module(), *worker,
            ]  # fmt: skip
        commands.append(tuple(command))
    return LaunchPlan(tuple(listed), tuple(commands), {}, (), address, port, settings)


def remote_command(host: str, command: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """The command as `ssh` runs it on a host, in this folder and with what it needs of this environment.

    A line on its standard input becomes the variable TOKEN there: command lines can be read by everybody on a host.
    """
    kept = {name: value for name, value in os.environ.items() if name.startswith(_FORWARDED)} | dict(environment)
    variables = [f"{name}={value}" for name, value in sorted(kept.items()) if name != TOKEN]
    script = f"IFS= read -r {TOKEN} && export {TOKEN} && exec {shlex.join(['env', *variables, *command])} </dev/null"
    # In a POSIX shell, whichever the user logs in to.
    inner = f"cd {shlex.quote(os.getcwd())} && exec sh -c {shlex.quote(script)}"
    return ["ssh", "-o", "BatchMode=yes", host, inner]


def is_this_host(name: str) -> bool:
    return name in {"localhost", "127.0.0.1", "::1", socket.gethostname(), socket.getfqdn()}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# ---------------------------------------------------------------------------------------------------------------- Slurm


def _slurm_plan(settings: LaunchSettings, worker: Sequence[str]) -> LaunchPlan:
    """Inside an allocation: `srun`, one task a rank. The allocation's size is what the script asked for."""
    if "SLURM_JOB_ID" not in os.environ:
        raise UserError(
            "launcher = slurm starts ranks inside an allocation (SLURM_JOB_ID is not set): submit the script that "
            "--dry-run shows, or run the command under salloc"
        )
    nodes = settings.nodes or int(os.environ.get("SLURM_JOB_NUM_NODES", os.environ.get("SLURM_NNODES", "1")))
    names = slurm_hosts(os.environ.get("SLURM_JOB_NODELIST", "localhost"))[:nodes]
    if len(names) < nodes:
        raise UserError(f"launch.nodes = {nodes}: the Slurm allocation has {len(names)}")
    ranks = settings.gpus or _slurm_tasks_per_node()
    port = settings.master_port or DEFAULT_PORT + int(os.environ["SLURM_JOB_ID"]) % 1000  # jobs that share a node
    address = settings.master_addr or names[0]
    command = [
        "srun", f"--nodes={nodes}", f"--ntasks={nodes * ranks}", f"--ntasks-per-node={ranks}", "--kill-on-bad-exit=1",
        sys.executable, "-m", *worker,
    ]  # fmt: skip
    environment = {"MASTER_ADDR": address, "MASTER_PORT": str(port)}
    return LaunchPlan(
        tuple(Host(name, ranks) for name in names), (tuple(command),), environment, (), address, port, settings
    )


def slurm_hosts(nodelist: str) -> list[str]:
    """The names in a list such as `gpu[01-03,7],login`, by Slurm's own `scontrol`, which knows its syntax."""
    if "[" not in nodelist:
        return nodelist.split(",")
    try:
        done = subprocess.run(
            ["scontrol", "show", "hostnames", nodelist], capture_output=True, text=True, check=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError(f"scontrol could not expand SLURM_JOB_NODELIST={nodelist}: {error}") from error
    return done.stdout.split()


def _slurm_tasks_per_node() -> int:
    for name in ("SLURM_NTASKS_PER_NODE", "SLURM_GPUS_ON_NODE"):
        if os.environ.get(name, "").isdecimal():
            return int(os.environ[name])
    raise UserError("launcher = slurm: say with --gpus how many ranks a node gets")


def slurm_script(settings: LaunchSettings, command: Sequence[str], *, name: str, log: str) -> str:
    """A script for `sbatch` that runs the command line once; inside the allocation it starts the ranks itself.

    Args:
        settings: nodes, GPUs a node and `slurm_options`.
        command: the whole command line, with `--launcher slurm`.
        name: the job's name.
        log: the file that takes the output.
    """
    ranks = settings.gpus
    if ranks is None:
        raise SettingsError("launch.gpus: a Slurm script asks for a number of GPUs a node; say how many with --gpus")
    options = [
        f"--job-name={name}", f"--nodes={settings.nodes or 1}", f"--ntasks-per-node={ranks}",
        f"--gpus-per-node={ranks}", f"--output={log}", "--open-mode=append",
        # Two minutes before the time limit the run is told to save and stop; it goes on with the same command.
        "--signal=B:TERM@120", *settings.slurm_options,
    ]  # fmt: skip
    lines = [f"#SBATCH {option}" for option in options]
    return "\n".join(
        ["#!/bin/bash", *lines, "", "set -eu", f"cd {shlex.quote(os.getcwd())}", f"exec {shlex.join(command)}", ""]
    )


def _several(settings: LaunchSettings, gpus: Sequence[str]) -> bool:
    if settings.hostfile is not None:
        return True
    return (settings.gpus or max(1, len(gpus))) > 1


def _ranks(count: int) -> str:
    return "1 rank" if count == 1 else f"{count} ranks"
