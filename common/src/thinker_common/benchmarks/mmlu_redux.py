"""MMLU-Redux 2.0: 100 questions of each MMLU subject, re-annotated: which are flawed, and how.

What counts as gold is a choice that moves a score by a point or more, so it is a setting, and `source` of the result
names it:

- "all": every row with the letter that MMLU gives, right or wrong. What GeneralThinker's authors and lighteval do.
- "ok": only rows without an error. What lm-evaluation-harness does; 370 of the 5,700 rows go.
- "corrected": those of "ok", and the rows whose only error is the letter, with the corrected one where it is clear.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from ..errors import SettingsError
from .jsonl import fingerprint
from .mmlu import AREAS, SUBJECTS, subject_names
from .multiple_choice import choice_problem, gold_position, texts
from .problem import BenchmarkInfo, LoadedBenchmark, Problem, kept_and_dropped
from .sources import HubDataset, Layout, Rows, check_split, read_rows

VERSION = 1
HUB_ID = "edinburgh-dawg/mmlu-redux-2.0"
HUB_REVISION = "372ea425445d51e1ba1188c56e5e893f8138621f"
ROWS_A_SUBJECT = 100
INFO = BenchmarkInfo(
    title="MMLU-Redux 2.0",
    kind="mcq",
    hub=HubDataset(HUB_ID, "one configuration a subject", HUB_REVISION, {"test": ROWS_A_SUBJECT * len(SUBJECTS)}),
    license="CC BY 4.0",
    citation="Gema et al. 2024, Are We Done with MMLU?, arXiv 2406.04127",
    notes=(
        "gold = all, ok or corrected decides what becomes of mislabelled rows; never compare figures across it.",
        "correct_answer is free text: it is used only where it names one option.",
        "The questions are MMLU's: the two are not independent.",
    ),
    shares=("mmlu/test",),
)
COLUMNS: tuple[Layout, ...] = ({"question": str, "choices": list, "answer": int | str, "error_type": str},)

Gold = Literal["all", "ok", "corrected"]


def load(
    split: str, data_dir: Path | None, revision: str | None, *, gold: str = "all", subjects: str = ""
) -> LoadedBenchmark:
    """The questions ("test"), with `subject`, `area` and `error_type` as groups.

    Locally, the rows of one subject in `mmlu_redux/<subject>.jsonl` (or .json), in the shape of the hub.

    gold: what becomes of mislabelled rows; see the top of this file
    subjects: those to keep, separated by commas; all 57 if empty
    """
    assert INFO.hub is not None
    check_split("mmlu_redux", split, INFO.hub)
    if gold not in get_args(Gold):
        raise SettingsError(f"gold = {gold!r}: must be one of {', '.join(get_args(Gold))}")
    wanted = subject_names(subjects) or SUBJECTS
    parts = {subject: _read_subject(subject, split, data_dir, revision) for subject in wanted}
    problems, dropped = kept_and_dropped(
        _problem(found, index, subject, f"mmlu_redux/{split}/{subject}/{index}", gold)
        for subject, found in parts.items()
        for index in range(len(found.rows))
    )
    where = HUB_ID if data_dir is None else str(data_dir)
    source = f"{where} ({len(parts)} of {len(SUBJECTS)} subjects), gold = {gold}"
    revisions = {found.revision for found in parts.values()}
    one_revision = revisions.pop() if len(revisions) == 1 else fingerprint("".join(sorted(revisions)).encode())
    return LoadedBenchmark("mmlu_redux", split, problems, one_revision, source, VERSION, dropped)


def _read_subject(subject: str, split: str, data_dir: Path | None, revision: str | None) -> Rows:
    hub = HubDataset(HUB_ID, subject, HUB_REVISION, {split: ROWS_A_SUBJECT})
    files = [f"{subject}{ending}" for ending in (".jsonl", ".json")]
    return read_rows("mmlu_redux", split, data_dir, revision, hub=hub, columns=COLUMNS, files=files)


def _problem(found: Rows, index: int, subject: str, problem_id: str, gold: str) -> Problem | str:
    row = found.rows[index]
    choices = texts(found, index, "choices")
    position = gold_position(row["answer"])
    error = row["error_type"].strip()
    if gold == "corrected" and error == "wrong_groundtruth":
        position = corrected_position(row.get("correct_answer"), choices)
        if position is None:
            return "wrong_groundtruth, and no option is named as right"
    elif gold != "all" and error != "ok":
        return error
    return choice_problem(
        problem_id,
        row["question"],
        choices,
        position,
        metadata={"subject": subject, "area": AREAS[subject], "error_type": error, "row": row},
    )


def corrected_position(correct: object, choices: list[str]) -> int | None:
    """The option that the annotators call right, as an index, a letter, or the text of exactly one; otherwise None."""
    position = gold_position(correct)
    if position is None and isinstance(correct, str):
        same = [place for place, text in enumerate(choices) if text.strip() == correct.strip()]
        position = same[0] if len(same) == 1 else None
    return position if position is not None and 0 <= position < len(choices) else None
