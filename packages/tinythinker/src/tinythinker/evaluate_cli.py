"""The verb `evaluate`. It parses and hands over to `evaluations`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ._common import RunFolder, UserError, is_results_folder, launch, new_output, options, read_earlier

if TYPE_CHECKING:
    from ._common import LaunchSettings
    from .question_sets import QuestionSet

Answer = Literal["greedy", "self_consistency", "option_likelihood"]


def evaluate_command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A student that `train` made, a Hugging Face id, another folder, or embedded."
        ),
    ],
    benchmark: Annotated[
        str | None, typer.Option("--benchmark", metavar="NAME[,NAME]", help="facts, csqa, obqa, strategyqa, ...")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", metavar="FILE", help="Questions of your own, JSON lines: all of them.")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option("--column", metavar="FIELD=NAME", help="Where a column of --file has another name."),
    ] = None,
    answer: Annotated[
        Answer, typer.Option("--answer", help="How a question is answered, see the examples.")
    ] = "greedy",
    samples: Annotated[int, typer.Option("--samples", min=2, help="Chains of a question for self_consistency.")] = 10,
    temperature: Annotated[float, typer.Option("--temperature", help="Of sampled chains.")] = 0.7,
    top_k: Annotated[int, typer.Option("--top-k", min=0, help="0: the whole vocabulary.")] = 0,
    split: Annotated[str | None, typer.Option("--split", help="train, valid or test.", show_default="test")] = None,
    limit: options.Limit = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the sample of --limit, and of sampled chains.")] = 0,
    data_dir: options.DataDir = None,
    output: options.Output = None,
    compare: Annotated[
        Path | None,
        typer.Option("--compare", metavar="DIR", help="An earlier evaluation: a paired test on the same questions."),
    ] = None,
    dtype: options.Dtype = "auto",
    revision: options.Revision = None,
    as_json: options.Json = False,
    gpus: launch.Gpus = None,
    nodes: launch.Nodes = None,
    hostfile: launch.Hostfile = None,
    zero: launch.EvaluationZero = None,
    offload: launch.EvaluationOffload = False,
    launcher: launch.Launcher = None,
    dry_run: options.DryRun = False,
) -> None:
    """Lets a student answer the questions of benchmarks, and counts, with standard errors.

    Answers are greedy chains; or the vote of sampled ones; or the option whose summary the student finds likeliest
    behind its greedy chain. A summary that names no option counts as wrong, and as an abstention. The same command with
    the same --output goes on where it stopped.

    \b
    Examples:
      tinythinker evaluate runs/embedded/model --benchmark facts
      tinythinker evaluate runs/csqa/model --benchmark csqa,obqa --answer self_consistency --samples 10 --gpus 4
      tinythinker evaluate runs/csqa/model --benchmark csqa --answer option_likelihood --output likely
      tinythinker evaluate LARGE_MODEL --benchmark csqa --gpus 8 --zero 3
      tinythinker evaluate runs/other/model --benchmark facts --compare runs/evaluation-1
    """
    if benchmark is None and file is None:
        raise UserError("name what to evaluate on: --benchmark NAME[,NAME] or --file FILE")
    if benchmark is not None and file is not None:
        raise UserError("--benchmark and --file exclude each other")
    if column and file is None:
        raise UserError("--column is for --file, which is not given")
    if not temperature > 0:
        raise UserError(f"--temperature {temperature}: expected a number above 0; --answer greedy draws nothing")
    if compare is not None and not is_results_folder(str(compare)):
        raise UserError(f"--compare: {compare} is no folder of a finished evaluation")

    from ._common import LaunchSettings
    from .config import DataSettings

    folder = RunFolder(output or new_output("evaluation"))
    launch.check_evaluation_options(zero, offload)
    settings = launch.with_options(
        LaunchSettings(), gpus=gpus, nodes=nodes, hostfile=hostfile, zero=zero, offload=offload, launcher=launcher
    )
    arguments = launch.command_line(
        "evaluate",
        model,
        benchmark=benchmark,
        file=file,
        answer=answer,
        samples=samples,
        temperature=temperature,
        top_k=top_k,
        split=split,
        limit=limit,
        seed=seed,
        data_dir=data_dir,
        output=folder.path,
        compare=compare,
        dtype=dtype,
        revision=revision,
        json=as_json,
        gpus=gpus,
        nodes=nodes,
        hostfile=hostfile,
        zero=zero,
        offload=offload,
        launcher=launcher,
    )
    for pair in column or []:
        arguments += ["--column", pair]

    def here(ranks: int) -> None:
        from .question_sets import load_questions

        names = [name for name in dict.fromkeys(part.strip() for part in (benchmark or "").split(",")) if name]
        data = [
            DataSettings(
                benchmark=name,
                train_file=None if file is None else str(file),
                columns=options.column_mapping(column or []),
                split=split or ("test" if file is None else "all"),
                limit=limit,
                seed=seed,
                data_dir=None if data_dir is None else str(data_dir),
            )
            for name in (names if file is None else [None])
        ]
        sets = [load_questions(one) for one in data]
        if dry_run:
            for one in sets:
                chains = len(one.questions) * (samples if answer == "self_consistency" else 1)
                what = f"{len(one.questions)} questions, {chains} chains, {ranks} processes"
                typer.echo(f"{one.name}, {one.split}: {what}")
            return
        _evaluate(
            model, settings, sets, folder, answer, samples, temperature, top_k, seed, dtype, revision, compare, as_json
        )

    launch.run_or_launch(settings, __package__, arguments, here, dry_run=dry_run, name=folder.path.name)


def _evaluate(
    model: str,
    settings: "LaunchSettings",
    sets: "list[QuestionSet]",
    folder: RunFolder,
    answer: Answer,
    samples: int,
    temperature: float,
    top_k: int,
    seed: int,
    dtype: str,
    revision: str | None,
    compare: Path | None,
    as_json: bool,
) -> None:
    """On every rank: evaluate together; rank 0 writes and prints."""
    import json

    import torch
    from rich.console import Console

    from ._common import (
        Table,
        Texts,
        check_comparable,
        compare_suite,
        policy_on,
        process_group,
        progress_bar,
        ranks,
        sentence,
        suite_sentences,
        write_report,
    )
    from .evaluations import evaluate_student, protocol
    from .inference import Sampling
    from .report import COLUMNS, SHOWN_CHAINS, cells, terminal_table
    from .student import student_in

    sampling = Sampling(temperature, top_k, seed)
    draws = samples if answer == "self_consistency" else 1
    with (
        process_group() as device,
        policy_on(device, settings, model, revision=revision, dtype=dtype) as policy,
    ):
        ranks.on_main(lambda: _check_output(folder, [one.name for one in sets]), "check the output")
        student = student_in(model, policy, revision=revision)
        earlier: dict[str, Any] = {}
        if compare is not None:
            for one in sets:
                earlier[one.name] = read_earlier(compare, one.name)
                try:
                    check_comparable(
                        earlier[one.name].settings, protocol(one, student, answer, samples=draws, sampling=sampling)
                    )
                except UserError as error:
                    raise UserError(f"--compare, {one.name}: {error}") from error
        results = {}
        for one in sets:
            with progress_bar(one.name) as update, torch.no_grad():
                results[one.name] = evaluate_student(
                    student,
                    one,
                    answer,
                    samples=samples,
                    sampling=sampling,
                    folder=folder.file(one.name),
                    progress=update,
                )

        def finish() -> None:
            suite = None
            if earlier:
                suite = compare_suite(
                    {name: result.rows for name, result in results.items()},
                    {name: other.rows for name, other in earlier.items()},
                )
            comparisons = {} if suite is None else suite.to_dict()["benchmarks"]
            summary = {
                "model": model,
                "answer": answer,
                "benchmarks": {name: result.to_dict() for name, result in results.items()},
                "compared_with": None if compare is None else str(compare),
                "comparisons": comparisons,
            }
            folder.write_environment()
            folder.write_results(summary)
            sections: list[Any] = [Table("Results", list(COLUMNS), [list(cells(r, model)) for r in results.values()])]
            for name, result in results.items():
                shown = [(row["id"], f"{row['text']}\n\ngold: {row['answer']}") for row in result.rows[:SHOWN_CHAINS]]
                sections.append(Texts(f"Chains, {name}", shown))
            write_report(folder.report, "TinyThinker", f"{model}, {answer}, seed {seed}", sections)
            if as_json:
                typer.echo(json.dumps(summary, indent=2))
                return
            Console(width=None).print(terminal_table([(result, model) for result in results.values()]))
            if suite is not None:
                for name, one in suite.comparisons.items():
                    typer.echo(f"{name}, this - {compare}: {sentence(one)}")
                for line in suite_sentences(suite):
                    typer.echo(line)
            typer.echo(f"results: {folder.path}")

        ranks.on_main(finish, "write the results")


def _check_output(folder: RunFolder, benchmarks: list[str]) -> None:
    """UserError unless the folder is free, or holds nothing but an evaluation on these benchmarks to go on with."""
    if folder.path.is_dir():
        held = {entry.name for entry in folder.path.iterdir()}
        if held & set(benchmarks) and held <= {*benchmarks, "results.json", "environment.json", "report.html"}:
            return
    folder.check_free()
