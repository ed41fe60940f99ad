"""From a teacher's replies, or exact explanations, to the rows of the stages, with a count of what was left out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ._common import DataError, write_atomic
from .config import BuildSettings
from .diversity import agreeing, diverse
from .question_sets import QuestionSet
from .questions import LETTERS, Question, repeated_options
from .rows import StageRow, explained_rows, select, write_rows
from .stages import STAGES, Stage
from .teacher.parse import Parsed, parse_reply
from .teacher.replies import explained, read_replies


@dataclass
class Report:
    """What became of the questions and the replies. Counts, save for the descriptions."""

    dataset: str
    split: str
    source: str
    fingerprint: str
    teacher: dict[str, Any]
    labels: str
    questions: int = 0
    questions_used: int = 0
    questions_left_out: Counter[str] = field(default_factory=Counter)
    relabelled: int = 0  # questions whose label a vote changed
    replies: int = 0
    replies_rejected: Counter[str] = field(default_factory=Counter)
    replies_disagreeing: int = 0  # well-formed, but for another answer than the label
    replies_alike: int = 0  # left out by the choice of those that differ
    replies_used: int = 0
    rows: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Built:
    """rows: of each stage; rejected: id, sample, reason and the reply, as plain JSON data"""

    rows: dict[Stage, list[StageRow]]
    rejected: list[dict[str, Any]]
    report: Report


def build_from_references(questions: QuestionSet) -> Built:
    """Rows from exact explanations. DataError where a question has none."""
    report = _report(questions, {"teacher": "reference"}, "keep_gold")
    rows: list[StageRow] = []
    for question in questions.questions:
        if question.reference is None:
            raise DataError(
                f"{question.id}: {questions.name} has no exact explanations; make replies with `tinythinker data "
                "teach`, rows of them with `tinythinker data build --replies FILE`, and train with data.rows=FOLDER"
            )
        rows += explained_rows(question, question.reference, question.gold, {"teacher": "reference", "sample": 0})
    report.questions_used = report.replies = report.replies_used = len(questions.questions)
    return _built(rows, [], report)


def build_from_replies(questions: QuestionSet, path: Path, settings: BuildSettings) -> Built:
    """Rows from a file of replies. DataError for a file that is broken, or that belongs to other questions."""
    teacher, replies = read_replies(path, questions)
    report = _report(questions, teacher, settings.labels)
    rows: list[StageRow] = []
    rejected: list[dict[str, Any]] = []
    for question in questions.questions:
        own = replies.get(question.id, [])
        report.replies += len(own)
        reason = None if own else "no replies"
        if repeated_options(question.options) is not None:
            reason = "two options with the same text"  # one right and one wrong: they teach a contradiction
        if reason is None:
            accepted, refused = _parsed(own, question, path)
            rejected += refused
            report.replies_rejected.update(row["reason"] for row in refused)
            chosen, reason = _chosen_rows(question, accepted, teacher, settings, report)
            rows += chosen
        if reason is not None:
            report.questions_left_out[reason] += 1
    return _built(rows, rejected, report)


def _chosen_rows(
    question: Question,
    accepted: Sequence[tuple[int, Parsed]],
    teacher: Mapping[str, Any],
    settings: BuildSettings,
    report: Report,
) -> tuple[list[StageRow], str | None]:
    """The rows of one question, or why it has none. accepted: (sample, what it says)"""
    if not accepted:
        return [], "no reply in the right form"
    label, agreed = agreeing([parsed.correct for _, parsed in accepted], question.gold, settings.labels)
    report.replies_disagreeing += len(accepted) - len(agreed)
    if label is None:
        return [], "most replies disagree with the gold answer"
    if not agreed:
        return [], "no reply agrees with the gold answer"
    texts = [accepted[position][1].explanation.knowledge for position in agreed]
    different = diverse(texts, settings.keep or len(texts), min_edits=settings.min_edits)
    report.replies_alike += len(agreed) - len(different)
    report.replies_used += len(different)
    report.questions_used += 1
    report.relabelled += label != question.gold
    rows: list[StageRow] = []
    for sample, parsed in (accepted[agreed[position]] for position in different):
        provenance = {
            "teacher": teacher.get("teacher", "recorded"),
            **({"model": teacher["model"]} if "model" in teacher else {}),
            "sample": sample,
            "labels": settings.labels,
            "label": LETTERS[label],
        }
        rows += explained_rows(question, parsed.explanation, label, provenance)
    return rows, None


def _parsed(
    replies: Sequence[Mapping[str, Any]], question: Question, path: Path
) -> tuple[list[tuple[int, Parsed]], list[dict[str, Any]]]:
    """The replies that can be used, with their sample numbers, and the others with the reason."""
    accepted, rejected = [], []
    for row in replies:
        if "explanation" in row:
            accepted.append((row["sample"], explained(row, question)))
            continue
        parsed = parse_reply(row["reply"], row.get("finish_reason"), len(question.options))
        if isinstance(parsed, Parsed):
            accepted.append((row["sample"], parsed))
        else:
            rejected.append({"id": question.id, "sample": row["sample"], "reason": parsed, "reply": row["reply"]})
    return accepted, rejected


def _report(questions: QuestionSet, teacher: dict[str, Any], labels: str) -> Report:
    report = Report(questions.name, questions.split, questions.source, questions.fingerprint, teacher, labels)
    report.questions = len(questions.questions)
    return report


def _built(rows: Sequence[StageRow], rejected: list[dict[str, Any]], report: Report) -> Built:
    by_stage = select(rows, STAGES)
    report.rows = {stage: len(own) for stage, own in by_stage.items()}
    return Built(by_stage, rejected, report)


def write_built(built: Built, folder: Path) -> None:
    """The rows of the stages, `rejected.jsonl` and, last, `report.json`."""
    write_rows(folder, built.rows)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in built.rejected]
    write_atomic(folder / "rejected.jsonl", "".join(lines))
    write_atomic(folder / "report.json", json.dumps(vars(built.report), indent=2, ensure_ascii=False) + "\n")
