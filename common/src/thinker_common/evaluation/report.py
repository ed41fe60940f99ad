"""A report as one HTML page that opens offline: no scripts, no fetches, light and dark, everything untrusted escaped.

write_report("report.html", "Run", "SmolLM2-135M on gsm8k", [Table(...), Curves(...), TokenHeat(...), Texts(...)])
"""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

UNFOLDED_CHARACTERS = 1_500  # longer texts are folded away at first
UNSCROLLED_ROWS = 25  # a longer table scrolls in its own box
SERIES_COLOURS = 6  # --s0 to --s5 of the page


@dataclass(frozen=True)
class Table:
    """Cells of text. But for the first, columns of numbers (with units, signs, errors) are aligned to the right."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class Curves:
    """Lines over one pair of axes: name -> (x, y) points. Points that are not finite leave a gap."""

    title: str
    series: Mapping[str, Sequence[tuple[float, float]]]
    x_label: str = ""
    y_label: str = ""
    note: str = ""


@dataclass(frozen=True)
class Texts:
    """(heading, text) pairs, the text as it is; long ones are folded."""

    title: str
    texts: Sequence[tuple[str, str]]
    note: str = ""


@dataclass(frozen=True)
class TokenHeat:
    """Tokens on a diverging scale, blue above zero and red below, with the value in a tooltip.

    values: one a token; those that are not finite are left uncoloured
    limit: the value of the strongest colour; by default the largest magnitude there is
    """

    title: str
    tokens: Sequence[str]
    values: Sequence[float]
    note: str = ""
    limit: float | None = None


@dataclass(frozen=True)
class Intervals:
    """Points with intervals on one axis: (label, value, low, high, reference), what is not finite is left out.

    unit: of the numbers, behind them ("%")
    from_zero: the axis begins at 0; otherwise 0 is marked on it
    reference: a mark beside the value, the level of chance for instance; `note` says what it is
    """

    title: str
    rows: Sequence[tuple[str, float, float, float, float]]
    unit: str = ""
    from_zero: bool = True
    note: str = ""


@dataclass(frozen=True)
class Response:
    """What a model said to one question.

    heading: its id; question, text, answer, extracted: shown as they are, empty ones left out
    kinds: of `Responses.kinds`
    """

    heading: str
    question: str
    text: str
    answer: str
    extracted: str
    kinds: frozenset[str]


@dataclass(frozen=True)
class Responses:
    """Responses with a filter for each kind ("right", "wrong", "truncated"): radio buttons, for the page has no script.

    counts: of all responses, of which `responses` may be a part; kind -> number
    """

    title: str
    counts: Mapping[str, int]
    responses: Sequence[Response]
    note: str = ""


Section = Table | Curves | Texts | TokenHeat | Intervals | Responses


def write_report(path: str | Path, title: str, subtitle: str, sections: Sequence[Section]) -> None:
    """Write the page; line breaks of `subtitle` and of notes are kept. An old page is replaced whole or not at all."""
    page = render_report(title, subtitle, sections)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        unfinished.write_text(page, encoding="utf-8", errors="replace")  # a lone surrogate is no UTF-8
        os.replace(unfinished, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        error.filename = os.fspath(path)
        raise


def render_report(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """The page as text. Curves that follow each other stand side by side."""
    from jinja2 import Environment

    views = [_view(section, f"f{number}") for number, section in enumerate(sections)]
    groups = [
        {"curves": is_curves, "sections": list(group)}
        for is_curves, group in itertools.groupby(views, key=lambda view: view["kind"] == "Curves")
    ]
    template = files(__package__).joinpath("report.html.jinja").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, finalize=_visible)
    return environment.from_string(template).render(title=title, subtitle=subtitle, groups=groups)


def _visible(value: Any) -> Any:
    """Characters that are not shown but act, on the order of other characters or on a parser, by their number.

    Every value that the template prints comes through here before it is escaped.
    """
    from markupsafe import Markup

    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "".join(f"\u27e8U+{ord(c):04X}\u27e9" if _acts(c) else c for c in value)


def _acts(character: str) -> bool:
    if character in "\n\t":
        return False
    return unicodedata.category(character) == "Cc" or unicodedata.bidirectional(character) in _BIDI_CONTROLS


_BIDI_CONTROLS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def _view(section: Section, prefix: str) -> dict[str, Any]:
    """What the template needs of a section. `prefix` keeps the ids of different figures apart."""
    view: dict[str, Any] = {"kind": type(section).__name__, "title": section.title, "note": section.note}
    match section:
        case Table():
            assert all(len(row) == len(section.columns) for row in section.rows), "a row has a cell for each column"
            # The first column names the row, also where it is a number.
            numeric = [i for i in range(1, len(section.columns)) if all(_is_numeric(row[i]) for row in section.rows)]
            view |= {
                "unscrolled": UNSCROLLED_ROWS,
                "columns": section.columns,
                "rows": section.rows,
                "numeric": numeric if section.rows else [],
            }
        case Curves():
            view |= {"lines": _legend(section), "svg": _figure(section, prefix)}
        case Texts():
            view |= {"texts": section.texts, "unfolded": UNFOLDED_CHARACTERS}
        case TokenHeat():
            view |= _heat(section)
        case Intervals():
            view |= _intervals(section)
        case Responses():
            view |= {"prefix": prefix, "counts": section.counts, "responses": section.responses}
            view |= {"total": len(section.responses)}
    return view


_NUMBER = r"[-+−±<>≤≥~]?\s*(?:\d[\d,]*\.?\d*|\.\d+)(?:e[-+]?\d+)?"
_UNIT = r"(?:\s*(?:%|[^\W\d_]+))?"  # one word: a cell with more of them is a text
_NUMERIC = re.compile(rf"\s*(?:{_NUMBER}{_UNIT}(?:\s*(?:±|/|to|of|–)\s*{_NUMBER}{_UNIT})?|nan|[-–—]?)\s*")


def _is_numeric(cell: str) -> bool:
    return _NUMERIC.fullmatch(cell) is not None


def _heat(section: TokenHeat) -> dict[str, Any]:
    magnitudes = [abs(value) for value in section.values if math.isfinite(value)]
    limit = section.limit or max(magnitudes, default=0.0) or 1.0
    tokens = []
    for text, value in zip(section.tokens, section.values, strict=True):
        finite = math.isfinite(value)
        tokens.append(
            {
                "lines": text.split("\n"),
                "value": f"{value:+.3f}" if finite else "no value",
                "sign": ("p" if value > 0 else "n") if finite and value != 0 else "",
                "strength": f"{min(1.0, abs(value) / limit):.3f}" if finite else "0",
            }
        )
    return {"tokens": tokens, "limit": f"{limit:.3g}"}


def _intervals(section: Intervals) -> dict[str, Any]:
    """Places on the axis as percentages of its width."""
    bounds = [bound for row in section.rows for bound in row[1:4] if math.isfinite(bound)]
    low, high = min([0.0, *bounds]), max([0.0, *bounds])
    step = _tick(high - low)
    first = 0.0 if section.from_zero else math.floor(low / step) * step
    last = max(first + step, math.ceil(high / step - 1e-9) * step)

    def place(value: float) -> str | None:
        return f"{100 * (value - first) / (last - first):.2f}" if math.isfinite(value) else None

    number = ".1f" if section.from_zero else "+.1f"
    ticks = [first + step * i for i in range(round((last - first) / step) + 1)]
    return {
        "ticks": [{"place": place(tick), "text": f"{tick:g}{section.unit}", "zero": tick == 0} for tick in ticks],
        "points": [
            {
                "label": label,
                "place": place(value),
                "low": place(low_bound),
                "width": f"{100 * (high_bound - low_bound) / (last - first):.2f}" if high_bound >= low_bound else None,
                "reference": place(reference),
                "text": format(value, number) if math.isfinite(value) else "-",
                "interval": f"{low_bound:{number}} to {high_bound:{number}}" if high_bound >= low_bound else "",
            }
            for label, value, low_bound, high_bound, reference in section.rows
        ],
    }


def _tick(span: float) -> float:
    """A round distance that leaves four to eight ticks."""
    if span <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(span))
    return next(power * factor for factor in (0.2, 0.25, 0.5, 1.0, 2.0) if span / (power * factor) <= 6)


def _legend(section: Curves) -> list[dict[str, Any]]:
    lines = []
    for number, (name, points) in enumerate(section.series.items()):
        finite = [y for _, y in points if math.isfinite(y)]
        last = f"{finite[-1]:.3g}" if finite else "none"
        lines.append({"name": name, "colour": number % SERIES_COLOURS, "last": last})
    return lines


# Stand-ins that matplotlib writes into the SVG, and the page's own colours that replace them in light and dark.
_MUTED, _LINE = "#0f0e01", "#0f0e02"
_STAND_INS = {
    _MUTED: "var(--muted)",
    _LINE: "var(--line)",
    **{f"#0f0d0{number}": f"var(--s{number})" for number in range(SERIES_COLOURS)},
}


def _figure(section: Curves, prefix: str) -> Any:
    """The curves as SVG markup with real text, the page's colours, and ids that begin with `prefix`."""
    import matplotlib
    from markupsafe import Markup
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "svg.fonttype": "none",  # text stays text, in the page's font
        "svg.hashsalt": prefix,  # the same page every time
        "font.size": 11.5,
        "text.color": _MUTED,
        "text.parse_math": False,
        "axes.labelcolor": _MUTED,
        "xtick.color": _MUTED,
        "ytick.color": _MUTED,
        "axes.edgecolor": _LINE,
        "grid.color": _LINE,
        "lines.solid_joinstyle": "round",
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(6.2, 3.5), layout="constrained")
        FigureCanvasSVG(figure)
        _draw(figure.add_subplot(), section)
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for stand_in, colour in _STAND_INS.items():
        svg = svg.replace(stand_in, colour)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px var(--font)", svg)
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\1{prefix}-", svg)
    return Markup(svg)  # matplotlib escapes the texts it is given


def _draw(axes: Axes, section: Curves) -> None:
    from matplotlib.ticker import MaxNLocator

    colours = [stand_in for stand_in, colour in _STAND_INS.items() if colour.startswith("var(--s")]
    for number, points in enumerate(section.series.values()):
        kept = [(float(x), float(y) if math.isfinite(y) else math.nan) for x, y in points]
        axes.plot(
            [x for x, _ in kept],
            [y for _, y in kept],
            color=colours[number % SERIES_COLOURS],
            linestyle="-" if number < SERIES_COLOURS else "--",
            linewidth=1.7,
            marker="o" if len(kept) <= 30 else None,
            markersize=3.2,
        )
    axes.set_xlabel(section.x_label)
    axes.set_ylabel(section.y_label)
    axes.grid(axis="y", linewidth=0.8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if not any(y for points in section.series.values() for _, y in points):
        axes.set_ylim(0, 1)  # the default axis reaches around the zeros, to shares below them that cannot be
    xs = [x for points in section.series.values() for x, _ in points]
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=all(float(x).is_integer() for x in xs)))
