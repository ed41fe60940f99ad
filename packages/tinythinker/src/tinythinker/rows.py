"""Training rows: a prompt of one stage and its target, kept as the parts they are made of.

On disk a folder holds `recall.jsonl`, `analyze.jsonl` and `summarize.jsonl`, one row a line with its provenance.
Prompts are rendered when a row is used, so the same files serve the ablations of single stages.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ._common import DataError, Line, parse_lines, read_bytes, write_atomic
from .questions import LETTERS, Explanation, Question
from .stages import (
    STAGES,
    Prompt,
    Stage,
    analyze_prompt,
    answered_option,
    recall_prompt,
    summarize_prompt,
    summarize_target,
)


@dataclass(frozen=True, slots=True)
class StageRow:
    """One row of one stage.

    knowledge: what was recalled; None in a row of recall
    option: position of the option to judge; in a row of analyze
    analyses: one for each option; in a row of summarize
    provenance: teacher, sample, label policy, ...
    where: file and line, where it was read from one
    """

    stage: Stage
    question: Question
    target: str
    knowledge: str | None = None
    option: int | None = None
    analyses: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict, hash=False)
    where: str = field(default="", compare=False)

    def prompt(self, stages: Collection[Stage] = STAGES) -> Prompt:
        """The prompt for a student of these stages: what a stage that is not among them would say is left out."""
        knowledge = self.knowledge if "recall" in stages else None
        if self.stage == "recall":
            return recall_prompt(self.question)
        if self.stage == "analyze":
            assert self.option is not None
            return analyze_prompt(self.question, self.option, knowledge)
        return summarize_prompt(self.question, knowledge, self.analyses if "analyze" in stages else None)


def explained_rows(
    question: Question, explanation: Explanation, label: int, provenance: Mapping[str, Any]
) -> list[StageRow]:
    """The rows of one explanation: recall, an analysis for each option, and the summary that names `label`."""
    knowledge, reasons = explanation.knowledge, explanation.reasons
    return [
        StageRow("recall", question, knowledge, provenance=provenance),
        *(
            StageRow("analyze", question, reason, knowledge, option, provenance=provenance)
            for option, reason in enumerate(reasons)
        ),
        StageRow("summarize", question, summarize_target(label), knowledge, None, reasons, provenance),
    ]


def select(rows: Iterable[StageRow], stages: Collection[Stage]) -> dict[Stage, list[StageRow]]:
    """The rows of the stages to train, stage after stage; of rows with one prompt and target only the first."""
    chosen: dict[Stage, list[StageRow]] = {stage: [] for stage in STAGES if stage in stages}
    seen: set[tuple[Prompt, str]] = set()
    for row in rows:
        key = row.prompt(stages), row.target
        if row.stage in chosen and key not in seen:
            seen.add(key)
            chosen[row.stage].append(row)
    return chosen


# ---------------------------------------------------------------------------------------------------------------- files


def write_rows(folder: Path, rows: Mapping[Stage, Iterable[StageRow]]) -> None:
    """The three files; each is there whole or not at all."""
    for stage, own in rows.items():
        lines = [json.dumps(_to_json(row), ensure_ascii=False) + "\n" for row in own]
        write_atomic(folder / f"{stage}.jsonl", "".join(lines))


def read_rows(folder: Path, stages: Collection[Stage] = STAGES) -> list[StageRow]:
    """The rows of these stages. DataError, with file and line, for a file that is missing or broken."""
    rows = []
    for stage in STAGES:
        if stage in stages:
            path = folder / f"{stage}.jsonl"
            rows += [_from_json(line, stage) for line in parse_lines(path, read_bytes(path))]
    return rows


def _to_json(row: StageRow) -> dict[str, Any]:
    question = row.question
    shown: dict[str, Any] = {
        "stage": row.stage,
        "question_id": question.id,
        "question": question.text,
        "options": list(question.options),
        "answer": question.answer,
    }
    if row.knowledge is not None:
        shown["knowledge"] = row.knowledge
    if row.option is not None:
        shown["option"] = LETTERS[row.option]
    if row.analyses:
        shown["analyses"] = list(row.analyses)
    return {**shown, "target": row.target, "provenance": dict(row.provenance)}


def _from_json(line: Line, stage: Stage) -> StageRow:
    values = line.row
    if values.get("stage") != stage:
        raise line.error(f"a row of {values.get('stage')!r} in the file of {stage}", "stage")
    options = _texts(line, "options")
    letters = LETTERS[: len(options)]
    if not 2 <= len(options) <= len(LETTERS):
        raise line.error(f"{len(options)} options; there must be 2 to {len(LETTERS)}", "options")
    text = {name: _text(line, name) for name in ("question_id", "question", "target")}
    question = Question(text["question_id"], text["question"], options, letters.index(_letter(line, "answer", letters)))
    provenance = values.get("provenance", {})
    if not isinstance(provenance, dict):
        raise line.error("provenance must be an object", "provenance")
    if stage == "recall":
        return StageRow(stage, question, text["target"], provenance=provenance, where=line.place)
    knowledge = _text(line, "knowledge")
    if stage == "analyze":
        option = letters.index(_letter(line, "option", letters))
        return StageRow(stage, question, text["target"], knowledge, option, provenance=provenance, where=line.place)
    analyses = _texts(line, "analyses")
    if len(analyses) != len(options):
        raise line.error(f"{len(analyses)} analyses for {len(options)} options", "analyses")
    if answered_option(text["target"], question) is None:
        raise line.error("the target names none of the options", "target")
    return StageRow(stage, question, text["target"], knowledge, None, analyses, provenance, line.place)


def _text(line: Line, column: str) -> str:
    value = line.row.get(column)
    if not isinstance(value, str) or not value.strip():
        raise line.error(f"{column} must be a text that is not empty", column)
    return value


def _texts(line: Line, column: str) -> tuple[str, ...]:
    value = line.row.get(column)
    if not isinstance(value, list) or not all(isinstance(text, str) and text.strip() for text in value):
        raise line.error(f"{column} must be a list of texts that are not empty", column)
    return tuple(value)


def _letter(line: Line, column: str, letters: str) -> str:
    value = line.row.get(column)
    if not isinstance(value, str) or len(value) != 1 or value not in letters:
        raise line.error(f"{column} {value!r} is no letter from A to {letters[-1]}", column)
    return value


def folder_of_rows(path: str) -> Path:
    """The folder, if `data build` made it; DataError otherwise."""
    folder = Path(path)
    missing = [stage for stage in STAGES if not (folder / f"{stage}.jsonl").is_file()]
    if missing:
        raise DataError(f"{folder}: there is no {missing[0]}.jsonl; make the rows with `tinythinker data build`")
    return folder
