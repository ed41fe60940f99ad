"""MMLU: 57 school, university and professional subjects, four options each.

The authors' files are CSV without a header, one a subject: question, four options, gold letter. Cells in quotes hold
line breaks, and some options are the word "None", which a data-frame reader takes for a missing value.
"""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path

from ..errors import DataError, SettingsError
from .jsonl import fingerprint, parse_csv, read_bytes
from .multiple_choice import choice_problem, gold_position, texts
from .problem import BenchmarkInfo, LoadedBenchmark, Problem, kept_and_dropped
from .sources import HubDataset, Layout, Rows, check_split, expect_rows, read_rows

VERSION = 1
HUB = HubDataset(
    "cais/mmlu",
    "all",
    "c30699e8356da336a370243923dbaf21066bb9fe",
    {"test": 14_042, "valid": 1_531, "dev": 285},
    {"valid": "validation"},
)
INFO = BenchmarkInfo(
    title="MMLU",
    kind="mcq",
    hub=HUB,
    license="MIT",
    citation="Hendrycks et al. 2021, Measuring Massive Multitask Language Understanding, arXiv 2009.03300",
    notes=(
        "The mean over all questions and the mean over subjects differ: say which one a figure is.",
        "In some questions two options have the same text (2 of the 2,099 in 12 subjects): only the letter tells.",
        "dev holds five worked examples a subject, for few-shot prompts.",
        "The hub's auxiliary_train is made of other data sets, OpenBookQA among them, and is not read.",
        "MMLU-Redux relabels questions of the test split.",
    ),
    shares=("mmlu_redux/test",),
)
COLUMNS: tuple[Layout, ...] = ({"question": str, "subject": str, "choices": list, "answer": int | str},)
CSV_COLUMNS = ("question", "A", "B", "C", "D", "answer")
FOLDERS = {"test": "test", "valid": "val", "dev": "dev"}

# The areas are those of openai/simple-evals, which count anatomy under "other".
AREAS: dict[str, str] = {
    subject: area
    for area, subjects in {
        "stem": (
            "abstract_algebra", "astronomy", "college_biology", "college_chemistry", "college_computer_science",
            "college_mathematics", "college_physics", "computer_security", "conceptual_physics",
            "electrical_engineering", "elementary_mathematics", "high_school_biology", "high_school_chemistry",
            "high_school_computer_science", "high_school_mathematics", "high_school_physics",
            "high_school_statistics", "machine_learning",
        ),
        "humanities": (
            "formal_logic", "high_school_european_history", "high_school_us_history", "high_school_world_history",
            "international_law", "jurisprudence", "logical_fallacies", "moral_disputes", "moral_scenarios",
            "philosophy", "prehistory", "professional_law", "world_religions",
        ),
        "social_sciences": (
            "econometrics", "high_school_geography", "high_school_government_and_politics",
            "high_school_macroeconomics", "high_school_microeconomics", "high_school_psychology",
            "human_sexuality", "professional_psychology", "public_relations", "security_studies", "sociology",
            "us_foreign_policy",
        ),
        "other": (
            "anatomy", "business_ethics", "clinical_knowledge", "college_medicine", "global_facts", "human_aging",
            "management", "marketing", "medical_genetics", "miscellaneous", "nutrition", "professional_accounting",
            "professional_medicine", "virology",
        ),
    }.items()
    for subject in subjects
}  # fmt: skip
SUBJECTS = tuple(sorted(AREAS))


def load(split: str, data_dir: Path | None, revision: str | None, *, subjects: str = "") -> LoadedBenchmark:
    """The questions of "test", "valid" or "dev", with `subject` and `area` as groups.

    Locally, the authors' folders: `mmlu/test/<subject>_test.csv`, `mmlu/val/...`, `mmlu/dev/...`.

    subjects: those to keep, separated by commas; all that are there if empty
    """
    check_split("mmlu", split, HUB)
    wanted = subject_names(subjects)
    if data_dir is None:
        found = read_rows("mmlu", split, None, revision, hub=HUB, columns=COLUMNS)
    else:
        found = _read_folder(split, data_dir, wanted)
    numbers: Counter[str] = Counter()  # of the rows seen of each subject, so that ids do not depend on the others
    results = []
    for index, row in enumerate(found.rows):
        subject = row["subject"]
        if not wanted or subject in wanted:
            results.append(_problem(found, index, f"mmlu/{split}/{subject}/{numbers[subject]}"))
        numbers[subject] += 1
    problems, dropped = kept_and_dropped(results)
    count = len(wanted or numbers)
    source = found.source if count == len(SUBJECTS) else f"{found.source}, {count} of {len(SUBJECTS)} subjects"
    return LoadedBenchmark("mmlu", split, problems, found.revision, source, VERSION, dropped)


def subject_names(subjects: str) -> tuple[str, ...]:
    """The subjects in a list separated by commas; SettingsError for one that MMLU does not have."""
    if not isinstance(subjects, str):
        raise SettingsError(f"subjects = {subjects!r}: must be names separated by commas")
    names = tuple(name.strip() for name in subjects.split(",") if name.strip())
    for name in names:
        if name not in AREAS:
            raise SettingsError(f"subjects: MMLU has no subject {name!r} (it has {', '.join(SUBJECTS)})")
    return names


def _read_folder(split: str, data_dir: Path, wanted: tuple[str, ...]) -> Rows:
    """The authors' files of one split as rows in the hub's shape, the cells as they are."""
    part = FOLDERS[split]
    candidates = (data_dir / "mmlu" / part, data_dir / part)
    folder = next((folder for folder in candidates if any(folder.glob(f"*_{part}.csv"))), None)
    if folder is None:
        raise DataError(f"mmlu: there is no <subject>_{part}.csv in {candidates[0]}, nor in {candidates[1]}")
    files = {path.name.removesuffix(f"_{part}.csv"): path for path in sorted(folder.glob(f"*_{part}.csv"))}
    if missing := [subject for subject in wanted if subject not in files]:
        raise DataError(f"{folder}: there is no {missing[0]}_{part}.csv")
    rows, places, contents = [], [], []
    for subject in wanted or files:
        contents.append(read_bytes(files[subject]))
        for line in parse_csv(files[subject], contents[-1], header=CSV_COLUMNS):
            cells = line.row
            choices = [cells[letter] for letter in "ABCD"]
            rows.append(
                {"question": cells["question"], "subject": subject, "choices": choices, "answer": cells["answer"]}
            )
            places.append(line.place)
    if not wanted:
        if len(files) == len(SUBJECTS):
            expect_rows(str(folder), len(rows), HUB.rows[split])
        else:
            warnings.warn(
                f"{folder}: files of {len(files)} of {len(SUBJECTS)} subjects; say so beside any figure", stacklevel=3
            )
    return Rows(rows, places, str(folder), fingerprint(b"".join(contents)))


def _problem(found: Rows, index: int, problem_id: str) -> Problem | str:
    row = found.rows[index]
    return choice_problem(
        problem_id,
        row["question"],
        texts(found, index, "choices"),
        gold_position(row["answer"]),
        metadata={"subject": row["subject"], "area": AREAS.get(row["subject"]), "row": row},
    )
