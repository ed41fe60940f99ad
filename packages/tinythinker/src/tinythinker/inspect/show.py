"""A look at a question, on the terminal and as a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table as TerminalTable
from rich.text import Text

from .._common import Table, Texts, printable, write_report
from ..questions import LETTERS, Question
from ..stages import question_text
from .look import Look, Seen


def show_look(look: Look, console: Console) -> None:
    def say(text: str, style: str = "") -> None:
        console.print(printable(text), style=style, highlight=False, markup=False, soft_wrap=True)

    say(question_text(look.question))
    if look.gold_known:
        say(f"gold: {look.question.answer}")
    for seen in (look.greedy, *look.draws):
        say(f"\n{heading(seen, look)}", "bold")
        for part in seen.parts:
            say(f"  {part.stage:<10} {nats(part.loglik):>8}  {part.text}")
    if look.draws:
        say(f"\nvotes: {votes(look)}")
    for columns, rows in tables(look).values():
        table = TerminalTable(*columns)
        for row in rows:
            table.add_row(*(Text(printable(cell)) for cell in row))  # as texts: rich would obey "[red]" in a string
        console.print()
        console.print(table)


def write_look_page(path: Path, look: Look, model: str) -> None:
    """One page that opens offline; everything that a student, a user or a data set wrote is escaped."""
    chains = [
        (
            heading(seen, look),
            "\n".join(f"{part.stage}  ({nats(part.loglik)} nats)\n{part.text}\n" for part in seen.parts),
        )
        for seen in (look.greedy, *look.draws)
    ]
    question = question_text(look.question)
    if look.gold_known:
        question += f"\n\ngold: {look.question.answer}"
    if look.draws:
        question += f"\n\nvotes: {votes(look)}"
    write_report(
        path,
        "TinyThinker, one question",
        model,
        [
            Texts("Question", [(look.question.id, question)]),
            *(Table(title, columns, rows) for title, (columns, rows) in tables(look).items()),
            Texts("Chains, with the log-likelihood of each part", chains),
        ],
    )


def tables(look: Look) -> dict[str, tuple[list[str], list[list[str]]]]:
    """Title -> (columns, rows): what each option scores, and the answers by recall."""
    found = {"Log-likelihood of each answer, in nats": _scores((look.greedy, *look.draws), look.question)}
    if look.recalls:
        columns, rows = _scores(look.recalls, look.question)
        texts = [next((part.text for part in seen.parts if part.stage == "recall"), "") for seen in look.recalls]
        found["What the recall does"] = (
            ["recall", *columns[1:], "its text"],
            [[*row, text] for row, text in zip(rows, texts, strict=True)],
        )
    return found


def _scores(chains: Sequence[Seen], question: Question) -> tuple[list[str], list[list[str]]]:
    columns = ["chain", *LETTERS[: len(question.options)], "answer", "likeliest"]
    rows = [[seen.name, *map(nats, seen.scores), seen.answer or "-", seen.likeliest] for seen in chains]
    return columns, rows


def heading(seen: Seen, look: Look) -> str:
    verdict = ""
    if seen.answer is not None and look.gold_known:
        verdict = ", right" if seen.answer == look.question.answer else ", wrong"
    answer = "no answer" if seen.answer is None else f"answer {seen.answer}"
    return f"{seen.name}: {answer}{verdict}{', cut at its longest' if seen.truncated else ''}"


def votes(look: Look) -> str:
    counted = ", ".join(f"{answer} {count}" for answer, count in sorted(look.votes.items(), key=lambda vote: -vote[1]))
    return f"{counted}; the answer is {look.voted or 'none'}"


def nats(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"
