"""OpenBookQA: elementary science questions, four options each. The stem may be a sentence that the option completes."""

from __future__ import annotations

from pathlib import Path

from ..errors import SettingsError
from .multiple_choice import choice_problem, labelled_options, nested_question
from .problem import BenchmarkInfo, LoadedBenchmark, Problem, kept_and_dropped
from .sources import HubDataset, Layout, Rows, read_rows

VERSION = 1
HUB_ID = "allenai/openbookqa"
HUB_REVISION = "388097ea7776314e93a529163e0fea805b8a6454"
ROWS = {"train": 4_957, "valid": 500, "test": 500}
HUB = HubDataset(HUB_ID, "main", HUB_REVISION, ROWS, {"valid": "validation"})
HUB_WITH_FACTS = HubDataset(HUB_ID, "additional", HUB_REVISION, ROWS, {"valid": "validation"})
INFO = BenchmarkInfo(
    title="OpenBookQA",
    kind="mcq",
    hub=HUB,
    license="unknown, says the hub card; the authors' code is Apache-2.0",
    citation="Mihaylov et al. 2018, Can a Suit of Armor Conduct Electricity? A New Dataset for Open Book Question "
    "Answering, arXiv 1809.02789",
    notes=(
        "Each question belongs to a fact of the open book (fact1). A prompt that shows it is another task.",
        "In 3 training questions two options have the same text: only the letter tells.",
        "Some questions occur again with the options in another order: 42 in train, and 7 of valid are in train.",
        "MMLU's auxiliary_train contains these questions.",
    ),
)
# The hub's shape is flat; the authors' has the stem and the choices below `question`.
COLUMNS: tuple[Layout, ...] = (
    {"id": str, "question_stem": str, "choices": dict, "answerKey": str},
    {"id": str, "question": dict, "answerKey": str},
)
FILES = {"train": "train", "valid": "dev", "test": "test"}


def load(split: str, data_dir: Path | None, revision: str | None, *, facts: bool = False) -> LoadedBenchmark:
    """The questions of "train", "valid" or "test"; locally `obqa/train.jsonl`, `obqa/dev.jsonl`, `obqa/test.jsonl`.

    facts: read the copy that gives the fact behind each question, `obqa/<part>_complete.jsonl` or the hub's
        "additional", and put it into `steps`
    """
    if not isinstance(facts, bool):
        raise SettingsError(f"facts = {facts!r}: must be true or false")
    part = FILES.get(split, split)
    files = (f"{part}_complete.jsonl",) if facts else (f"{part}.jsonl", f"{split}.jsonl")
    columns = tuple({**layout, "fact1": str} for layout in COLUMNS) if facts else COLUMNS
    hub = HUB_WITH_FACTS if facts else HUB
    found = read_rows("obqa", split, data_dir, revision, hub=hub, columns=columns, files=files)
    problems, dropped = kept_and_dropped(
        _problem(found, index, f"obqa/{split}", facts) for index in range(len(found.rows))
    )
    return LoadedBenchmark("obqa", split, problems, found.revision, found.source, VERSION, dropped)


def _problem(found: Rows, index: int, prefix: str, facts: bool) -> Problem | str:
    row = found.rows[index]
    stem, choices = (row["question_stem"], row["choices"]) if found.layout == 0 else nested_question(found, index)
    labels, options = labelled_options(found, index, choices)
    key = row["answerKey"].strip()
    return choice_problem(
        f"{prefix}/{row['id']}",
        stem,
        options,
        labels.index(key) if key in labels else None,
        steps=(row["fact1"].strip(),) if facts else (),
        metadata={"row": row},
    )
