"""What `spiralthinker evaluate` does: load, evaluate at every point, write and print. Every rank runs it."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import typer
from rich.console import Console

from ._common import (
    COLUMNS,
    LaunchSettings,
    LoadedBenchmark,
    RunFolder,
    Table,
    UserError,
    cells,
    load_benchmark,
    load_jsonl,
    policy_on,
    process_group,
    ranks,
    sample,
    terminal_table,
    write_report,
)
from .controls import Control
from .iteration import Schedule
from .model import SpiralThinkerModel, read_settings
from .report import COST_COLUMNS, COST_NOTE, cost_cells, cost_table
from .sweep import Found, curves, evaluate_points, points


@dataclass(frozen=True)
class Request:
    """What is asked, read from the command line."""

    model: str
    revision: str | None
    dtype: str
    benchmarks: Sequence[str]
    file: Path | None
    columns: Mapping[str, str]
    kind: Literal["math", "mcq", "bool", "text"]
    split: str
    limit: int | None
    data_dir: Path | None
    latents: Sequence[int]
    iterations: Sequence[int]
    decodings: Sequence[Schedule]
    controls: Sequence[Control | None]
    max_new_tokens: int
    max_tokens_per_batch: int
    as_json: bool


def load_benchmarks(request: Request) -> list[LoadedBenchmark]:
    loaded = [
        load_benchmark(name, split=request.split, data_dir=request.data_dir, limit=request.limit)
        for name in dict.fromkeys(request.benchmarks)
    ]
    if request.file is not None:
        own = load_jsonl(request.file, request.columns, kind=request.kind)
        loaded.append(own if request.limit is None else sample(own, request.limit, 0))
    return loaded


def run_evaluation(request: Request, settings: LaunchSettings, folder: RunFolder) -> None:
    """UserError for a model, benchmark or combination that cannot be used; then nothing is written."""
    loaded = load_benchmarks(request)
    read_settings(request.model, revision=request.revision)  # rather now than behind the weights of another model
    with (
        process_group() as device,
        policy_on(device, settings, request.model, revision=request.revision, dtype=request.dtype) as base,
    ):
        model = SpiralThinkerModel.from_pretrained(request.model, revision=request.revision, base=base)
        wanted = points(
            model,
            latents=request.latents,
            iterations=request.iterations,
            decodings=request.decodings,
            controls=request.controls,
        )
        found = [
            each
            for benchmark in loaded
            for each in evaluate_points(
                model,
                benchmark,
                wanted,
                max_new_tokens=request.max_new_tokens,
                max_tokens_per_batch=request.max_tokens_per_batch,
                folder=folder.path,
            )
        ]
        ranks.on_main(lambda: _finish(request, found, folder), "write the results")


def check_folder(folder: RunFolder) -> None:
    """UserError where something else than an evaluation lies there."""
    if folder.path.is_file():
        raise UserError(f"{folder.path} is a file: name a folder with --output")
    if folder.holds_run():
        raise UserError(f"{folder.path} holds a training run: name another folder with --output")


def _finish(request: Request, found: Sequence[Found], folder: RunFolder) -> None:
    summary = {"model": request.model, "points": [each.to_dict() for each in found]}
    folder.write_environment()
    folder.write_results(summary)
    named = [(each.measured, each.point.name) for each in found]
    write_report(
        folder.report,
        "SpiralThinker: evaluation",
        request.model,
        [
            Table(
                "Greedy evaluation",
                list(COLUMNS),
                [list(cells(measured.result, name)) for measured, name in named],
                note="value ± standard error",
            ),
            Table("Cost of a response", COST_COLUMNS, [cost_cells(*each) for each in named], note=COST_NOTE),
            *curves(found),
        ],
    )
    if request.as_json:
        typer.echo(json.dumps(summary, indent=2))
        return
    console = Console(width=None if sys.stdout.isatty() else 120)  # a file has no width to keep to
    console.print(terminal_table([(measured.result, name) for measured, name in named]))
    console.print(cost_table(named))
    console.print(f"results: {folder.path}", highlight=False, soft_wrap=True)
