"""Tables and sentences: values whole at 80 columns, with many benchmarks and long names, and never a nan."""

import math

import pytest
from rich.console import Console

from thinker_common.benchmarks import NAMES
from thinker_common.benchmarks.problem import LoadedBenchmark, Problem
from thinker_common.evaluation.comparison import compare
from thinker_common.evaluation.results import summarise
from thinker_common.evaluation.statistics import Estimate
from thinker_common.evaluation.suite import compare_suite
from thinker_common.evaluation.table import (
    at_k_tables,
    average_sentence,
    cells,
    decoding_in_words,
    percent,
    sentence,
    suite_sentences,
    terminal_table,
)


def result(name="gsm8k", count=10, samples=1, **decoding):
    problems = tuple(Problem(id=f"{name}/{i}", question="Q?", answer="1", kind="math") for i in range(count))
    rows = [
        {
            "id": problem.id,
            "sample": sample,
            "extracted": "1",
            "boxed": True,
            "correct": i % 2 == 0,
            "truncated": False,
            "timed_out": False,
            "tokens": 1024,
            "answer_loglik": -10.0 * i,
            "grader": "default",
            "prompt_hash": "h",
            "answer": "1",
        }
        for i, problem in enumerate(problems)
        for sample in range(samples)
    ]
    settings = {"max_new_tokens": 1024, "temperature": 0.0, "top_p": 1.0, "top_k": 0, "samples": samples, **decoding}
    ks = [k for k in (2, 4, 8, 16, 32, 64) if k <= samples]
    benchmark = LoadedBenchmark(name, "test", problems, None, "", 1)
    return summarise(
        benchmark, rows, samples=samples, ks=ks, grader="default", seed=0, decoding=settings, template="",
        chat_template="",
    )  # fmt: skip


def printed(table, width=80):
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_all_benchmarks_fit_80_columns_with_every_value_whole():
    results = [result(name) for name in NAMES]
    text = printed(terminal_table((one, "runs/some/long/path/to/a/model") for one in results))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    for one in results:
        [line] = [line for line in lines if line.startswith(one.benchmark + " ")]
        assert line.split() == [cell for i, cell in enumerate(cells(one, "")) if i != 1], "the model is in the title"
    assert "runs/some/long/path/to/a/model" in text


def test_long_names_of_several_models_wrap_and_values_do_not():
    before, after = "runs/a-run-with-a-rather-long-name/model", "Qwen/Qwen2.5-Math-1.5B-Instruct"
    text = printed(terminal_table([(result(), before), (result(), after)]), width=110)
    for value in cells(result(), "")[2:]:
        assert text.count(value) >= 2


def test_a_single_problem_has_no_error_to_show():
    row = cells(result(count=1), "m")
    assert row[2:5] == ("1", "100.0", "100.0") and row[7] == "0.00"
    assert "nan" not in printed(terminal_table([(result(count=1), "m")]))


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [(0.314, 0.02, "31.4±2.0"), (0.314, None, "31.4"), (1.0, math.nan, "100.0"), (math.nan, math.nan, "-")],
)
def test_percentages(value, error, text):
    assert percent(value, error) == text


def test_pass_and_maj_at_k_of_many_samples_fit_80_columns():
    sampled = [result(name, 40, samples=64, temperature=0.6) for name in NAMES]
    sampled[0] = result("gsm8k", 40, samples=16, temperature=0.6)
    texts = [printed(table) for table in at_k_tables(sampled)]
    for text, kind in zip(texts, ("pass", "maj"), strict=True):
        lines = text.splitlines()
        assert max(map(len, lines)) <= 80
        [gsm8k, *_] = [line for line in lines if line.startswith("gsm8k ")]
        assert gsm8k.split()[-1] == "-", f"no {kind}@64 of 16 samples"
        assert {f"{kind}@16", f"{kind}@64", "avg@16/64"} <= set(text.split()), "headings are whole"
    assert at_k_tables([result()]) == []


def test_decoding_is_said_in_words():
    assert decoding_in_words(result()) == "greedy"
    words = decoding_in_words(result(samples=16, temperature=0.6, top_p=0.9, top_k=20))
    assert words == "16 samples at temperature 0.6, top-p 0.9, top-k 20"
    assert decoding_in_words(result(temperature=1.0)) == "1 sample at temperature 1"


def test_sentences():
    assert average_sentence(Estimate(0.4, 0.01, 3), []) == "average of 3 benchmarks: 40.0±1.0 %"
    assert "share questions, so the error is too small" in average_sentence(
        Estimate(0.4, 0.01, 2), ["a and b share questions"]
    )
    a, b = result(count=10).rows, result(count=4).rows
    assert sentence(compare(a, b)).endswith("n = 4 shared problems (6 of the larger evaluation are left out)")
    assert "exact McNemar p = 1, n = 10" in sentence(compare(a, a))
    assert suite_sentences(compare_suite({"one": a}, {"one": a})) == []
    together = suite_sentences(compare_suite({"one": a, "two": a}, {"one": a, "two": a}))
    assert together[0].startswith("average of 2 benchmarks: +0.0 points")
    assert together[1] == "p-values adjusted for 2 tests (Holm): one 1, two 1"
