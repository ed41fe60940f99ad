"""The command line. Verbs parse and hand over; what they do is in modules of their own."""

from pathlib import Path
from typing import Any, NoReturn

from . import data_cli
from ._common import (
    UserError,
    add_doctor,
    launch,
    new_app,
    new_output,
    options,
    recipes,
    recipes_app,
    run,
)
from ._version import __version__
from .evaluate_cli import evaluate_command
from .inspect_cli import inspect_command

app = new_app(
    "tinythinker",
    __version__,
    "TinyThinker (arXiv 2412.08024): distilling reasoning into small models: recall, analyze, summarize, reflect.",
)


@app.command("train")
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
    """Trains a student in both phases; without a recipe, the embedded model on generated questions.

    The recipe's settings can be changed one by one as SECTION.KEY=VALUE. The same command with the same --output goes
    on where it stopped: in phase 1, in the sampling, the pairs or the training of any iteration of phase 2.

    \b
    Examples:
      tinythinker train
      tinythinker train --dry-run
      tinythinker train method.baseline=cot --seed 1 --output runs/cot
      tinythinker train method.reflection.iterations=0 method.acquisition.stages='[analyze, summarize]'
      tinythinker train --recipe csqa-t5-base data.rows=csqa-rows --gpus 4 --output runs/csqa
      tinythinker train --config runs/csqa/config.yaml --output runs/again
    """
    if recipe is not None and config is not None:
        raise UserError("--recipe and --config exclude each other: a run has one recipe")
    if resume not in ("auto", "never"):
        raise UserError(f"--resume {resume}: expected auto or never (each phase has checkpoints of its own)")
    name, text = _recipe(recipe, config)
    given = list(overrides or [])
    if limit is not None:
        given.append(f"data.limit={limit}")
    if report_to is not None:
        given.append(f"training.report_to={report_to}")

    from ._common import load_settings
    from .config import Settings

    settings = load_settings(Settings, recipe_text=text, recipe_name=name, overrides=given)
    if data_dir is not None:
        settings.data.data_dir = str(data_dir)
    settings.launch = launch.with_options(
        settings.launch, gpus=gpus, nodes=nodes, hostfile=hostfile, zero=zero, offload=offload, launcher=launcher
    )
    if seed is not None:
        settings.training["seed"] = seed
    folder = output or new_output(Path(name).stem)
    arguments = launch.command_line(
        "train",
        *given,
        recipe=recipe,
        config=config,
        output=folder,
        resume=resume,
        allow_changes=allow_changes,
        seed=seed,
        data_dir=data_dir,
        gpus=gpus,
        nodes=nodes,
        hostfile=hostfile,
        zero=zero,
        offload=offload,
        launcher=launcher,
    )
    launch.run_or_launch(
        settings.launch,
        __package__,
        arguments,
        lambda ranks: _train_here(settings, folder, resume, allow_changes, dry_run, ranks),
        dry_run=dry_run,
        name=folder.name,
    )


def _train_here(settings: Any, folder: Path, resume: str, allow_changes: bool, dry_run: bool, ranks: int) -> None:
    from rich.console import Console

    seed = settings.training["seed"]
    if dry_run:
        from .plan import show_plan

        show_plan(settings, folder, seed=seed, ranks=ranks, console=Console())
        return
    from .train import train

    train(settings, folder, seed=seed, console=Console(), resume=resume, allow_changes=allow_changes)


def _recipe(recipe: str | None, config: Path | None) -> tuple[str, str]:
    """Name and text of the recipe: the file's if there is one, else the shipped one's."""
    if config is None:
        return recipe or "embedded", recipes.recipe_text(__package__, recipe or "embedded")
    try:
        return str(config), config.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{config}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{config}: not UTF-8 text (byte {error.start})") from error


app.command("evaluate")(evaluate_command)
app.command("inspect")(inspect_command)
app.add_typer(data_cli.app, name="data")
app.add_typer(recipes_app(__package__, "tinythinker", example="embedded"), name="recipes")
add_doctor(app, ["tinythinker", "thinker-common"])


def main() -> NoReturn:
    run(app)
