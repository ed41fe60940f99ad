"""The options that say how many processes run a verb, and where. They mean the same for `train` and `evaluate`."""

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
