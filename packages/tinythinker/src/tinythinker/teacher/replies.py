"""`replies.jsonl`: a teacher's replies to the questions of one data set, each on the disk as soon as it is there.

The first line says what they are replies to and how they were asked for. A later run with the same settings goes on
where this one stopped, however it stopped; more samples, or more questions of the same split, may be asked for.

A row has `id` (of the question), `sample`, and either `reply` (the text) with `finish_reason`, or `explanation`, with
`knowledge`, `reasons` and `correct` (a letter), where somebody else than a language model gives it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .._common import Line, parse_lines, read_bytes
from ..config import TeacherSettings
from ..question_sets import QuestionSet
from ..questions import LETTERS, Explanation, Question
from .parse import Parsed
from .prompt import prompt_version

FILE = "replies.jsonl"


def reply_settings(questions: QuestionSet, teacher: TeacherSettings) -> dict[str, Any]:
    """The first line of the file: all that the replies depend on."""
    settings: dict[str, Any] = {
        "dataset": questions.name,
        "split": questions.split,
        "fingerprint": questions.fingerprint,
        "teacher": teacher.kind,
    }
    if teacher.kind in ("endpoint", "model"):
        settings |= {
            "model": teacher.model,
            "temperature": teacher.temperature,
            "max_tokens": teacher.max_tokens,
            "shots": teacher.shots,
            "prompt": prompt_version(teacher.shots),
        }
    elif teacher.file is not None:
        settings["file"] = f"sha256:{hashlib.sha256(read_bytes(Path(teacher.file))).hexdigest()}"
    if teacher.kind == "model":
        settings |= {"dtype": teacher.dtype, "chat_template": teacher.chat_template, "seed": teacher.seed}
    return settings


def missing_samples(
    questions: Sequence[Question], rows: Sequence[Mapping[str, Any]], samples: int
) -> list[tuple[Question, list[int]]]:
    """The questions that have fewer replies than asked for, with the numbers of the missing ones."""
    there: dict[str, set[int]] = {}
    for row in rows:
        there.setdefault(row["id"], set()).add(row["sample"])
    open_ones = [
        (question, [sample for sample in range(samples) if sample not in there.get(question.id, ())])
        for question in questions
    ]
    return [(question, numbers) for question, numbers in open_ones if numbers]


def explanation_row(question: Question, sample: int, explanation: Explanation, correct: int) -> dict[str, Any]:
    return {
        "id": question.id,
        "sample": sample,
        "explanation": {
            "knowledge": explanation.knowledge,
            "reasons": list(explanation.reasons),
            "correct": LETTERS[correct],
        },
    }


def read_replies(path: Path, questions: QuestionSet) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """(settings, question id -> its rows by sample) of a file that `data teach` wrote, or that was recorded elsewhere.

    A recorded file needs `id` and `reply` in each line; without `sample` the replies to a question are numbered as they
    come. Its first line may hold the settings. A last line that was not written to its end does not count.

    Raises DataError, with file and line: a row of another shape, an explanation that does not fit its question, a
    question that this data set does not have, replies to another data set.
    """
    content = read_bytes(path)
    known = {question.id: question for question in questions.questions}
    whole = content[: content.rfind(b"\n") + 1] if b"\n" in content else content
    settings: dict[str, Any] = {}
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for line in parse_lines(path, whole):
        if isinstance(line.row.get("settings"), dict) and not found and not settings:
            settings = line.row["settings"]
            _check_fingerprint(line, settings, questions)
            continue
        row = _checked_row(line, questions, known)
        own = found.setdefault(row["id"], {})
        sample = row.get("sample", len(own))
        if sample in own:
            raise line.error(f"sample {sample} of the question {row['id']!r} again", "sample")
        own[sample] = {**row, "sample": sample}
    return settings, {question_id: [own[sample] for sample in sorted(own)] for question_id, own in found.items()}


def _check_fingerprint(line: Line, settings: Mapping[str, Any], questions: QuestionSet) -> None:
    theirs = settings.get("fingerprint")
    if theirs != questions.fingerprint:
        raise line.error(
            f"these are replies to another data set: {settings.get('dataset')} {settings.get('split')}, {theirs}; "
            f"the questions are {questions.name} {questions.split}, {questions.fingerprint}",
            "fingerprint",
        )


def _checked_row(line: Line, questions: QuestionSet, known: Mapping[str, Question]) -> dict[str, Any]:
    """known: the questions that are worked on, by id; explanations of others are not looked at"""
    row = line.row
    if not isinstance(row.get("id"), str):
        raise line.error("a reply without the id of its question", "id")
    if row["id"] not in questions.ids:
        raise line.error(
            f"a reply to {row['id']!r}, which {questions.name} {questions.split} does not have: "
            "is this the reply file of another data set?",
            "id",
        )
    sample = row.get("sample", 0)
    if isinstance(sample, bool) or not isinstance(sample, int) or sample < 0:
        raise line.error("sample must be a whole number", "sample")
    if isinstance(row.get("explanation"), dict):
        if row["id"] in known:
            _check_explanation(line, known[row["id"]])
        return row
    if "reply" not in row or not isinstance(row["reply"], str | None):
        raise line.error("a row without a reply (a text)", "reply")
    if not isinstance(row.get("finish_reason"), str | None):
        raise line.error("finish_reason must be a text", "finish_reason")
    return row


def _check_explanation(line: Line, question: Question) -> None:
    given = line.row["explanation"]
    knowledge, reasons, correct = given.get("knowledge"), given.get("reasons"), given.get("correct")
    if (
        not isinstance(knowledge, str)
        or not knowledge.strip()
        or not isinstance(reasons, list)
        or len(reasons) != len(question.options)
        or not all(isinstance(reason, str) and reason.strip() for reason in reasons)
        or not isinstance(correct, str)
        or len(correct) != 1
        or correct not in question.letters
    ):
        raise line.error(
            f"the explanation of {question.id} needs knowledge, {len(question.options)} reasons and a correct letter "
            f"from A to {question.letters[-1]}",
            "explanation",
        )


def explained(row: Mapping[str, Any], question: Question) -> Parsed:
    """The explanation in a row of `read_replies` that has one."""
    given = row["explanation"]
    explanation = Explanation(given["knowledge"], tuple(given["reasons"]))
    return Parsed(explanation, question.letters.index(given["correct"]))
