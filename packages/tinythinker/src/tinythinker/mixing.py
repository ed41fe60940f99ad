"""The order in which stages are trained: block-cyclic mixing over one concatenated data set.

The data set holds the rows of the first stage, then those of the second, and so on. An *optimiser batch* is the rows of
one step of all ranks and accumulation passes together; it is of one stage. With an interval i, mixing `interval` is

    i batches of recall, i * options of analyze, i of summarize, and again, until every row was seen once

A stage that runs out of rows takes no further part in the cycle, and the others go on; its last batch is as short as
its rows make it. Source: TinyThinker, arXiv 2412.08024, section 3.2.

Departures from the authors' code:
1. A sampler, not a training loop of its own, so that resuming, accumulation and ranks are those of the trainer.
2. A batch is of one stage on all ranks together. Dealing batches of one stage to the ranks in turn mixes stages
   inside a step wherever a block does not divide by the number of ranks.
3. An epoch is every row once, where their loop began a stage anew when it ran out of rows.
4. The other mixings, for comparison.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from ._common import FILLER, EpochBatches
from .stages import Stage

Mixing = Literal["interval", "proportional", "sequential", "single"]


def blocks(stages: Sequence[Stage], interval: int, options: int) -> list[int]:
    """Batches of each stage in one round: the interval, and for analyze the interval times the options.

    options: of a question; where that varies, the mean as a whole number
    """
    return [interval * options if stage == "analyze" else interval for stage in stages]


def stage_order(batches: Sequence[int], mixing: Mixing, block: Sequence[int]) -> list[int]:
    """The stage of each batch of an epoch, as its position.

    batches: how many batches each stage has
    block: batches of each stage in one round, for `interval`

    interval: block-cyclic, as above.
    proportional: always a batch of the stage that is furthest behind, so that at any time all have done the same share.
    sequential: one stage after another.
    single: the one stage there is.
    """
    if mixing == "single":
        assert len(batches) == 1, "single is for the rows of one stage"
    if mixing in ("sequential", "single"):
        return [stage for stage, count in enumerate(batches) for _ in range(count)]
    left = list(batches)
    order: list[int] = []
    while any(left):
        if mixing == "interval":
            for stage, most in enumerate(block):
                taken = min(most, left[stage])
                order += [stage] * taken
                left[stage] -= taken
        else:
            # The middle of the next batch as a share of its stage. Of two that are equal, the earlier stage.
            waiting = [stage for stage, rest in enumerate(left) if rest]
            stage = min(waiting, key=lambda s: (batches[s] - left[s] + 0.5) / batches[s])
            order.append(stage)
            left[stage] -= 1
    return order


def optimiser_batches(
    stage_sizes: Sequence[int], *, batch_size: int, mixing: Mixing, block: Sequence[int], seed: int, epoch: int
) -> list[list[int]]:
    """The rows of each optimiser batch of an epoch, as positions in the concatenated data set.

    Every row is there once. Rows of a stage are in an order that follows from seed, epoch and the stage's position.
    """
    counts = [-(-size // batch_size) for size in stage_sizes]
    ends = np.cumsum(stage_sizes).tolist()
    queues: list[Iterator[list[int]]] = []
    for stage, (size, end) in enumerate(zip(stage_sizes, ends, strict=True)):
        rows = (end - size + np.random.default_rng((seed, epoch, stage)).permutation(size)).tolist()
        queues.append(iter([rows[start : start + batch_size] for start in range(0, size, batch_size)]))
    return [next(queues[stage]) for stage in stage_order(counts, mixing, block)]


class StageBatches(EpochBatches):
    """The micro-batches of one rank, one optimiser batch after another; `[FILLER]` where no row is left for it.

    Which rows an optimiser batch has depends neither on the number of ranks nor on how it is accumulated. A run that
    stopped after k batches goes on with the next one: the order follows from the arguments and the epoch alone.

    Args:
        stage_sizes: rows of each stage, in the order in which the data set holds them.
        lengths: tokens of each row; inside a batch the longest go together, so that no rank waits for another.
        mixing, block: as for `stage_order`.
        batch_size: rows of an optimiser batch, over all ranks and accumulation passes.
        accumulation: forward passes of an optimiser step, on each rank.
        rank, ranks: this process's number, and how many there are.
        seed: of the order inside each stage.
    """

    def __init__(
        self,
        stage_sizes: Sequence[int],
        lengths: Sequence[int],
        *,
        batch_size: int,
        mixing: Mixing,
        block: Sequence[int],
        accumulation: int,
        rank: int,
        ranks: int,
        seed: int,
    ) -> None:
        assert sum(stage_sizes) == len(lengths), "a length for each row"
        self._stage_sizes = list(stage_sizes)
        self._lengths = lengths
        self._batch_size = batch_size
        self._mixing = mixing
        self._block = block
        self._accumulation = accumulation
        self._rank = rank
        self._ranks = ranks
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return sum(-(-size // self._batch_size) for size in self._stage_sizes) * self._accumulation

    def __iter__(self) -> Iterator[list[int]]:
        for batch in optimiser_batches(
            self._stage_sizes,
            batch_size=self._batch_size,
            mixing=self._mixing,
            block=self._block,
            seed=self._seed,
            epoch=self._epoch,
        ):
            rows = sorted(batch, key=lambda row: (-self._lengths[row], row))
            parts = np.array_split(rows, self._accumulation * self._ranks)
            for part in parts[self._rank :: self._ranks]:
                yield part.tolist() or [FILLER]
