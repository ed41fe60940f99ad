"""maj@k against counting by hand and against all subsets."""

import itertools

import pytest

from thinker_common.evaluation import voting
from thinker_common.evaluation.voting import group_answers, maj_at_k


def vote(answers, gold, k=None, **settings):
    """The score of answers that are equal when their strings are."""
    groups = group_answers(answers, lambda first, second: first == second)
    return maj_at_k(groups, [answer == gold for answer in answers], k or len(answers), **settings)


def test_answers_are_grouped_by_equality_and_strings_are_asked_about_once():
    asked = []

    def same(first, second):
        asked.append((first, second))
        return float(first) == float(second)

    assert group_answers(["1", "2", "1.0", None, "1.0", "2.0", "1"], same) == [0, 1, 0, None, 0, 1, 0]
    assert asked == [("1", "2"), ("1", "1.0"), ("1", "2.0"), ("2", "2.0")]


@pytest.mark.parametrize(
    ("answers", "score"),
    [
        (["5", "5", "6"], 1.0),
        (["5", "6", "6"], 0.0),
        (["5", "6"], 1 / 2),
        (["5", "6", "7"], 1 / 3),
        (["6", "7", "8"], 0.0),
        (["5", None, None, None], 1.0),  # who has no answer does not vote
        ([None, None], 0.0),
        (["5", "5", "6", "6", "7"], 1 / 2),
    ],
)
def test_a_tie_is_shared_and_no_vote_is_wrong(answers, score):
    assert vote(answers, "5") == score


def test_fewer_votes_than_samples_are_averaged_over_all_subsets():
    answers = ["5", "6", "5", None, "7", "6", "5"]
    for k in range(1, 8):
        subsets = [vote(list(subset), "5") for subset in itertools.combinations(answers, k)]
        assert vote(answers, "5", k) == pytest.approx(sum(subsets) / len(subsets))
    assert vote(answers, "5", 1) == pytest.approx(3 / 7), "maj@1 is the share of right samples"


def test_many_subsets_are_drawn_from_the_seed_and_the_question(monkeypatch):
    answers = ["5"] * 9 + ["6"] * 7 + ["7"] * 4
    drawn = vote(answers, "5", 8, seed=1, key="q1")
    assert drawn == vote(answers, "5", 8, seed=1, key="q1")
    assert len({drawn, vote(answers, "5", 8, seed=2, key="q1"), vote(answers, "5", 8, seed=1, key="q2")}) > 1
    monkeypatch.setattr(voting, "DRAWS", 200_000)  # more than there are subsets
    assert drawn == pytest.approx(vote(answers, "5", 8), abs=0.08)


def test_equal_answers_are_right_together():
    """One group whose members were graded differently (rounding near the gold) is judged by its first sample."""
    assert maj_at_k([0, 0, 2], [True, False, False], 3) == 1.0
    assert maj_at_k([0, 0, 2], [False, True, False], 3) == 0.0
