"""The command line. Verbs parse and hand over."""

from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

from ._common import (
    RunFolder,
    UserError,
    add_doctor,
    add_train,
    chosen,
    launch,
    new_app,
    new_output,
    options,
    read_recipe,
    recipes_app,
    run,
)
from ._version import __version__

app = new_app(
    "spiralthinker",
    __version__,
    "SpiralThinker (arXiv 2511.08983): latent reasoning with iterated, step-aligned latent tokens.",
)
data_app = typer.Typer(
    rich_markup_mode=None,
    help="Step-wise data: what the two stages make of it.\n\n\b\nExamples:\n  spiralthinker data preview",
)


TRAIN_HELP = """\
Trains stage 1 (explicit), stage 2 (implicit) or both; without a recipe, the embedded model on word problems.

The recipe's settings can be changed one by one as SECTION.KEY=VALUE. The same command with the same --output goes
on where it stopped.

\b
Examples:
  spiralthinker train
  spiralthinker train --dry-run
  spiralthinker train data.benchmark=graphs evaluation.benchmarks='[graphs]' --output runs/graphs
  spiralthinker train method.stages=explicit --output runs/stage1
  spiralthinker train method.stages=implicit model.name_or_path=runs/stage1/model --output runs/stage2
  spiralthinker train method.name=codi method.latents=6 --output runs/codi
  spiralthinker train method.iterations=0 method.alignment=false --gpus 8 --zero 2
"""


add_train(app, __package__, TRAIN_HELP)


Latents = Annotated[
    str | None, typer.Option("--latents", metavar="N[,N]", help="N at test time.", show_default="as trained")
]
Iterations = Annotated[
    str | None, typer.Option("--iterations", metavar="K[,K]", help="K at test time.", show_default="as trained")
]
Tokens = Annotated[int, typer.Option("--max-new-tokens", min=1, metavar="N", help="Longest response.")]


@app.command("evaluate")
def evaluate_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model folder of a run, or an id on the hub.")],
    benchmark: Annotated[
        str | None, typer.Option("--benchmark", metavar="NAME[,NAME]", help="Benchmarks by name.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", metavar="FILE", help="JSON lines of your own, as a benchmark.")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option("--column", metavar="FIELD=NAME", help="Where a column of --file has another name."),
    ] = None,
    kind: Annotated[
        Literal["math", "mcq", "bool", "text"], typer.Option("--kind", help="For --file: kind of answers.")
    ] = "math",
    latents: Latents = None,
    iterations: Iterations = None,
    decoding: Annotated[
        str | None,
        typer.Option(
            "--decoding",
            metavar="NAME[,NAME]",
            help="sequential (a latent step is finished before the next) or simultaneous.",
            show_default="as trained",
        ),
    ] = None,
    control: Annotated[
        str | None,
        typer.Option(
            "--control",
            metavar="NAME[,NAME]",
            help="shuffled: latents of another problem; zeroed; none.",
            show_default="none",
        ),
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Of the benchmarks.")] = "test",
    option: options.BenchmarkOptions = None,
    limit: options.Limit = None,
    data_dir: options.DataDir = None,
    output: options.Output = None,
    compare: Annotated[
        Path | None,
        typer.Option("--compare", metavar="DIR", help="An earlier evaluation: a paired test on the same problems."),
    ] = None,
    max_new_tokens: Tokens = 256,
    grader: options.Grader = "default",
    max_tokens_per_batch: options.BatchTokens = 8192,
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
    """Evaluates a trained model, also with other N, K and latents than its own; with tokens, token passes and seconds.

    Every combination of the lists is evaluated, greedily. The same command with the same --output goes on where it
    stopped.

    \b
    Examples:
      spiralthinker evaluate runs/embedded/model --benchmark chains
      spiralthinker evaluate runs/embedded/model --benchmark chains --iterations 0,1,2,3,5,8
      spiralthinker evaluate runs/embedded/model --benchmark chains --control none,shuffled,zeroed --limit 200
      spiralthinker evaluate runs/mine/model --file mine.jsonl
      spiralthinker evaluate runs/gsm8k/model --benchmark gsm8k --gpus 8 --output runs/scores
      spiralthinker evaluate runs/codi/model --benchmark gsm8k --compare runs/scores
      spiralthinker evaluate LARGE_MODEL --benchmark gsm8k --gpus 8 --zero 3
    """
    folder = RunFolder(output or new_output("evaluation"))
    arguments = launch.command_line(
        "evaluate",
        model,
        benchmark=benchmark,
        file=file,
        kind=kind,
        latents=latents,
        iterations=iterations,
        decoding=decoding,
        control=control,
        split=split,
        limit=limit,
        data_dir=data_dir,
        output=folder.path,
        compare=compare,
        max_new_tokens=max_new_tokens,
        grader=grader,
        max_tokens_per_batch=max_tokens_per_batch,
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
    for flag, values in (("--column", column), ("--option", option)):
        arguments += [part for value in values or [] for part in (flag, value)]
    on = chosen(benchmark, file, column, kind, split, option, data_dir, limit)
    controls = _names("--control", control, ("none", "shuffled", "zeroed")) or ["none"]
    numbers = {"latents": _numbers("--latents", latents, 1), "iterations": _numbers("--iterations", iterations, 0)}
    decodings: Any = _names("--decoding", decoding, ("sequential", "simultaneous"))

    from ._common import LaunchSettings
    from .evaluate_verb import Request, check_folder, run_evaluation

    launch.check_evaluation_options(zero, offload)
    settings = launch.with_options(
        LaunchSettings(), gpus=gpus, nodes=nodes, hostfile=hostfile, zero=zero, offload=offload, launcher=launcher
    )
    request = Request(
        model=model,
        revision=revision,
        dtype=dtype,
        on=on,
        decodings=decodings,
        controls=[None if name == "none" else name for name in controls],  # type: ignore[misc]  # checked above
        max_new_tokens=max_new_tokens,
        grader=grader,
        max_tokens_per_batch=max_tokens_per_batch,
        compare=compare,
        as_json=as_json,
        **numbers,
    )
    if launch.writes_output():
        check_folder(folder)

    def here(ranks: int) -> None:
        if dry_run:
            for loaded in on.load():
                typer.echo(f"{loaded.name}, {loaded.split}: {len(loaded.problems)} problems at each point")
        else:
            run_evaluation(request, settings, folder)

    launch.run_or_launch(settings, __package__, arguments, here, dry_run=dry_run, name=folder.path.name)


@app.command("inspect")
def inspect_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model folder of a run, or an id on the hub.")],
    question: Annotated[
        str | None, typer.Argument(metavar="[QUESTION]", help="A question of your own.", show_default=False)
    ] = None,
    benchmark: Annotated[
        str, typer.Option("--benchmark", metavar="NAME", help="Where the problem is from, without a question.")
    ] = "chains",
    index: Annotated[int, typer.Option("--index", min=0, metavar="N", help="Its place in the test split.")] = 0,
    step: Annotated[
        list[str] | None,
        typer.Option("--step", metavar="TEXT", help="A reference step of your question; give it once for each."),
    ] = None,
    answer: Annotated[str | None, typer.Option("--answer", help="The reference answer of your question.")] = None,
    latents: Annotated[int | None, typer.Option("--latents", min=1, help="N, if not as trained.")] = None,
    iterations: Annotated[int | None, typer.Option("--iterations", min=0, help="K, if not as trained.")] = None,
    top: Annotated[int, typer.Option("--top", min=1, metavar="N", help="Vocabulary entries shown of each latent.")] = 2,
    curves: Annotated[
        str | None,
        typer.Option("--curves", metavar="NAME", help="A benchmark for the page's curves of accuracy against K and N."),
    ] = None,
    limit: options.Limit = None,
    page: Annotated[Path | None, typer.Option("--page", metavar="FILE", help="Also write an HTML page.")] = None,
    max_new_tokens: Tokens = 256,
    data_dir: options.DataDir = None,
) -> None:
    """Shows what stands in the latents of a response: nearest vocabulary entries by position and iteration.

    With reference steps (of the benchmark, or given as --step) also the text step that each latent step stands for, and
    its distance from it.

    \b
    Examples:
      spiralthinker inspect runs/embedded/model
      spiralthinker inspect runs/embedded/model "Mia has 3 coins. She finds 4 coins. How many coins does Mia have now?"
      spiralthinker inspect runs/embedded/model --index 7 --page report.html --curves chains --limit 200
    """
    options.check_page(page)
    if curves is not None and page is None:
        raise UserError("--curves: they are drawn on the page, so name one with --page")
    if question is not None and not question.strip():
        raise UserError("the question is empty")
    if (step or answer is not None) and question is None:
        raise UserError("--step and --answer belong to a question of your own")
    if answer is not None and not answer.strip():
        raise UserError("--answer must not be empty")

    from .inspect_verb import inspect_model

    inspect_model(
        model,
        question=question,
        answer=answer,
        steps=tuple(step or ()),
        benchmark=benchmark,
        index=index,
        latents=latents,
        iterations=iterations,
        top=top,
        curves_of=curves,
        limit=limit,
        page=page,
        max_new_tokens=max_new_tokens,
        data_dir=data_dir,
    )


def _numbers(option: str, text: str | None, least: int) -> list[int]:
    """Of a list like 1,2,5."""
    try:
        numbers = [int(part) for part in text.split(",")] if text is not None else []
    except ValueError:
        raise UserError(f"{option} {text}: expected whole numbers with commas between them") from None
    if any(number < least for number in numbers):
        raise UserError(f"{option} {text}: expected numbers of at least {least}")
    return list(dict.fromkeys(numbers))


def _names(option: str, text: str | None, known: tuple[str, ...]) -> list[str]:
    names = [part.strip() for part in text.split(",")] if text is not None else []
    for name in names:
        if name not in known:
            raise UserError(f"{option} {name}: expected {', '.join(known[:-1])} or {known[-1]}")
    return list(dict.fromkeys(names))


@data_app.command("preview")
def preview_command(
    overrides: options.Overrides = None,
    recipe: options.Recipe = None,
    config: options.Config = None,
    index: Annotated[int, typer.Option("--index", min=0, metavar="N", help="Which problem, from 0.")] = 0,
    data_dir: options.DataDir = None,
) -> None:
    """Shows the tokens that both stages read, which of them are targets, and what each latent step stands for.

    \b
    Examples:
      spiralthinker data preview
      spiralthinker data preview data.benchmark=graphs method.parity=even --index 3
      spiralthinker data preview data.train_file=mine.jsonl data.columns='{steps: thoughts}' method.latents=6
    """
    name, text = read_recipe(__package__, recipe, config)

    from rich.console import Console

    from ._common import load_settings
    from .config import Settings
    from .preview import show_preview

    settings = load_settings(Settings, recipe_text=text, recipe_name=name, overrides=list(overrides or []))
    if data_dir is not None:
        settings.data.data_dir = str(data_dir)
    show_preview(settings, index, Console())


app.add_typer(data_app, name="data")
app.add_typer(recipes_app(__package__, "spiralthinker", example="embedded"), name="recipes")
add_doctor(app, ["spiralthinker", "thinker-common"])


def main() -> NoReturn:
    run(app)
