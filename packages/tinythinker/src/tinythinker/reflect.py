"""What stands between two iterations of phase 2: the student's chains on the training questions, and pairs of them.

    recall pass    recalls are drawn; analyses and summaries are greedy
    analyze pass   after fixed recalls, analyses are drawn; summaries are greedy

The recalls of the analyze pass are those that the recall pass prefers, or where it prefers none, what the first draw
recalled. A student without a stage skips its pass.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ._common import ranks, write_atomic
from .config import ReflectionSettings
from .inference import Answered, Sampling, Start, reason, starts
from .questions import Question, plain
from .reflection import Pair, analyze_pairs, recall_pairs
from .student import Student

PAIRS = "pairs.jsonl"


@dataclass(frozen=True)
class Reflected:
    """pairs: what the iteration trains on; statistics: of chains and pairs, as plain data"""

    pairs: list[Pair]
    statistics: dict[str, Any]


def reflect(
    student: Student,
    questions: Sequence[Question],
    teacher_recalls: Mapping[str, Sequence[str]],
    settings: ReflectionSettings,
    *,
    iteration: int,
    seed: int,
    folder: Path,
    progress: Callable[[str], Callable[[int, int], None] | None] = lambda name: None,
) -> Reflected:
    """The pairs of an iteration; on several ranks all call this together, with the whole model on each.

    Args:
        student: that of the iteration before.
        teacher_recalls: question id -> what a teacher recalls.
        seed: of the run; draws differ from iteration to iteration.
        folder: texts and pairs go there; a run that was killed goes on from the texts.
        progress: name of a pass -> what it tells how far it is.
    """
    chosen = drawn_questions(questions, settings.limit, seed=seed, iteration=iteration)
    sampling = Sampling(settings.temperature, settings.top_k, stream(seed, iteration))
    pairs: list[Pair] = []
    statistics: dict[str, Any] = {"questions": len(chosen)}
    recalls: dict[str, list[str | None]] = {question.id: [None] for question in chosen}

    if "recall" in student.form.stages:
        answered = reason(
            student,
            starts(chosen, settings.samples),
            sampled=["recall"],
            sampling=sampling,
            folder=folder / "recall-pass",
            progress=progress("recall pass"),
        )
        found = recall_pairs([one.chain for one in answered], teacher_recalls, iteration=iteration, seed=seed)
        statistics["recall_pass"] = pass_statistics(answered)
        recalls = fixed_recalls(chosen, answered, settings.recalls)
        if "recall" in settings.stages:
            pairs += found
    if "analyze" in settings.stages:
        begun = [
            Start(question, draw, knowledge)
            for question in chosen
            for knowledge in recalls[question.id]
            for draw in range(settings.samples)
        ]
        answered = reason(
            student,
            begun,
            sampled=["analyze"],
            sampling=sampling,
            folder=folder / "analyze-pass",
            progress=progress("analyze pass"),
        )
        pairs += analyze_pairs([one.chain for one in answered], settings.pairs, iteration=iteration, seed=seed)
        statistics["analyze_pass"] = pass_statistics(answered)
    statistics["pairs"] = pair_statistics(pairs)
    lines = "".join(json.dumps(pair.to_row(), ensure_ascii=False) + "\n" for pair in pairs)
    ranks.on_main(lambda: write_atomic(folder / PAIRS, lines), "write the pairs")
    return Reflected(pairs, statistics)


def drawn_questions(questions: Sequence[Question], limit: int | None, *, seed: int, iteration: int) -> list[Question]:
    """At most `limit` of the questions, in their order."""
    if limit is None or limit >= len(questions):
        return list(questions)
    rng = random.Random(f"questions/{seed}/{iteration}")
    return [questions[index] for index in sorted(rng.sample(range(len(questions)), limit))]


def stream(seed: int, iteration: int) -> int:
    """A seed for the draws of an iteration."""
    return random.Random(f"draws/{seed}/{iteration}").getrandbits(31)


def fixed_recalls(
    questions: Sequence[Question], answered: Sequence[Answered], count: int
) -> dict[str, list[str | None]]:
    """Question id -> up to `count` different recalls to draw analyses after: of right chains first, in their order."""
    found: dict[str, dict[str, str]] = {question.id: {} for question in questions}
    for one in sorted(answered, key=lambda one: not one.chain.right):  # stable: draws keep their order
        if plain(one.chain.knowledge):
            found[one.chain.question.id].setdefault(plain(one.chain.knowledge), one.chain.knowledge)
    return {name: [*list(texts.values())[:count]] or [None] for name, texts in found.items()}


def pass_statistics(answered: Sequence[Answered]) -> dict[str, Any]:
    """Counts over the chains of a pass, and over their questions."""
    right: Counter[str] = Counter()
    draws: Counter[str] = Counter()
    for one in answered:
        draws[one.chain.question.id] += 1
        right[one.chain.question.id] += one.chain.right
    return {
        "chains": len(answered),
        "right": sum(right.values()),
        "abstained": sum(one.chain.predicted is None for one in answered),
        "truncated": sum(one.truncated for one in answered),
        "questions_all_right": sum(right[name] == draws[name] for name in draws),
        "questions_all_wrong": sum(right[name] == 0 for name in draws),
    }


def pair_statistics(pairs: Sequence[Pair]) -> dict[str, int]:
    return {
        "recall": sum(pair.stage == "recall" for pair in pairs),
        "recall_from_teacher": sum(pair.provenance.chosen_source == "teacher" for pair in pairs),
        "analyze": sum(pair.stage == "analyze" for pair in pairs),
        "analyze_of_gold": sum(pair.option == pair.question.gold for pair in pairs),
        "questions": len({pair.question.id for pair in pairs}),
    }
