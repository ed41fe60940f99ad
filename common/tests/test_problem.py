"""The record every benchmark yields."""

import pickle

import pytest

from thinker_common.benchmarks.problem import LETTERS, Problem

CHOICE = Problem(
    id="demo/test/1",
    question="What falls from clouds?",
    answer="B",
    kind="mcq",
    options=("stones", "rain", "bank notes"),
    metadata={"subject": "weather"},
)


def test_multiple_choice_prompt_has_each_option_after_a_blank_line():
    assert CHOICE.prompt_text() == "What falls from clouds?\n\nA. stones\n\nB. rain\n\nC. bank notes"


def test_target_of_multiple_choice_is_letter_and_text():
    assert CHOICE.target() == "B. rain"


def test_target_of_every_other_kind_is_the_answer():
    for kind, answer in (("math", "-5"), ("bool", "yes"), ("text", "a heavy coat")):
        problem = Problem(id="demo/test/2", question="Q?", answer=answer, kind=kind)
        assert problem.target() == answer
        assert problem.prompt_text() == "Q?"


def test_braces_in_a_question_stay_as_they_are():
    question = r"Solve $\frac{1}{x} = {2}$ {answer}"
    assert Problem(id="m/1", question=question, answer="1/2", kind="math").prompt_text() == question


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "mcq", "answer": "D", "options": ("a", "b", "c")},
        {"kind": "mcq", "answer": "A", "options": ("a",)},
        {"kind": "mcq", "answer": "A", "options": tuple("abcdefghijk")},
        {"kind": "math", "answer": "A", "options": ("a", "b")},
        {"kind": "bool", "answer": "True"},
        {"kind": "math", "answer": " "},
        {"kind": "essay", "answer": "x"},
    ],
)
def test_an_impossible_problem_is_refused(fields):
    with pytest.raises(AssertionError):
        Problem(id="demo/test/3", question="Q?", **fields)


def test_a_problem_travels_to_worker_processes_and_into_sets():
    assert pickle.loads(pickle.dumps(CHOICE)) == CHOICE
    assert len({CHOICE, pickle.loads(pickle.dumps(CHOICE))}) == 1


def test_letters_follow_the_number_of_options():
    assert CHOICE.letters == ("A", "B", "C")
    ten = Problem(id="t/1", question="Q?", answer="J", kind="mcq", options=tuple("abcdefghij"))
    assert "".join(ten.letters) == LETTERS
