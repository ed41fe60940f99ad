"""What `spiralthinker evaluate` does: load, evaluate at every point, write and print. Every rank runs it."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from ._common import (
    COLUMNS,
    Chosen,
    Comparison,
    Earlier,
    LaunchSettings,
    LoadedBenchmark,
    RunFolder,
    Table,
    UserError,
    benchmarks_of,
    cells,
    compare,
    policy_on,
    process_group,
    ranks,
    read_earlier,
    rows_file,
    sentence,
    terminal_table,
    write_report,
)
from .controls import Control
from .iteration import Schedule
from .model import SpiralThinkerModel, read_settings
from .report import COST_COLUMNS, COST_NOTE, cost_cells, cost_table
from .sweep import Found, Point, curves, evaluate_points, points


@dataclass(frozen=True)
class Request:
    """What is asked, read from the command line. compare: the folder of an earlier evaluation"""

    model: str
    revision: str | None
    dtype: str
    on: Chosen
    latents: Sequence[int]
    iterations: Sequence[int]
    decodings: Sequence[Schedule]
    controls: Sequence[Control | None]
    max_new_tokens: int
    grader: str
    max_tokens_per_batch: int
    compare: Path | None
    as_json: bool


def run_evaluation(request: Request, settings: LaunchSettings, folder: RunFolder) -> None:
    """UserError for a model, benchmark or combination that cannot be used; then nothing is written."""
    loaded = request.on.load()
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
        earlier = {
            (benchmark.name, point): checked_earlier(request, model, benchmark, point)
            for benchmark in loaded
            for point in wanted
            if request.compare is not None
        }
        found = [
            each
            for benchmark in loaded
            for each in evaluate_points(
                model,
                benchmark,
                wanted,
                max_new_tokens=request.max_new_tokens,
                max_tokens_per_batch=request.max_tokens_per_batch,
                grader=request.grader,
                folder=folder.path,
            )
        ]
        ranks.on_main(lambda: _finish(request, found, earlier, folder), "write the results")


def check_folder(folder: RunFolder) -> None:
    """UserError unless the folder is free, or holds nothing but an evaluation to go on with."""
    if folder.path.is_dir():
        evaluated = {entry.name for entry in folder.path.iterdir() if entry.is_dir() and benchmarks_of(entry)}
        held = {entry.name for entry in folder.path.iterdir()} - evaluated
        if evaluated and held <= {"results.json", "environment.json", "report.html"}:
            return
    folder.check_free()


def checked_earlier(request: Request, model: SpiralThinkerModel, benchmark: LoadedBenchmark, point: Point) -> Earlier:
    """What the responses at the point are compared with: those at the same point, or the only ones that there are.

    Raises:
        UserError: none, or of other problems or another protocol.
    """
    assert request.compare is not None
    folder, name = request.compare, benchmark.name
    if rows_file(folder, name) is None:  # no evaluation of a plain model
        there = benchmarks_of(folder / name) if (folder / name).is_dir() else []
        folder, name = folder / name, there[0] if len(there) == 1 else point.name
        if name not in there:
            raise UserError(f"--compare: {folder} has no responses at {name}; it has {', '.join(there) or 'none'}")
    earlier, annotation = read_earlier(folder, name), model.settings.annotation
    decoding = {
        "max_new_tokens": request.max_new_tokens, "temperature": 0.0, "top_p": 1.0, "top_k": 0, "samples": 1,
    }  # fmt: skip
    earlier.check(benchmark, annotation.chat_template, request.grader, decoding, template=annotation.prompt_template)
    return earlier


def _finish(
    request: Request, found: Sequence[Found], earlier: Mapping[tuple[str, Point], Earlier], folder: RunFolder
) -> None:
    compared: dict[tuple[str, Point], Comparison] = {}
    summary: dict[str, Any] = {"model": request.model, "points": []}
    for each in found:
        values, place = each.to_dict(), (each.measured.result.benchmark, each.point)
        if place in earlier:
            compared[place] = compare(each.measured.result.rows, earlier[place].rows)
            values |= {"compared_with": str(request.compare), "comparison": compared[place].to_dict()}
        summary["points"].append(values)
    folder.write_environment()
    folder.write_results(summary)
    named = [(each.measured, each.point.name) for each in found]
    said = [[benchmark, point.name, sentence(comparison)] for (benchmark, point), comparison in compared.items()]
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
            *(
                [Table(f"Against {request.compare}, paired", ["benchmark", "model", "difference"], said)]
                if said
                else []
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
    for benchmark, name, difference in said:
        typer.echo(f"{benchmark} {name}, this - {request.compare}: {difference}")
    console.print(f"results: {folder.path}", highlight=False, soft_wrap=True)
