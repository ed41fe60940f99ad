"""Options that mean the same for every verb of every command line, as annotated types."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..errors import UserError

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
    typer.Option("--output", metavar="DIR", help="The folder for all results.", show_default="a new one in runs/"),
]
Resume = Annotated[
    str,
    typer.Option(
        "--resume",
        metavar="auto|never|PATH",
        help="Go on with the run in --output from its newest checkpoint, or PATH.",
    ),
]
ResumeOfPhases = Annotated[
    str, typer.Option("--resume", metavar="auto|never", help="Go on with the run in --output, or want a new folder.")
]
AllowChanges = Annotated[
    bool, typer.Option("--allow-changes", help="Go on although settings or data are not those of the checkpoint.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done; train and write nothing.")]
Grader = Annotated[
    Literal["default", "generalthinker", "unboxed"],
    typer.Option(
        "--grader",
        help="generalthinker: as the code published with the method, weak spots included; unboxed: without a box, the "
        "last number, or the text that the response ends with.",
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        "--seed", min=0, metavar="N", help="Seed of all that is random.", show_default="training.seed, else 0"
    ),
]
ReportTo = Annotated[
    str | None,
    typer.Option("--report-to", metavar="NAME", help="Where metrics go besides the run folder, e.g. tensorboard."),
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="Use a seeded sample of N problems.")]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", metavar="DIR", help="Original files of the benchmarks.", show_default="the Hugging Face hub"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

Model = Annotated[str, typer.Argument(metavar="MODEL", help="A Hugging Face id, a local folder, or embedded.")]
Revision = Annotated[str | None, typer.Option("--revision", help="Branch, tag or commit of a model on the hub.")]
Dtype = Annotated[Literal["auto", "float32", "bfloat16", "float16"], typer.Option("--dtype", help="Of the weights.")]
BatchTokens = Annotated[
    int,
    typer.Option("--max-tokens-per-batch", min=1, metavar="N", help="Tokens in a batch; lower it if memory runs out."),
]
BenchmarkOptions = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="NAME=VALUE", help="An option of the benchmark's own, see `benchmarks show`."),
]


def check_page(page: Path | None) -> None:
    """UserError for a `--page` that is there already or that lies below a file."""
    if page is None:
        return
    if page.exists():
        raise UserError(f"{page} exists already: name another file with --page")
    if not next(parent for parent in page.parents if parent.exists()).is_dir():
        raise UserError(f"{page} lies below a file: name another place with --page")


def column_mapping(columns: Sequence[str]) -> dict[str, str]:
    """Our field -> the file's column, from the values of `--column FIELD=NAME`. UserError for one without `=`."""
    mapping = {}
    for column in columns:
        field, equals, theirs = column.partition("=")
        if not (field and equals and theirs):
            raise UserError(f"--column {column}: write FIELD=NAME, for example question=prompt")
        mapping[field] = theirs
    return mapping


def benchmark_options(options: Sequence[str]) -> dict[str, Any]:
    """Name -> value, from the values of `--option NAME=VALUE`, which are YAML.

    UserError for one without `=`, and for what `load_benchmark` takes from options of the command line.
    """
    from ..benchmarks import RESERVED
    from ..training.plain_yaml import parse_yaml

    parsed = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not (name and equals):
            raise UserError(f"--option {option}: write NAME=VALUE, for example option_seed=1")
        if name in RESERVED:
            raise UserError(f"--option {option}: {name} is not an option of a benchmark's own; see --help")
        parsed[name] = parse_yaml(value, f"--option {option}")
    return parsed
