"""The verb `benchmarks`: list them, show what to know of one, preview its problems, check a copy."""

import inspect
import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import DataError
from .options import BenchmarkOptions, DataDir, Json, benchmark_options
from .printable import printable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..benchmarks.check import CheckReport
    from ..benchmarks.problem import Problem
    from ..benchmarks.sources import HubDataset

Name = Annotated[str, typer.Argument(metavar="NAME", help="A benchmark's name, as `benchmarks list` prints it.")]
Split = Annotated[str, typer.Option("--split", help="Split of the benchmark.")]
Revision = Annotated[
    str | None, typer.Option("--revision", help="Of the hub data set.", show_default="the one that `show` names")
]
Count = Annotated[int, typer.Option("--limit", min=1, metavar="N", help="Show a seeded sample of N problems.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of the sample.")]
Tokens = Annotated[
    str | None,
    typer.Option("--tokens", metavar="MODEL", help="Show the prompt in this model's chat template, and count tokens."),
]


def benchmarks_app(command: str) -> typer.Typer:
    """The sub-commands for the benchmarks; `command` is for the help."""
    app = typer.Typer(
        rich_markup_mode=None,
        help="Benchmarks: list, show, preview, check.\n\n"
        f"\b\nExamples:\n  {command} benchmarks list\n  {command} benchmarks show gsm8k\n"
        f"  {command} benchmarks preview chains --tokens embedded\n  {command} benchmarks check gsm8k --data-dir DIR",
    )

    @app.command(
        "list",
        help="Names the benchmarks and the training mixtures.\n\n"
        f"\b\nExamples:\n  {command} benchmarks list\n  {command} benchmarks list --json",
    )
    def list_benchmarks(as_json: Json = False) -> None:
        from ..benchmarks import NAMES, TRAINING_NAMES

        facts = [_facts(name) for name in (*NAMES, *TRAINING_NAMES)]
        if as_json:
            typer.echo(json.dumps(facts, indent=2))
        else:
            _print_list(facts)

    @app.command(
        "show",
        help="Shows all that is known of a benchmark: source, splits, licence, traps, options.\n\n"
        f"\b\nExamples:\n  {command} benchmarks show gpqa\n  {command} benchmarks show gsm8k --json",
    )
    def show_benchmark(name: Name, as_json: Json = False) -> None:
        facts = _facts(name)
        if as_json:
            typer.echo(json.dumps(facts, indent=2))
        else:
            _print_facts(facts)

    @app.command(
        "preview",
        help="Shows problems as a model is asked them, with what counts as right.\n\n"
        f"\b\nExamples:\n  {command} benchmarks preview chains\n"
        f"  {command} benchmarks preview gsm8k --data-dir DIR --tokens embedded --limit 5",
    )
    def preview_benchmark(
        name: Name,
        split: Split = "test",
        limit: Count = 3,
        seed: Seed = 0,
        tokens: Tokens = None,
        data_dir: DataDir = None,
        revision: Revision = None,
        option: BenchmarkOptions = None,
        as_json: Json = False,
    ) -> None:
        from ..benchmarks import load_benchmark

        loaded = load_benchmark(
            name,
            split=split,
            data_dir=data_dir,
            limit=limit,
            seed=seed,
            revision=revision,
            **benchmark_options(option or []),
        )
        tokenizer = None
        if tokens is not None:
            from ..models.load import load_tokenizer

            tokenizer = load_tokenizer(tokens)
        shown = [_shown(problem, tokenizer) for problem in loaded.problems]
        if as_json:
            typer.echo(json.dumps({"source": loaded.source, "problems": shown}, indent=2))
            return
        typer.echo(f"{name}, {split}: {loaded.source}")
        for problem in shown:
            _print_problem(problem)

    @app.command(
        "check",
        help="Checks a local copy or the hub's: rows and columns, that the gold is graded as right and a wrong answer "
        "as wrong, repeated questions, and questions that other splits have too.\n\n"
        "Exits with 1 if a gold answer is wrong, or a wrong one right.\n\n"
        f"\b\nExamples:\n  {command} benchmarks check chains\n"
        f"  {command} benchmarks check gsm8k --data-dir DIR\n  {command} benchmarks check gpqa --option option_seed=1",
    )
    def check_command(
        name: Name,
        split: Split = "test",
        data_dir: DataDir = None,
        revision: Revision = None,
        option: BenchmarkOptions = None,
        as_json: Json = False,
    ) -> None:
        from ..benchmarks.check import check_benchmark
        from ..evaluation.grading import grade

        report = check_benchmark(
            name,
            split=split,
            data_dir=data_dir,
            revision=revision,
            grade=lambda problem, response: grade(problem, response).correct,
            **benchmark_options(option or []),
        )
        if as_json:
            typer.echo(json.dumps(report.to_dict(), indent=2))
        else:
            _print_report(report)
        if not report.passed:
            raise typer.Exit(1)

    return app


def _facts(name: str) -> dict[str, Any]:
    """What a benchmark's module says of it, as plain JSON data. UserError for an unknown name."""
    from ..benchmarks import TRAINING_NAMES, benchmark_module

    module = benchmark_module(name)
    info = module.INFO
    parameters = inspect.signature(module.load).parameters.values()
    return {
        "name": name,
        "title": info.title,
        "kind": info.kind,
        "use": "training" if name in TRAINING_NAMES else "evaluation",
        "version": module.VERSION,
        "hub": None if info.hub is None else _hub_facts(info.hub),
        "license": info.license,
        "citation": info.citation,
        "traps": list(info.notes),
        "compared_with": list(info.shares),
        "options": {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY},
        "reading": inspect.getdoc(module.load),
    }


def _hub_facts(hub: "HubDataset") -> dict[str, Any]:
    return {
        "id": hub.id,
        "config": hub.config,
        "revision": hub.revision,
        "splits": {
            split: {"rows": list(rows) if isinstance(rows, tuple) else rows, "on_the_hub": hub.splits.get(split, split)}
            for split, rows in hub.rows.items()
        },
    }


def _rows(splits: Mapping[str, Any], *, hub_names: bool) -> str:
    """Splits and their numbers of rows in one line."""
    texts = []
    for split, facts in splits.items():
        rows = facts["rows"] if isinstance(facts["rows"], list) else [facts["rows"]]
        elsewhere = f" (the hub's {facts['on_the_hub']})" if hub_names and facts["on_the_hub"] != split else ""
        texts.append(f"{split}{elsewhere} {' or '.join(f'{number:,}' for number in rows)}")
    return ", ".join(texts)


def _print_list(facts: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "kind", "rows", "hub", "licence", box=None, padding=(0, 2, 0, 0))
    for benchmark in facts:
        hub = benchmark["hub"]
        table.add_row(
            benchmark["name"],
            benchmark["kind"] if benchmark["use"] == "evaluation" else f"{benchmark['kind']}, training",
            _rows(hub["splits"], hub_names=False) if hub else "",
            hub["id"] if hub else "none",
            benchmark["license"],
        )
    Console(width=None if sys.stdout.isatty() else 1000).print(table)  # a file has no width to keep to


def _print_facts(facts: Mapping[str, Any]) -> None:
    hub = facts["hub"]
    lines = {"title": facts["title"], "kind": facts["kind"], "use": facts["use"], "version": facts["version"]}
    if hub:
        pinned = hub["revision"] or "not pinned: what the hub holds today"
        lines |= {
            "hub": f"{hub['id']}, config {hub['config']}, revision {pinned}",
            "rows": _rows(hub["splits"], hub_names=True),
        }
    lines |= {"licence": facts["license"], "citation": facts["citation"]}
    if facts["compared_with"]:
        lines["compared"] = f"with the questions of {', '.join(facts['compared_with'])}"
    for label, text in lines.items():
        typer.echo(f"{label:<10}{text}")
    typer.echo(f"\n{facts['reading']}")
    if facts["options"]:
        typer.echo("\noptions (--option NAME=VALUE)")
        for option, default in facts["options"].items():
            typer.echo(f"  {option} = {json.dumps(default)}")
    if facts["traps"]:
        typer.echo("\ntraps")
        for trap in facts["traps"]:
            typer.echo(f"  - {trap}")


def _shown(problem: "Problem", tokenizer: "PreTrainedTokenizerBase | None") -> dict[str, Any]:
    """A problem as plain JSON data, its prompt as the tokenizer's model gets it."""
    from ..models.chat import PROMPT_TEMPLATE, fill, render_prompt

    prompt = fill(PROMPT_TEMPLATE, question=problem.prompt_text())
    counts: dict[str, int] = {}
    if tokenizer is not None:
        from ..likelihood.boundary import encode_answer

        prompt_ids = render_prompt(tokenizer, prompt)
        prompt = str(tokenizer.decode(prompt_ids))
        try:
            target_ids = encode_answer(tokenizer, problem.target()).ids
        except ValueError as error:
            raise DataError(f"{problem.id}: {error}") from error
        counts = {"prompt_tokens": len(prompt_ids), "target_tokens": len(target_ids)}
    return {
        "id": problem.id,
        "kind": problem.kind,
        "prompt": prompt,
        "target": problem.target(),
        "aliases": list(problem.aliases),
        "steps": list(problem.steps),
        "group": {key: value for key, value in problem.metadata.items() if key != "row"},
        **counts,
    }


def _print_problem(problem: Mapping[str, Any]) -> None:
    typer.echo(f"\n--- {printable(problem['id'])}")
    typer.echo(printable(problem["prompt"]))
    counted = f" ({problem['target_tokens']} tokens with the closing brace)" if "target_tokens" in problem else ""
    typer.secho(printable(f"target: {problem['target']}{counted}"), fg="green")
    for label in ("aliases", "steps", "group"):
        if problem[label]:
            typer.echo(printable(f"{label}: {json.dumps(problem[label], ensure_ascii=False)}"))
    if "prompt_tokens" in problem:
        typer.echo(f"prompt: {problem['prompt_tokens']} tokens")


def _print_report(report: "CheckReport") -> None:
    typer.echo(f"{report.name}, {report.split}: {printable(report.source)}")
    expected = " or ".join(f"{number:,}" for number in report.expected_rows)
    typer.echo(f"problems: {report.problems:,}" + (f" ({expected} rows expected)" if expected else ""))
    for reason, count in report.dropped.items():
        typer.echo(f"dropped: {count:,}, {reason}")
    typer.echo(f"gold graded as right: {report.gold_right:,} of {report.problems:,}")
    typer.echo(f"wrong answer graded as right: {report.wrong_right:,} of {report.problems:,}")
    typer.echo(f"questions that occur twice or more: {len(report.duplicates):,}")
    for ids in report.duplicates[:5]:
        typer.echo(printable(f"  {', '.join(ids)}"))
    for other, shared in report.overlaps.items():
        found = "not at hand, so not compared" if shared is None else f"{len(shared):,}"
        typer.echo(f"questions that {other} has too: {found}")
    for text in (*report.warnings, *report.failures):
        typer.secho(printable(text), fg="yellow")
    typer.secho("passed" if report.passed else "failed", fg="green" if report.passed else "red")
