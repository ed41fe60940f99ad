"""Batches of similar lengths under a token budget, so that little of a batch is padding."""

from __future__ import annotations

from collections.abc import Sequence

# Below this many tokens, one batch more costs a device more time than the padding in a larger one.
SMALL_BATCH = 256


def token_budget_batches(lengths: Sequence[int], max_tokens: int, *, max_padding: float = 1.0) -> list[list[int]]:
    """Indices of `lengths` in batches: longest first, similar lengths together, equal ones in their order.

    A batch of n items whose longest has length L is padded to n * L tokens, and n * L <= max_tokens. An item longer
    than the budget makes a batch of one. Every index occurs once.

    Args:
        max_padding: a batch of `SMALL_BATCH` tokens or more ends where padding would become more than this share of it.

    Raises:
        ValueError: a budget below 1.
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, not {max_tokens}")
    batches: list[list[int]] = []
    longest = tokens = 0  # of the last batch: the padded length of a row, and what of all rows is not padding
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        padded = longest * (len(batches[-1]) + 1) if batches else 0
        mostly_padding = tokens >= SMALL_BATCH and tokens + lengths[index] < (1 - max_padding) * padded
        if not batches or padded > max_tokens or mostly_padding:
            batches.append([])
            longest, tokens = lengths[index], 0
        batches[-1].append(index)
        tokens += lengths[index]
    return batches
