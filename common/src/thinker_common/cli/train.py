"""The verb `train`, the same for all methods: from recipe and options to settings, and from there to the ranks."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple

import typer

from ..errors import SettingsError, UserError
from ..training.recipes import recipe_text
from ..training.run_folder import new_output
from . import launch, options


def add_train(app: typer.Typer, package: str, help_text: str, *, resumes_at: bool = True) -> None:
    """Adds the verb `train` of a method.

    package: whose recipes there are, and whose `python -m` every rank runs. Of its modules, which are slow to import,
        these are looked up when they are needed:
        `config.Settings`, the settings' dataclass, with the sections `data`, `training` and `launch`;
        `plan.show_plan(settings, folder, *, seed, ranks, console)`, for `--dry-run`;
        `train.train(settings, folder, *, seed, console, resume, allow_changes)`
    help_text: summary, explanation and examples
    resumes_at: whether `--resume` takes a checkpoint; a method of several phases has no single one to name
    """

    def of_method(module: str, name: str) -> Any:
        return getattr(import_module(f"{package}.{module}"), name)

    def train_command(
        overrides: options.Overrides = None,
        recipe: options.Recipe = None,
        config: options.Config = None,
        output: options.Output = None,
        resume: options.Resume = "auto",
        allow_changes: options.AllowChanges = False,
        seed: options.Seed = None,
        limit: options.Limit = None,
        data_dir: options.DataDir = None,
        report_to: options.ReportTo = None,
        gpus: launch.Gpus = None,
        nodes: launch.Nodes = None,
        hostfile: launch.Hostfile = None,
        zero: launch.Zero = None,
        offload: launch.Offload = None,
        launcher: launch.Launcher = None,
        dry_run: options.DryRun = False,
    ) -> None:
        if not resumes_at and resume not in ("auto", "never"):
            raise UserError(f"--resume {resume}: expected auto or never (each phase has checkpoints of its own)")
        name, text = read_recipe(package, recipe, config)
        given = list(overrides or [])
        if limit is not None:
            given.append(f"data.limit={limit}")
        if report_to is not None:
            given.append(f"training.report_to={report_to}")

        from ..training.settings import load_settings

        settings: Any = load_settings(
            of_method("config", "Settings"), recipe_text=text, recipe_name=name, overrides=given
        )
        if data_dir is not None:
            settings.data.data_dir = str(data_dir)
        where = _Where(gpus, nodes, hostfile, zero, offload, launcher)
        settings.launch = launch.with_options(settings.launch, **where._asdict())
        if seed is not None:
            settings.training["seed"] = seed
        folder = output or new_output(Path(name).stem)
        arguments = launch.command_line(
            "train", *given, recipe=recipe, config=config, output=folder, resume=resume, allow_changes=allow_changes,
            seed=seed, data_dir=data_dir, **where._asdict(),
        )  # fmt: skip
        if offload is False:  # a rank reads the recipe, which may say true
            arguments.append("--no-offload")

        def here(ranks: int) -> None:
            from rich.console import Console

            common = {"seed": recipe_seed(settings), "console": Console()}
            if dry_run:
                of_method("plan", "show_plan")(settings, folder, ranks=ranks, **common)
            else:
                of_method("train", "train")(settings, folder, resume=resume, allow_changes=allow_changes, **common)

        launch.run_or_launch(settings.launch, package, arguments, here, dry_run=dry_run, name=folder.name)

    if not resumes_at:
        train_command.__annotations__["resume"] = options.ResumeOfPhases
    app.command("train", help=help_text)(train_command)


class _Where(NamedTuple):
    gpus: int | None
    nodes: int | None
    hostfile: Path | None
    zero: int | None
    offload: bool | None
    launcher: Literal["deepspeed", "torchrun", "slurm"] | None


def recipe_seed(settings: Any) -> int:
    """`training.seed`, 0 where the settings have none. SettingsError for one that is no seed."""
    seed = settings.training.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise SettingsError(f"training.seed = {seed!r}: expected a whole number of at least 0")
    return seed


def read_recipe(package: str, recipe: str | None, config: Path | None, default: str = "embedded") -> tuple[str, str]:
    """Name and text of the file if there is one, else of the shipped recipe. UserError for both, or one not there."""
    if config is None:
        return recipe or default, recipe_text(package, recipe or default)
    if recipe is not None:
        raise UserError("--recipe and --config exclude each other: a run has one recipe")
    return str(config), read_config(config)


def read_config(config: Path) -> str:
    """The text of a recipe of the user's own; UserError where it cannot be read."""
    try:
        return config.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{config}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{config}: not UTF-8 text (byte {error.start})") from error
