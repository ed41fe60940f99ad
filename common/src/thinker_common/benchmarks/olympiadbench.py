r"""OlympiadBench: open-ended competition problems in English, text only, mathematics (`OE_TO_maths_en_COMP`).

The gold is a list of one string, also where it holds several values: those stand in that string, separated by commas,
in one pair of `$` or in several (`"$69$,$84$"`, `"1,3,5"`). Rows of other parts of the collection (images, Chinese,
theorem proofs) are dropped and counted, so that a copy that mixes them can be read.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from .problem import BenchmarkInfo, LoadedBenchmark, Problem, kept_and_dropped
from .sources import HubDataset, Layout, Rows, read_rows

VERSION = 1
HUB = HubDataset("math-ai/olympiadbench", "default", "4faaf1e6ec17d11a4218a9bf4c049ecaf954dd84", {"test": (674, 675)})
INFO = BenchmarkInfo(
    title="OlympiadBench (OE_TO_maths_en_COMP)",
    kind="math",
    hub=HUB,
    license="Apache-2.0 (of Hothan/OlympiadBench; the copy on the hub states none)",
    citation="He et al. 2024, OlympiadBench: A Challenging Benchmark for Promoting AGI with Olympiad-Level Bilingual "
    "Multimodal Scientific Problems, arXiv 2402.14008",
    notes=(
        "Copies hold 674 or 675 rows.",
        "94 golds hold several values: order is free, repeats do not count, tuples keep their order inside.",
        "8 rows name the unit of the answer, which a prediction may carry or not; one row has an absolute tolerance.",
        "A few golds cannot be met by any other wording: one is in prose (1965), one has a misprint (2045).",
    ),
)
GOLD = str | list | None
COLUMNS: tuple[Layout, ...] = (
    {"question": str, "final_answer": GOLD},
    {"question": str, "answer": GOLD},
)
IMAGES = tuple(f"image_{number}" for number in range(1, 6))


def load(split: str, data_dir: Path | None, revision: str | None) -> LoadedBenchmark:
    """The split "test", with the groups `subject` and `answer_type`; locally `olympiadbench/test.jsonl`."""
    found = read_rows("olympiadbench", split, data_dir, revision, hub=HUB, columns=COLUMNS)
    problems, dropped = kept_and_dropped(
        _problem(found, index, f"olympiadbench/{split}") for index in range(len(found.rows))
    )
    return LoadedBenchmark("olympiadbench", split, problems, found.revision, found.source, VERSION, dropped)


def _problem(found: Rows, index: int, prefix: str) -> Problem | str:
    """The problem of a row, or the reason why it is none of this benchmark."""
    row = found.rows[index]
    if any(row.get(image) is not None for image in IMAGES) or row.get("modality") == "Multimodal":
        return "it has an image"
    if row.get("language") == "Chinese" or re.search(r"[\u4e00-\u9fff]", row["question"]):
        return "it is in Chinese"
    gold = _gold(row["final_answer" if found.layout == 0 else "answer"])
    if gold is None:
        return "no answer, or no text as the answer"
    if not row["question"].strip():
        return "no question"
    context = (row.get("context") or "").strip()
    question = row["question"].strip()
    return Problem(
        id=f"{prefix}/{index if row.get('id') is None else row['id']}",
        question=f"{context}\n\n{question}" if context else question,
        answer=gold,
        kind="math",
        steps=tuple(row["solution"]) if isinstance(row.get("solution"), list) else (),
        metadata={
            "subject": row.get("subfield"),
            "answer_type": row.get("answer_type"),
            **({"multiple_answers": True} if row.get("is_multiple_answer") else {}),
            **({"unit": row["unit"]} if row.get("unit") else {}),
            **_tolerance(row),
            "row": row,
        },
    )


def _gold(value: str | list[Any] | None) -> str | None:
    r"""The answer without its dollar signs and a final full stop; several strings are joined. `\$` is a price."""
    values = [value] if isinstance(value, str) else value or []
    if not all(isinstance(part, str) for part in values):
        return None
    text = re.sub(r"(?<!\\)\$", "", ", ".join(values))
    return text.strip().removesuffix(".").strip() or None


def _tolerance(row: dict[str, Any]) -> dict[str, float]:
    """`error` as a number: an absolute tolerance, of numerical answers only. Of several numbers the smallest."""
    if row.get("answer_type") != "Numerical" or row.get("error") is None:
        return {}
    try:
        return {"tolerance": min(abs(float(part)) for part in str(row["error"]).split(","))}
    except ValueError:  # words: compared strictly
        return {}
