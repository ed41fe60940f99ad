"""Problems to train on and problems held out of them."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinker_common.benchmarks import chains
from thinker_common.benchmarks.problem import LoadedBenchmark, Problem, question_key
from thinker_common.errors import DataError
from thinker_common.training.problems import hold_out


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
