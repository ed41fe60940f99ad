"""SuperGPQA: 26,529 graduate-level questions in 285 subfields of 13 disciplines, four to ten options each."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from .multiple_choice import check_whole_number, choice_problem, gold_position, texts
from .problem import BenchmarkInfo, LoadedBenchmark, Problem, kept_and_dropped
from .sources import HubDataset, Layout, Rows, read_rows

VERSION = 1
HUB = HubDataset(
    "m-a-p/SuperGPQA", "default", "4430d4458112c7d4497fdcf94d7cc223313d6acf", {"test": 26_529}, {"test": "train"}
)
INFO = BenchmarkInfo(
    title="SuperGPQA",
    kind="mcq",
    hub=HUB,
    license="ODC-By 1.0 in the authors' repository; an older hub card says MIT",
    citation="M-A-P Team 2025, SuperGPQA: Scaling LLM Evaluation across 285 Graduate Disciplines, arXiv 2502.14739",
    notes=(
        "The hub keeps the questions in a split called train.",
        "4 to 10 options: chance is the mean of 1/options. Some prompts are long: allow 4,500 tokens.",
        "Official tables give the mean over questions, and means over subfields, fields and disciplines.",
        "sample_size takes a seeded sample in which every subfield has its share.",
    ),
)
COLUMNS: tuple[Layout, ...] = (
    {
        "options": list,
        **dict.fromkeys(("uuid", "question", "answer", "answer_letter"), str),
        **dict.fromkeys(("discipline", "field", "subfield", "difficulty"), str),
    },
)


def load(
    split: str,
    data_dir: Path | None,
    revision: str | None,
    *,
    sample_size: int | None = None,
    sample_seed: int = 0,
) -> LoadedBenchmark:
    """The questions ("test"); locally `supergpqa/SuperGPQA-all.jsonl`, as published.

    Groups are `subject` (the discipline), `field`, `subfield` and `difficulty` (easy, middle, hard).

    sample_size: keep this many, each subfield in proportion to its size. Which ones follows from (sample_seed, uuid)
        alone: the order of the rows does not matter.
    """
    if sample_size is not None:
        check_whole_number("sample_size", sample_size, least=1)
    check_whole_number("sample_seed", sample_seed)
    files = ("SuperGPQA-all.jsonl", f"{split}.jsonl")
    found = read_rows("supergpqa", split, data_dir, revision, hub=HUB, columns=COLUMNS, files=files)
    problems, dropped = kept_and_dropped(
        _problem(found, index, f"supergpqa/{split}") for index in range(len(found.rows))
    )
    source = found.source
    if sample_size is not None and sample_size < len(problems):
        source = f"{source}, {sample_size} of {len(problems)} stratified by subfield (seed {sample_seed})"
        problems = stratified(problems, sample_size, sample_seed)
    return LoadedBenchmark("supergpqa", split, problems, found.revision, source, VERSION, dropped)


def _problem(found: Rows, index: int, prefix: str) -> Problem | str:
    row = found.rows[index]
    options = texts(found, index, "options")
    gold = gold_position(row["answer_letter"])
    if gold is not None and gold < len(options) and options[gold].strip() != row["answer"].strip():
        return "the letter and the text of the gold differ"
    return choice_problem(
        f"{prefix}/{row['uuid']}",
        row["question"],
        options,
        gold,
        metadata={
            "subject": row["discipline"],
            "field": row["field"],
            "subfield": row["subfield"],
            "difficulty": row["difficulty"],
            "row": row,
        },
    )


def stratified(problems: Sequence[Problem], size: int, seed: int) -> tuple[Problem, ...]:
    """`size` of the problems, in their order; each subfield's share by the method of largest remainders."""
    strata: dict[tuple[str, str, str], list[Problem]] = defaultdict(list)
    for problem in problems:
        data = problem.metadata
        strata[data["subject"], data["field"], data["subfield"]].append(problem)
    exact = {stratum: Fraction(size * len(members), len(problems)) for stratum, members in strata.items()}
    quota = {stratum: int(share) for stratum, share in exact.items()}
    by_remainder = sorted(exact, key=lambda stratum: (quota[stratum] - exact[stratum], stratum))
    for stratum in by_remainder[: size - sum(quota.values())]:
        quota[stratum] += 1

    def draw(problem: Problem) -> bytes:
        return hashlib.sha256(f"supergpqa/{seed}/{problem.id}".encode()).digest()

    chosen = {
        problem.id for stratum, members in strata.items() for problem in sorted(members, key=draw)[: quota[stratum]]
    }
    return tuple(problem for problem in problems if problem.id in chosen)
