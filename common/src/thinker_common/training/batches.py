"""Which examples each rank trains on: every example once an epoch, whatever the number of ranks.

accelerate fills a short last batch with examples from the start of the data, so that those count twice, and how many
depends on the number of ranks. Here a short batch stays short, and a rank that has nothing left gets a batch that
counts for nothing: it takes part in every collective, and its loss is multiplied by zero.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset, Sampler

FILLER = -1  # in place of an example's number: a row that counts for nothing


class EpochBatches(Sampler[list[int]]):
    """Micro-batches whose order is another one in each epoch."""

    def set_epoch(self, epoch: int) -> None:
        raise NotImplementedError


class MicroBatches(EpochBatches):
    """The micro-batches of one rank: numbers of examples, or `[FILLER]` where there are none left for it.

    An epoch is a seeded permutation of the examples, cut into batches of `micro_batch_size * accumulation * ranks`.
    Inside a batch the longest go together: ranks that run side by side then have rows of similar length, and neither
    waits for the other. Which batch an example is in depends on seed and epoch alone: runs with the same product of the
    three see the same batches.

    Args:
        lengths: tokens of each example.
        micro_batch_size: examples of one forward pass of one rank, at most.
        accumulation: forward passes of an optimiser step.
        rank, ranks: this process's number, and how many there are.
        seed: of the order.
    """

    def __init__(
        self, lengths: Sequence[int], *, micro_batch_size: int, accumulation: int, rank: int, ranks: int, seed: int
    ) -> None:
        self._lengths = lengths
        self._batch_size = micro_batch_size * accumulation * ranks
        self._accumulation = accumulation
        self._rank = rank
        self._ranks = ranks
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return -(-len(self._lengths) // self._batch_size) * self._accumulation

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng((self._seed, self._epoch)).permutation(len(self._lengths)).tolist()
        for start in range(0, len(order), self._batch_size):
            rows = sorted(order[start : start + self._batch_size], key=lambda row: (-self._lengths[row], row))
            parts = np.array_split(rows, self._accumulation * self._ranks)
            for part in parts[self._rank :: self._ranks]:
                yield part.tolist() or [FILLER]


class WithFillers(Dataset[tuple[Any, bool]]):
    """(example, whether it counts). A filler is the first example, which counts for nothing."""

    def __init__(self, examples: Any) -> None:
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, number: int) -> tuple[Any, bool]:
        return self._examples[max(number, 0)], number != FILLER


class EpochLoader(DataLoader[Any]):
    """A DataLoader that passes the epoch on to its batch sampler, as transformers' Trainer asks of a loader."""

    def set_epoch(self, epoch: int) -> None:
        assert isinstance(self.batch_sampler, EpochBatches)
        self.batch_sampler.set_epoch(epoch)
