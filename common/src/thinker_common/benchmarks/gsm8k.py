"""GSM8K: grade-school word problems.

A row is `question` and `answer`: a worked solution with calculator marks `<<48/2=24>>`, then `#### ` and the gold
number, always an integer, at times with thousands commas.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any, Literal, get_args

from ..errors import check_setting
from .problem import BenchmarkInfo, LoadedBenchmark, Problem, kept_and_dropped
from .sources import HubDataset, read_rows

VERSION = 1
HUB = HubDataset("openai/gsm8k", "main", "740312add88f781978c0658806c59bc2815b9866", {"train": 7_473, "test": 1_319})
INFO = BenchmarkInfo(
    title="GSM8K",
    kind="math",
    hub=HUB,
    license="MIT",
    citation="Cobbe et al. 2021, Training Verifiers to Solve Math Word Problems, arXiv 2110.14168",
    notes=(
        "The gold stands after the last ####; thousands commas in 93 of the 8,792 golds are removed, 5 are negative.",
        "GSM8K-Aug has the same test questions, and its validation questions are in this training split.",
    ),
    shares=("gsm8k_aug/valid", "gsm8k_aug/test"),
)
COLUMNS = ({"question": str, "answer": str},)

GOLD_MARK = "####"
_CALCULATOR_MARK = re.compile(r"<<[^<>]*>>")
Steps = Literal["lines", "calculations"]


def load(
    split: str,
    data_dir: Path | None,
    revision: str | None,
    *,
    most_steps: int | None = None,
    steps: Steps = "lines",
) -> LoadedBenchmark:
    """The problems of "train" or "test".

    most_steps: leave out, and count, problems whose solution has more steps
    steps: `lines` of the solution, without calculator marks; or its `calculations` alone, as `gsm8k_aug` has them
        (`<<48/2=24>>`), of which some solutions have none
    """
    check_setting("steps", steps, steps in get_args(Steps), f"one of {', '.join(get_args(Steps))}")
    if most_steps is not None:
        whole = isinstance(most_steps, int) and not isinstance(most_steps, bool)
        check_setting("most_steps", most_steps, whole and most_steps >= 1, "a whole number of at least 1")
    found = read_rows("gsm8k", split, data_dir, revision, hub=HUB, columns=COLUMNS)
    of_row = functools.partial(_problem, most_steps=most_steps, steps=steps)
    problems, dropped = kept_and_dropped(of_row(row, f"gsm8k/{split}/{index}") for index, row in enumerate(found.rows))
    source = found.source if most_steps is None else f"{found.source}, solutions of at most {most_steps} {steps}"
    if steps == "calculations":
        source += f", {sum(not problem.steps for problem in problems)} solutions without calculations"
    return LoadedBenchmark("gsm8k", split, problems, found.revision, source, VERSION, dropped)


def _problem(row: dict[str, Any], problem_id: str, *, most_steps: int | None, steps: Steps) -> Problem | str:
    solution, mark, gold = row["answer"].rpartition(GOLD_MARK)
    gold = gold.strip().replace(",", "")
    if not mark or not gold or not row["question"].strip():
        return f"no question, or no number after {GOLD_MARK}"
    if steps == "calculations":
        found = _CALCULATOR_MARK.findall(solution)
    else:
        found = [line.strip() for line in _CALCULATOR_MARK.sub("", solution).splitlines() if line.strip()]
    if most_steps is not None and len(found) > most_steps:
        return f"a solution of more than {most_steps} {steps}"
    return Problem(
        id=problem_id,
        question=row["question"].strip(),
        answer=gold,
        kind="math",
        steps=tuple(found),
        metadata={"row": row},
    )
