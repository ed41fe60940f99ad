"""The options that say how many processes run a verb, and where. They mean the same for `train` and `evaluate`."""

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer

from ..distributed.launch_settings import LaunchSettings
from ..errors import SettingsError, UserError

Gpus = Annotated[
    int | None,
    typer.Option(
        "--gpus",
        min=1,
        metavar="N",
        help="Processes a host, one a GPU; without GPUs, CPU processes.",
        show_default="launch.gpus, else every GPU",
    ),
]
Nodes = Annotated[
    int | None, typer.Option("--nodes", min=1, metavar="N", help="Hosts.", show_default="all of --hostfile, else this")
]
Hostfile = Annotated[
    Path | None,
    typer.Option("--hostfile", metavar="FILE", help="DeepSpeed's list of hosts: a line `NAME slots=N` for each."),
]
Zero = Annotated[
    int | None,
    typer.Option(
        "--zero",
        min=0,
        max=3,
        metavar="0|1|2|3",
        help="DeepSpeed ZeRO stage: shards optimiser (1), gradients (2), parameters (3).",
    ),
]
Offload = Annotated[
    bool | None,
    typer.Option(
        "--offload/--no-offload", help="ZeRO keeps what it can in the host's memory.", show_default="launch.offload"
    ),
]
# What they mean where nothing is trained.
EvaluationZero = Annotated[
    int | None,
    typer.Option(
        "--zero",
        min=0,
        max=3,
        metavar="3",
        help="For a model that is too large for one GPU: DeepSpeed divides its weights between the ranks.",
        show_default="every rank holds the whole model",
    ),
]
EvaluationOffload = Annotated[
    bool, typer.Option("--offload", help="With --zero 3: keeps the weights in the host's memory.")
]
Launcher = Annotated[
    Literal["deepspeed", "torchrun", "slurm"] | None,
    typer.Option("--launcher", help="What starts the processes.", show_default="launch.launcher, else deepspeed"),
]


def with_options(
    settings: LaunchSettings,
    *,
    gpus: int | None,
    nodes: int | None,
    hostfile: Path | None,
    zero: int | None,
    offload: bool | None,
    launcher: Literal["deepspeed", "torchrun", "slurm"] | None,
) -> LaunchSettings:
    """The recipe's section `launch` with the options of the command line, which win.

    `--zero` and `--offload` put a `launch.deepspeed_config` of the recipe aside, and `--launcher slurm` its hostfile.

    Raises:
        UserError: options that are not possible together.
    """
    changes: dict[str, Any] = {
        name: value
        for name, value in {
            "gpus": gpus, "nodes": nodes, "hostfile": None if hostfile is None else str(hostfile),
            "zero": cast("Literal[0, 1, 2, 3] | None", zero), "offload": offload, "launcher": launcher,
        }.items()
        if value is not None
    }  # fmt: skip
    if zero is not None or offload:
        changes["deepspeed_config"] = None
    if launcher == "slurm" and hostfile is None:
        changes["hostfile"] = None
    try:
        return replace(settings, **changes)
    except SettingsError as error:
        raise UserError(f"launch.{error}") from error


def check_evaluation_options(zero: int | None, offload: bool) -> None:
    """UserError for a ZeRO stage that divides nothing where nothing is trained."""
    if zero is not None and zero != 3:
        raise UserError(
            f"--zero {zero}: an evaluation has neither gradients nor an optimiser to divide; leave it out, or say "
            "--zero 3 for a model that is too large for one GPU"
        )
    if offload and zero is None:
        raise UserError("--offload: say --zero 3 with it")


def writes_output() -> bool:
    """Whether this process is no rank, or rank 0. The output folder of another may be that of another host."""
    from ..distributed.launch import in_rank

    return not in_rank() or os.environ["RANK"] == "0"


def command_line(verb: str, *positional: str, **options: Any) -> list[str]:
    """The arguments of a verb as a rank gets them; options that are None or False are left out."""
    arguments = [verb, *positional]
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            arguments.append(flag)
        elif value is not None and value is not False:
            arguments += [flag, str(value)]
    return arguments


def run_or_launch(
    settings: LaunchSettings,
    module: str,
    arguments: list[str],
    here: Callable[[int], None],
    *,
    dry_run: bool,
    name: str,
) -> None:
    """Runs a verb in this process, or starts the ranks that run it, and ends with their exit code.

    Args:
        settings: how many processes, and where.
        module: whose `python -m` every rank runs: the package of the command line.
        arguments: what each of them is given, see `command_line`.
        here: the verb itself, for one process and for a rank; with `dry_run` it shows its own part of the plan. It is
            given the number of ranks of the run.
        dry_run: print the exact commands and start nothing.
        name: of a Slurm job.
    """
    from ..distributed.launch import in_rank, launched_ranks, plan_launch, slurm_script

    if settings.launcher == "slurm" and dry_run and not in_rank():
        here((settings.nodes or 1) * (settings.gpus or 1))
        command = [sys.executable, "-m", module, *arguments]
        typer.echo(f"script for sbatch:\n\n{slurm_script(settings, command, name=name, log=f'{name}-%j.log')}")
        return
    plan = plan_launch(settings, module, arguments)
    if plan is None:
        here(launched_ranks())
        return
    if dry_run:
        here(plan.world_size)
        typer.echo("\n".join(plan.lines()))
        return
    from ..distributed.supervisor import run

    raise typer.Exit(run(plan))
