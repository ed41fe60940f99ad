"""The verb `evaluate`. It parses and hands over to `evaluate_verb`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from ._common import RunFolder, UserError, is_results_folder, launch, new_output, options

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
        from .evaluate_verb import Request, run_evaluation
        from .inference import Sampling
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
        request = Request(model, answer, samples, Sampling(temperature, top_k, seed), dtype, revision, compare, as_json)
        run_evaluation(request, sets, settings, folder)

    launch.run_or_launch(settings, __package__, arguments, here, dry_run=dry_run, name=folder.path.name)
