"""Batches under a token budget: every index once, padding within the budget, longest first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinker_common.likelihood.batching import SMALL_BATCH, token_budget_batches


def test_longest_first_and_similar_lengths_together():
    assert token_budget_batches([3, 9, 3, 8, 1], 18) == [[1, 3], [0, 2, 4]]


def test_an_item_over_the_budget_is_alone():
    assert token_budget_batches([5, 50, 5], 10) == [[1], [0, 2]]


def test_nothing_to_batch():
    assert token_budget_batches([], 10) == []


def test_impossible_budget():
    with pytest.raises(ValueError, match="max_tokens must be at least 1, not 0"):
        token_budget_batches([1], 0)


@given(lengths=st.lists(st.integers(0, 40)), max_tokens=st.integers(1, 200))
def test_budget_order_and_completeness(lengths, max_tokens):
    batches = token_budget_batches(lengths, max_tokens)
    order = [index for batch in batches for index in batch]
    assert sorted(order) == list(range(len(lengths)))
    assert order == sorted(order, key=lambda i: (-lengths[i], i))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * lengths[batch[0]] <= max_tokens
    for batch in batches[:-1]:  # none ends before it is full
        assert (len(batch) + 1) * lengths[batch[0]] > max_tokens


@given(lengths=st.lists(st.integers(1, 900), max_size=30), max_padding=st.floats(0, 0.5))
def test_padding_is_limited_in_all_but_small_batches(lengths, max_padding):
    batches = token_budget_batches(lengths, 4000, max_padding=max_padding)
    assert [i for batch in batches for i in batch] == [i for batch in token_budget_batches(lengths, 1) for i in batch]
    for batch in batches:
        real, padded = sum(lengths[i] for i in batch), lengths[batch[0]] * len(batch)
        before = real - lengths[batch[-1]]
        assert len(batch) == 1 or padded <= 4000
        assert before < SMALL_BATCH or real >= (1 - max_padding) * padded
