"""The verb `score`: the log-likelihood of given answers, JSON lines in and JSON lines out.

The output file holds whole rows at any moment. Given again with the same settings, it goes on where it stopped; other
settings are refused.
"""

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..errors import UserError
from .options import BatchTokens, Dtype, Json, Revision, column_mapping

if TYPE_CHECKING:
    from ..evaluation.score_file import ScoreSummary

File = Annotated[Path, typer.Argument(metavar="FILE", help="JSON lines with prompt and answer, or answers.")]
Model = Annotated[str, typer.Option("--model", metavar="MODEL", help="A Hugging Face id, a local folder, or embedded.")]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        metavar="FILE",
        help="The scores, as JSON lines.",
        show_default="beside FILE, ending in .scores.jsonl",
    ),
]
Columns = Annotated[
    list[str] | None,
    typer.Option("--column", metavar="FIELD=NAME", help="Which column is our prompt, answer, answers, reasoning, ..."),
]
ChatTemplate = Annotated[
    str,
    typer.Option(
        "--chat-template",
        help="none: prompts as they stand; auto: as a user's turn in the tokenizer's template; or a .jinja file.",
    ),
]
Closing = Annotated[
    Literal["prefix_mass", "token", "none"],
    typer.Option(
        "--closing",
        help="How the suffix counts: all tokens that begin with it, its own token, or not at all.",
    ),
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="Score a seeded sample of N rows.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of the sample that --limit takes.")]


def add_score(app: typer.Typer) -> None:
    """Adds the verb to a command line."""
    name = app.info.name

    @app.command(
        "score",
        help="Scores answers: their log-likelihood under a model, token by token.\n\n"
        "A row of FILE has a prompt, an answer (or answers, which are then ranked), and where wanted the reasoning "
        "between the two and a suffix that ends the answer. Texts are joined as they stand. A run that was stopped "
        "goes on where it was.\n\n"
        f"\b\nExamples:\n  {name} score answers.jsonl --model embedded\n"
        f"  {name} score answers.jsonl --model runs/gsm8k/model --output scores.jsonl --json\n"
        f"  {name} score mine.jsonl --model MODEL --column prompt=question --column answers=options",
    )
    def score_command(
        file: File,
        model: Model,
        output: Output = None,
        column: Columns = None,
        chat_template: ChatTemplate = "none",
        closing: Closing = "prefix_mass",
        limit: Limit = None,
        seed: Seed = 0,
        max_tokens_per_batch: BatchTokens = 8192,
        dtype: Dtype = "auto",
        revision: Revision = None,
        as_json: Json = False,
    ) -> None:
        target = output or file.with_name(f"{file.stem}.scores.jsonl")
        _check_output(target, file)

        from ..evaluation.score_input import read_rows, sample

        rows = read_rows(file, column_mapping(column or []))
        if limit is not None:
            rows = sample(rows, limit, seed)

        import torch

        from ..evaluation.progress import progress_bar
        from ..evaluation.score_file import score_rows
        from ..models.load import load_policy, load_tokenizer

        tokenizer = load_tokenizer(model, revision=revision)
        policy = load_policy(model, revision=revision, dtype=dtype)
        policy.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))  # type: ignore[arg-type]
        with progress_bar(file.name) as progress:
            summary = score_rows(
                policy,
                tokenizer,
                rows,
                target,
                chat_template=chat_template,
                closing=closing,
                max_tokens_per_batch=max_tokens_per_batch,
                progress=progress,
            )
        if as_json:
            typer.echo(
                json.dumps({"model": model, "file": str(file), "output": str(target), **summary.to_dict()}, indent=2)
            )
        else:
            _print(summary, target)


def _check_output(output: Path, file: Path) -> None:
    """UserError for a place where no file of scores can be; makes nothing."""
    if output.exists() and file.exists() and output.samefile(file):
        raise UserError(f"--output {output} is the file to score: name another one")
    if output.is_dir():
        raise UserError(f"--output {output} is a folder: name a file")
    if not next(parent for parent in output.parents if parent.exists()).is_dir():
        raise UserError(f"--output {output} lies below a file: name another place")


def _print(summary: "ScoreSummary", output: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    error = summary.answer_logprob_standard_error  # NaN where there is one row
    table = Table("rows", "answers", "tokens", "log-prob of an answer", "of a token", "perplexity", box=None)
    table.add_row(
        str(summary.rows),
        str(summary.answers),
        str(summary.tokens),
        f"{summary.answer_logprob:.3f}" + ("" if math.isnan(error) else f"±{error:.3f}"),
        f"{summary.token_logprob:.3f}",
        f"{summary.perplexity:.3f}",
    )
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    if summary.not_finite:
        typer.echo(f"{summary.not_finite} answers have no finite score and are left out of these means")
    typer.echo(f"scores: {output}")
