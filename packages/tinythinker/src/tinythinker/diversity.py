"""Which of a question's explanations are used: those that agree with the label, and that differ from each other.

Pure functions; a choice is a list of positions, in the order of the explanations.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

LabelPolicy = Literal["keep_gold", "drop_disagreeing", "vote"]

MIN_EDITS = 10  # texts that differ by no more are taken for one text in two wordings (the authors' threshold)


class Labelled(NamedTuple):
    """The label of a question, and the explanations that argue for it.

    label: position of an option; None where the question is left out
    kept: positions of explanations
    """

    label: int | None
    kept: list[int]


def agreeing(called_correct: Sequence[int], gold: int, policy: LabelPolicy) -> Labelled:
    """The label under a policy, and the explanations that call it correct.

    called_correct: for each explanation, the position of the option that it calls correct

    keep_gold: the label is the gold one. An explanation of another answer is left out, the question stays.
    drop_disagreeing: as keep_gold, but the question is left out where most explanations call one other option correct,
        which hints at a wrong gold label.
    vote: the label is what most explanations call correct, whatever the gold one is (the authors' rule).

    Of options that are called correct equally often the gold one wins, else the one named first.
    """
    votes = Counter(called_correct)
    winner = max(votes, key=lambda option: (votes[option], option == gold), default=gold)
    if policy == "drop_disagreeing" and winner != gold:
        return Labelled(None, [])
    label = winner if policy == "vote" else gold
    return Labelled(label, [position for position, option in enumerate(called_correct) if option == label])


def diverse(texts: Sequence[str], keep: int, *, min_edits: int = MIN_EDITS) -> list[int]:
    """Up to `keep` texts that differ from each other, in their order; of equal texts only the first.

    First come texts that are more than `min_edits` edits away from every other text. Where they are too few, each next
    one is the text whose nearest chosen text is farthest away.
    """
    distinct = [position for position, text in enumerate(texts) if text not in texts[:position]]
    if len(distinct) <= keep:
        return distinct
    apart = {
        (one, other): edit_distance(texts[one], texts[other]) for one in distinct for other in distinct if one < other
    }

    def distance(one: int, others: Sequence[int]) -> int:
        return min(apart[min(one, other), max(one, other)] for other in others if other != one)

    chosen = [one for one in distinct if distance(one, distinct) > min_edits][:keep] or distinct[:1]
    while len(chosen) < keep:
        rest = [one for one in distinct if one not in chosen]
        chosen.append(max(rest, key=lambda one: (distance(one, chosen), -one)))
    return sorted(chosen)


def edit_distance(one: str, other: str) -> int:
    """Insertions, deletions and replacements of single characters that lead from one text to the other.

    Row by row of the usual table, a row being two integers: the bits of `up` say where the value rises by one from one
    character of `one` to the next, those of `down` where it falls (Hyyrö 2003, after Myers 1999). Thousands of
    questions with some explanations each are compared in seconds.
    """
    if not one:
        return len(other)
    places: dict[str, int] = {}
    for position, character in enumerate(one):
        places[character] = places.get(character, 0) | 1 << position
    every, last = (1 << len(one)) - 1, 1 << (len(one) - 1)
    up, down, distance = every, 0, len(one)
    for character in other:
        same = places.get(character, 0)
        diagonal = (((same & up) + up) ^ up) | same | down
        right_up, right_down = (down | ~(diagonal | up)) & every, diagonal & up
        distance += bool(right_up & last) - bool(right_down & last)
        right_up, right_down = right_up << 1 | 1, right_down << 1
        up, down = (right_down | ~(diagonal | right_up)) & every, right_up & diagonal & every
    return distance
