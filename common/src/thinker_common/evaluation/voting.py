"""maj@k: a majority vote among k of a question's m samples.

Samples vote for their answer, and answers that are equal (as answers, not as texts) count together. A sample without
an answer does not vote; a question without any vote is wrong. If t answers lead, and one of them is right, the question
scores 1/t. With m > k samples the score is the mean over subsets of k: all of them where there are few, otherwise
seeded draws. The gold plays no part in the vote; a group of equal answers is right if its first sample is.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

DRAWS = 200  # subsets of k; there are more than that only with about ten samples or more


def group_answers(answers: Sequence[str | None], same: Callable[[str, str], bool]) -> list[int | None]:
    """For each answer the position of the first one that is equal to it; None for None.

    same: asked of (first of a group, answer) only; equal strings are equal without asking
    """
    groups: list[int | None] = []
    first_with: dict[str, int] = {}
    leaders: list[int] = []
    for position, answer in enumerate(answers):
        if answer is None:
            groups.append(None)
            continue
        if answer not in first_with:
            equal = (leader for leader in leaders if same(answers[leader] or "", answer))
            first_with[answer] = next(equal, position)
            if first_with[answer] == position:
                leaders.append(position)
        groups.append(first_with[answer])
    return groups


def maj_at_k(groups: Sequence[int | None], right: Sequence[bool], k: int, *, seed: int = 0, key: str = "") -> float:
    """The score of one question: groups of its samples' answers, whether each sample is right, 1 <= k <= samples.

    seed, key: what the draws follow from; the key is the question's id
    """
    assert 1 <= k <= len(groups) == len(right)
    scores = [_vote([groups[i] for i in subset], right) for subset in _subsets(len(groups), k, seed, key)]
    return math.fsum(scores) / len(scores)


def _vote(votes: Sequence[int | None], right: Sequence[bool]) -> float:
    counts = Counter(vote for vote in votes if vote is not None)
    if not counts:
        return 0.0
    most = max(counts.values())
    leaders = [group for group, count in counts.items() if count == most]
    return sum(right[leader] for leader in leaders) / len(leaders)


def _subsets(samples: int, k: int, seed: int, key: str) -> Iterator[Sequence[int]]:
    if math.comb(samples, k) <= DRAWS:
        yield from itertools.combinations(range(samples), k)
        return
    digest = hashlib.sha256(repr((seed, key, k)).encode()).digest()
    draw = random.Random(int.from_bytes(digest[:8], "big"))
    for _ in range(DRAWS):
        yield draw.sample(range(samples), k)
