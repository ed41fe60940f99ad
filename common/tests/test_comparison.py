"""Two evaluations, pair by pair: counts and tests, what is refused and in which words, several benchmarks together."""

import json
import math

import pytest

from thinker_common.errors import UserError
from thinker_common.evaluation.comparison import changes, check_comparable, compare
from thinker_common.evaluation.statistics import Estimate, mcnemar_exact, paired_bootstrap, paired_permutation
from thinker_common.evaluation.suite import average, compare_suite, shared_questions


def rows_of(correct, **fields):
    """One row a sample: `correct` holds a verdict a problem, or a list of them."""
    return [
        {
            "id": f"p{i}",
            "sample": sample,
            "correct": bool(verdict),
            "grader": "default",
            "prompt_hash": f"h{i}",
            "answer": "5",
            "extracted": "5" if verdict else "6",
            **fields,
        }
        for i, value in enumerate(correct)
        for sample, verdict in enumerate(value if isinstance(value, list) else [value])
    ]


def test_pairs_are_counted_whatever_their_order():
    a, b = rows_of([1, 1, 1, 1, 1, 1, 0, 0]), rows_of([0, 0, 0, 0, 0, 1, 0, 1])
    comparison = compare(a, list(reversed(b)))
    assert (comparison.both, comparison.only_a, comparison.only_b, comparison.neither) == (1, 5, 1, 1)
    assert (comparison.p_value, comparison.test) == (14 / 64, "exact McNemar")
    assert (comparison.accuracy_a, comparison.accuracy_b, comparison.difference) == (6 / 8, 2 / 8, 4 / 8)
    low, high = comparison.interval
    assert low < 0.5 < high and comparison == compare(a, b)
    assert (comparison.left_out_a, comparison.left_out_b) == (0, 0)
    assert json.loads(json.dumps(comparison.to_dict(), allow_nan=False))["interval"] == [low, high]


def test_means_over_samples_are_tested_by_permutation_of_whole_problems():
    a = rows_of([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 0], [1, 1, 0, 1]])
    b = rows_of([[1, 0, 0, 0], [0, 0, 0, 0], [0, 1, 0, 1], [1, 1, 0, 0], [1, 1, 0, 0]])
    scores_a, scores_b = [0.75, 0.25, 1, 0.25, 0.75], [0.25, 0, 0.5, 0.5, 0.5]
    comparison = compare(a, b, seed=4)
    assert comparison.test == "permutation"
    assert comparison.p_value == paired_permutation(scores_a, scores_b, seed=4) == 8 / 32
    bootstrap = paired_bootstrap(scores_a, scores_b, seed=4)
    assert comparison.interval == (bootstrap.low, bootstrap.high)
    assert (comparison.both, comparison.only_a, comparison.only_b, comparison.neither) == (0, 3, 0, 2)
    assert comparison.n == 5


def test_samples_that_all_agree_are_tested_as_one():
    a, b = rows_of([[1, 1], [1, 1], [0, 0]]), rows_of([[0, 0], [1, 1], [0, 0]])
    assert compare(a, b).test == "exact McNemar"
    assert compare(a, b).p_value == mcnemar_exact([1, 1, 0], [0, 1, 0]).p_value


def test_a_part_of_the_problems_is_compared_and_the_rest_counted():
    whole, part = rows_of([1, 0, 1, 1]), rows_of([0, 0])
    comparison = compare(whole, part)
    assert (comparison.n, comparison.left_out_a, comparison.left_out_b) == (2, 2, 0)
    assert (comparison.only_a, comparison.neither) == (1, 1)
    assert compare(part, whole).left_out_b == 2


def test_what_is_not_comparable_is_refused():
    a = rows_of([1, 0, 1])
    with pytest.raises(UserError, match="these have 3 and 3, 2 of them shared"):
        compare(a, rows_of([1, 0, 1, 1])[1:])
    with pytest.raises(UserError, match="the grader differs for p0: default and generalthinker"):
        compare(a, rows_of([1, 0, 1], grader="generalthinker"))
    with pytest.raises(UserError, match="the question, its options or its gold answer differs for p0"):
        compare(a, rows_of([1, 0, 1], prompt_hash="other"))
    with pytest.raises(UserError, match="the number of samples differs for p0: 1 and 2"):
        compare(a, rows_of([[1, 1], 0, 1]))
    with pytest.raises(UserError, match="no rows"):
        compare([], [])


SETTINGS = {
    "benchmark": "gsm8k",
    "version": 1,
    "split": "test",
    "revision": "abc",
    "template": "{question}",
    "chat_template": "auto",
    "grader": "default",
    "max_new_tokens": 1024,
    "temperature": 0.0,
    "top_p": 1.0,
    "top_k": 0,
    "samples": 1,
    "seed": 0,
    "model": "sha256:1",
}


def test_other_models_and_seeds_are_what_is_compared():
    check_comparable(SETTINGS, {**SETTINGS, "model": "sha256:2", "seed": 1, "prompts": "other tokens"})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"benchmark": "math500"}, 'the benchmark ("gsm8k" and "math500")'),
        ({"version": 2}, "the version of the benchmark's reader (1 and 2)"),
        ({"split": "train"}, 'the split ("test" and "train")'),
        ({"revision": None}, 'the data revision ("abc" and null)'),
        ({"grader": "generalthinker"}, 'the grader ("default" and "generalthinker")'),
        ({"template": "{question}!"}, 'the prompt template ("{question}" and "{question}!")'),
        ({"chat_template": "none"}, 'the chat template ("auto" and "none")'),
        ({"samples": 4}, "the number of samples (1 and 4)"),
        (
            {"temperature": 0.6, "top_p": 0.9},
            "the decoding (temperature) (0.0 and 0.6); the decoding (top_p) (1.0 and 0.9)",
        ),
        ({"ranking": "letter"}, 'the form of the options (null and "letter")'),
    ],
)
def test_another_protocol_is_refused_and_named(change, named):
    with pytest.raises(UserError, match="these results cannot be compared, they differ in ") as caught:
        check_comparable(SETTINGS, {**SETTINGS, **change})
    assert named in str(caught.value)


def test_what_changed_problem_by_problem():
    before, after = rows_of([1, 0, 1, 0]), rows_of([0, 1, 1, 0])
    found = changes(after, before)
    assert [(row["id"], row["change"]) for row in found] == [("p0", "right -> wrong"), ("p1", "wrong -> right")]
    assert found[0] == {
        "id": "p0", "change": "right -> wrong", "before": 1.0, "after": 0.0, "answer": "5",
        "extracted_before": ["5"], "extracted_after": ["6"],
    }  # fmt: skip
    sampled = changes(rows_of([[1, 0], [1, 1]]), rows_of([[1, 1], [1, 0]]))
    assert [(row["id"], row["change"], row["after"]) for row in sampled] == [
        ("p0", "worse", 0.5),
        ("p1", "better", 1.0),
    ]
    assert changes(before, before) == []
    assert [row["id"] for row in changes(after[:1], before)] == ["p0"]


def test_several_benchmarks_are_adjusted_and_averaged():
    a = {"one": rows_of([1] * 8 + [0] * 2), "two": rows_of([1] * 6 + [0] * 4), "three": rows_of([1, 0] * 5)}
    b = {"one": rows_of([0] * 10), "two": rows_of([1] * 5 + [0] * 5), "three": rows_of([1, 0] * 5)}
    got = compare_suite(a, b, seed=2)
    p = {name: compare(a[name], b[name]).p_value for name in a}
    assert got.adjusted_p_values["one"] == 3 * p["one"] and got.adjusted_p_values["three"] == 1.0
    assert got.difference == pytest.approx((0.8 + 0.1 + 0.0) / 3)
    errors = [one.standard_error for one in got.comparisons.values()]
    assert got.standard_error == pytest.approx(math.sqrt(sum(error**2 for error in errors)) / 3)
    assert got.interval[0] < got.difference < got.interval[1] and got.p_value < 0.01
    summary = got.to_dict()
    assert summary["benchmarks"]["one"]["adjusted_p_value"] == got.adjusted_p_values["one"]
    assert summary["average"]["interval"] == list(got.interval)
    json.dumps(summary, allow_nan=False)
    alone = compare_suite({"one": a["one"]}, {"one": b["one"]}, seed=2)
    assert alone.to_dict()["average"] is None and alone.interval == alone.comparisons["one"].interval


def test_a_suites_average_says_whose_questions_count_twice():
    assert average({"a": Estimate(0.5, 0.3, 4), "b": Estimate(0.7, 0.4, 4)}) == Estimate(0.6, 0.25, 2)
    assert shared_questions(["gpqa_diamond", "mmlu", "gpqa"]) == ["gpqa and gpqa_diamond share questions"]
    assert shared_questions(["gsm8k", "math500"]) == []
