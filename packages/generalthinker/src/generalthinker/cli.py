"""The command line. Verbs parse and hand over; what they do is in `train`, `inspect` and the base."""

from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from ._common import (
    RunFolder,
    UserError,
    add_doctor,
    add_evaluate,
    add_train,
    new_app,
    options,
    read_recipe,
    recipe_seed,
    recipes_app,
    run,
)
from ._version import __version__

app = new_app(
    "generalthinker",
    __version__,
    "GeneralThinker (arXiv 2605.27934): reinforcement learning of reasoning without a verifier.",
)
data_app = typer.Typer(
    rich_markup_mode=None,
    help="Training data: how the trainer reads it.\n\n\b\nExamples:\n  generalthinker data preview",
)


TRAIN_HELP = """Trains a policy; without a recipe, the embedded model on generated problems.

The recipe's settings can be changed one by one as SECTION.KEY=VALUE. The same command with the same --output goes
on where it stopped.

\b
Examples:
  generalthinker train
  generalthinker train --dry-run
  generalthinker train --recipe gsm8k-smollm2-135m --output runs/gsm8k
  generalthinker train method.credit=none training.max_steps=20 --seed 1
  generalthinker train --recipe paper-qwen2.5-1.5b --gpus 8 --zero 2 training.per_device_train_batch_size=16 \\
    training.gradient_accumulation_steps=1 --output runs/paper   # the batch of one GPU, not 8 times that
  generalthinker train --config runs/gsm8k/config.yaml --output runs/again
"""


add_train(app, __package__, TRAIN_HELP)


@app.command("inspect")
def inspect_command(
    context: typer.Context,
    model: Annotated[
        str, typer.Argument(metavar="MODEL|RUN", help="The policy: an id, a folder, or embedded; or a run folder.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[method.KEY=VALUE]...", help="Settings of the method.", show_default=False),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference",
            metavar="MODEL",
            help="What the policy was before training.",
            show_default="the policy itself",
        ),
    ] = None,
    benchmark: Annotated[
        str, typer.Option("--benchmark", metavar="NAME", help="Where the problem is from.")
    ] = "chains",
    index: Annotated[int, typer.Option("--index", min=0, metavar="N", help="Its place in the test split.")] = 0,
    question: Annotated[str | None, typer.Option("--question", help="A question of your own, with --answer.")] = None,
    answer: Annotated[str | None, typer.Option("--answer", help="Its reference answer.")] = None,
    samples: Annotated[
        int | None,
        typer.Option("--samples", min=1, metavar="N", help="Responses in the group.", show_default="8; 1 if greedy"),
    ] = None,
    response: Annotated[
        int | None,
        typer.Option("--response", min=1, metavar="N", help="Only this response, with all its tokens."),
    ] = None,
    page: Annotated[Path | None, typer.Option("--page", metavar="FILE", help="Also write an HTML page.")] = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest response.")] = 256,
    temperature: Annotated[float, typer.Option("--temperature", min=0.0, help="0 is greedy.")] = 1.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the sampled responses.")] = 0,
    chat_template: Annotated[str, typer.Option("--chat-template", help="auto, none, or a .jinja file.")] = "auto",
    data_dir: options.DataDir = None,
) -> None:
    """Shows the token credit of a group of responses, or what became of a training run.

    Of a model: the responses to one problem, each with its reward, its advantage in the group and the credit of its
    tokens before and after control. Blue tokens gain more from seeing the reference answer than their response's mean
    token, red ones less. The method's settings can be changed as method.KEY=VALUE.

    Of a run folder: its curves, and the responses to the same problems through training.

    \b
    Examples:
      generalthinker inspect embedded
      generalthinker inspect embedded method.credit=additive method.credit_strength=0.4 --page credit.html
      generalthinker inspect embedded --question "What is 2 + 3?" --answer 5 --samples 4 --response 1
      generalthinker inspect runs/gsm8k/model --reference embedded --benchmark chains --index 3
      generalthinker inspect runs/gsm8k --page run.html
    """
    options.check_page(page)
    folder = RunFolder(model)
    if folder.holds_run():
        _inspect_run(context, folder, page)
        return
    if (question is None) != (answer is None):
        raise UserError("--question and --answer belong together")
    if question is not None and answer is not None and not (question.strip() and answer.strip()):
        raise UserError("--question and --answer must not be empty")
    if samples is None:
        samples = 8 if temperature > 0 else 1
    if response is not None and response > samples:
        raise UserError(f"--response {response}: there are {samples} responses, numbered from 1")

    from ._common import load_settings
    from .inspect.settings import InspectSettings

    method = load_settings(
        InspectSettings, recipe_text=None, recipe_name="the defaults", overrides=list(overrides or [])
    ).method

    import torch
    from rich.console import Console

    from ._common import Problem, load_benchmark, load_tokenizer
    from .inspect.group import credit_group, sample_group
    from .inspect.page import write_group_page
    from .inspect.terminal import show_group
    from .policy import causal_policy

    if question is not None and answer is not None:
        problem = Problem(id="command line", question=question, answer=answer, kind="math")
    else:
        problems = load_benchmark(benchmark, data_dir=data_dir).problems
        if index >= len(problems):
            raise UserError(f"--index {index}: {benchmark} has {len(problems)} problems, numbered from 0")
        problem = problems[index]
    device: Any = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    policy = causal_policy(model).to(device)
    base = policy if reference is None else causal_policy(reference).to(device)
    tokenizer = load_tokenizer(model)
    responses = sample_group(
        policy,
        tokenizer,
        problem,
        method,
        samples=samples,
        temperature=temperature,
        max_new_tokens=max_new_tokens,
        chat_template=chat_template,
        seed=seed,
    )
    group = credit_group(
        policy,
        base,
        tokenizer,
        problem,
        method,
        responses,
        temperature=temperature or 1.0,
        chat_template=chat_template,
        seed=seed,
    )
    console = Console()
    show_group(problem, method, group, console, only=None if response is None else response - 1)
    if page is not None:
        write_group_page(page, problem, method, group)
        console.print(f"\npage: {page}", highlight=False, soft_wrap=True)


def _inspect_run(context: typer.Context, folder: Any, page: Path | None) -> None:
    """UserError where an option is given that is for a model."""
    for parameter in context.command.params:
        given = context.get_parameter_source(parameter.name or "")
        if given is not None and given.name == "COMMANDLINE" and parameter.name not in ("model", "page"):
            name = parameter.opts[0] if parameter.param_type_name == "option" else "method.KEY=VALUE"
            raise UserError(f"{name} is for a model, and {folder.path} is a run: its model is {folder.model}")

    from rich.console import Console

    from .inspect.run import show_run

    console = Console()
    show_run(folder, console, page)
    if page is not None:
        console.print(f"\npage: {page}", highlight=False, soft_wrap=True)


@data_app.command("preview")
def preview_command(
    overrides: options.Overrides = None,
    recipe: options.Recipe = None,
    config: options.Config = None,
    index: Annotated[int, typer.Option("--index", min=0, metavar="N", help="The first problem shown, from 0.")] = 0,
    limit: Annotated[int, typer.Option("--limit", min=1, metavar="N", help="How many problems are shown.")] = 1,
    data_dir: options.DataDir = None,
) -> None:
    """Shows training problems as tokens: both prompts, the scored answer, and where a response gets loss and credit.

    The response is made of the problem's reference steps. Above the problems: where the data come from, and how long
    the prompts are.

    \b
    Examples:
      generalthinker data preview
      generalthinker data preview --recipe gsm8k-smollm2-135m --index 3 --limit 2
      generalthinker data preview data.train_file=mine.jsonl data.columns='{question: prompt}' method.closing=token
    """
    name, text = read_recipe(__package__, recipe, config)

    from rich.console import Console

    from ._common import load_settings
    from .config import Settings
    from .preview import show_preview

    settings = load_settings(Settings, recipe_text=text, recipe_name=name, overrides=list(overrides or []))
    if data_dir is not None:
        settings.data.data_dir = str(data_dir)
    show_preview(settings, index, limit, seed=recipe_seed(settings), console=Console())


app.add_typer(data_app, name="data")
app.add_typer(recipes_app(__package__, "generalthinker", example="embedded"), name="recipes")
add_evaluate(app, __package__)
add_doctor(app, ["generalthinker", "thinker-common"])


def main() -> NoReturn:
    run(app)
