"""The verb `recipes`: list, show and copy what a package ships."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UserError
from ..training.recipes import recipe_names, recipe_summary, recipe_text
from ..training.run_folder import write_atomic
from .options import Json

Name = Annotated[str, typer.Argument(metavar="NAME", help="A recipe's name, as `recipes list` prints it.")]


def recipes_app(package: str, command: str, example: str) -> typer.Typer:
    """The sub-commands for the recipes in `package`; `command` and `example`, a recipe, are for the help."""
    app = typer.Typer(rich_markup_mode=None, help="Recipes that ship with the package: list, show, copy.")

    @app.command(
        "list",
        help=f"Names the recipes and says what each is for.\n\n\b\nExamples:\n  {command} recipes list\n"
        f"  {command} recipes list --json",
    )
    def list_recipes(as_json: Json = False) -> None:
        summaries = {name: recipe_summary(recipe_text(package, name)) for name in recipe_names(package)}
        if as_json:
            typer.echo(json.dumps(summaries, indent=2))
            return
        width = max(map(len, summaries))
        for name, summary in summaries.items():
            typer.echo(f"{name:<{width}}  {summary}")

    @app.command(
        "show",
        help=f"Prints a recipe.\n\n\b\nExamples:\n  {command} recipes show {example}",
    )
    def show_recipe(name: Name) -> None:
        typer.echo(recipe_text(package, name), nl=False)

    @app.command(
        "copy",
        help="Copies a recipe to a file of your own, to change and to run with `train --config`.\n\n\b\nExamples:\n"
        f"  {command} recipes copy {example}\n"
        f"  {command} recipes copy {example} --to mine.yaml",
    )
    def copy_recipe(
        name: Name,
        to: Annotated[
            Path | None, typer.Option("--to", metavar="FILE", help="The new file.", show_default="NAME.yaml")
        ] = None,
    ) -> None:
        text = recipe_text(package, name)
        target = to or Path(f"{name}.yaml")
        if target.exists():
            raise UserError(f"{target} exists already: name another file with --to")
        if not target.parent.is_dir():
            raise UserError(f"{target.parent} is not a folder")
        write_atomic(target, text)
        typer.echo(f"wrote {target}")

    return app
