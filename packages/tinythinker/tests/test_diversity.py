"""Edit distances against the usual table, the choice of texts that differ, and the label policies."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinythinker.diversity import agreeing, diverse, edit_distance

TEXTS = st.lists(st.text("abc", max_size=8), max_size=7)


def table(one, other):
    rows = [[i + j if i * j == 0 else 0 for j in range(len(other) + 1)] for i in range(len(one) + 1)]
    for i in range(1, len(one) + 1):
        for j in range(1, len(other) + 1):
            replaced = rows[i - 1][j - 1] + (one[i - 1] != other[j - 1])
            rows[i][j] = min(rows[i - 1][j] + 1, rows[i][j - 1] + 1, replaced)
    return rows[-1][-1]


@given(st.text("abcé ", max_size=90), st.text("abcé ", max_size=90))
def test_the_edit_distance_is_that_of_the_table(one, other):
    assert edit_distance(one, other) == table(one, other)


@given(TEXTS, st.integers(1, 8), st.integers(0, 6))
def test_chosen_texts_are_distinct_in_order_and_as_many_as_there_can_be(texts, keep, min_edits):
    chosen = diverse(texts, keep, min_edits=min_edits)
    assert chosen == sorted(set(chosen))
    assert len({texts[position] for position in chosen}) == len(chosen) == min(keep, len(set(texts)))


@given(TEXTS, st.integers(1, 8), st.integers(0, 6))
def test_texts_far_from_every_other_come_first(texts, keep, min_edits):
    chosen = diverse(texts, keep, min_edits=min_edits)
    distinct = set(texts)
    far = [
        position
        for position, text in enumerate(texts)
        if text not in texts[:position] and all(edit_distance(text, o) > min_edits for o in distinct - {text})
    ]
    assert set(far[:keep]) <= set(chosen)


def test_the_next_text_is_the_one_farthest_from_those_chosen():
    texts = ["the sun is a star", "the sun is a Star", "the sun is hot", "moons go round planets"]
    assert diverse(texts, 1) == [3]
    assert diverse(texts, 2) == [0, 3]
    assert diverse(texts, 3) == [0, 2, 3]


@pytest.mark.parametrize(
    ("policy", "called", "label", "kept"),
    [
        ("keep_gold", [0, 1, 1, 0], 0, [0, 3]),
        ("keep_gold", [1, 1, 0], 0, [2]),
        ("keep_gold", [1, 1], 0, []),
        ("drop_disagreeing", [1, 1, 0], None, []),
        ("drop_disagreeing", [1, 0, 0], 0, [1, 2]),
        ("drop_disagreeing", [1, 0], 0, [1]),  # as many for as against: the gold one stands
        ("vote", [1, 1, 0], 1, [0, 1]),
        ("vote", [1, 0], 0, [1]),
        ("vote", [2, 1], 2, [0]),
        ("vote", [], 0, []),
    ],
)
def test_label_policies(policy, called, label, kept):
    assert agreeing(called, 0, policy) == (label, kept)


@given(st.lists(st.integers(0, 4), max_size=9), st.integers(0, 4), st.sampled_from(["keep_gold", "drop_disagreeing"]))
def test_only_a_vote_changes_a_label(called, gold, policy):
    labelled = agreeing(called, gold, policy)
    assert labelled.label in (gold, None)
    assert all(called[position] == gold for position in labelled.kept)
