"""What `tinythinker evaluate` does: load, evaluate, compare, write and print. Every rank runs it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import typer
from rich.console import Console

from ._common import (
    Earlier,
    EvaluationResult,
    LaunchSettings,
    RunFolder,
    Table,
    Texts,
    UserError,
    check_comparable,
    compare_suite,
    policy_on,
    process_group,
    progress_bar,
    ranks,
    read_earlier,
    sentence,
    suite_sentences,
    write_report,
)
from .config import Answering
from .evaluations import evaluate_student, protocol
from .inference import Sampling
from .question_sets import QuestionSet
from .report import COLUMNS, SHOWN_CHAINS, cells, terminal_table
from .student import Student, student_in


@dataclass(frozen=True)
class Request:
    """What is asked, read from the command line. compare: the folder of an earlier evaluation"""

    model: str
    answer: Answering
    samples: int
    sampling: Sampling
    dtype: str
    revision: str | None
    compare: Path | None
    as_json: bool


def run_evaluation(request: Request, sets: Sequence[QuestionSet], settings: LaunchSettings, folder: RunFolder) -> None:
    """UserError for a model, output or comparison that cannot be used; then nothing is written."""
    with (
        process_group() as device,
        policy_on(device, settings, request.model, revision=request.revision, dtype=request.dtype) as policy,
    ):
        ranks.on_main(lambda: _check_output(folder, [one.name for one in sets]), "check the output")
        student = student_in(request.model, policy, revision=request.revision)
        earlier = {one.name: _checked_earlier(request, student, one) for one in sets if request.compare is not None}
        results = {}
        for one in sets:
            with progress_bar(one.name) as update, torch.no_grad():
                results[one.name] = evaluate_student(
                    student,
                    one,
                    request.answer,
                    samples=request.samples,
                    sampling=request.sampling,
                    folder=folder.file(one.name),
                    progress=update,
                )
        ranks.on_main(lambda: _finish(request, results, earlier, folder), "write the results")


def _checked_earlier(request: Request, student: Student, questions: QuestionSet) -> Earlier:
    """The earlier answers to these questions. UserError: none, or of other questions or another protocol."""
    assert request.compare is not None
    earlier = read_earlier(request.compare, questions.name)
    draws = request.samples if request.answer == "self_consistency" else 1
    now = protocol(questions, student, request.answer, samples=draws, sampling=request.sampling)
    try:
        check_comparable(earlier.settings, now)
    except UserError as error:
        raise UserError(f"--compare, {questions.name}: {error}") from error
    return earlier


def _finish(
    request: Request, results: Mapping[str, EvaluationResult], earlier: Mapping[str, Earlier], folder: RunFolder
) -> None:
    suite = None
    if earlier:
        suite = compare_suite(
            {name: result.rows for name, result in results.items()},
            {name: other.rows for name, other in earlier.items()},
        )
    model, compare = request.model, request.compare
    summary = {
        "model": model,
        "answer": request.answer,
        "benchmarks": {name: result.to_dict() for name, result in results.items()},
        "compared_with": None if compare is None else str(compare),
        "comparisons": {} if suite is None else suite.to_dict()["benchmarks"],
    }
    folder.write_environment()
    folder.write_results(summary)
    sections: list[Any] = [Table("Results", list(COLUMNS), [list(cells(r, model)) for r in results.values()])]
    for name, result in results.items():
        shown = [(row["id"], f"{row['text']}\n\ngold: {row['answer']}") for row in result.rows[:SHOWN_CHAINS]]
        sections.append(Texts(f"Chains, {name}", shown))
    write_report(folder.report, "TinyThinker", f"{model}, {request.answer}, seed {request.sampling.seed}", sections)
    if request.as_json:
        typer.echo(json.dumps(summary, indent=2))
        return
    Console(width=None).print(terminal_table([(result, model) for result in results.values()]))
    if suite is not None:
        for name, one in suite.comparisons.items():
            typer.echo(f"{name}, this - {compare}: {sentence(one)}")
        for line in suite_sentences(suite):
            typer.echo(line)
    typer.echo(f"results: {folder.path}")


def _check_output(folder: RunFolder, benchmarks: list[str]) -> None:
    """UserError unless the folder is free, or holds nothing but an evaluation on these benchmarks to go on with."""
    if folder.path.is_dir():
        held = {entry.name for entry in folder.path.iterdir()}
        if held & set(benchmarks) and held <= {*benchmarks, "results.json", "environment.json", "report.html"}:
            return
    folder.check_free()
