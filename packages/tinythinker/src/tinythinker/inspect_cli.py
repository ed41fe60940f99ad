"""The verb `inspect`. It parses and hands over to `inspect`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ._common import UserError, options


def inspect_command(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A student that `train` made, an id, another folder, or embedded.")
    ],
    question: Annotated[str | None, typer.Option("--question", help="A question of your own, with --options.")] = None,
    choices: Annotated[
        str | None, typer.Option("--options", metavar="TEXT|TEXT|...", help="Its options, with | between them.")
    ] = None,
    gold: Annotated[str | None, typer.Option("--answer", metavar="LETTER", help="Its right option.")] = None,
    benchmark: Annotated[
        str, typer.Option("--benchmark", metavar="NAME", help="Where the question is from.")
    ] = "facts",
    split: Annotated[str, typer.Option("--split", help="train, valid or test.")] = "test",
    index: Annotated[int, typer.Option("--index", min=0, metavar="N", help="Its place in the split.")] = 0,
    samples: Annotated[int, typer.Option("--samples", min=0, help="Draws beside the greedy chain.")] = 5,
    temperature: Annotated[float, typer.Option("--temperature", help="Of the draws.")] = 0.7,
    swap: Annotated[
        str | None,
        typer.Option("--swap", metavar="TEXT", help="A recall to put in.", show_default="that of the next question"),
    ] = None,
    page: Annotated[Path | None, typer.Option("--page", metavar="FILE", help="Also write an HTML page.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the draws.")] = 0,
    data_dir: options.DataDir = None,
) -> None:
    """Shows how a student comes to its answer to one question.

    The whole chain of the greedy pass and of each draw, with the log-likelihood of every part; the votes; what each
    option scores; and what becomes of the answer when the recall is left out, or swapped for another.

    \b
    Examples:
      tinythinker inspect runs/embedded/model
      tinythinker inspect runs/embedded/model --index 3 --samples 10 --page chains.html
      tinythinker inspect runs/csqa/model --question "Where do birds sleep?" --options "nest|car|cup" --answer A
      tinythinker inspect runs/csqa/model --benchmark csqa --swap "Birds sleep in cars."
    """
    options.check_page(page)
    if (question is None) != (choices is None):
        raise UserError("--question and --options belong together")
    if gold is not None and question is None:
        raise UserError("--answer is for --question")
    if not temperature > 0:
        raise UserError(f"--temperature {temperature}: expected a number above 0; --samples 0 draws nothing")
    own: Any = None if question is None else _own_question(question, choices or "", gold)

    from dataclasses import replace

    import torch
    from rich.console import Console

    from .config import DataSettings
    from .inference import Sampling
    from .inspect.look import look_at
    from .inspect.show import show_look, write_look_page
    from .question_sets import load_questions
    from .student import load_student

    other = None
    if own is None:
        data = DataSettings(benchmark=benchmark, split=split, data_dir=None if data_dir is None else str(data_dir))
        questions = load_questions(data).questions
        if index >= len(questions):
            raise UserError(f"--index {index}: {benchmark} has {len(questions)} questions, numbered from 0")
        asked, other = questions[index], questions[(index + 1) % len(questions)]
    else:
        asked = own
    student = load_student(model)
    device: Any = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    student = replace(student, model=student.model.to(device))
    look = look_at(
        student,
        asked,
        gold_known=own is None or gold is not None,
        samples=samples,
        sampling=Sampling(temperature, 0, seed),
        other=other,
        swap=swap,
    )
    console = Console()
    show_look(look, console)
    if page is not None:
        page.parent.mkdir(parents=True, exist_ok=True)
        write_look_page(page, look, model)
        console.print(f"\npage: {page}", highlight=False, soft_wrap=True)


def _own_question(text: str, choices: str, gold: str | None) -> Any:
    """UserError for a question that is none."""
    from .questions import LETTERS, Question, repeated_options

    texts = tuple(choice.strip() for choice in choices.split("|"))
    if not text.strip() or not all(texts):
        raise UserError("--question and each of the --options must not be empty")
    if not 2 <= len(texts) <= len(LETTERS):
        raise UserError(f"--options: {len(texts)} options; there must be 2 to {len(LETTERS)}, with | between them")
    if repeated := repeated_options(texts):
        raise UserError(f"--options: {' and '.join(repeated)} have the same text")
    letters = LETTERS[: len(texts)]
    if gold is not None and (len(gold) != 1 or gold not in letters):
        raise UserError(f"--answer {gold}: expected a letter from A to {letters[-1]}")
    return Question("command line", text.strip(), texts, 0 if gold is None else letters.index(gold))
