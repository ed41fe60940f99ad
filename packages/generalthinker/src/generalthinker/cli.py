"""The command line. Verbs parse and hand over; what they do is in `train`, `inspect` and the base."""

from pathlib import Path
from typing import NoReturn

from ._common import UserError, add_doctor, add_evaluate, new_app, new_output, options, recipes, recipes_app, run
from ._version import __version__

app = new_app(
    "generalthinker",
    __version__,
    "GeneralThinker (arXiv 2605.27934): reinforcement learning of reasoning without a verifier.",
)


@app.command("train")
def train_command(
    overrides: options.Overrides = None,
    recipe: options.Recipe = None,
    config: options.Config = None,
    output: options.Output = None,
    seed: options.Seed = None,
    limit: options.Limit = None,
    data_dir: options.DataDir = None,
    dry_run: options.DryRun = False,
) -> None:
    """Trains a policy; without a recipe, the embedded model on generated problems.

    The recipe's settings can be changed one by one as SECTION.KEY=VALUE.

    \b
    Examples:
      generalthinker train
      generalthinker train --dry-run
      generalthinker train --recipe gsm8k-smollm2-135m --output runs/gsm8k
      generalthinker train method.credit=none training.max_steps=20 --seed 1
      generalthinker train --config runs/gsm8k/config.yaml --output runs/again
    """
    if recipe is not None and config is not None:
        raise UserError("--recipe and --config exclude each other: a run has one recipe")
    name, text = _recipe(recipe, config)
    given = list(overrides or [])
    if limit is not None:
        given.append(f"data.limit={limit}")

    from ._common import load_settings
    from .config import Settings

    settings = load_settings(Settings, recipe_text=text, recipe_name=name, overrides=given)
    if data_dir is not None:
        settings.data.data_dir = str(data_dir)

    from rich.console import Console

    from .train import train

    train(
        settings,
        output or new_output(Path(name).stem),
        seed=settings.training.get("seed", 0) if seed is None else seed,
        dry_run=dry_run,
        console=Console(),
    )


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


app.add_typer(recipes_app(__package__, "generalthinker", example="embedded"), name="recipes")
add_evaluate(app)
add_doctor(app, ["generalthinker", "thinker-common"])


def main() -> NoReturn:
    run(app)
