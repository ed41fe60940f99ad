"""Options that mean the same for every verb of every command line, as annotated types."""

from pathlib import Path
from typing import Annotated

import typer

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="Settings that win over the recipe's.", show_default=False),
]
Recipe = Annotated[str | None, typer.Option("--recipe", metavar="NAME", help="A shipped recipe; see `recipes list`.")]
Config = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="A recipe of your own, or a run's config.yaml.")
]
Output = Annotated[
    Path | None,
    typer.Option("--output", metavar="DIR", help="A new folder for all results.", show_default="a new one in runs/"),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done; train and write nothing.")]
Seed = Annotated[
    int | None,
    typer.Option(
        "--seed", min=0, metavar="N", help="Seed of all that is random.", show_default="training.seed, else 0"
    ),
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="Use a seeded sample of N problems.")]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", metavar="DIR", help="Original files of the benchmarks.", show_default="the Hugging Face hub"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
