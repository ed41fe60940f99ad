r"""Minerva Math, also called OCWCourses: undergraduate science problems of MIT OpenCourseWare.

Two shapes are read. The hub's copy has `question` and a hand-cleaned `answer`; the file that evaluation harnesses carry
has `problem`, `type` (the course) and a `solution` whose only box is the gold. Golds may be written as programs write
numbers (`6.02e23`, `-1./2`, `np.sqrt(2)`); they stay as they are here, since it takes both sides to compare them.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import SettingsError
from .boxed import last_boxed
from .problem import BenchmarkInfo, LoadedBenchmark, Problem, kept_and_dropped
from .sources import HubDataset, Layout, Rows, read_rows

VERSION = 1
HUB = HubDataset("math-ai/minervamath", "default", "ee46ddc498933b1977577953250ca5c66be64f96", {"test": 272})
INFO = BenchmarkInfo(
    title="Minerva Math (OCWCourses)",
    kind="math",
    hub=HUB,
    license="CC BY-NC-SA 4.0, as MIT OpenCourseWare is (from memory; the card was not seen)",
    citation="Lewkowycz et al. 2022, Solving Quantitative Reasoning Problems with Language Models, arXiv 2206.14858",
    notes=(
        "Many golds are like 6.02e23, which parsers misread; the default grader rewrites it on both sides.",
        "Rounded golds are compared to six decimals, which is strict; relative_tolerance = 0.01 accepts one per cent.",
        r"Some questions hold an earlier part with its solution and \boxed{}: grade the response alone.",
        "Not lm-evaluation-harness's minerva_math, which is the MATH data with Minerva's prompt.",
    ),
)
COLUMNS: tuple[Layout, ...] = (
    {"question": str, "answer": str | int | float},
    {"problem": str, "solution": str},
)


def load(
    split: str, data_dir: Path | None, revision: str | None, *, relative_tolerance: float = 0.0
) -> LoadedBenchmark:
    """The 272 problems, with `subject` (the course) where the copy has it; locally `minerva_math/test.jsonl`.

    relative_tolerance: how far a number may be from the gold and still count, as a share of the gold; reported in
        `source`
    """
    if isinstance(relative_tolerance, bool) or not isinstance(relative_tolerance, int | float):
        raise SettingsError(f"relative_tolerance = {relative_tolerance!r}: must be a number")
    if not 0 <= relative_tolerance < 1:
        raise SettingsError(f"relative_tolerance = {relative_tolerance}: must be at least 0 and below 1")
    found = read_rows("minerva_math", split, data_dir, revision, hub=HUB, columns=COLUMNS)
    problems, dropped = kept_and_dropped(
        _problem(found, index, f"minerva_math/{split}", relative_tolerance) for index in range(len(found.rows))
    )
    source = found.source + (f", relative_tolerance = {relative_tolerance}" if relative_tolerance else "")
    return LoadedBenchmark("minerva_math", split, problems, found.revision, source, VERSION, dropped)


def _problem(found: Rows, index: int, prefix: str, relative_tolerance: float) -> Problem | str:
    row = found.rows[index]
    if found.layout == 0:
        question, gold = row["question"].strip(), str(row["answer"]).strip()
    else:
        question, gold = row["problem"].strip(), last_boxed(row["solution"]) or ""
    if not question or not gold:
        return "no question, or no answer"
    tolerance = {"relative_tolerance": relative_tolerance} if relative_tolerance else {}
    return Problem(
        id=f"{prefix}/{index}",
        question=question,
        answer=gold,
        kind="math",
        steps=(row["solution"],) if row.get("solution") else (),
        metadata={**({"subject": row["type"]} if row.get("type") else {}), **tolerance, "row": row},
    )
