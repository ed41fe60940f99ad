"""ProsQA: deduction over a graph of "is a" rules, with two possible answers.

"Every shumpus is a rempus. ... Is Tom a lempus or scrompus?" The gold is a sentence, "Tom is a lempus."; `steps` is the
chain that proves it, and `metadata["options"]` holds the sentences of both answers in the order of the question, so
that they can be ranked by likelihood. The rest of the metadata is that of the generated benchmark `graphs`.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import DataError, SettingsError
from .multiple_choice import texts
from .problem import BenchmarkInfo, LoadedBenchmark, Problem, kept_and_dropped
from .sources import HubDataset, Layout, Rows, read_rows

VERSION = 1
ROWS = {"train": 17_886, "valid": 300, "test": 500}
INFO = BenchmarkInfo(
    title="ProsQA",
    kind="text",
    hub=None,
    license="MIT",
    citation="Hao et al. 2024, Training Large Language Models to Reason in a Continuous Latent Space (COCONUT), "
    "arXiv 2412.06769",
    notes=(
        "No copy on the hub is established: take the files from github.com/facebookresearch/coconut, folder data.",
        "17,886 rows in train, 300 in valid, 500 in test.",
        "In a box a word of its own names an option; without one --grader unboxed wants the sentence, as COCONUT does.",
        "Chance is 50 %.",
        "The names are invented words, and one can be part of another.",
        "The rules in the question are shuffled: only the steps give the chain.",
    ),
)
COLUMNS: tuple[Layout, ...] = (
    {
        **dict.fromkeys(("question", "answer"), str),
        **dict.fromkeys(("steps", "idx_to_symbol", "edges"), list),
        **dict.fromkeys(("root", "target", "neg_target"), int),
    },
)
_ASKED = re.compile(r"Is (\S+) an? (\S+) or (?:an? )?(\S+)\?$")


def load(split: str, data_dir: Path | None, revision: str | None, *, hub_id: str = "") -> LoadedBenchmark:
    """The questions of "train", "valid" or "test"; locally `prosqa/prosqa_<split>.json`.

    hub_id: a data set on the hub with the authors' columns, for those who have one; asked where `data_dir` is None
    """
    if not isinstance(hub_id, str):
        raise SettingsError(f"hub_id = {hub_id!r}: must be the name of a data set, like someone/prosqa")
    if data_dir is None and not hub_id:
        raise DataError(
            "prosqa is not on the Hugging Face hub: give the authors' files (github.com/facebookresearch/coconut), "
            f"--data-dir DIR with DIR/prosqa/prosqa_{split}.json"
        )
    hub = HubDataset(hub_id, "default", None, ROWS, {"valid": "validation"})
    found = read_rows(
        "prosqa", split, data_dir, revision, hub=hub, columns=COLUMNS, files=(f"prosqa_{split}.json", f"{split}.jsonl")
    )
    problems, dropped = kept_and_dropped(
        _problem(found, index, f"prosqa/{split}/{index}") for index in range(len(found.rows))
    )
    return LoadedBenchmark("prosqa", split, problems, found.revision, found.source, VERSION, dropped)


def _problem(found: Rows, index: int, problem_id: str) -> Problem | str:
    row = found.rows[index]
    symbols = texts(found, index, "idx_to_symbol")
    for column in ("root", "target", "neg_target"):
        if not 0 <= row[column] < len(symbols):
            raise found.error(index, f"column {column} is {row[column]}, and there are {len(symbols)} symbols")
    person, right, wrong = symbols[row["root"]], symbols[row["target"]], symbols[row["neg_target"]]
    question, answer = row["question"].strip(), row["answer"].strip()
    asked = _ASKED.search(question)
    if asked is None or asked.group(1) != person or {asked.group(2), asked.group(3)} != {right, wrong}:
        return "the question does not end in the two options"
    if answer != f"{person} is a {right}.":
        return "the answer is not the sentence of the target"
    return Problem(
        id=problem_id,
        question=question,
        answer=answer,
        kind="text",
        steps=tuple(step.strip() for step in texts(found, index, "steps")),
        metadata={
            "options": tuple(f"{person} is a {name}." for name in asked.groups()[1:]),
            "edges": row["edges"],
            "symbols": symbols,
            "root": row["root"],
            "target": row["target"],
            "neg_target": row["neg_target"],
            "row": row,
        },
    )
