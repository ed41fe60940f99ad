"""CommonsenseQA: questions on everyday knowledge, five options each."""

from __future__ import annotations

from pathlib import Path

from ..errors import DataError
from .multiple_choice import choice_problem, labelled_options, nested_question
from .problem import BenchmarkInfo, LoadedBenchmark, Problem, kept_and_dropped
from .sources import HubDataset, Layout, Rows, read_rows

VERSION = 1
HUB = HubDataset(
    "tau/commonsense_qa",
    "default",
    "94630fe30dad47192a8546eb75f094926d47e155",
    {"train": 9_741, "valid": 1_221},
    {"valid": "validation"},
)
INFO = BenchmarkInfo(
    title="CommonsenseQA",
    kind="mcq",
    hub=HUB,
    license="MIT",
    citation="Talmor et al. 2019, CommonsenseQA: A Question Answering Challenge Targeting Commonsense Knowledge, "
    "arXiv 1811.00937",
    notes=(
        "The test split has no gold answers: evaluate on valid, which the authors call dev.",
        "In 122 questions of train and 24 of valid two options have the same text: only the letter tells.",
        "Some instruction-tuned models, Flan-T5 among them, have seen the training questions.",
    ),
)
# The hub's shape is flat; the authors' has the stem and the choices below `question`.
COLUMNS: tuple[Layout, ...] = (
    {"id": str, "question": str, "choices": dict, "answerKey": str},
    {"id": str, "question": dict, "answerKey": str},
)
FILES = {"train": "train_rand_split.jsonl", "valid": "dev_rand_split.jsonl"}


def load(split: str, data_dir: Path | None, revision: str | None) -> LoadedBenchmark:
    """The questions of "train" or "valid"; locally `csqa/train_rand_split.jsonl` and `csqa/dev_rand_split.jsonl`."""
    if split == "test":
        raise DataError("csqa: the test split has no gold answers; evaluate on the split valid (1,221 questions)")
    files = (FILES.get(split, split), f"{split}.jsonl")
    found = read_rows("csqa", split, data_dir, revision, hub=HUB, columns=COLUMNS, files=files)
    problems, dropped = kept_and_dropped(_problem(found, index, f"csqa/{split}") for index in range(len(found.rows)))
    return LoadedBenchmark("csqa", split, problems, found.revision, found.source, VERSION, dropped)


def _problem(found: Rows, index: int, prefix: str) -> Problem | str:
    row = found.rows[index]
    if found.layout == 0:
        stem, choices, concept = row["question"], row["choices"], row.get("question_concept")
    else:
        stem, choices = nested_question(found, index)
        concept = row["question"].get("question_concept")
    labels, options = labelled_options(found, index, choices)
    key = row["answerKey"].strip()
    return choice_problem(
        f"{prefix}/{row['id']}",
        stem,
        options,
        labels.index(key) if key in labels else None,
        metadata={"concept": concept, "row": row},
    )
