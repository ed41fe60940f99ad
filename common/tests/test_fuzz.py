r"""What strangers write, thrown at each parser: no crash, no hang, and what is accepted is whole.

`FUZZ_INPUTS` is how many inputs each parser gets: a few here, 10^5 in `nox -s fuzz`. Most are made of the parser's own
words, so that they get beyond its first check, by a seeded generator, which takes microseconds where Hypothesis takes
milliseconds; Hypothesis brings the first thousand at most, with texts of its own. An input that fails is printed.
"""

import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from thinker_common.benchmarks import user_file
from thinker_common.benchmarks.boxed import last_boxed
from thinker_common.benchmarks.problem import Problem
from thinker_common.errors import DataError, SettingsError
from thinker_common.evaluation import answers
from thinker_common.likelihood.boundary import split_response
from thinker_common.models.load import load_tokenizer
from thinker_common.training.plain_yaml import dump_yaml, parse_yaml
from thinker_common.training.settings import check_arguments, known_names, load_settings, to_yaml

METHODS = ["generalthinker", "spiralthinker", "tinythinker"]
INPUTS = int(os.environ.get("FUZZ_INPUTS", "300"))
T = TypeVar("T")
CHARACTERS = " aZ09.-_\"'\\\n\t\r\0\x7f\x85\u00a0\u0301\u2028\u202e\u4e2d\ufeff\ufffe\U0001f642"

LONG = ("9" * 5000, "[" * 2000, "{" * 2000)  # more digits than Python reads, deeper than it goes


def throw(check: Callable[[T], None], make: Callable[[random.Random], T], texts: bool = False, inputs: int = INPUTS):
    """Calls `check` on what `make` makes of so many seeds. texts: Hypothesis brings texts of its own besides."""
    strategy = st.integers(0, 2**63).map(lambda seed: make(random.Random(seed)))
    of_hypothesis = min(inputs, 1000)

    @settings(
        max_examples=of_hypothesis,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy | st.text() if texts else strategy)
    def first(value):
        check(value)

    first()
    for seed in range(inputs - of_hypothesis):
        value = make(random.Random(seed))
        start = time.process_time()
        try:
            check(value)
            assert time.process_time() - start < 10, "a hang"
        except BaseException as error:
            error.add_note(f"input: {value!r}")
            raise


def text_of(words: tuple[str, ...], most: int = 16) -> Callable[[random.Random], str]:
    """Makes texts of these words in any order, with numbers and odd characters between them."""

    def make(rng: random.Random) -> str:
        parts = []
        for _ in range(rng.randint(0, most)):
            kind = rng.random()
            parts.append(
                rng.choice(words) if kind < 0.7
                else str(rng.randint(-1000, 1000)) if kind < 0.8
                else "".join(rng.choices(CHARACTERS, k=rng.randint(1, 4)))
            )  # fmt: skip
        if rng.random() < 0.01:
            parts.insert(rng.randint(0, len(parts)), rng.choice(LONG))
        return "".join(parts)

    return make


class Counter:
    """How many inputs a parser was given, and how many it accepted."""

    given = accepted = 0

    def __repr__(self):
        return "Counter"


@pytest.fixture
def counted(request, record_property):
    counter = Counter()
    yield counter
    record_property(request.node.name, f"{counter.given} inputs, {counter.accepted} accepted")


# --- settings -----------------------------------------------------------------------------------------------------------

YAML_WORDS = (
    "model:", "method:", "training:", "data:", "\n", "\n  ", ": ", "- ", "[", "]", "{", "}", ",", "&a ", "*a", "!!python/object:os.system ",
    "!!int ", "|", ">", "'", '"', "#", "---", "...", "? ", "<<: ", "null", "true", "1e-6", "1e999", ".nan", "9" * 30, "\t", "%YAML 9\n", "\x00",
)  # fmt: skip
VALUES = ("null", "true", "false", "[]", "{}", "[a, b]", "{a: 1}", "''", "9" * 400, "9" * 5000, "~", "*a", "{r: 8}", "-1", "0", "1", "8", "0.5", "1e-6", ".inf", ".nan", "auto", "none")  # fmt: skip


def test_yaml(counted):
    def check(text):
        counted.given += 1
        try:
            value = parse_yaml(text, "recipe")
        except SettingsError as error:
            assert str(error).startswith("recipe") and "\n" not in str(error)
            return
        counted.accepted += 1
        again = parse_yaml(dump_yaml(value), "again")
        assert again == value or "nan" in dump_yaml(value)

    throw(check, text_of(YAML_WORDS), texts=True)


def settings_class(method):
    config = pytest.importorskip(f"{method}.config")
    return config.Settings


@pytest.mark.parametrize("method", METHODS)
def test_settings(counted, method):
    cls = settings_class(method)
    names = known_names(cls)
    any_name, any_value = text_of((*names, ".", "method", "training")), text_of(YAML_WORDS)

    def override(rng):
        name = rng.choice(names) if rng.random() < 0.95 else any_name(rng)
        return f"{name}={rng.choice(VALUES) if rng.random() < 0.8 else any_value(rng)}"

    def load(overrides):
        counted.given += 1
        try:
            loaded = load_settings(cls, recipe_text=None, recipe_name="recipe", overrides=overrides)
        except SettingsError as error:
            assert len(str(error).splitlines()) == 1
            return
        counted.accepted += 1
        again = load_settings(cls, recipe_text=to_yaml(loaded), recipe_name="again", overrides=[])
        assert again == loaded

    overrides = lambda rng: [override(rng) for _ in range(rng.randint(1, 2))]  # noqa: E731
    throw(load, overrides, inputs=INPUTS // len(METHODS) + 1)  # so many of all three methods


def test_arguments_of_a_trainer(counted):
    from transformers import TrainingArguments

    names = (
        "learning_rate",
        "max_steps",
        "bf16",
        "optim",
        "save_strategy",
        "report_to",
        "logging_steps",
        "lr",
        "'",
        "",
    )
    values = (None, True, False, 0, -1, 10**400, 0.5, float("nan"), float("inf"), "", "no", "1", [], [1, None], {}, {"a": []})  # fmt: skip

    def check(arguments):
        counted.given += 1
        try:
            assert set(check_arguments(arguments, TrainingArguments)) == set(arguments)
            counted.accepted += 1
        except SettingsError as error:
            assert "training." in str(error) and "\n" not in str(error)

    throw(check, lambda rng: {rng.choice(names): rng.choice(values) for _ in range(rng.randint(1, 3))})


# --- rows ---------------------------------------------------------------------------------------------------------------

JSON_WORDS = (
    '{"question": "', '", "answer": "', '"answer": ', '"}', "\n", "{", "}", "[", "]", ",", ":", '"', "null", "true", "1e999", "NaN", "-Infinity",
    r"\ud83d", r"\u0000", '"options": ["a", "b"]', '"id": 1', '"steps": [', "\r", "\ufeff",
)  # fmt: skip
CELLS = ("1 + 1?", "2", "A", "yes", "", " ", 3, 2.0, 1e308, None, True, [], ["a", "b"], ["a", ""], [1], {"a": 1}, "\ud83d", "\u2028", "\0")  # fmt: skip


def row(rng):
    cells = {"question": "1 + 1?", "answer": rng.choice(["2", "A", "yes", True, 3.0]), "options": ["a", "b"]}
    for name in rng.sample(("question", "answer", "options", "id", "steps", "aliases"), rng.choice((0, 0, 1, 2))):
        cells[name] = rng.choice(CELLS)
    return json.dumps(cells, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")


def content(rng):
    kind = rng.random()
    if kind < 0.1:
        return rng.randbytes(rng.randint(0, 64))
    if kind < 0.4:
        return text_of(JSON_WORDS)(rng).encode("utf-8", "surrogatepass")
    whole = b"\n".join(row(rng) for _ in range(rng.randint(1, 3)))
    if kind < 0.6:  # one byte of a sound file is another one
        place = rng.randrange(len(whole))
        return whole[:place] + rng.randbytes(1) + whole[place + 1 :]
    return whole


def test_rows(counted, monkeypatch):
    def check(content_and_kind):
        counted.given += 1
        content, kind = content_and_kind
        monkeypatch.setattr(user_file, "read_bytes", lambda path: content)
        try:
            loaded = user_file.load_jsonl(Path("rows.jsonl"), kind=kind)
        except DataError as error:
            assert str(error).startswith("rows.jsonl")
            str(error).encode()  # it can be printed
            return
        counted.accepted += 1
        ids = [problem.id for problem in loaded.problems]
        assert len(set(ids)) == len(ids) > 0
        for problem in loaded.problems:
            assert problem.question.strip() and problem.answer.strip()
            problem.prompt_text().encode()

    throw(check, lambda rng: (content(rng), rng.choice(("math", "mcq", "bool", "text"))))


# --- answers ------------------------------------------------------------------------------------------------------------

BOX_WORDS = (
    r"\boxed{", r"\boxed", "{", "}", "$", r"\frac", r"\frac12", r"\text{", r"\sqrt", "**", "(", ")", r"0.1\overline{6}", r"\overline{", "6.02e23", "1e99999", "np.sqrt(", r"\left", r"\right", r"\pm", ",", " and ", "the answer is ", "(B)", "x=", r"\{", r"\}", "%", r"\,", "Answer:",
)  # fmt: skip


def in_a_box(words):
    """Half of the texts in a box."""
    make = text_of(words)
    return lambda rng: rng.choice((r"so \boxed{%s}", "%s")) % make(rng)


def test_boxed_answers(counted):
    def check(text):
        counted.given += 1
        box = last_boxed(text)
        assert box is None or box in text
        if box is None:
            return
        counted.accepted += 1
        # The grader refuses longer ones before it looks at them.
        box = box[:2000]
        for form in (answers.normalise_math, answers.plain_text, answers.compact, answers.yes_or_no, answers.number):
            form(box)
        answers.elements(box, grouped=True)
        answers.without_unit(box, "km")
        named = answers.option_letter(box, ["an oven", "a bed"], ["A", "B"])
        assert named in ("A", "B", None)

    throw(check, in_a_box(BOX_WORDS), texts=True)


def test_boxed_responses(counted):
    """The cut in front of the answer, on tokens."""
    tokenizer = load_tokenizer("embedded")

    def split(text_and_truncated):
        counted.given += 1
        text, truncated = text_and_truncated
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        cut = split_response(tokenizer, ids, truncated=truncated)
        assert 0 <= cut.reasoning_length <= len(ids)
        assert cut.answer_text in text
        assert cut.well_formed == (cut.reason is None)
        counted.accepted += cut.well_formed
        if cut.well_formed:
            assert cut.answer_text.strip() == last_boxed(text)

    texts = in_a_box(BOX_WORDS)
    throw(split, lambda rng: (texts(rng), rng.random() < 0.5))


# --- the formats of the methods -----------------------------------------------------------------------------------------


def test_annotation(counted):
    """SpiralThinker's two versions of a problem: as many latents as asked for, and the same tokens up to the first."""
    annotation = pytest.importorskip("spiralthinker.annotation")
    tokenizer = load_tokenizer("embedded")
    markers = annotation.add_markers(tokenizer)
    words = (*annotation.MARKER_TEXTS, "<bot", "latent>", "1+1=2", " ", "\n", "{question}", "{answer}")
    plain = ("1+1=2", " so ", "<", ">", "{answer}", "so 2")

    def problem_and_form(rng):
        def text(marked):
            return text_of(words if rng.random() < marked else plain, most=6)(rng)

        problem = Problem(
            id="p", question=f"{text(0.05)}?", answer=f"{text(0.05)}2", kind="math",
            steps=tuple(text(0.05) + rng.choice(("", "x", "x")) for _ in range(rng.randint(0, 5))),
        )  # fmt: skip
        return problem, {
            "parity": rng.choice(("odd", "even")), "placement": rng.choice(("alternating", "front")),
            "replaced": rng.choice((None, 0, 1, 2, 9)), "latents": rng.choice((0, 1, 2, 5)),
        }  # fmt: skip

    def annotate(problem_and_form):
        counted.given += 1
        problem, options = problem_and_form
        try:
            form = annotation.Annotation(**options)
            example = form.example(tokenizer, problem)
        except (SettingsError, DataError) as error:
            assert "\n" not in str(error)
            return
        counted.accepted += 1
        implicit, explicit = form.implicit(example, markers), annotation.explicit(example, markers)
        blocks = form.blocks(example)
        assert implicit.input_ids.count(markers.latent) == len(blocks) * form.latents
        assert [implicit.input_ids[block.bol] for block in blocks] == [markers.bol] * len(blocks)
        assert [explicit.input_ids[block.eot] for block in blocks] == [markers.eot] * len(blocks)
        shared = blocks[0].bol if blocks else len(implicit.input_ids)
        assert implicit.input_ids[:shared] == explicit.input_ids[:shared]
        assert markers.latent not in implicit.labels

    throw(annotate, problem_and_form)


def test_replies_of_a_teacher(counted):
    """TinyThinker uses a reply that explains each option, or says why it does not."""
    parse = pytest.importorskip("tinythinker.teacher.parse")
    words = (
        "Key Information: ", "key information:", "A is correct.", "B is incorrect.", "C is correct", " Because ", "\n", "Option ", "(D) is incorrect.", "**",
        "- ", "Explanations:", "water is wet", ".", "because", "E is incorrect: ", "\r\n", "\u2028", "İ", "ſ is correct.",
    )  # fmt: skip

    def reply_and_options(rng):
        options = rng.randint(2, 6)
        anything = text_of(words, most=6)
        correct = rng.randrange(options)
        lines = ["Key Information: water is wet" + rng.choice(("", anything(rng)))]
        for i in range(options):
            verdict = "correct" if i == correct else "incorrect"
            lines.append(f"{'ABCDEF'[i]} is {verdict}. Because it is {rng.choice(('wet', anything(rng)))}")
        if rng.random() < 0.3:
            rng.shuffle(lines)
        reply = "\n".join(lines)
        reason = rng.choice(("stop", "stop", "stop", "length", "content_filter", None))
        return rng.choice((reply, reply, reply, text_of(words)(rng), None)), options, reason

    def parse_one(reply_and_options):
        counted.given += 1
        reply, options, reason = reply_and_options
        parsed = parse.parse_reply(reply, reason, options)
        if isinstance(parsed, str):
            assert parsed in parse.REJECTIONS
            return
        counted.accepted += 1
        assert 0 <= parsed.correct < options == len(parsed.explanation.reasons)
        assert parsed.explanation.knowledge.strip() and all(r.strip() for r in parsed.explanation.reasons)

    throw(parse_one, reply_and_options)
