"""The command line. Verbs parse and hand over."""

from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from ._common import UserError, add_doctor, launch, new_app, new_output, options, recipes, recipes_app, run
from ._version import __version__

app = new_app(
    "spiralthinker",
    __version__,
    "SpiralThinker (arXiv 2511.08983): latent reasoning with iterated, step-aligned latent tokens.",
)
data_app = typer.Typer(
    rich_markup_mode=None,
    help="Step-wise data: what the two stages make of it.\n\n\b\nExamples:\n  spiralthinker data preview",
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
    """Trains stage 1 (explicit), stage 2 (implicit) or both; without a recipe, the embedded model on word problems.

    The recipe's settings can be changed one by one as SECTION.KEY=VALUE. The same command with the same --output goes
    on where it stopped.

    \b
    Examples:
      spiralthinker train
      spiralthinker train --dry-run
      spiralthinker train data.benchmark=graphs evaluation.benchmarks='[graphs]' --output runs/graphs
      spiralthinker train method.stages=explicit --output runs/stage1
      spiralthinker train method.stages=implicit model.name_or_path=runs/stage1/model --output runs/stage2
      spiralthinker train method.iterations=0 method.alignment=false --gpus 8 --zero 2
    """
    if recipe is not None and config is not None:
        raise UserError("--recipe and --config exclude each other: a run has one recipe")
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

    seed = settings.training.get("seed", 0)
    if dry_run:
        from .plan import show_plan

        show_plan(settings, folder, seed=seed, ranks=ranks, console=Console())
        return
    from .train import train

    train(settings, folder, seed=seed, console=Console(), resume=resume, allow_changes=allow_changes)


@data_app.command("preview")
def preview_command(
    overrides: options.Overrides = None,
    recipe: options.Recipe = None,
    config: options.Config = None,
    index: Annotated[int, typer.Option("--index", min=0, metavar="N", help="Which problem, from 0.")] = 0,
    data_dir: options.DataDir = None,
) -> None:
    """Shows the tokens that both stages read, which of them are targets, and what each latent step stands for.

    \b
    Examples:
      spiralthinker data preview
      spiralthinker data preview data.benchmark=graphs method.parity=even --index 3
      spiralthinker data preview data.train_file=mine.jsonl data.columns='{steps: thoughts}' method.latents=6
    """
    if recipe is not None and config is not None:
        raise UserError("--recipe and --config exclude each other")
    name, text = _recipe(recipe, config)

    from rich.console import Console

    from ._common import load_settings
    from .config import Settings
    from .preview import show_preview

    settings = load_settings(Settings, recipe_text=text, recipe_name=name, overrides=list(overrides or []))
    if data_dir is not None:
        settings.data.data_dir = str(data_dir)
    show_preview(settings, index, Console())


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


app.add_typer(data_app, name="data")
app.add_typer(recipes_app(__package__, "spiralthinker", example="embedded"), name="recipes")
add_doctor(app, ["spiralthinker", "thinker-common"])


def main() -> NoReturn:
    run(app)
