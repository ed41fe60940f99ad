"""A student on the questions of a benchmark: chains, answers, and figures that say what they rest on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ._common import (
    EvaluationResult,
    GenerationsFile,
    LoadedBenchmark,
    Problem,
    in_step,
    ranks,
    read_generations,
    summarise,
)
from .config import Answering
from .inference import Answered, Sampling, is_tied, likeliest, option_scores, reason, starts, vote
from .question_sets import QuestionSet
from .questions import LETTERS, Question, fingerprint
from .stages import summarize_prompt, summarize_target
from .student import Student

VERSION = 1  # of what an evaluation here counts; a change that moves figures changes it
TRACE = "chains"  # the folder with the texts of each stage


def evaluate_student(
    student: Student,
    questions: QuestionSet,
    answering: Answering,
    *,
    samples: int,
    sampling: Sampling,
    folder: Path | None = None,
    texts: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> EvaluationResult:
    """Answers every question; on several ranks all call this together.

    Args:
        answering: see `inference`. The log-likelihood of an answer is that of the right summary behind the chain, or
            for self-consistency the mean over the chains.
        samples: chains of each question for self-consistency; otherwise there is one, and it is greedy.
        folder: `generations.jsonl` and the texts of each stage. A run that was killed goes on from the texts.
        texts: the folder of the texts, where several ways of answering share one: `greedy` and `option_likelihood` ask
            for the same. None: one in `folder`.

    Raises:
        UserError: the folder holds texts of another student, or of other questions or settings.
    """
    sampled = answering == "self_consistency"
    draws = samples if sampled else 1
    if texts is None and folder is not None:
        texts = folder / TRACE
    answered = reason(
        student,
        starts(questions.questions, draws),
        sampled=("recall", "analyze") if sampled else (),
        sampling=sampling,
        folder=None if texts is None else texts / ("sampled" if sampled else "greedy"),
        progress=progress,
    )
    share = ranks.shard(range(len(answered)))
    with in_step(student.model):
        own = option_scores(student, [answered[i] for i in share])
    by_rank = ranks.gather(own, "scores of the options")
    scores = ranks.unshard(by_rank)
    rows = [
        answer_row(question, answering, answered[i * draws : (i + 1) * draws], scores[i * draws : (i + 1) * draws])
        for i, question in enumerate(questions.questions)
    ]
    if folder is not None:
        settings = protocol(questions, student, answering, samples=draws, sampling=sampling)
        ranks.on_main(lambda: _write(folder / "generations.jsonl", settings, rows), "write the answers")
    return figures(
        questions, rows, answering, samples=draws, sampling=sampling, chat_template=student.form.chat_template
    )


def answer_row(
    question: Question, answering: Answering, answered: Sequence[Answered], scores: Sequence[Sequence[float]]
) -> dict[str, Any]:
    """What becomes of one question. scores: of `option_scores`, for each chain"""
    predicted = [one.chain.predicted for one in answered]
    if answering == "option_likelihood":
        [own] = scores
        answer: int | None = likeliest(own)
    else:
        answer = vote(predicted, scores)
    return {
        "id": question.id,
        "sample": 0,
        "prompt_hash": fingerprint([question])[-16:],
        "text": "\n\n".join(chain_text(one) for one in answered),
        "tokens": sum(one.tokens for one in answered),
        "truncated": any(one.truncated for one in answered),
        "answer": question.answer,
        "extracted": None if answer is None else LETTERS[answer],
        "boxed": answer is not None,
        "correct": answer == question.gold,
        "timed_out": False,
        "answer_loglik": sum(own[question.gold] for own in scores) / len(scores),
        "grader": "tinythinker",
        "groups": {},
        "votes": ["-" if option is None else LETTERS[option] for option in predicted],
        "tied": is_tied(predicted),
    }


def chain_text(one: Answered) -> str:
    """The whole chain as the student wrote it."""
    chain = one.chain
    if chain.analyses or not one.summary or "Summarize:" not in chain.knowledge:
        prompt = summarize_prompt(chain.question, chain.knowledge or None, chain.analyses or None)
        return f"{prompt.reasoning} {one.summary}"
    return f"Recall: {chain.knowledge}"


def figures(
    questions: QuestionSet,
    rows: Sequence[dict[str, Any]],
    answering: Answering,
    *,
    samples: int,
    sampling: Sampling,
    chat_template: str,
) -> EvaluationResult:
    """The figures of rows; an abstention is a row without an answer (`boxed_rate` is the share that has one)."""
    return summarise(
        benchmark_of(questions),
        rows,
        samples=1,
        ks=[1],
        grader="tinythinker",
        seed=sampling.seed,
        decoding=decoding(answering, samples, sampling),
        template=summarize_target(0),
        chat_template=chat_template,
    )


def read_figures(questions: QuestionSet, folder: Path, answering: Answering) -> EvaluationResult:
    """The figures of a folder that `evaluate_student` wrote."""
    settings, rows = read_generations(folder / "generations.jsonl")
    return figures(
        questions,
        rows,
        answering,
        samples=settings["chains"],
        sampling=Sampling(settings["temperature"], settings["top_k"], settings["seed"]),
        chat_template=settings["chat_template"],
    )


def decoding(answering: Answering, samples: int, sampling: Sampling) -> dict[str, Any]:
    sampled = answering == "self_consistency"
    return {
        "answering": answering,
        "chains": samples,
        "temperature": sampling.temperature if sampled else 0.0,
        "top_k": sampling.top_k if sampled else 0,
    }


def protocol(
    questions: QuestionSet, student: Student, answering: Answering, *, samples: int, sampling: Sampling
) -> dict[str, Any]:
    """What two evaluations must share before they are compared, and what these rows depend on."""
    return {
        "benchmark": questions.name,
        "version": VERSION,
        "split": questions.split,
        "revision": questions.revision,
        "questions": fingerprint(questions.questions),
        "grader": "tinythinker",
        "chat_template": student.form.chat_template,
        "seed": sampling.seed,
        **decoding(answering, samples, sampling),
    }


def benchmark_of(questions: QuestionSet) -> LoadedBenchmark:
    """The questions as the base counts them: by the letter, with the options as what blind guessing chooses from."""
    problems = tuple(
        Problem(question.id, question.text, question.answer, "text", metadata={"options": list(question.options)})
        for question in questions.questions
    )
    return LoadedBenchmark(questions.name, questions.split, problems, questions.revision, questions.source, VERSION)


def _write(path: Path, settings: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    """The rows follow from the texts of the stages, so a file of a killed run is written anew."""
    path.unlink(missing_ok=True)
    with GenerationsFile(path, json.loads(json.dumps(settings))) as file:
        file.append(rows)
