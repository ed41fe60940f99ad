"""Nemotron-CrossThink-QA: a training mixture of questions from many domains, most with ten options.

A row is in the form of veRL: `prompt` (messages), `reward_model.ground_truth`, and `meta_data`, whose `question` is the
bare question. The options stand in the text of the question, a line each ("A: ..." or "A. ..."), and the gold is a
letter with the option's text ("F: ...").
"""

from __future__ import annotations

import re
import string
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from ..errors import SettingsError
from .multiple_choice import choice_problem
from .problem import LETTERS, BenchmarkInfo, LoadedBenchmark, Problem, kept_and_dropped
from .sources import HubDataset, Layout, Rows, read_rows

VERSION = 1
HUB = HubDataset(
    "nvidia/Nemotron-CrossThink",
    "default",
    "a4ce9a3b9434c5f231e2cbe30696d9a721c11d69",
    {"train": 187_496},
    {"train": "train_qa"},
)
INFO = BenchmarkInfo(
    title="Nemotron-CrossThink-QA",
    kind="mixed",
    hub=HUB,
    license="CC BY 4.0",
    citation="Akter et al. 2025, Nemotron-CrossThink: Scaling Self-Learning beyond Math Reasoning, arXiv 2504.13941",
    notes=(
        "For training only: the labels are votes of a model, and MMLU's training questions are part of the recipe.",
        "The columns are those that public code reads; no row of the published file was seen when this was written.",
        "In some rows the gold's letter and its text name different options. They are dropped, and counted.",
        "questions = ten_options keeps what GeneralThinker's authors train on; multiple_choice and all keep more.",
    ),
)
COLUMNS: tuple[Layout, ...] = ({"prompt": list, "reward_model": dict, "meta_data": dict},)

Questions = Literal["ten_options", "multiple_choice", "all"]

_LABEL = re.compile(r"^[ \t]*\(?([A-Z])[.:)][ \t]+", re.MULTILINE)


def load(split: str, data_dir: Path | None, revision: str | None, *, questions: str = "ten_options") -> LoadedBenchmark:
    """The questions ("train"); locally `crossthink/Nemotron-CrossThink-QA.jsonl`, as published.

    questions: "ten_options"; "multiple_choice", with any number of options; or "all", where a question without options
        becomes a problem of kind "text"
    """
    if questions not in get_args(Questions):
        raise SettingsError(f"questions = {questions!r}: must be one of {', '.join(get_args(Questions))}")
    files = ("Nemotron-CrossThink-QA.jsonl", f"{split}.jsonl")
    found = read_rows("crossthink", split, data_dir, revision, hub=HUB, columns=COLUMNS, files=files)
    problems, dropped = kept_and_dropped(
        _problem(found, index, f"crossthink/{split}/{index}", questions) for index in range(len(found.rows))
    )
    source = f"{found.source}, questions = {questions}"
    return LoadedBenchmark("crossthink", split, problems, found.revision, source, VERSION, dropped)


class InlineOptions(NamedTuple):
    """A text whose last lines are options: what stands before them, and their texts in order."""

    question: str
    options: list[str]


def inline_options(text: str) -> InlineOptions | None:
    """The options at the end of a text, labelled A, B, C ... without a gap; None where there are none.

    An option may go on over several lines. Labelled lines before the last A belong to the question.
    """
    labels = list(_LABEL.finditer(text))
    first = max((place for place, label in enumerate(labels) if label.group(1) == "A"), default=len(labels))
    labels = labels[first:]
    if len(labels) < 2 or [label.group(1) for label in labels] != list(string.ascii_uppercase[: len(labels)]):
        return None
    ends = [label.start() for label in labels[1:]] + [len(text)]
    options = [text[label.end() : end].strip() for label, end in zip(labels, ends, strict=True)]
    return InlineOptions(text[: labels[0].start()].strip(), options)


def _problem(found: Rows, index: int, problem_id: str, questions: str) -> Problem | str:
    row = found.rows[index]
    gold = row["reward_model"].get("ground_truth")
    if not isinstance(gold, str) or not gold.strip():
        return "no gold answer"
    candidates = _question_texts(found, index)
    split_text = next((split for text in candidates if (split := inline_options(text)) is not None), None)
    if split_text is None:
        if questions != "all":
            return "an open question"
        if not candidates:
            return "no question"
        return Problem(id=problem_id, question=candidates[0], answer=gold.strip(), kind="text", metadata={"row": row})
    if questions == "ten_options" and len(split_text.options) != 10:
        return "not ten options"
    place = _gold_place(gold.strip(), split_text.options)
    if isinstance(place, str):
        return place
    return choice_problem(problem_id, *split_text, place, metadata={"row": row})


def _question_texts(found: Rows, index: int) -> list[str]:
    """Where the question may stand, the best first: bare in the meta data, or in the user's message."""
    row = found.rows[index]
    messages: list[Any] = row["prompt"]
    if not all(isinstance(message, dict) for message in messages):
        raise found.error(index, "column prompt is no list of messages")
    candidates = [row["meta_data"].get("question"), *(m.get("content") for m in messages if m.get("role") == "user")]
    return [text.strip() for text in candidates if isinstance(text, str) and text.strip()]


def _gold_place(gold: str, options: list[str]) -> int | str:
    """The position that a gold such as "F: text", "F" or "text" names, or the reason why it names none."""

    def even(text: str) -> str:
        return " ".join(text.split()).casefold()

    label = re.match(r"\(?([A-J])(?:[.:)]\s*|$)", gold)
    same_text = [place for place, option in enumerate(options) if even(option) == even(gold)]
    if len(same_text) == 1:
        return same_text[0]
    if label is None:
        return "no gold answer, or one that is none of the options"
    place, text = LETTERS.index(label.group(1)), gold[label.end() :]
    if place < len(options) and text.strip() and even(options[place]) != even(text):
        return "the letter and the text of the gold differ"
    return place
