"""GPQA (main set): 448 graduate-level questions in biology, physics and chemistry, four options each.

The authors ask that the questions are not published in plain text, and mark every row with a canary string: keep rows
out of logs, examples and test files.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Literal, get_args

from ..errors import DataError, SettingsError
from .multiple_choice import check_whole_number, choice_problem
from .problem import BenchmarkInfo, LoadedBenchmark, Problem, kept_and_dropped
from .sources import HubDataset, Layout, Rows, check_split, read_rows

VERSION = 1
HUB_ID = "Idavidrein/gpqa"
HUB_REVISION = "633f5ee89ab8ad4522a9f850766b73f62147ffdd"
PAGE = f"https://huggingface.co/datasets/{HUB_ID}"
LICENSE = "CC BY 4.0; gated: the terms must be accepted"
CITATION = "Rein et al. 2023, GPQA: A Graduate-Level Google-Proof Q&A Benchmark, arXiv 2311.12022"
NOTES = (
    f"Gated: accept the terms at {PAGE} and give a token. Do not publish the questions.",
    "The hub keeps the questions in a split called train.",
    "The order of the options is ours, and follows from option_seed and the record id alone.",
    "Every harness has another order, and with it other letters.",
    "Chance is 25 %. Diamond is a subset of the main set: the two are not independent.",
)
INFO = BenchmarkInfo(
    title="GPQA (main)",
    kind="mcq",
    hub=HubDataset(HUB_ID, "gpqa_main", HUB_REVISION, {"test": 448}, {"test": "train"}),
    license=LICENSE,
    citation=CITATION,
    notes=NOTES,
    shares=("gpqa_diamond/test",),
)
ANSWERS = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
# The columns with "Pre-Revision" and "Extra Revised" in their names are not the final texts. Some cells are empty.
COLUMNS: tuple[Layout, ...] = ({"Record ID": str, "Question": str | None, **dict.fromkeys(ANSWERS, str | None)},)

OptionOrder = Literal["shuffled", "alphabetical"]


def load(
    split: str,
    data_dir: Path | None,
    revision: str | None,
    *,
    option_order: str = "shuffled",
    option_seed: int = 0,
) -> LoadedBenchmark:
    """The questions ("test"), with `subject` and `subdomain` as groups; locally `gpqa/gpqa_main.csv`, as published.

    option_order: "shuffled" follows from (option_seed, record id) alone, so that neither sampling nor the order of the
        rows moves a letter; "alphabetical" needs no seed.
    """
    return load_set("gpqa", INFO, VERSION, split, data_dir, revision, option_order, option_seed)


def load_set(
    name: str,
    info: BenchmarkInfo,
    version: int,
    split: str,
    data_dir: Path | None,
    revision: str | None,
    option_order: str,
    option_seed: int,
) -> LoadedBenchmark:
    """One of the sets that the GPQA data set holds as configurations; all lie in one local folder `gpqa`."""
    hub = info.hub
    assert hub is not None
    if option_order not in get_args(OptionOrder):
        raise SettingsError(f"option_order = {option_order!r}: must be one of {', '.join(get_args(OptionOrder))}")
    check_whole_number("option_seed", option_seed)
    check_split(name, split, hub)
    files = [f"{hub.config}{ending}" for ending in (".csv", ".jsonl")]
    try:
        found = read_rows("gpqa", split, data_dir, revision, hub=hub, columns=COLUMNS, files=files)
    except DataError as error:
        if data_dir is not None:
            raise
        raise DataError(
            f"{error}. GPQA is gated: accept its terms at {PAGE}, then log in (`hf auth login`) or set HF_TOKEN"
        ) from error
    problems, dropped = kept_and_dropped(
        _problem(found, index, f"{name}/{split}", option_order, option_seed) for index in range(len(found.rows))
    )
    order = "alphabetically" if option_order == "alphabetical" else f"by seed {option_seed} and record id"
    source = f"{found.source}, options ordered {order}"
    return LoadedBenchmark(name, split, problems, found.revision, source, version, dropped)


def _problem(found: Rows, index: int, prefix: str, option_order: str, option_seed: int) -> Problem | str:
    row = found.rows[index]
    record = row["Record ID"].strip()
    options = [(row[column] or "").strip() for column in ANSWERS]
    if not record or not all(options):
        return "no record id, or an empty answer"
    order = list(range(len(options)))  # order[letter] is the place in ANSWERS, where 0 is right
    if option_order == "alphabetical":
        order.sort(key=lambda place: options[place].casefold())
    else:
        random.Random(f"gpqa/{option_seed}/{record}").shuffle(order)
    return choice_problem(
        f"{prefix}/{record}",
        row["Question"] or "",
        [options[place] for place in order],
        order.index(0),
        metadata={"subject": row.get("High-level domain"), "subdomain": row.get("Subdomain"), "row": row},
    )
