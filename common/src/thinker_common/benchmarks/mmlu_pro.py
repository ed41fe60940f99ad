"""MMLU-Pro: harder questions in 14 categories, up to ten options each."""

from __future__ import annotations

from pathlib import Path

from .multiple_choice import choice_problem, gold_position, texts
from .problem import BenchmarkInfo, LoadedBenchmark, Problem, kept_and_dropped
from .sources import HubDataset, Layout, Rows, read_rows

VERSION = 1
HUB = HubDataset(
    "TIGER-Lab/MMLU-Pro",
    "default",
    "b189ec765aa7ed75c8acfea42df31fdae71f97be",
    {"test": 12_032, "valid": 70},
    {"valid": "validation"},
)
INFO = BenchmarkInfo(
    title="MMLU-Pro",
    kind="mcq",
    hub=HUB,
    license="MIT",
    citation="Wang et al. 2024, MMLU-Pro: A More Robust and Challenging Multi-Task Language Understanding Benchmark, "
    "arXiv 2406.01574",
    notes=(
        "3 to 10 options: chance is the mean of 1/options, not 10 %. A prompt must not say A to D.",
        "Options N/A are padding; those after the gold go, those before it stay, so that no letter moves.",
        "The original scoring guesses a letter where it finds none; here a missing answer is wrong, and counted.",
        "Part of the questions come from MMLU.",
    ),
)
COLUMNS: tuple[Layout, ...] = (
    {"question_id": int, "question": str, "options": list, "answer": str, "answer_index": int, "category": str},
)


def load(split: str, data_dir: Path | None, revision: str | None) -> LoadedBenchmark:
    """The questions of "test", or the worked examples of "valid", with the category as `subject`."""
    found = read_rows("mmlu_pro", split, data_dir, revision, hub=HUB, columns=COLUMNS)
    problems, dropped = kept_and_dropped(
        _problem(found, index, f"mmlu_pro/{split}") for index in range(len(found.rows))
    )
    return LoadedBenchmark("mmlu_pro", split, problems, found.revision, found.source, VERSION, dropped)


def _problem(found: Rows, index: int, prefix: str) -> Problem | str:
    row = found.rows[index]
    gold = row["answer_index"]
    if gold_position(row["answer"]) != gold:
        return "the letter and the index of the gold differ"
    options = texts(found, index, "options")
    return choice_problem(
        f"{prefix}/{row['question_id']}",
        row["question"],
        [text for place, text in enumerate(options) if place <= gold or text.strip() != "N/A"],
        gold,
        metadata={"subject": row["category"], "row": row},
    )
