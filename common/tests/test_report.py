"""Reports: untrusted text stays text, nothing is fetched, figures keep apart, and the page is well-formed."""

import math
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from thinker_common.evaluation.report import Curves, Table, Texts, TokenHeat, render_report, write_report

HOSTILE = "</pre></section><script>alert('x')</script><img src=x onerror=alert(1)> \"quoted\" & {{ 7 * 7 }}"
VOID = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """Tags, attributes and text of a page; fails where tags do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        assert self.open == [], self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attributes]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attributes]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def text_in(self, tag: str) -> list[str]:
        return [text for where, text in self.texts if where == tag]


def every_section(text: str = "plain"):
    return [
        Table(text, ["name", text], [[text, "1.5 ± 0.2 %"], ["b", "-3"]], note=text),
        Curves(text, {text: [(0, 1.0), (1, 2.0)]}, x_label=text, y_label=text, note=text),
        Curves("second", {"a": [(0, 1.0), (1, math.nan), (2, 3.0)], "b": [(0, math.inf)]}),
        Texts(text, [(text, text)], note=text),
        TokenHeat(text, ["To", text, "\n", " end"], [0.5, -1.0, 0.0, math.nan], note=text),
    ]


def test_a_hostile_generation_shows_as_text():
    page = render_report(HOSTILE, HOSTILE, every_section(HOSTILE))
    parsed = Page(page)
    assert "script" not in parsed.tags and "img" not in parsed.tags
    assert not [name for _, name, _ in parsed.attributes if name.startswith("on")]
    assert HOSTILE in "".join(parsed.text_in("pre"))
    assert any(HOSTILE in text for text in parsed.text_in("span"))
    assert parsed.text_in("h1") == [HOSTILE]
    assert any(HOSTILE in text for text in parsed.text_in("text")), "the label of a figure"


def test_the_page_fetches_nothing_and_forbids_it():
    page = render_report("Run", "", every_section())
    parsed = Page(page)
    assert {"script", "link", "iframe", "object", "img"}.isdisjoint(parsed.tags)
    for _, name, value in parsed.attributes:
        if name in ("src", "href", "xlink:href", "action"):
            assert value.startswith("#"), value
    assert "@import" not in page
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page))
    policy = [v for tag, name, v in parsed.attributes if tag == "meta" and name == "content" and "default-src" in v]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


def test_figures_are_well_formed_and_their_ids_differ():
    page = render_report("Run", "", every_section() + every_section())
    figures = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(figures) == 4
    for figure in figures:
        ElementTree.fromstring(figure)
        known = set(re.findall(r'\bid="([^"]+)"', figure))
        assert set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', figure)) <= {(k, "") for k in known} | {
            ("", k) for k in known
        }
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids)) > 0


def test_figures_take_the_pages_colours_in_light_and_dark():
    page = render_report("Run", "", [Curves("c", {str(i): [(0, i), (1, i)] for i in range(8)}, "step", "nats")])
    assert "@media (prefers-color-scheme: dark)" in page
    (figure,) = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert {f"var(--s{i})" for i in range(6)} | {"var(--muted)", "var(--line)"} <= set(
        re.findall(r"var\(--\w+\)", figure)
    )
    assert not re.search(r"(?:stroke|fill): #0f0[de]", figure)
    for number in range(6):
        assert len(re.findall(rf"--s{number}: #", page)) == 2  # one for light, one for dark


def test_the_same_sections_give_the_same_page():
    assert render_report("Run", "s", every_section()) == render_report("Run", "s", every_section())


def test_columns_of_numbers_are_aligned_to_the_right():
    rows = [["chains", "31.4 ± 2.1 %", "1e-3", "-"], ["gsm8k", "-2.31 ± 0.1", "< 0.001", "−5"]]
    parsed = Page(render_report("Run", "", [Table("t", ["benchmark", "accuracy", "p", "gain"], rows)]))
    classes = [value for tag, name, value in parsed.attributes if tag == "th" and name == "class"]
    assert classes == ["number"] * 3
    assert parsed.text_in("td") == [cell for row in rows for cell in row]


@pytest.mark.parametrize(
    ("cells", "numeric"),
    [
        (["64.2±1.3", "7"], True), (["+1.2 points", "-0.3±0.1"], True), (["+1.0 to +3.5", "-"], True),
        (["1,024", "nan"], True), (["27 of 30", "3/4"], True), (["1.5 GB", ".5", "2e-05", "40 %"], True),
        (["3 apples were eaten", "12 ducks swim"], False), (["3 no answer, 2 no key", "-"], False),
        (["+1.2 points, 95 % interval -0.3 to +2.7", "-"], False), (["5", "5 \\text{ min}"], False),
        (["7", "no answer"], False), (["2024-01-05", "2024-01-06"], False),
    ],
)  # fmt: skip
def test_a_text_that_begins_with_a_digit_is_no_number(cells, numeric):
    parsed = Page(render_report("Run", "", [Table("t", ["name", "cell"], [["x", cell] for cell in cells])]))
    classes = [value for tag, name, value in parsed.attributes if tag == "th" and name == "class"]
    assert classes == ["number"] * numeric


def test_tokens_keep_their_text_and_carry_their_values():
    tokens, values = ["The", " answer", " is\n\n", "5", "?"], [0.0, 2.0, -1.0, 0.5, math.nan]
    page = render_report("Run", "", [TokenHeat("credit", tokens, values)])
    block = re.search(r'<div class="tokens">(.*?)</div>', page, flags=re.DOTALL).group(1)
    parsed = Page(block)
    spans = [
        {name: value for tag, name, value in Page(span).attributes if tag == "span"}
        for span in re.findall(r"<span.*?</span>", block, flags=re.DOTALL)
    ]
    assert spans == [
        {"data-value": "+0.000"},
        {"class": "p", "style": "--a: 1.000", "data-value": "+2.000"},
        {"class": "n", "style": "--a: 0.500", "data-value": "-1.000"},
        {"class": "p", "style": "--a: 0.250", "data-value": "+0.500"},
        {"data-value": "no value"},
    ]
    shown = "".join(text for _, text in parsed.texts)
    assert shown.replace("↵", "") == "".join(tokens), "white space as in the response, and none between tokens"
    assert "<span>−2</span>" in page and "<span>+2</span>" in page


def test_the_scale_can_be_given_so_that_responses_compare():
    page = render_report("Run", "", [TokenHeat("credit", ["a", "b"], [0.5, 3.0], limit=1.0)])
    assert "<span>+1</span>" in page and "--a: 0.500" in page and "--a: 1.000" in page
    assert "<span>+1</span>" in render_report("Run", "", [TokenHeat("all zero", ["a"], [0.0])])


def test_texts_keep_their_line_breaks_and_long_ones_are_folded():
    parsed = Page(render_report("Run", "", [Texts("t", [("short", "\n  two\n  lines\n"), ("long", "x" * 5_000)])]))
    assert parsed.text_in("pre")[0] == "\n\n  two\n  lines\n"  # a parser drops the first line break of a pre
    assert [name for tag, name, _ in parsed.attributes if tag == "details"] == ["open"]


def test_curves_without_a_finite_point_are_drawn_empty():
    page = render_report("Run", "", [Curves("c", {"loss": [(0, math.nan)], "none": []}), Curves("d", {})])
    assert page.count("<svg") == 2 and page.count(", last <b>none</b>") == 2


def test_the_axis_of_a_curve_of_zeros_begins_at_zero():
    page = render_report("Run", "", [Curves("c", {"share": [(0, 0), (9, 0)]})])
    ticks = re.findall(r"<text[^>]*>([^<]*)</text>", page)
    assert {"0.0", "1.0"} <= set(ticks) and not any(tick.startswith(("-", "\N{MINUS SIGN}")) for tick in ticks)


def test_mathematical_signs_in_labels_are_text():
    page = render_report("Run", "", [Curves("c", {"a": [(0, 1)]}, x_label="$unclosed", y_label=r"$\frac$ & <b>")])
    assert "$unclosed" in page and r"$\frac$ &amp; &lt;b&gt;" in page


def test_a_row_without_a_cell_for_each_column_is_a_mistake():
    with pytest.raises(AssertionError, match="a cell for each column"):
        render_report("Run", "", [Table("t", ["a", "b"], [["1"]])])


def test_a_failed_write_leaves_the_old_page(tmp_path, monkeypatch):
    path = tmp_path / "sub" / "report.html"
    write_report(path, "Old", "", [])
    old = path.read_text()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_report(path, "New", "", every_section())
    assert caught.value.filename == str(path)
    assert path.read_text() == old and [entry.name for entry in path.parent.iterdir()] == ["report.html"]


def test_text_that_is_no_unicode_is_replaced(tmp_path):
    write_report(tmp_path / "report.html", "Run", "", [Texts("t", [("h", "lone \ud800 surrogate")])])
    assert "lone ? surrogate" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_importing_reports_imports_neither_torch_nor_matplotlib():
    code = "import sys, thinker_common.evaluation.report; print(sorted({'torch', 'matplotlib'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_drawing_leaves_matplotlibs_settings_alone():
    import matplotlib

    before = dict(matplotlib.rcParams)
    render_report("Run", "", every_section())
    assert dict(matplotlib.rcParams) == before
