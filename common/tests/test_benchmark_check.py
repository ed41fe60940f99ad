"""The check of a copy: what it counts, and that it sees each fault that a copy can have."""

import json
import os
import warnings
from pathlib import Path

import pytest

from thinker_common.benchmarks import NAMES, TRAINING_NAMES, load_benchmark, sources
from thinker_common.benchmarks.check import MAX_FAILURES, check_benchmark, wrong_answer
from thinker_common.benchmarks.problem import Problem, question_key
from thinker_common.errors import DataError
from thinker_common.evaluation.grading import grade


def default_grade(problem, response):
    return grade(problem, response).correct


def rows(*numbers):
    return [{"question": f"What is {n}?", "answer": f"It is {n}.\n#### {n}"} for n in numbers]


@pytest.fixture
def folder(tmp_path):
    def write(**splits):
        (tmp_path / "gsm8k").mkdir()
        for split, content in splits.items():
            text = "".join(json.dumps(row) + "\n" for row in content)
            (tmp_path / "gsm8k" / f"{split}.jsonl").write_text(text, encoding="utf-8")
        return tmp_path

    return write


def test_a_copy_that_is_too_small_repeats_itself_and_shares_questions(folder):
    repeated = {"question": "what  is 2?", "answer": "#### 2"}
    no_gold = {"question": "Why?", "answer": "no number"}
    data_dir = folder(test=[*rows(1, 2, 3), repeated, no_gold], train=rows(3, 4))
    report = check_benchmark("gsm8k", data_dir=data_dir, grade=default_grade)
    assert report.passed and (report.problems, report.gold_right, report.wrong_right) == (4, 4, 0)
    assert report.expected_rows == (1_319,)
    assert ["5 rows where 1319 were expected" in warning for warning in report.warnings] == [True]
    assert report.dropped == {"no question, or no number after ####": 1}
    assert report.duplicates == (("gsm8k/test/1", "gsm8k/test/3"),)
    assert report.overlaps == {"gsm8k/train": ("gsm8k/test/2",), "gsm8k_aug/valid": None, "gsm8k_aug/test": None}
    assert report.source == str(data_dir / "gsm8k" / "test.jsonl") and report.revision.startswith("sha256:")
    shown = report.to_dict()
    assert json.loads(json.dumps(shown))["passed"] is True and set(shown) >= {"gold_right", "overlaps", "duplicates"}


def test_a_grader_that_is_wrong_is_seen_in_both_directions(folder):
    data_dir = folder(test=rows(*range(30)))
    accepts_all = check_benchmark("gsm8k", data_dir=data_dir, grade=lambda problem, response: True)
    assert not accepts_all.passed and (accepts_all.gold_right, accepts_all.wrong_right) == (30, 30)
    assert accepts_all.failures[0] == "gsm8k/test/0: '1' is graded as right, and the gold is '0'"
    assert len(accepts_all.failures) == MAX_FAILURES
    accepts_none = check_benchmark("gsm8k", data_dir=data_dir, grade=lambda problem, response: False)
    assert not accepts_none.passed and (accepts_none.gold_right, accepts_none.wrong_right) == (0, 0)
    assert accepts_none.failures[0] == "gsm8k/test/0: the gold '0' is graded as wrong"


def test_missing_columns_are_an_error(folder):
    data_dir = folder(test=[{"question": "Q?", "final": "1"}])
    with pytest.raises(DataError, match="no column answer"):
        check_benchmark("gsm8k", data_dir=data_dir, grade=default_grade)


def test_options_and_revision_reach_the_loader(monkeypatch):
    asked = []

    def download(name, split, hub, revision):
        asked.append((name, revision))
        return [{"question": "Q?", "answer": "500"}], revision

    monkeypatch.setattr(sources, "download", download)
    report = check_benchmark("minerva_math", revision="abc", relative_tolerance=0.01, grade=default_grade)
    assert asked == [("minerva_math", "abc")] and report.revision == "abc"
    assert report.passed and "relative_tolerance = 0.01" in report.source  # 500 + 1 would be within the tolerance


def test_the_wrong_answer_is_wrong_for_each_kind():
    def problem(answer, kind, **more):
        return Problem(id="p", question="Q?", answer=answer, kind=kind, **more)

    assert wrong_answer(problem("B", "mcq", options=("a", "b"))) == "A"
    assert wrong_answer(problem("yes", "bool")) == "no"
    assert wrong_answer(problem("-5", "math")) == "-4"
    assert wrong_answer(problem("50", "math", metadata={"tolerance": 0.5})) == "52"
    assert wrong_answer(problem(r"\frac{1}{2}", "math")) == "7919.5"
    assert wrong_answer(problem("a coat", "text", aliases=("coat",))) == "not a coat"


def test_questions_are_compared_without_case_space_and_order_of_options():
    def key(question, *options):
        kind = "mcq" if options else "math"
        return question_key(Problem(id="p", question=question, answer="A", kind=kind, options=options))

    assert key("What IS\n $x$ ?") == key("what is $x$?")
    assert key("1+2?") != key("1-2?")
    assert key("Which?", "a", "b") == key("Which?", "b", "A") != key("Which?", "a", "c")


@pytest.mark.parametrize("name", ["chains", "facts", "graphs", "phrases"])
def test_generated_tasks_pass(name, monkeypatch):
    from thinker_common.benchmarks import generated

    monkeypatch.setitem(generated.DEFAULT_COUNTS, "test", 50)
    assert check_benchmark(name, grade=default_grade).passed


@pytest.fixture
def data_dir() -> Path:
    found = os.environ.get("THINKER_DATA_DIR")
    if not found:
        pytest.skip("THINKER_DATA_DIR names no folder with the original files")
    return Path(found)


# Problems, and how many share their question with another split or data set.
REAL = {
    "gsm8k/test": (1_319, {"gsm8k/train": 0, "gsm8k_aug/valid": 0}),
    "gsm8k_aug/valid": (500, {"gsm8k/train": 500, "gsm8k/test": 0}),
    "math500/test": (500, {"math_train/train": 0}),
    "olympiadbench/test": (675, {}),
    "amc23/test": (40, {}),
    "aime24/test": (30, {}),
    "gsm8k_train/train": (7_473, {"gsm8k/test": 0, "gsm8k_aug/valid": 500}),
}


@pytest.mark.parametrize("which", REAL)
def test_real_files_pass(data_dir, which):
    name, _, split = which.partition("/")
    report = check_benchmark(name, split=split, data_dir=data_dir, grade=default_grade)
    assert report.passed and report.failures == () and report.warnings == () and report.dropped == {}
    problems, shared = REAL[which]
    assert report.problems == problems
    assert {other: len(ids) for other, ids in report.overlaps.items() if ids is not None} == shared


@pytest.mark.slow
def test_every_gold_of_the_training_file_is_right(data_dir):
    report = check_benchmark("math_train", split="train", data_dir=data_dir, grade=default_grade)
    assert report.passed and report.problems == 4_500 and report.overlaps == {"math500/test": ()}


def test_no_benchmark_shares_with_a_data_set_that_is_not_here():
    from thinker_common.benchmarks import benchmark_module

    for name in (*NAMES, *TRAINING_NAMES):
        for other in benchmark_module(name).INFO.shares:
            there, _, split = other.partition("/")
            info = benchmark_module(there).INFO
            assert info.hub is not None and split in info.hub.rows, (name, other)


def test_the_loader_warns_only_inside_the_report(folder):
    data_dir = folder(test=rows(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_benchmark("gsm8k", data_dir=data_dir, grade=default_grade)
    with pytest.warns(UserWarning, match="1 rows where 1319 were expected"):
        load_benchmark("gsm8k", data_dir=data_dir)
