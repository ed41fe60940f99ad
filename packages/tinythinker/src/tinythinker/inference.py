"""Answering by the three stages: recall, then an analysis of each option, then the summary.

    chains = reason(student, [Start(question) for question in questions], sampled=(), ...)      # greedy
    chains = reason(student, starts(questions, draws=10), sampled=("recall", "analyze"), ...)   # for a vote

All questions go through a stage together, so that its batches are of similar lengths. What is asked twice is generated
once: equal prompts that are continued greedily are one, and of sampled ones the prompt is read once for all draws
(causal students share its keys and values, encoder-decoder students its encoding).

A sampled text follows from the seed, its question, its prompt and the number of its draw alone, and every text is
written down as it is finished: a run that was killed goes on to the same chains.

Three ways to an answer:

    greedy              what the summary of the greedy chain names; nothing is an abstention
    self_consistency    what most of the sampled chains name; of ties, the option whose summaries are likelier together
    option_likelihood   the option X of which the greedy chain makes "So the answer is option X." likeliest
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ._common import AnswerScorer, Generation, Generator, ScoringItem, all_rows, model_fingerprint, naming_what_to_lower
from .questions import Question, plain
from .reflection import Chain
from .stages import Prompt, Stage, analyze_prompt, answered_option, recall_prompt, summarize_prompt, summarize_target
from .student import Student

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Sampling:
    """How sampled stages are drawn. temperature 0: greedily"""

    temperature: float = 0.7
    top_k: int = 0
    seed: int = 0


class Start(NamedTuple):
    """Where a chain begins.

    draw: number of the sample
    knowledge: a recall to go on from; None: the student recalls
    """

    question: Question
    draw: int = 0
    knowledge: str | None = None


@dataclass(frozen=True, slots=True)
class Answered:
    """A chain and how it was written.

    summary: what the student wrote last
    tokens: of all its texts; a text that several chains share counts in each
    truncated: whether a text was cut at its longest
    """

    chain: Chain
    summary: str
    tokens: int
    truncated: bool


class Request(NamedTuple):
    """A prompt, and what its sampled text follows from beside the seed; "" for a greedy one."""

    prompt: Prompt
    key: str = ""


def starts(questions: Sequence[Question], draws: int) -> list[Start]:
    return [Start(question, draw) for question in questions for draw in range(draws)]


def reason(
    student: Student,
    begun: Sequence[Start],
    *,
    sampled: Collection[Stage],
    sampling: Sampling,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> list[Answered]:
    """The chain of each start, in their order; on several ranks all call this together.

    Args:
        sampled: stages whose texts are drawn; the others are greedy.
        folder: a file for each stage, to which texts are added as they finish, and from which a killed run goes on.
        progress: called with (texts done, texts in all) of the stage that is under way.

    Raises:
        UserError: `folder` holds texts of another student or other starts; a prompt for which the model has no room.
    """
    if student.form.one_pass:
        return _one_pass(student, begun, bool(sampled), sampling, folder, progress)
    stages, written = student.form.stages, _Writer(student, sampling, folder, progress)
    length = student.form.generation

    # Nothing is asked of the student where the recall is given, or where it has no such stage.
    asked = [start for start in begun if start.knowledge is None] if "recall" in stages else []
    draws = "recall" in sampled
    recalled = iter(
        written.texts(
            "recall",
            [Request(recall_prompt(s.question), f"{s.question.id}/{s.draw}" if draws else "") for s in asked],
            length.recall_tokens,
        )
    )
    recalls = [
        next(recalled) if start.knowledge is None and "recall" in stages else _given(start.knowledge or "")
        for start in begun
    ]

    draws = "analyze" in sampled
    judged: list[list[Generation]] = [[] for _ in begun]
    if "analyze" in stages:
        requests = [
            Request(
                analyze_prompt(start.question, option, recall.text or None),
                f"{start.question.id}/{start.draw}/{option}" if draws else "",
            )
            for start, recall in zip(begun, recalls, strict=True)
            for option in range(len(start.question.options))
        ]
        analyses = iter(written.texts("analyze", requests, length.analyze_tokens))
        judged = [[next(analyses) for _ in start.question.options] for start in begun]

    summaries = written.texts(
        "summarize",
        [
            Request(summarize_prompt(start.question, recall.text or None, [a.text for a in own] or None))
            for start, recall, own in zip(begun, recalls, judged, strict=True)
        ],
        length.summarize_tokens,
    )
    return [
        Answered(
            Chain(
                start.question,
                recall.text,
                tuple(analysis.text for analysis in own),
                answered_option(summary.text, start.question),
                start.draw,
            ),
            summary.text,
            sum(len(text.token_ids) for text in (recall, *own, summary)),
            any(text.truncated for text in (recall, *own, summary)),
        )
        for start, recall, own, summary in zip(begun, recalls, judged, summaries, strict=True)
    ]


def _one_pass(
    student: Student,
    begun: Sequence[Start],
    sampled: bool,
    sampling: Sampling,
    folder: Path | None,
    progress: Progress | None,
) -> list[Answered]:
    """The chain-of-thought baseline: everything after `Recall:` is one text."""
    options = max((len(start.question.options) for start in begun), default=0)
    texts = _Writer(student, sampling, folder, progress).texts(
        "recall",
        [
            Request(recall_prompt(start.question), f"{start.question.id}/{start.draw}" if sampled else "")
            for start in begun
        ],
        student.longest_text("recall", options),
    )
    found = []
    for start, text in zip(begun, texts, strict=True):
        _, _, summary = text.text.rpartition("Summarize:")
        chain = Chain(start.question, text.text, (), answered_option(text.text, start.question), start.draw)
        found.append(Answered(chain, summary.strip(), len(text.token_ids), text.truncated))
    return found


class _Writer:
    """Texts of one stage after another, kept in a folder where there is one."""

    def __init__(self, student: Student, sampling: Sampling, folder: Path | None, progress: Progress | None) -> None:
        self._student = student
        self._sampling = sampling
        self._folder = folder
        self._progress = progress
        self._fingerprint = model_fingerprint(student.model)

    def texts(self, stage: Stage, requests: Sequence[Request], longest: int) -> list[Generation]:
        """The text of each request, white space as single spaces but in a chain of one pass; longest: in tokens"""
        if not requests:
            return []
        student, sampling = self._student, self._sampling
        distinct = list(dict.fromkeys(requests))
        sampled = bool(distinct[0].key) and sampling.temperature > 0
        prompts = {request: student.prompt_ids(request.prompt) for request in distinct}
        names = {request: _name(request) for request in distinct}
        generator = Generator(
            student.model,
            student.tokenizer,
            max_new_tokens=longest,
            temperature=sampling.temperature if sampled else 0.0,
            top_k=sampling.top_k if sampled else 0,
            max_tokens_per_batch=student.form.generation.max_tokens_per_batch,
            seed=sampling.seed,
        )
        generator.check_lengths(list(prompts.values()))

        def make(share: list[Request], append: Callable[[Sequence[dict[str, Any]]], None]) -> None:
            def on_batch(indices: Sequence[int], texts: Sequence[Generation]) -> None:
                append([_row(names[share[i]], share[i], text) for i, text in zip(indices, texts, strict=True)])

            keys = [names[request] for request in share]
            with naming_what_to_lower(f"generating for {stage}", _memory(student, stage)):
                generator.generate([prompts[request] for request in share], on_batch, keys=keys)

        rows = all_rows(
            distinct,
            make,
            key=lambda request: (names[request], 0),
            length=lambda request: len(prompts[request]),
            output=None if self._folder is None else self._folder / f"{stage}.jsonl",
            settings={
                "stage": stage,
                "model": self._fingerprint,
                "texts": _hash([*names.values()]),
                "max_new_tokens": longest,
                "temperature": generator.temperature,
                "top_k": generator.top_k,
                "seed": sampling.seed if sampled else None,
            },
            progress=self._progress,
            name=stage,
            model=student.model,
        )
        tidy: Callable[[str], str] = str.strip if student.form.one_pass else plain
        found = {
            request: Generation(tuple(row["token_ids"]), tidy(row["text"]), row["truncated"])
            for request, row in zip(distinct, rows, strict=True)
        }
        return [found[request] for request in requests]


def _memory(student: Student, stage: Stage) -> str:
    """What to lower where memory runs out in a stage."""
    length = student.form.generation
    longest = {
        "recall": length.recall_tokens, "analyze": length.analyze_tokens, "summarize": length.summarize_tokens
    }[stage]  # fmt: skip
    return (
        f"generation.max_tokens_per_batch (now {length.max_tokens_per_batch}) for fewer texts at once, or "
        f"generation.{stage}_tokens (now {longest}) for shorter ones"
    )


def _row(name: str, request: Request, text: Generation) -> dict[str, Any]:
    return {
        "id": name,
        "prompt": request.prompt.text(),
        "text": text.text,
        "token_ids": list(text.token_ids),
        "truncated": text.truncated,
    }


def _given(knowledge: str) -> Generation:
    return Generation((), knowledge, truncated=False)


def _name(request: Request) -> str:
    return _hash([request.prompt.question, request.prompt.reasoning, request.key])


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:24]


# -------------------------------------------------------------------------------------------------------------- answers


def option_scores(student: Student, answered: Sequence[Answered]) -> list[list[float]]:
    """For each chain the log-likelihood, in nats, of "So the answer is option X." at its end, for each option X."""
    items: list[ScoringItem] = []
    for one in answered:
        question = one.chain.question
        prompt, written = _before_summary(student, one)
        items += [
            ScoringItem(prompt, written, student.target_ids(summarize_target(option)))
            for option in range(len(question.options))
        ]
    budget = student.form.generation.max_tokens_per_batch
    scorer = AnswerScorer(student.model, student.tokenizer, max_tokens_per_batch=budget)
    with naming_what_to_lower("scoring the options", f"generation.max_tokens_per_batch (now {budget})"):
        sums = iter([score.sum for score in scorer.score(items)])
    return [[next(sums) for _ in one.chain.question.options] for one in answered]


def _before_summary(student: Student, one: Answered) -> tuple[list[int], list[int]]:
    """What the student reads before a summary, and what it has written before it, as token ids."""
    chain = one.chain
    if not student.form.one_pass:
        prompt = summarize_prompt(chain.question, chain.knowledge or None, chain.analyses or None)
        return student.prompt_ids(prompt), []
    chain_text, tag, _ = chain.knowledge.rpartition("Summarize:")
    written = f"{chain_text}{tag}" if tag else f"{chain.knowledge} Summarize:"
    return student.prompt_ids(recall_prompt(chain.question)), student.target_ids(written)[:-1]


def likeliest(scores: Sequence[float]) -> int:
    """The position of the largest; of equal ones the first."""
    return max(range(len(scores)), key=lambda option: (scores[option], -option))


def vote(predicted: Sequence[int | None], scores: Sequence[Sequence[float]] | None = None) -> int | None:
    """What most chains name; None if none names an option.

    scores: of `option_scores`, for each chain; they decide ties, by the sum over the chains that name the option.
        Without them a tie goes to the option that was named first.
    """
    named = [option for option in predicted if option is not None]
    if not named:
        return None
    most = max(named.count(option) for option in named)
    tied = [option for option in dict.fromkeys(named) if named.count(option) == most]
    if len(tied) == 1 or scores is None:
        return tied[0]
    return max(
        tied,
        key=lambda option: sum(own[option] for own, choice in zip(scores, predicted, strict=True) if choice == option),
    )


def is_tied(predicted: Sequence[int | None]) -> bool:
    named = [option for option in predicted if option is not None]
    counts = sorted((named.count(option) for option in set(named)), reverse=True)
    return len(counts) > 1 and counts[0] == counts[1]
