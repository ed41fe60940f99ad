"""Sampling whose every token follows from a seed, the key of the problem, the number of the sample and the position.

Gumbel-max (Gumbel 1954; Maddison et al. 2014, arXiv 1411.0030): argmax_v (log p_v + g_v), with independent Gumbel noise
g_v, is a draw from p. The noise is counter-based: a row's word for a position is a hash of (stream, position), and its
noise for token v is the v-th output of SplitMix64 (Steele et al. 2014) from that word. No generator carries a state
from row to row or from token to token, so that a row draws the same noise in any batch, in any order, after any
restart.

Guaranteed: the noise. It is computed in integers, which are the same on every device; only the last bit of its
logarithms may differ between devices. A token can therefore differ between two batches, or two machines, only where the
logits do, and where that rounding decides between two nearly equal sums.

Shape legend: B rows, T tokens a row, V vocabulary size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)


def stream_seed(seed: int, key: str, sample: int) -> int:
    """A number in [0, 2^63) for one sample of one problem."""
    return _hash(repr((seed, key, sample))) >> 1


def sampling_processors(
    temperature: float, top_k: int, top_p: float, streams: Sequence[int], positions: Sequence[int]
) -> LogitsProcessorList:
    """What turns the greedy `generate(do_sample=False)` into seeded sampling, for one call of it.

    temperature: above 0; top_k: 0 for the whole vocabulary; top_p: 1 for all of its mass
    streams: `stream_seed` of each row; positions: how many response tokens each row already has
    """
    processors = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k > 0:
        processors.append(TopKLogitsWarper(top_k))
    if top_p < 1.0:
        processors.append(TopPLogitsWarper(top_p))
    processors.append(GumbelMax(streams, positions))
    return processors


NOISE_AT_ONCE = 2**22  # numbers


class GumbelMax(LogitsProcessor):
    """Adds each row's own Gumbel noise, so that the largest score is a draw from the softmax of the scores."""

    def __init__(self, streams: Sequence[int], positions: Sequence[int]) -> None:
        self.streams = streams
        self.positions = list(positions)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        words = [_hash(f"{s} {p}") - (1 << 63) for s, p in zip(self.streams, self.positions, strict=True)]
        self.positions = [position + 1 for position in self.positions]
        words_B = torch.tensor(words, device=scores.device)
        # A few rows at a time: the integers of the noise take six times the memory of the scores.
        rows = max(1, NOISE_AT_ONCE // scores.shape[-1])
        parts = zip(scores.split(rows), words_B.split(rows), strict=True)
        return torch.cat([part + gumbel_noise(words_of_part, scores.shape[-1]) for part, words_of_part in parts])


# SplitMix64's constants as the signed 64-bit numbers that torch multiplies modulo 2^64.
_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)
_FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)
_SECOND = 0x94D049BB133111EB - (1 << 64)


def gumbel_noise(words_B: Tensor, vocabulary: int) -> Tensor:
    """Standard Gumbel noise g_BV in float32 from one signed 64-bit word a row."""
    z_BV = words_B[:, None] + torch.arange(1, vocabulary + 1, device=words_B.device) * _GAMMA
    z_BV = (z_BV ^ _shift_right(z_BV, 30)) * _FIRST
    z_BV = (z_BV ^ _shift_right(z_BV, 27)) * _SECOND
    z_BV = z_BV ^ _shift_right(z_BV, 31)
    # Of g = -log(E) with E = -log(1 - u), the large values decide, and they come from small u: there float32 holds all
    # of the 53 bits' resolution (down to 2^-53, g = 36.7). u = 0 and u = 1 would be infinite.
    uniform_BV = (_shift_right(z_BV, 11) | 1).float() * 2.0**-53
    return -torch.log(-torch.log1p(-uniform_BV.clamp(max=1 - 2.0**-24)))


def _shift_right(z: Tensor, bits: int) -> Tensor:
    """A logical shift: torch's own one repeats the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
