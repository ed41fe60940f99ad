"""Problems to train on and problems held out of them."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinker_common.benchmarks import chains
from thinker_common.benchmarks.problem import LoadedBenchmark, Problem, question_key
from thinker_common.errors import DataError, SettingsError
from thinker_common.training.problems import hold_out, load_evaluations, load_problems
from thinker_common.training.sections import DataSettings, EvaluationSettings


def loaded(questions):
    problems = (
        Problem(id=f"mine/file/{i}", question=text, answer="1", kind="math") for i, text in enumerate(questions)
    )
    return LoadedBenchmark("mine", "file", tuple(problems), None, "mine.jsonl", 1)


@given(
    questions=st.lists(st.sampled_from(["a?", "A?", " a ?", "b?", "c?", "d?", "e?"]), min_size=2, max_size=30),
    count=st.integers(1, 29),
    seed=st.integers(0, 3),
)
def test_no_question_is_both_trained_on_and_held_out(questions, count, seed):
    data = loaded(questions)
    try:
        training, validation = hold_out(data, count, seed=seed)
    except DataError:
        # Nothing would be left: as many are held out as there are, or all others ask the same as one of them.
        assert count >= len(questions) or len({question_key(problem) for problem in data.problems}) <= count
        return
    assert len(validation.problems) == count
    held = {question_key(problem) for problem in validation.problems}
    assert not held & {question_key(problem) for problem in training.problems}
    # Every other problem is there, in the old order.
    assert training.problems == tuple(problem for problem in data.problems if question_key(problem) not in held)
    twins = len(questions) - count - len(training.problems)
    assert ("left out" in training.source) == (twins > 0)
    assert training.source.startswith(f"mine.jsonl, {count} held out for validation (seed {seed})")
    if twins:
        assert training.source.endswith(f", {twins} more left out that ask the same as one of those")


def test_all_the_same_question():
    with pytest.raises(DataError, match="all 5 problems ask what one of the 2 held out for validation asks"):
        hold_out(loaded(["a?"] * 5), 2, seed=0)


def test_the_embedded_chains_have_no_twins():
    # What stored curves and studies trained on stays what it was.
    keys = Counter(question_key(problem) for problem in chains.load("train").problems)
    assert max(keys.values()) == 1


@pytest.mark.parametrize(("rows", "held"), [(2, 1), (20, 4), (101, 21), (499, 100), (5000, 100)])
def test_without_a_number_a_small_file_keeps_four_fifths(rows, held):
    training, validation = hold_out(loaded([f"{i}?" for i in range(rows)]), None, seed=0)
    assert (len(training.problems), len(validation.problems)) == (rows - held, held)


def test_one_row_is_not_enough_to_hold_one_out():
    with pytest.raises(DataError, match=r"= 1 would hold out all 1 problems: .*evaluation.every_steps = null"):
        hold_out(loaded(["a?"]), None, seed=0)


def write(path, questions):
    path.write_text("".join(json.dumps({"ask": text, "answer": text[0]}) + "\n" for text in questions))
    return str(path)


def test_a_file_among_the_evaluations_is_read_as_the_training_file_is(tmp_path):
    mine = write(tmp_path / "mine.jsonl", ["a?", "b?", "c?"])
    data = DataSettings(columns={"question": "ask"}, kind="text", train_file=mine)
    test, chains_test = load_evaluations(data, EvaluationSettings(benchmarks=[mine, "chains", mine], limit=2))
    assert (test.name, chains_test.name) == ("mine", "chains")
    assert (len(test.problems), len(chains_test.problems)) == (2, 2)
    assert {problem.kind for problem in test.problems} == {"text"}
    assert {problem.question for problem in test.problems} < {"a?", "b?", "c?"}
    whole = load_evaluations(data, EvaluationSettings(benchmarks=[mine]))[0]
    assert [problem.question for problem in whole.problems] == ["a?", "b?", "c?"]


def test_evaluations_of_one_name_would_share_a_folder(tmp_path):
    mine = write(tmp_path / "chains.jsonl", ["a?"])
    data = DataSettings(columns={"question": "ask"}, kind="text", train_file=mine)
    with pytest.raises(SettingsError, match=r"evaluation.benchmarks: two are named chains; rename the file"):
        load_evaluations(data, EvaluationSettings(benchmarks=["chains", mine], limit=1))


def test_options_of_a_benchmark_reach_it():
    data = DataSettings(benchmark="graphs", options={"size": "small"}, limit=3)
    assert load_problems(data).problems[0].id.startswith("graphs_small/train/")
    evaluation = EvaluationSettings(benchmarks=["chains", "graphs"], options={"graphs": {"size": "medium"}}, limit=2)
    plain, sized = load_evaluations(data, evaluation)
    assert plain.name == "chains"
    assert sized.problems[0].id.startswith("graphs_medium/test/")


def test_options_that_cannot_be_meant():
    with pytest.raises(SettingsError, match="options is for benchmark, and train_file is used in its place"):
        DataSettings(train_file="mine.jsonl", options={"size": "small"})
    with pytest.raises(SettingsError, match=r"options.graphs: expected a name that stands in benchmarks"):
        EvaluationSettings(options={"graphs": {"size": "small"}})
    with pytest.raises(SettingsError, match=r"options.chains.limit: not an option of a benchmark's own"):
        EvaluationSettings(options={"chains": {"limit": 3}})
