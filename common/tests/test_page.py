"""The page of an evaluation in a real browser: filters without scripts, hostile texts as texts, limited size."""

import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from thinker_common.benchmarks.problem import LoadedBenchmark, Problem
from thinker_common.evaluation.comparison import changes
from thinker_common.evaluation.page import (
    MAX_CHANGES,
    MAX_CHARACTERS,
    MAX_RESPONSES,
    write_comparison_page,
    write_evaluation_page,
)
from thinker_common.evaluation.report import Intervals, Response, Responses, Table, render_report
from thinker_common.evaluation.results import summarise
from thinker_common.evaluation.suite import compare_suite

HOSTILE = (
    "</pre></dd></details></section></style></main><script>document.title = 'script ran'</script>"
    "<img src=x onerror=\"document.title = 'handler ran'\"><svg onload=\"document.title = 'handler ran'\">"
    '<style>section{display:none}</style><a href="javascript:alert(1)">a</a> {{ 7 * 7 }} "quoted" & \''
    "\u202egnp.exe\u202c\u2066\x00\x1b[31m\ud800"
)
GREEDY = {"max_new_tokens": 64, "temperature": 0.0, "top_p": 1.0, "top_k": 0, "samples": 1}


def make(name="gsm8k", count=12, text="so", samples=1, right=3):
    """A benchmark, its result, and rows; every third response is right, some are cut off, and one is hostile."""
    problems = tuple(
        Problem(
            id=f"{name}/test/{i}",
            question=f"Question {i}? {text}",
            answer=str(i),
            kind="math",
            metadata={"subject": ("Algebra", text)[i % 2], "level": i % 3},
        )
        for i in range(count)
    )
    benchmark = LoadedBenchmark(name, "test", problems, "sha256:" + "0" * 64, f"file {text}", 1, {text: 2})
    rows = [
        {
            "id": problem.id,
            "sample": sample,
            "prompt_hash": "h",
            "text": f"{text} {i}",
            "tokens": 10,
            "truncated": i % 5 == 0 and i % right != 0,
            "answer": problem.target(),
            "extracted": str(i) if i % right == 0 else (None if i % 5 == 0 else text),
            "boxed": i % right == 0 or i % 5 != 0,
            "correct": i % right == 0,
            "timed_out": False,
            "answer_loglik": -1.0,
            "grader": "default",
        }
        for i, problem in enumerate(problems)
        for sample in range(samples)
    ]
    result = summarise(
        benchmark, rows, samples=samples, ks=[samples], grader="default", seed=0, template="{question}",
        chat_template="auto", decoding={**GREEDY, "samples": samples, "temperature": float(samples > 1)},
    )  # fmt: skip
    return benchmark, result


def page(tmp_path, *made, compared=False, model="model", **fields):
    path = tmp_path / "report.html"
    others = {result.benchmark: make(result.benchmark, result.n, right=2, **fields)[1].rows for _, result in made}
    rows = {result.benchmark: result.rows for _, result in made}
    write_evaluation_page(
        path,
        model,
        [result for _, result in made],
        {benchmark.name: benchmark for benchmark, _ in made},
        compare_suite(rows, others) if compared else None,
        {name: changes(own, others[name]) for name, own in rows.items()} if compared else None,
        "runs/base",
    )
    return path


class Parsed(HTMLParser):
    """Start tags, and the text of the page by the tag that holds it."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.texts, self.open = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attributes]
        if tag not in ("meta", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def of(self, tag):
        return [text for where, text in self.texts if where == tag]


def parse(path):
    return Parsed(path.read_text(encoding="utf-8"))


def test_the_page_has_what_a_reader_looks_for(tmp_path):
    parsed = parse(page(tmp_path, make("gsm8k"), make("math500", 9), compared=True))
    titles = parsed.of("h2")
    assert titles[:5] == ["Results", "Counted apart", "Accuracy, %", "Compared", "Difference, points"]
    for title in ("Changed on gsm8k", "gsm8k by subject", "math500 by level", "Responses, math500"):
        assert title in titles
    assert titles[-1] == "Where the figures come from"
    text = " ".join(text for _, text in parsed.texts)
    assert "average of 2 benchmarks" in text and "p-values adjusted for 2 tests (Holm)" in text
    assert "wrong -> right" in text and "right -> wrong" in text
    assert "macro average" in text and "compared with runs/base" in text


def test_filters_are_radio_buttons_with_the_number_of_all_responses(tmp_path):
    source = page(tmp_path, make(count=12)).read_text()
    labels = re.findall(r"<label for=\"[^\"]+\">([a-z ]+)(?:<span class=\"of\">(\d+)</span>)?</label>", source)
    assert labels == [("all", ""), ("right", "4"), ("wrong", "8"), ("truncated", "2"), ("without a box", "2")]
    assert source.count('type="radio"') == 5 and source.count(" checked>") == 1
    assert source.count('<details class="k1 ">') == 4 and source.count('<details class="k2 k3 k4 ">') == 2


def test_two_lists_of_responses_do_not_filter_each_other(tmp_path):
    source = page(tmp_path, make("gsm8k"), make("math500")).read_text()
    names = re.findall(r'type="radio" name="([^"]+)"', source)
    assert len(names) == 10 and len(set(names)) == 2
    ids = re.findall(r'\bid="([^"]+)"', source)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'for="([^"]+)"', source)) <= set(ids)


def test_nothing_hostile_becomes_markup(tmp_path):
    path = page(tmp_path, make(text=HOSTILE), compared=True, text=HOSTILE, model=HOSTILE)
    parsed = parse(path)
    assert {"script", "img", "svg", "a", "iframe", "object", "link"}.isdisjoint(parsed.tags)
    assert not [name for _, name, _ in parsed.attributes if name.startswith("on") or name in ("src", "href")]
    source = path.read_text(encoding="utf-8")
    assert not set("\u202e\u202c\u2066\x00\x1b\ud800") & set(source), "characters that act are shown by number"
    assert "⟨U+202E⟩gnp.exe⟨U+202C⟩⟨U+2066⟩⟨U+0000⟩⟨U+001B⟩[31m" in source
    assert "{{ 7 * 7 }}" in source and "49" not in " ".join(parsed.of("pre"))
    assert parsed.tags.count("section") == len(parsed.of("h2"))


def test_a_page_of_thousands_of_responses_stays_small_and_says_what_it_left_out(tmp_path):
    made = [make(name, 3000, text="word " * 4000) for name in ("gsm8k", "math500")]
    path = page(tmp_path, *made, compared=True)
    source = path.read_text()
    assert source.count("<details") == MAX_RESPONSES
    assert f"{MAX_RESPONSES // 2} of 3000 responses; all of them are in generations.jsonl" in source
    assert f"{MAX_CHANGES // 2} of 1500; all of them are in changes.jsonl" in source
    assert f"… ({len('word ' * 4000 + ' 0') - MAX_CHARACTERS:,} characters more)" in source
    assert path.stat().st_size < 3 * MAX_RESPONSES * MAX_CHARACTERS
    shown = {kind: source.count(f">{kind}</span>") for kind in ("right", "truncated")}
    assert min(shown.values()) >= 80, "each kind has its share"


def test_several_samples_are_named_and_their_figures_shown(tmp_path):
    parsed = parse(page(tmp_path, make(samples=4)))
    text = " ".join(text for _, text in parsed.texts)
    assert "gsm8k/test/0, sample 4" in text
    assert {"avg@4 %", "pass@4 %", "maj@4 %"} <= set(parsed.of("th"))


def test_a_comparison_of_finished_evaluations_has_a_page_of_its_own(tmp_path):
    a, b = make()[1].rows, make(right=2)[1].rows
    write_comparison_page(
        tmp_path / "report.html", "runs/new", "runs/old", compare_suite({"gsm8k": a}, {"gsm8k": b}),
        {"gsm8k": changes(a, b)},
    )  # fmt: skip
    parsed = parse(tmp_path / "report.html")
    assert parsed.of("h2") == ["Compared", "Difference, points", "Changed on gsm8k"]
    assert any("before: runs/old\nafter: runs/new" in text for text in parsed.of("p"))


def places(source, what):
    return [float(place) for place in re.findall(rf'class="{what}" style="left: ([-\d.]+)%', source)]


def test_intervals_are_drawn_to_scale():
    rows = [("a", 40.0, 20.0, 60.0, 25.0), ("b", 10.0, 0.0, 30.0, float("nan"))]
    source = render_report("t", "", [Intervals("Accuracy, %", rows)])
    assert re.findall(r'<span style="left: ([\d.]+)%">(\d+)</span>', source)[-1] == ("100.00", "60")
    assert places(source, "whisker") == [33.33, 0.0]
    assert re.findall(r"whisker\" style=\"left: [\d.]+%; width: ([\d.]+)%", source) == ["66.67", "50.00"]
    assert places(source, "reference") == [41.67]
    assert re.findall(r'<b style="left: ([\d.]+)%"></b>', source) == ["66.67", "16.67"]


def test_differences_have_signs_and_a_mark_at_zero():
    source = render_report("t", "", [Intervals("d", [("a", -1.0, -3.0, 1.0, float("nan"))], from_zero=False)])
    assert "-1.0" in source and "-3.0 to +1.0" in source
    assert len(places(source, "tick zero")) == 1 and 0 < places(source, "tick zero")[0] < 100


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_intervals_of_nothing_are_drawn(value):
    for from_zero in (True, False):
        source = render_report("t", "", [Intervals("d", [("a", value, value, value, value)], from_zero=from_zero)])
        assert "nan" not in source


def test_long_tables_scroll_and_the_first_column_names_the_row():
    source = render_report("t", "", [Table("t", ["level", "n"], [[str(i), "3"] for i in range(40)])])
    assert '<div class="scroll long">' in source
    assert '<th>level</th><th class="number">n</th>' in source


# --- in a real browser ------------------------------------------------------------------------------------------------


@pytest.fixture
def browser(tmp_path):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on PATH")

    def load(path, *options):
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        done = subprocess.run(
            [chromium, *flags, f"--user-data-dir={tmp_path / 'profile'}", *options, path.resolve().as_uri()],
            capture_output=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
        return done.stdout.decode("utf-8")

    return load


PROBE = """<script>
window.onload = () => {
  const visible = () => [...document.querySelectorAll('.list > details')].filter(d => d.getClientRects().length).length;
  const counts = [...document.querySelectorAll('.responses label')].map(label => { label.click(); return visible(); });
  document.title = JSON.stringify(counts);
};
</script>"""


def test_hostile_texts_run_nothing_in_a_browser(tmp_path, browser):
    path = page(tmp_path, make(text=HOSTILE), compared=True, text=HOSTILE)
    dom = browser(path, "--dump-dom")
    assert re.search(r"<title>(.*?)</title>", dom).group(1) == "Evaluation of model", "no script ran"
    parsed = Parsed(dom.replace("<!DOCTYPE html>", "").replace("<!doctype html>", ""))
    assert {"script", "img", "svg", "a"}.isdisjoint(parsed.tags)
    assert any("<script>document.title = 'script ran'</script>" in text for text in parsed.of("pre"))
    assert parsed.tags.count("section") == len(parsed.of("h2"))


def test_the_policy_of_the_page_forbids_scripts_that_get_in_all_the_same(tmp_path, browser):
    path = page(tmp_path, make())
    path.write_text(path.read_text().replace("</main>", "<script>document.title = 'script ran'</script></main>"))
    assert "<title>Evaluation of model</title>" in browser(path, "--dump-dom")


def test_a_chosen_filter_hides_all_other_responses(tmp_path, browser):
    """A probe clicks each button and counts what is visible; only for it the page's policy is taken out."""
    path = page(tmp_path, make(count=12))
    source = re.sub(r"<meta http-equiv=\"Content-Security-Policy\"[^>]*>", "", path.read_text())
    path.write_text(source.replace("</main>", "</main>" + PROBE))
    dom = browser(path, "--dump-dom")
    assert re.search(r"<title>(.*?)</title>", dom).group(1) == "[12,4,8,2,2]"


def test_responses_of_no_kind_are_only_among_all(tmp_path, browser):
    responses = [Response("a", "", "text", "5", "", frozenset())]
    path = tmp_path / "one.html"
    source = render_report("t", "", [Responses("r", {"right": 0}, responses)])
    source = re.sub(r"<meta http-equiv=\"Content-Security-Policy\"[^>]*>", "", source)
    path.write_text(source.replace("</main>", "</main>" + PROBE))
    assert re.search(r"<title>(.*?)</title>", browser(path, "--dump-dom")).group(1) == "[1,0]"


def test_the_page_renders_in_light_and_in_dark(tmp_path, browser):
    path = page(tmp_path, make(), compared=True)
    pictures = []
    for scheme in ("1", "0"):  # light, dark
        picture = tmp_path / f"{scheme}.png"
        browser(path, f"--blink-settings=preferredColorScheme={scheme}", f"--screenshot={picture}")
        pictures.append(picture.read_bytes())
    assert all(len(picture) > 10_000 for picture in pictures) and pictures[0] != pictures[1]
