"""The group on a terminal: a table, and the responses side by side where there is room."""

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from .._common import Problem
from ..config import MethodSettings
from . import words
from .group import GroupCredit, ResponseCredit, TokenCredit

PANEL_WIDTH = 60  # a response beside another has at least this much
STRONGEST = 5
FAINT = 0.08  # a weaker credit, relative to the group's strongest, is left uncoloured
TOKEN_WIDTH = 12


def show_group(
    problem: Problem, method: MethodSettings, group: GroupCredit, console: Console, *, only: int | None = None
) -> None:
    """Prints all responses, or one of them (`only`, from 0) with all its tokens."""
    _show_facts(words.facts(problem, method, group), console)
    console.print(_table(group.responses))
    limit = strongest_weight(group)
    if limit:
        legend = Text("\nw_t: ", style="bold")
        for side, strength in zip(words.sides(method), (1.0, -1.0), strict=True):
            legend.append(f" {side} ", style=_style(strength))
        legend.append(" ")
        legend.append("bounded", style="not bold underline")
        legend.append("  ")
        legend.append("no credit", style="not bold dim")
        console.print(legend)
    if only is not None:
        console.print(_panel(only, group.responses[only], limit, every_token=True))
        return
    panels = [_panel(number, response, limit) for number, response in enumerate(group.responses)]
    in_a_row = max(1, console.width // PANEL_WIDTH)
    for first in range(0, len(panels), in_a_row):
        console.print(_side_by_side(panels[first : first + in_a_row], in_a_row))


def strongest_weight(group: GroupCredit) -> float:
    """The largest |w_t|, which gets the strongest colour."""
    return max((abs(token.weight) for response in group.responses for token in response.credited), default=0.0)


def coloured(response: ResponseCredit, limit: float) -> Text:
    """The response's text; `limit`: the weight of the strongest colour."""
    text = Text(overflow="fold")
    for token in response.tokens:
        shown = token.text.replace("\n", "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}\n")
        style = "dim"
        if token.credited:
            style = _style(token.weight / limit if limit else 0.0) + (" underline" if token.clipped else "")
        text.append(shown, style=style)
    return text


def _style(strength: float) -> str:
    """Dark letters on blue above zero, on red below."""
    if abs(strength) < FAINT:
        return "default"
    fade = round(235 * (1 - min(1.0, abs(strength))))
    background = f"rgb({min(fade + 90, 255)},{min(fade + 150, 255)},255)"
    if strength < 0:
        background = f"rgb(255,{min(fade + 110, 255)},{min(fade + 90, 255)})"
    return f"black on {background}"


def _show_facts(facts: dict[str, str], console: Console) -> None:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in facts.items():
        grid.add_row(name, Text(value))
    console.print(grid)
    console.print()


def _table(responses: Sequence[ResponseCredit]) -> Table:
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="bold")
    for name in ("", "answer", "reward", "A", "tokens", "clipped", "flipped", "A_t"):
        table.add_column(name, justify="left" if name in ("answer", "A_t") else "right", no_wrap=name != "answer")
    for number, response in enumerate(responses, start=1):
        table.add_row(
            str(number),
            Text(words.answer_or_reason(response), style="red" if response.malformed else ""),
            words.reward(response),
            words.signed(response.advantage),
            str(len(response.tokens)),
            words.clipped_count(response),
            str(response.flipped) if response.credited else "",
            words.span(response),
        )
    return table


def _panel(number: int, response: ResponseCredit, limit: float, *, every_token: bool = False) -> Panel:
    parts: list[RenderableType] = [coloured(response, limit)]
    shown = response.tokens if every_token else _strongest(response.credited)
    if shown:
        parts += ["", _tokens(shown)]
    title = f"[bold]{number + 1}[/]  reward {words.reward(response)}  A {words.signed(response.advantage)}"
    if response.malformed is not None:
        title += f"  [red]{words.answer_or_reason(response)}[/]"
    return Panel(Group(*parts), title=title, title_align="left")


def _strongest(tokens: Sequence[TokenCredit]) -> list[TokenCredit]:
    return sorted(tokens, key=lambda token: -abs(token.weight))[:STRONGEST]


def _tokens(tokens: Sequence[TokenCredit]) -> Table:
    """s_t, d_t, d_t behind the bound where that changed it, w_t and A_t of each."""
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="bold dim")
    table.add_column("token", no_wrap=True, width=TOKEN_WIDTH, overflow="ellipsis")
    for name in ("s_t", "d_t", "bounded", "w_t", "A_t"):
        table.add_column(name, justify="right", no_wrap=True)
    for token in tokens:
        table.add_row(
            Text(visible_spaces(token.text)),
            words.signed(token.log_ratio),
            words.signed(token.evidence),
            words.bounded(token),
            words.signed(token.weight),
            words.signed(token.advantage) if token.covered else "no loss",
        )
    return table


def visible_spaces(text: str) -> str:
    """A token in a table: spaces and line breaks as signs."""
    return (
        text.replace(" ", "\N{OPEN BOX}")
        .replace("\n", "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}")
        .replace("\t", "\N{RIGHTWARDS ARROW}")
    )


def _side_by_side(panels: Sequence[Panel], in_a_row: int) -> Table:
    grid = Table.grid(expand=True)
    for _ in range(in_a_row):
        grid.add_column(ratio=1)
    grid.add_row(*panels)
    return grid
