"""Batches of similar lengths under a token budget, so that little of a batch is padding."""

from __future__ import annotations

from collections.abc import Sequence


def token_budget_batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Indices of `lengths` in batches: longest first, similar lengths together, equal ones in their order.

    A batch of n items whose longest has length L is padded to n * L tokens, and n * L <= max_tokens. An item longer
    than the budget makes a batch of one. Every index occurs once.

    Raises:
        ValueError: a budget below 1.
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, not {max_tokens}")
    batches: list[list[int]] = []
    longest = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not batches or longest * (len(batches[-1]) + 1) > max_tokens:
            batches.append([])
            longest = lengths[index]
        batches[-1].append(index)
    return batches
