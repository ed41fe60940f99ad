"""The order of the stages: exact on ragged sizes, each row once, one stage a batch on any number of ranks, resumable."""

import itertools
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinythinker._common import FILLER
from tinythinker.mixing import StageBatches, blocks, optimiser_batches, stage_order
from tinythinker.stages import STAGES

SIZES = st.lists(st.integers(0, 40), min_size=1, max_size=3)


def letters(order):
    return "".join("RAS"[stage] for stage in order)


def test_blocks_of_a_round():
    assert blocks(STAGES, 100, 5) == [100, 500, 100]
    assert blocks(["recall", "summarize"], 3, 4) == [3, 3]


@pytest.mark.parametrize(
    ("batches", "block", "expected"),
    [
        ([4, 8, 4], [2, 4, 2], "RRAAAASS" * 2),
        ([5, 10, 5], [2, 4, 2], "RRAAAASS" * 2 + "RAAS"),
        ([3, 9, 1], [1, 2, 1], "RAAS" + "RAA" + "RAA" + "AAA"),  # summarize ends first, then recall
        ([0, 3, 2], [2, 2, 2], "AASS" + "A"),
        ([1, 1, 1], [100, 500, 100], "RAS"),
        ([2, 0, 5], [1, 2, 1], "RSRSSSS"),
    ],
)
def test_the_block_cyclic_order_on_ragged_sizes(batches, block, expected):
    assert letters(stage_order(batches, "interval", block)) == expected


def test_the_other_orders():
    assert letters(stage_order([2, 4, 2], "proportional", [1, 1, 1])) == "ARSAARSA"
    assert letters(stage_order([1, 3, 2], "sequential", [1, 1, 1])) == "RAAASS"
    assert letters(stage_order([3], "single", [1])) == "RRR"
    with pytest.raises(AssertionError, match="one stage"):
        stage_order([3, 1], "single", [1, 1])


@given(st.lists(st.integers(0, 30), min_size=1, max_size=3).filter(any))
def test_proportional_keeps_all_stages_at_the_same_share(batches):
    done = Counter()
    total = sum(batches)
    for step, stage in enumerate(stage_order(batches, "proportional", [1] * len(batches)), start=1):
        done[stage] += 1
        for other, count in enumerate(batches):
            assert abs(done[other] - Fraction(count * step, total)) < 2
    assert [done[stage] for stage in range(len(batches))] == batches


@given(
    SIZES,
    st.integers(1, 9),
    st.sampled_from(["interval", "proportional", "sequential"]),
    st.integers(1, 5),
    st.integers(0, 3),
)
def test_every_row_is_seen_once_an_epoch_and_no_batch_mixes_stages(sizes, batch_size, mixing, interval, epoch):
    batches = optimiser_batches(
        sizes, batch_size=batch_size, mixing=mixing, block=[interval] * len(sizes), seed=1, epoch=epoch
    )
    assert sorted(itertools.chain(*batches)) == list(range(sum(sizes)))
    ends = list(itertools.accumulate(sizes))
    for batch in batches:
        assert 1 <= len(batch) <= batch_size
        assert len({next(stage for stage, end in enumerate(ends) if row < end) for row in batch}) == 1


def test_the_rows_of_an_epoch_follow_from_seed_and_epoch():
    def rows(**changed):
        arguments = {"batch_size": 4, "mixing": "interval", "block": [2, 4], "seed": 0, "epoch": 0} | changed
        return optimiser_batches([10, 20], **arguments)

    assert rows() == rows()
    assert rows() != rows(epoch=1) and rows() != rows(seed=1)


def loaded(rank, ranks, accumulation, *, epoch=0, sizes=(7, 13, 3), batch_size=8):
    sampler = StageBatches(
        sizes,
        [number % 5 for number in range(sum(sizes))],
        batch_size=batch_size,
        mixing="interval",
        block=[1, 2, 1],
        accumulation=accumulation,
        rank=rank,
        ranks=ranks,
        seed=3,
    )
    sampler.set_epoch(epoch)
    assert len(list(sampler)) == len(sampler)
    return list(sampler)


@pytest.mark.parametrize(("ranks", "accumulation"), [(1, 1), (2, 1), (1, 2), (3, 1), (2, 4), (8, 2)])
def test_an_optimiser_batch_has_the_same_rows_on_any_number_of_ranks(ranks, accumulation):
    whole = [sorted(batch) for batch in loaded(0, 1, 1, epoch=2)]
    shares = [loaded(rank, ranks, accumulation, epoch=2) for rank in range(ranks)]
    for step, expected in enumerate(whole):
        passes = slice(step * accumulation, (step + 1) * accumulation)
        together = [row for share in shares for part in share[passes] for row in part if row != FILLER]
        assert sorted(together) == expected


def test_a_resumed_run_goes_on_with_the_next_batch():
    """As a trainer resumes: a new sampler, whose first batches are skipped."""
    whole = [*loaded(0, 2, 2, epoch=0), *loaded(0, 2, 2, epoch=1)]
    length = len(whole) // 2
    for done in range(len(whole)):
        epoch, skipped = divmod(done, length)
        rest = list(itertools.islice(loaded(0, 2, 2, epoch=epoch), skipped, None))
        if epoch == 0:
            rest += loaded(0, 2, 2, epoch=1)
        assert rest == whole[done:]
