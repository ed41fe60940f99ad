"""A student on one question: its chains, how likely it finds each part of them, and what the recall does.

For each draw the log-likelihood of a text is log p(text | its prompt), the end-of-sequence token included. The answer
is then looked for again with the recall of the greedy chain

    own       as it is
    blank     left out of every prompt
    swapped   replaced by another text: what the student recalls about another question

each time with greedy analyses and summary. An answer that does not change with its recall does not rest on it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from .._common import AnswerScorer, ScoringItem
from ..inference import Answered, Sampling, Start, likeliest, option_scores, reason, starts, vote
from ..questions import LETTERS, Question
from ..stages import Prompt, analyze_prompt, recall_prompt, summarize_prompt
from ..student import Student


@dataclass(frozen=True)
class Part:
    """A text of a chain.

    stage: "recall", "analyze A", "summarize"
    loglik: in nats; NaN where the text has no tokens
    """

    stage: str
    text: str
    loglik: float


@dataclass(frozen=True)
class Seen:
    """A chain: its parts in order, the answer, and what each option scores as the end of it, in nats."""

    name: str
    parts: tuple[Part, ...]
    answer: str | None
    truncated: bool
    scores: tuple[float, ...]

    @property
    def likeliest(self) -> str:
        return LETTERS[likeliest(self.scores)]


@dataclass(frozen=True)
class Look:
    """greedy, draws: chains; votes: answer -> number of draws; voted: by `inference.vote`; recalls: see above"""

    question: Question
    gold_known: bool
    greedy: Seen
    draws: tuple[Seen, ...]
    votes: dict[str, int]
    voted: str | None
    recalls: tuple[Seen, ...]


def look_at(
    student: Student,
    question: Question,
    *,
    gold_known: bool,
    samples: int,
    sampling: Sampling,
    other: Question | None = None,
    swap: str | None = None,
) -> Look:
    """samples: draws, none for 0; other: the question whose recall is swapped in; swap: that recall itself"""
    [greedy] = _seen(student, reason(student, starts([question], 1), sampled=(), sampling=sampling), ["greedy"])
    drawn: list[Answered] = []
    if samples:
        drawn = reason(student, starts([question], samples), sampled=("recall", "analyze"), sampling=sampling)
    draws = _seen(student, drawn, [f"draw {number}" for number in range(1, samples + 1)])
    predicted = [one.chain.predicted for one in drawn]
    voted = vote(predicted, [seen.scores for seen in draws])
    recalls: list[Seen] = []
    if "recall" in student.form.stages and not student.form.one_pass:
        if swap is None and other is not None:
            [theirs] = reason(student, starts([other], 1), sampled=(), sampling=sampling)
            swap = theirs.chain.knowledge
        own = greedy.parts[0].text
        given = {"own": own, "blank": "", **({} if swap is None else {"swapped": swap})}
        again = reason(student, [Start(question, 0, text) for text in given.values()], sampled=(), sampling=sampling)
        recalls = _seen(student, again, list(given))
    return Look(
        question,
        gold_known,
        greedy,
        tuple(draws),
        dict(Counter("-" if option is None else LETTERS[option] for option in predicted)),
        None if voted is None else LETTERS[voted],
        tuple(recalls),
    )


def _seen(student: Student, answered: Sequence[Answered], names: Sequence[str]) -> list[Seen]:
    parts = [_parts(student, one) for one in answered]
    scorable = [(prompt, text) for own in parts for _, prompt, text in own if text.strip()]
    items = [ScoringItem(student.prompt_ids(prompt), [], student.target_ids(text)) for prompt, text in scorable]
    budget = student.form.generation.max_tokens_per_batch
    scores = iter(AnswerScorer(student.model, student.tokenizer, max_tokens_per_batch=budget).score(items))
    options = option_scores(student, answered)
    return [
        Seen(
            name,
            tuple(Part(stage, text, next(scores).sum if text.strip() else math.nan) for stage, _, text in own),
            None if one.chain.predicted is None else LETTERS[one.chain.predicted],
            one.truncated,
            tuple(scored),
        )
        for name, one, own, scored in zip(names, answered, parts, options, strict=True)
    ]


def _parts(student: Student, one: Answered) -> list[tuple[str, Prompt, str]]:
    """(stage, prompt, text) of each text of a chain, in order."""
    chain, question = one.chain, one.chain.question
    if student.form.one_pass:
        return [("chain", recall_prompt(question), chain.knowledge)]
    knowledge = chain.knowledge or None
    parts = []
    if "recall" in student.form.stages:
        parts.append(("recall", recall_prompt(question), chain.knowledge))
    parts += [
        (f"analyze {LETTERS[option]}", analyze_prompt(question, option, knowledge), text)
        for option, text in enumerate(chain.analyses)
    ]
    return [*parts, ("summarize", summarize_prompt(question, knowledge, chain.analyses or None), one.summary)]
