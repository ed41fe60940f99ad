"""The verb `evaluate`: a model on benchmarks, with standard errors, and paired against earlier results.

The output folder holds `results.json`, `environment.json` and a folder for each benchmark with `generations.jsonl`.
Given again with the same settings, it goes on where it stopped; other settings are refused.
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..errors import UserError
from ..training.run_folder import RunFolder, new_output
from .options import DataDir, Json, Limit, Output

if TYPE_CHECKING:
    from ..benchmarks.problem import LoadedBenchmark
    from ..evaluation.comparison import Comparison
    from ..evaluation.evaluate import EvaluationResult

Model = Annotated[str, typer.Argument(metavar="MODEL", help="A Hugging Face id, a local folder, or embedded.")]
Benchmarks = Annotated[str | None, typer.Option("--benchmark", metavar="NAME[,NAME]", help="Benchmarks by name.")]
File = Annotated[Path | None, typer.Option("--file", metavar="FILE", help="JSON lines of your own, as a benchmark.")]
Columns = Annotated[
    list[str] | None,
    typer.Option("--column", metavar="FIELD=NAME", help="For --file: which column is our `question`, `answer`, ..."),
]
Kind = Annotated[Literal["math", "mcq", "bool", "text"], typer.Option("--kind", help="For --file: kind of answers.")]
Split = Annotated[str, typer.Option("--split", help="Split of the benchmarks.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of the sample that --limit takes.")]
Tokens = Annotated[int, typer.Option("--max-new-tokens", min=1, metavar="N", help="Longest response.")]
BatchTokens = Annotated[
    int,
    typer.Option("--max-tokens-per-batch", min=1, metavar="N", help="Tokens in a batch; lower it if memory runs out."),
]
ChatTemplate = Annotated[str, typer.Option("--chat-template", help="auto, none, or the path of a .jinja file.")]
Dtype = Annotated[Literal["auto", "float32", "bfloat16", "float16"], typer.Option("--dtype", help="Of the weights.")]
Revision = Annotated[str | None, typer.Option("--revision", help="Branch, tag or commit of a model on the hub.")]
Compare = Annotated[
    Path | None,
    typer.Option(
        "--compare", metavar="DIR", help="Another evaluation's folder: adds a paired test on the same problems."
    ),
]


def add_evaluate(app: typer.Typer) -> None:
    """Adds the verb to a command line."""
    name = app.info.name

    @app.command(
        "evaluate",
        help="Evaluates a model on benchmarks.\n\n"
        "Responses are greedy. A folder given again goes on where it stopped.\n\n"
        f"\b\nExamples:\n  {name} evaluate embedded --benchmark chains --max-new-tokens 64\n"
        f"  {name} evaluate runs/gsm8k/model --benchmark gsm8k,math500 --output runs/scores\n"
        f"  {name} evaluate runs/gsm8k/model --benchmark gsm8k --compare runs/base-scores\n"
        f"  {name} evaluate MODEL --file mine.jsonl --column question=prompt --column answer=gold",
    )
    def evaluate_command(
        model: Model,
        benchmark: Benchmarks = None,
        file: File = None,
        column: Columns = None,
        kind: Kind = "math",
        split: Split = "test",
        limit: Limit = None,
        seed: Seed = 0,
        data_dir: DataDir = None,
        output: Output = None,
        compare: Compare = None,
        max_new_tokens: Tokens = 1024,
        max_tokens_per_batch: BatchTokens = 8192,
        chat_template: ChatTemplate = "auto",
        dtype: Dtype = "auto",
        revision: Revision = None,
        as_json: Json = False,
    ) -> None:
        benchmarks = _load_benchmarks(benchmark, file, column or [], kind, split, data_dir, limit, seed)
        others = {} if compare is None else {loaded.name: _rows_of(compare, loaded.name) for loaded in benchmarks}
        folder = RunFolder(output or new_output("evaluation"))
        _check_output(folder, [loaded.name for loaded in benchmarks])

        import torch

        from ..evaluation.comparison import compare as compare_rows
        from ..evaluation.evaluate import evaluate
        from ..evaluation.progress import progress_bar
        from ..models.load import load_policy, load_tokenizer

        tokenizer = load_tokenizer(model, revision=revision)
        policy = load_policy(model, revision=revision, dtype=dtype)
        policy.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))  # type: ignore[arg-type]
        results: dict[str, EvaluationResult] = {}
        comparisons: dict[str, Comparison] = {}
        for loaded in benchmarks:
            with progress_bar(loaded.name) as progress:
                results[loaded.name] = evaluate(
                    policy,
                    tokenizer,
                    loaded,
                    output=folder.file(f"{loaded.name}/generations.jsonl"),
                    chat_template=chat_template,
                    max_new_tokens=max_new_tokens,
                    max_tokens_per_batch=max_tokens_per_batch,
                    seed=seed,
                    progress=progress,
                )
            if loaded.name in others:
                comparisons[loaded.name] = compare_rows(results[loaded.name].rows, others[loaded.name])
        summary: dict[str, Any] = {
            "model": model,
            "benchmarks": {name: result.to_dict() for name, result in results.items()},
            "compared_with": None if compare is None else str(compare),
            "comparisons": {name: comparison.to_dict() for name, comparison in comparisons.items()},
        }
        folder.write_environment()
        folder.write_results(summary)
        if as_json:
            typer.echo(json.dumps(summary, indent=2))
        else:
            _print(model, results, comparisons, compare, folder)


def _load_benchmarks(
    names: str | None,
    file: Path | None,
    columns: list[str],
    kind: Literal["math", "mcq", "bool", "text"],
    split: str,
    data_dir: Path | None,
    limit: int | None,
    seed: int,
) -> "list[LoadedBenchmark]":
    """What is to be evaluated, in the order it was named. UserError if that is nothing, or unknown."""
    from ..benchmarks import load_benchmark, sample
    from ..benchmarks.user_file import load_jsonl

    if names is None and file is None:
        raise UserError("name what to evaluate on: --benchmark NAME[,NAME] or --file FILE")
    if columns and file is None:
        raise UserError("--column is for --file")
    loaded = [
        load_benchmark(name.strip(), split=split, data_dir=data_dir, limit=limit, seed=seed)
        for name in dict.fromkeys((names or "").split(","))
        if name.strip()
    ]
    if file is not None:
        mapping = {}
        for column in columns:
            field, equals, theirs = column.partition("=")
            if not equals:
                raise UserError(f"--column {column}: write FIELD=NAME, for example question=prompt")
            mapping[field] = theirs
        problems = load_jsonl(file, mapping, kind=kind)
        loaded.append(problems if limit is None else sample(problems, limit, seed))
    if not loaded:
        raise UserError(f"--benchmark {names!r} names no benchmark")
    return loaded


def _check_output(folder: RunFolder, benchmarks: list[str]) -> None:
    """UserError unless the folder is free, or holds nothing but an evaluation on these benchmarks to go on with."""
    if folder.path.is_dir() and any((folder.path / name / "generations.jsonl").exists() for name in benchmarks):
        held = {entry.name for entry in folder.path.iterdir() if not (entry / "generations.jsonl").exists()}
        if held <= {"results.json", "environment.json"}:
            return
    folder.check_free()


def _rows_of(folder: Path, benchmark: str) -> list[dict[str, Any]]:
    from ..evaluation.generations import read_generations

    file = folder / benchmark / "generations.jsonl"
    if not file.is_file():
        raise UserError(f"--compare {folder}: there is no {benchmark}/generations.jsonl, so nothing to compare with")
    return read_generations(file)[1]


def _print(
    model: str,
    results: "dict[str, EvaluationResult]",
    comparisons: "dict[str, Comparison]",
    other: Path | None,
    folder: RunFolder,
) -> None:
    from rich.console import Console

    from ..evaluation.table import sentence, terminal_table

    table = terminal_table((result, model) for result in results.values())
    Console(width=None if sys.stdout.isatty() else 120).print(table)  # a file has no width to keep to
    for name, comparison in comparisons.items():
        typer.echo(f"{name}, this - {other}: {sentence(comparison)}")
    typer.echo(f"results: {folder.path}")
