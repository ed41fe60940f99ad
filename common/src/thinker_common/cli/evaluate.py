"""The verb `evaluate`: a model on benchmarks, with standard errors, and paired against earlier results.

The output folder holds `results.json`, `environment.json`, `report.html` and a folder for each benchmark with its rows:
`generations.jsonl`, or `ranking.jsonl` where options are ranked; `changes.jsonl` where it was compared. Given again
with the same settings, it goes on where it stopped; other settings are refused.

On several GPUs every rank runs the verb, on its share of the problems, and rank 0 writes and prints.
"""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..distributed.launch_settings import LaunchSettings
from ..errors import UserError
from ..training.run_folder import RunFolder, new_output, write_atomic
from .chosen import chosen, names_in
from .launch import (
    EvaluationOffload,
    EvaluationZero,
    Gpus,
    Hostfile,
    Launcher,
    Nodes,
    check_evaluation_options,
    command_line,
    run_or_launch,
    with_options,
    writes_output,
)
from .options import (
    BatchTokens,
    BenchmarkOptions,
    DataDir,
    Dtype,
    Grader,
    Json,
    Limit,
    Output,
    Revision,
)
from .results_folder import Earlier, is_results_folder, read_earlier

if TYPE_CHECKING:
    from ..benchmarks.problem import LoadedBenchmark
    from ..evaluation.ranking import RankingResult
    from ..evaluation.results import EvaluationResult
    from ..evaluation.suite import SuiteComparison

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A Hugging Face id, a local folder, or embedded. With --compare also the folder of a finished evaluation.",
    ),
]
Benchmarks = Annotated[str | None, typer.Option("--benchmark", metavar="NAME[,NAME]", help="Benchmarks by name.")]
File = Annotated[Path | None, typer.Option("--file", metavar="FILE", help="JSON lines of your own, as a benchmark.")]
Columns = Annotated[
    list[str] | None,
    typer.Option("--column", metavar="FIELD=NAME", help="For --file: which column is our `question`, `answer`, ..."),
]
Kind = Annotated[Literal["math", "mcq", "bool", "text"], typer.Option("--kind", help="For --file: kind of answers.")]
Split = Annotated[str | None, typer.Option("--split", help="Split of the benchmarks.", show_default="test")]
Seed = Annotated[
    int, typer.Option("--seed", min=0, metavar="N", help="Seed of the samples, and of the problems that --limit takes.")
]
Tokens = Annotated[int, typer.Option("--max-new-tokens", min=1, metavar="N", help="Longest response.")]
Samples = Annotated[int, typer.Option("--samples", min=1, metavar="N", help="Responses to each problem.")]
Temperature = Annotated[
    float, typer.Option("--temperature", min=0.0, metavar="T", help="Of sampling; 0 is greedy.", show_default="0")
]
TopP = Annotated[float, typer.Option("--top-p", metavar="P", help="Sample from the tokens that hold this mass.")]
TopK = Annotated[int, typer.Option("--top-k", min=0, metavar="N", help="Sample from the N likeliest tokens; 0 is all.")]
AtK = Annotated[
    str | None,
    typer.Option("--k", metavar="N[,N]", help="For pass@k and maj@k.", show_default="2, 4, 8 ... up to --samples"),
]
Rank = Annotated[
    Literal["letter", "text"] | None,
    typer.Option(
        "--rank-options",
        help="Generate nothing: which option is the most likely answer, by its letter or its text?",
        show_default=False,
    ),
]
ChatTemplate = Annotated[str, typer.Option("--chat-template", help="auto, none, or the path of a .jinja file.")]
Backend = Annotated[
    Literal["hf", "vllm"],
    typer.Option("--backend", help="What generates; vllm is the extra thinker-common[vllm], and scores no answers."),
]
Compare = Annotated[
    Path | None,
    typer.Option(
        "--compare", metavar="DIR", help="Another evaluation's folder: adds a paired test on the same problems."
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done; load no model and write nothing.")]


@dataclass(frozen=True)
class _Request:
    """What is asked of the model, read from the command line and found possible."""

    model: str
    revision: str | None
    dtype: str
    chat_template: str
    decoding: dict[str, Any]
    seed: int
    ks: list[int] | None
    grader: str
    form: str | None
    backend: str
    max_tokens_per_batch: int
    compare: Path | None
    as_json: bool
    launch: LaunchSettings


def add_evaluate(app: typer.Typer, module: str) -> None:
    """Adds the verb to a command line.

    module: whose `python -m` is this command line; the ranks on several GPUs run it
    """
    name = app.info.name

    @app.command(
        "evaluate",
        help="Evaluates a model on benchmarks, or compares two evaluations.\n\n"
        "Responses are greedy unless --temperature is set. A folder given again goes on where it stopped.\n\n"
        f"\b\nExamples:\n  {name} evaluate embedded --benchmark chains --max-new-tokens 64\n"
        f"  {name} evaluate runs/gsm8k/model --benchmark gsm8k,math500 --output runs/scores\n"
        f"  {name} evaluate runs/gsm8k/model --benchmark amc23 --samples 16 --temperature 0.6 --top-p 0.9\n"
        f"  {name} evaluate runs/gsm8k/model --benchmark mmlu --rank-options letter\n"
        f"  {name} evaluate runs/gsm8k/model --benchmark math500 --gpus 8\n"
        f"  {name} evaluate LARGE_MODEL --benchmark math500 --gpus 8 --zero 3\n"
        f"  {name} evaluate runs/gsm8k/model --benchmark gsm8k --compare runs/base-scores\n"
        f"  {name} evaluate --compare runs/base-scores runs/scores\n"
        f"  {name} evaluate MODEL --file mine.jsonl --column question=prompt --column answer=gold",
    )
    def evaluate_command(
        model: Model,
        benchmark: Benchmarks = None,
        file: File = None,
        column: Columns = None,
        kind: Kind = "math",
        split: Split = None,
        option: BenchmarkOptions = None,
        limit: Limit = None,
        seed: Seed = 0,
        data_dir: DataDir = None,
        output: Output = None,
        compare: Compare = None,
        max_new_tokens: Tokens = 1024,
        samples: Samples = 1,
        temperature: Temperature = 0.0,
        top_p: TopP = 1.0,
        top_k: TopK = 0,
        k: AtK = None,
        grader: Grader = "default",
        rank_options: Rank = None,
        backend: Backend = "hf",
        max_tokens_per_batch: BatchTokens = 8192,
        chat_template: ChatTemplate = "auto",
        dtype: Dtype = "auto",
        revision: Revision = None,
        as_json: Json = False,
        gpus: Gpus = None,
        nodes: Nodes = None,
        hostfile: Hostfile = None,
        zero: EvaluationZero = None,
        offload: EvaluationOffload = False,
        launcher: Launcher = None,
        dry_run: DryRun = False,
    ) -> None:
        if compare is not None and is_results_folder(model):
            _compare_folders(Path(model), compare, names_in(benchmark), output, as_json)
            return
        if compare is not None and benchmark is None and file is None:
            raise UserError(
                f"--compare: {model} is no folder of a finished evaluation; name a --benchmark to evaluate it on"
            )
        check_evaluation_options(zero, offload)
        if backend == "vllm" and zero is not None:
            raise UserError("--backend vllm splits a model by itself: leave --zero out")
        if backend == "vllm" and rank_options is None:
            if hostfile is not None or (gpus or 1) * (nodes or 1) > 1:
                raise UserError(
                    "--backend vllm takes all GPUs of one process: leave --gpus, --nodes and --hostfile out"
                )
            gpus = 1
        settings = with_options(
            LaunchSettings(),
            gpus=gpus,
            nodes=nodes,
            hostfile=hostfile,
            zero=zero,
            offload=offload,
            launcher=launcher,
        )
        benchmarks = chosen(benchmark, file, column, kind, split, option, data_dir, limit, seed).load()
        request = _Request(
            model=model,
            revision=revision,
            dtype=dtype,
            chat_template=chat_template,
            decoding={
                "max_new_tokens": max_new_tokens,
                "temperature": temperature,
                "top_p": top_p,
                "top_k": top_k,
                "samples": samples,
            },
            seed=seed,
            ks=_numbers(k),
            grader=grader,
            form=rank_options,
            backend=backend,
            max_tokens_per_batch=max_tokens_per_batch,
            compare=compare,
            as_json=as_json,
            launch=settings,
        )
        folder = RunFolder(output or new_output("evaluation"))
        if writes_output():
            _check_output(folder, [loaded.name for loaded in benchmarks])
        arguments = command_line(
            "evaluate",
            model,
            benchmark=benchmark,
            file=file,
            kind=kind,
            split=split,
            limit=limit,
            seed=seed,
            data_dir=data_dir,
            output=folder.path,
            compare=compare,
            k=k,
            grader=grader,
            rank_options=rank_options,
            backend=backend,
            max_tokens_per_batch=max_tokens_per_batch,
            chat_template=chat_template,
            dtype=dtype,
            revision=revision,
            json=as_json,
            gpus=gpus,
            nodes=nodes,
            hostfile=hostfile,
            zero=zero,
            offload=offload,
            launcher=launcher,
            **request.decoding,
        )
        for flag, values in (("--column", column), ("--option", option)):
            arguments += [part for value in values or [] for part in (flag, value)]
        run_or_launch(
            settings,
            module,
            arguments,
            lambda ranks: _plan(request, benchmarks, ranks) if dry_run else _run(request, benchmarks, folder),
            dry_run=dry_run,
            name=folder.path.name,
        )


def _plan(request: _Request, benchmarks: "Sequence[LoadedBenchmark]", ranks: int) -> None:
    """Print what would be evaluated; nothing heavy is loaded."""
    what, samples = ("rankings", 1) if request.form is not None else ("responses", request.decoding["samples"])
    where = f"divided between {ranks} ranks" if request.launch.zero is not None else "whole on each rank"
    typer.echo(f"model: {request.model}, {where}")
    for loaded in benchmarks:
        problems, rows = len(loaded.problems), len(loaded.problems) * samples
        share = f"at most {math.ceil(rows / ranks)} on each of {ranks} ranks" if ranks > 1 else "in one process"
        typer.echo(f"{loaded.name}, {loaded.split}: {problems} problems, {rows} {what}, {share}")


def _run(request: _Request, benchmarks: "Sequence[LoadedBenchmark]", folder: RunFolder) -> None:
    """On every rank: evaluate together; rank 0 writes and prints."""
    compare, decoding = request.compare, request.decoding
    earlier = {loaded.name: read_earlier(compare, loaded.name) for loaded in benchmarks if compare is not None}

    from ..distributed import ranks
    from ..distributed.process_group import process_group
    from ..distributed.sharded import policy_on
    from ..evaluation.evaluate import evaluate
    from ..evaluation.progress import progress_bar
    from ..evaluation.ranking import rank
    from ..models.load import load_tokenizer
    from .vllm_engine import vllm_arguments

    for loaded in benchmarks:
        if loaded.name in earlier:  # rather now than after hours of generation
            earlier[loaded.name].check(loaded, request.chat_template, request.grader, decoding, request.form)
    with process_group() as device, ExitStack() as loaded_model:
        tokenizer = load_tokenizer(request.model, revision=request.revision)
        engine: dict[str, Any] = {}  # what vLLM changes about an evaluation
        policy: Any = None
        if request.backend == "vllm" and request.form is None:
            engine = vllm_arguments(
                request.model,
                tokenizer,
                revision=request.revision,
                dtype=request.dtype,
                seed=request.seed,
                decoding=decoding,
            )
        else:
            policy = loaded_model.enter_context(
                policy_on(device, request.launch, request.model, revision=request.revision, dtype=request.dtype)
            )
        results: dict[str, EvaluationResult | RankingResult] = {}
        for loaded in benchmarks:
            with progress_bar(loaded.name) as progress:
                common: dict[str, Any] = {
                    "chat_template": request.chat_template,
                    "max_tokens_per_batch": request.max_tokens_per_batch,
                    "progress": progress,
                }
                if request.form is not None:
                    rows = folder.file(f"{loaded.name}/ranking.jsonl")
                    results[loaded.name] = rank(policy, tokenizer, loaded, output=rows, form=request.form, **common)
                else:
                    rows = folder.file(f"{loaded.name}/generations.jsonl")
                    common |= {"seed": request.seed, "ks": request.ks, "grader": request.grader, **decoding, **engine}
                    results[loaded.name] = evaluate(policy, tokenizer, loaded, output=rows, **common)
        ranks.on_main(lambda: _finish(request, benchmarks, results, earlier, folder), "write the results")


def _finish(
    request: _Request,
    benchmarks: "Sequence[LoadedBenchmark]",
    results: "Mapping[str, EvaluationResult | RankingResult]",
    earlier: Mapping[str, Earlier],
    folder: RunFolder,
) -> None:
    """Write what was found, and print it."""
    from ..evaluation import suite
    from ..evaluation.page import write_evaluation_page

    model, compare = request.model, request.compare
    comparison: SuiteComparison | None = None
    changes: dict[str, list[dict[str, Any]]] = {}
    if earlier:
        after = {name: result.rows for name, result in results.items()}
        comparison, changes = _compared(after, {name: other.rows for name, other in earlier.items()})
        _write_changes(folder, changes)
    average = suite.average({name: result.estimate for name, result in results.items()})
    shared = suite.shared_questions(list(results))
    several = {"value": average.value, "standard_error": average.standard_error, "note": "; ".join(shared)}
    summary: dict[str, Any] = {
        "model": model,
        "benchmarks": {name: result.to_dict() for name, result in results.items()},
        "average": several if len(results) > 1 else None,
        **_comparison_summary(compare, comparison),
    }
    folder.write_environment()
    folder.write_results(summary)
    write_evaluation_page(
        folder.report,
        model,
        list(results.values()),
        {loaded.name: loaded for loaded in benchmarks},
        comparison,
        changes,
        str(compare),
    )
    if request.as_json:
        from ..evaluation.results import finite

        typer.echo(json.dumps(finite(summary), indent=2))
        return

    from rich.console import Console

    from ..evaluation.ranking import RankingResult
    from ..evaluation.results import EvaluationResult
    from ..evaluation.table import at_k_tables, average_sentence, ranking_table, terminal_table

    console = Console(width=None if sys.stdout.isatty() else 120)  # a file has no width to keep to
    generated = [result for result in results.values() if isinstance(result, EvaluationResult)]
    ranked = [result for result in results.values() if isinstance(result, RankingResult)]
    if generated:
        console.print(terminal_table((result, model) for result in generated))
    for table in at_k_tables(generated):
        console.print(table)
    if ranked:
        console.print(ranking_table((result, model) for result in ranked))
    if len(results) > 1:
        typer.echo(average_sentence(average, shared))
    if comparison is not None:
        _print_comparison(comparison, f"this - {compare}")
    typer.echo(f"results: {folder.path}")


def _compare_folders(after: Path, before: Path, names: Sequence[str], output: Path | None, as_json: bool) -> None:
    """Two finished evaluations, on the benchmarks they share or those that are named."""
    from ..evaluation.comparison import check_comparable
    from ..evaluation.page import write_comparison_page
    from .results_folder import benchmarks_of

    theirs = [name for name in benchmarks_of(after) if name in benchmarks_of(before)]
    names = names or theirs
    if not names:
        raise UserError(
            f"{before} and {after} share no benchmark: they hold {', '.join(benchmarks_of(before)) or 'none'} and "
            f"{', '.join(benchmarks_of(after)) or 'none'}"
        )
    pairs = {name: (read_earlier(after, name), read_earlier(before, name)) for name in names}
    for name, (a, b) in pairs.items():
        try:
            check_comparable(b.settings, a.settings)
        except UserError as error:
            raise UserError(f"{name}: {error}") from error
    folder = RunFolder(output or new_output("comparison"))
    folder.check_free()
    comparison, changes = _compared(
        {name: a.rows for name, (a, _) in pairs.items()}, {name: b.rows for name, (_, b) in pairs.items()}
    )
    summary = {"after": str(after), **_comparison_summary(before, comparison)}
    _write_changes(folder, changes)
    folder.write_results(summary)
    write_comparison_page(folder.report, str(after), str(before), comparison, changes)
    if as_json:
        typer.echo(json.dumps(summary, indent=2))
        return
    _print_comparison(comparison, f"{after} - {before}")
    typer.echo(f"results: {folder.path}")


def _compared(
    after: Mapping[str, Sequence[Any]], before: Mapping[str, Sequence[Any]]
) -> "tuple[SuiteComparison, dict[str, list[dict[str, Any]]]]":
    from ..evaluation.comparison import changes
    from ..evaluation.suite import compare_suite

    return compare_suite(after, before), {name: changes(rows, before[name]) for name, rows in after.items()}


def _write_changes(folder: RunFolder, changes: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    for name, rows in changes.items():
        path = folder.file(f"{name}/changes.jsonl")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows))


def _comparison_summary(other: Path | None, comparison: "SuiteComparison | None") -> dict[str, Any]:
    values = comparison.to_dict() if comparison is not None else {"benchmarks": {}, "average": None}
    return {
        "compared_with": None if other is None else str(other),
        "comparisons": values["benchmarks"],
        "compared_average": values["average"],
    }


def _print_comparison(comparison: "SuiteComparison", what: str) -> None:
    from ..evaluation.table import sentence, suite_sentences

    for name, one in comparison.comparisons.items():
        typer.echo(f"{name}, {what}: {sentence(one)}")
    for line in suite_sentences(comparison):
        typer.echo(line)


def _numbers(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--k {text}: numbers with commas between them are needed, for example 1,4,16") from None


def _check_output(folder: RunFolder, benchmarks: list[str]) -> None:
    """UserError unless the folder is free, or holds nothing but an evaluation on these benchmarks to go on with."""
    from .results_folder import rows_file

    if folder.path.is_dir() and any(rows_file(folder.path, name) is not None for name in benchmarks):
        held = {entry.name for entry in folder.path.iterdir() if rows_file(folder.path, entry.name) is None}
        if held <= {"results.json", "environment.json", "report.html"}:
            return
    folder.check_free()
