"""Benchmarks: both doors to the published ones, sampling, and one table over all of them."""

import errno
import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from thinker_common.benchmarks import (
    NAMES,
    TRAINING_NAMES,
    benchmark_module,
    gsm8k,
    load_benchmark,
    option_names,
)
from thinker_common.benchmarks.problem import KINDS, Problem
from thinker_common.errors import DataError, SettingsError, UserError
from thinker_common.evaluation.grading import GRADERS, grade

GSM8K_ROWS = [
    {
        "question": "Ann sold 48 clips in April and half as many in May. How many in all?",
        "answer": "Ann sold 48/2 = <<48/2=24>>24 clips in May.\nShe sold 48+24 = <<48+24=72>>72 clips in all.\n#### 72",
    },
    {
        "question": "What does the house cost?",
        "answer": "It costs 1000*1200=$<<1000*1200=1200000>>1,200,000.\n#### 1,200,000",
    },
    {"question": "By how much did it change?", "answer": "It fell by 5.\n#### -5"},
]
MATH500_ROWS = [
    {
        "problem": "Convert $(0,3)$ to polar coordinates.",
        "solution": r"We have $\boxed{\left( 3, \frac{\pi}{2} \right)}.$",
        "answer": r"\left( 3, \frac{\pi}{2} \right)",
        "subject": "Precalculus",
        "level": 2,
        "unique_id": "test/precalculus/807.json",
    },
    {
        "problem": "Who runs fastest?",
        "solution": r"\boxed{\text{Evelyn}}",
        "answer": r"\text{Evelyn}",
        "subject": "Algebra",
        "level": 5,
        "unique_id": "test/algebra/1349.json",
    },
]


@pytest.fixture
def hub(monkeypatch):
    """A hub that holds the rows a test puts there, and remembers what was asked of it."""
    import datasets

    class Hub:
        def __init__(self):
            self.rows, self.asked, self.newest, self.serves = [], [], "f" * 40, None

        def load_dataset_builder(self, path, name, *, revision):
            self.asked.append((path, name, revision))
            self.hash = self.serves or revision or self.newest
            return self

        def download_and_prepare(self):
            pass

        def as_dataset(self, split):
            self.asked[-1] += (split,)
            return datasets.Dataset.from_list(self.rows)

    served = Hub()
    monkeypatch.setattr(datasets, "load_dataset_builder", served.load_dataset_builder)
    return served


def load_small(*args, **kwargs):
    """Load, with the warning about the number of rows silenced."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_benchmark(*args, **kwargs)


# --- the two doors ---------------------------------------------------------------------------------------------------


def test_gsm8k_from_the_hub(hub):
    hub.rows = GSM8K_ROWS
    loaded = load_small("gsm8k")
    assert hub.asked == [("openai/gsm8k", "main", gsm8k.HUB.revision, "test")]
    assert [problem.answer for problem in loaded.problems] == ["72", "1200000", "-5"]
    first = loaded.problems[0]
    assert (first.id, first.kind, first.question) == ("gsm8k/test/0", "math", GSM8K_ROWS[0]["question"])
    assert first.steps == ("Ann sold 48/2 = 24 clips in May.", "She sold 48+24 = 72 clips in all.")
    assert first.metadata["row"] == GSM8K_ROWS[0]
    assert loaded.revision == gsm8k.HUB.revision and loaded.revision in loaded.source


@pytest.mark.parametrize("name", ["gsm8k", "gsm8k_train"])
def test_gsm8ks_calculations_as_steps(name, hub):
    hub.rows = [*GSM8K_ROWS, {"question": "How many?", "answer": "Seven.\n#### 7"}]
    loaded = load_small(name, split="train" if name == "gsm8k_train" else "test", steps="calculations")
    assert loaded.problems[0].steps == ("<<48/2=24>>", "<<48+24=72>>")
    assert loaded.problems[3].steps == ()
    empty = sum(not problem.steps for problem in loaded.problems)
    assert loaded.source.endswith(f", {empty} solutions without calculations")
    with pytest.raises(SettingsError, match="steps = 'sentences': expected one of lines, calculations"):
        load_small("gsm8k", steps="sentences")


def test_gsm8k_of_short_solutions(hub):
    hub.rows = GSM8K_ROWS
    all_of_them = load_small("gsm8k")
    assert [len(problem.steps) for problem in all_of_them.problems] == [2, 1, 1]
    loaded = load_small("gsm8k", most_steps=1)
    assert loaded.problems == all_of_them.problems[1:]  # with the ids that they have among all
    assert loaded.dropped == {"a solution of more than 1 lines": 1}
    assert loaded.source.endswith("solutions of at most 1 lines")
    assert load_small("gsm8k", most_steps=2).problems == all_of_them.problems
    for wrong in (0, "3", True):
        with pytest.raises(SettingsError, match=f"most_steps = {wrong!r}: expected a whole number of at least 1"):
            load_small("gsm8k", most_steps=wrong)


def test_math500_from_the_hub(hub):
    hub.rows = MATH500_ROWS
    loaded = load_small("math500", revision="abc123")
    assert hub.asked == [("nlile/hendrycks-MATH-benchmark", "default", "abc123", "test")]
    assert loaded.revision == "abc123"
    first = loaded.problems[0]
    assert (first.id, first.answer) == ("math500/test/test/precalculus/807.json", r"\left( 3, \frac{\pi}{2} \right)")
    assert (first.metadata["subject"], first.metadata["level"]) == ("Precalculus", 2)


def test_math500_copies_with_other_columns(hub):
    hub.rows = [{"problem": "Q?", "solution": r"$\boxed{\frac{1}{2}}$", "type": "Algebra", "level": "Level ?"}]
    (problem,) = load_small("math500").problems
    assert (problem.id, problem.answer) == ("math500/test/0", r"\frac{1}{2}")
    assert (problem.metadata["subject"], problem.metadata["level"]) == ("Algebra", None)


@pytest.mark.parametrize(("name", "rows"), [("gsm8k", GSM8K_ROWS), ("math500", MATH500_ROWS)])
def test_both_doors_give_the_same_problems(hub, tmp_path, name, rows):
    hub.rows = rows
    (tmp_path / name).mkdir()
    file = tmp_path / name / "test.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    from_hub = load_small(name)
    for data_dir in (tmp_path, tmp_path / name, str(tmp_path)):
        local = load_small(name, data_dir=data_dir)
        assert local.problems == from_hub.problems
        assert local.source == str(file) and local.revision.startswith("sha256:")


def test_missing_columns_are_named_with_those_present(hub):
    hub.rows = [{"question": "Q?", "final": "1"}]
    with pytest.raises(DataError, match=r"openai/gsm8k .*: no column answer \(there are: question, final\)"):
        load_benchmark("gsm8k")


def test_a_row_without_text_is_named(hub):
    hub.rows = [*GSM8K_ROWS, {"question": "Q?", "answer": None}]
    with pytest.raises(DataError, match="row 4: no text in column answer"):
        load_benchmark("gsm8k")


def test_a_value_of_another_type_is_named_with_what_is_wanted(hub):
    hub.rows = [{"problem": "Q?", "answer": [1, 2]}]
    with pytest.raises(DataError, match=r"math-ai/aime25 .*: row 1: no text or int or float in column answer"):
        load_benchmark("aime25")


def test_another_number_of_rows_is_a_warning(hub):
    hub.rows = GSM8K_ROWS
    with pytest.warns(UserWarning, match="3 rows where 1319 were expected"):
        load_benchmark("gsm8k")


def test_dropped_rows_are_counted_and_ids_stay(hub):
    hub.rows = [{"question": "Q?", "answer": "no gold here"}, *GSM8K_ROWS]
    loaded = load_small("gsm8k")
    assert loaded.dropped == {"no question, or no number after ####": 1}
    assert [problem.id for problem in loaded.problems] == ["gsm8k/test/1", "gsm8k/test/2", "gsm8k/test/3"]


def test_offline_without_files_says_what_to_do(tmp_path):
    code = "from thinker_common.benchmarks import load_benchmark; load_benchmark('gsm8k')"
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", code], env=offline, capture_output=True, text=True)
    last_line = run.stderr.strip().splitlines()[-1]
    assert last_line.startswith("thinker_common.errors.DataError: openai/gsm8k (main, test)")
    assert "Go online, or give the original files: --data-dir DIR with DIR/gsm8k/" in last_line


def test_a_full_disk_is_not_mistaken_for_an_unreachable_hub(monkeypatch):
    import datasets

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(datasets, "load_dataset_builder", full)
    with pytest.raises(OSError, match="No space left") as caught:
        load_benchmark("gsm8k")
    assert not isinstance(caught.value, UserError)


def test_a_folder_without_the_file_names_what_was_looked_for(tmp_path):
    with pytest.raises(DataError, match=r"gsm8k: there is neither .*gsm8k.test\.jsonl nor .*test\.jsonl"):
        load_benchmark("gsm8k", data_dir=tmp_path)


def test_an_unknown_split_or_name_or_limit(tmp_path):
    with pytest.raises(DataError, match="gsm8k has no split 'dev'; it has train, test"):
        load_benchmark("gsm8k", split="dev", data_dir=tmp_path)
    with pytest.raises(UserError, match="unknown benchmark 'gsm9k'; did you mean 'gsm8k'"):
        load_benchmark("gsm9k")
    with pytest.raises(UserError, match="limit = 0: must be at least 1"):
        load_benchmark("gsm8k", limit=0)


def test_options_of_a_benchmark(hub):
    hub.rows = GSM8K_ROWS
    with pytest.raises(SettingsError, match=r"aime24 has no option 'split_seed' \(it has none\)"):
        load_benchmark("aime24", split_seed=1)
    nearest = (
        r"minerva_math has no option 'relative_tolerence'; did you mean 'relative_tolerance'\? "
        r"\(there are: relative_tolerance\)"
    )
    with pytest.raises(SettingsError, match=nearest):
        load_benchmark("minerva_math", relative_tolerence=0.1)
    assert hub.asked == []


def test_an_unpinned_data_set_records_the_commit_that_was_loaded(hub):
    hub.rows = [{"question": "Q?", "steps": [], "answer": "1"}]
    loaded = load_small("gsm8k_aug", split="valid")
    assert hub.asked == [("whynlp/gsm8k-aug", "default", None, "validation")]
    assert loaded.revision == hub.newest and f"at {hub.newest}" in loaded.source


def test_a_cached_copy_of_another_commit_is_told(hub):
    hub.rows = GSM8K_ROWS[:1] * 1_319
    hub.serves = "e" * 40  # as `datasets` does offline: the newest in its cache, whatever was asked for
    with pytest.warns(UserWarning, match=f"openai/gsm8k: the copy that was loaded is {hub.serves}, not {'a' * 40}"):
        loaded = load_benchmark("gsm8k", revision="a" * 40)
    assert loaded.revision == hub.serves


# --- the facts of each -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*NAMES, *TRAINING_NAMES])
def test_each_module_says_what_a_reader_must_know(name):
    module = benchmark_module(name)
    info = module.INFO
    assert isinstance(module.VERSION, int) and module.VERSION >= 1
    assert info.title and info.license and info.citation and info.kind in (*KINDS, "mixed")
    assert all(note.endswith(".") and len(note) <= 200 for note in info.notes)
    if info.hub is not None:
        assert info.hub.revision is None or re.fullmatch("[0-9a-f]{40}", info.hub.revision)
        assert set(info.hub.splits) <= set(info.hub.rows)


def facts_in_a_row(name: str) -> str:
    """What docs/benchmarks.md says of a benchmark, from its module."""
    module = benchmark_module(name)
    hub = module.INFO.hub
    options = ", ".join(f"`{option}`" for option in option_names(module)) or "-"
    if hub is None:
        return f"| `{name}` | {module.INFO.kind} | - | - | {options} |"
    rows = "; ".join(
        f"{split} {' or '.join(f'{n:,}' for n in (count if isinstance(count, tuple) else (count,)))}"
        for split, count in hub.rows.items()
    )
    revision = f"`{hub.revision[:12]}`" if hub.revision else "none"
    return f"| `{name}` | {module.INFO.kind} | `{hub.id}`, {hub.config}, {revision} | {rows} | {options} |"


def test_the_page_agrees_with_the_modules():
    page = Path(__file__).parents[2] / "docs" / "benchmarks.md"
    if not page.exists():
        pytest.skip("the page is in the repository only")
    lines = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    expected = [facts_in_a_row(name) for name in (*NAMES, *TRAINING_NAMES)]
    table = lines[: len(expected)]
    assert table == expected, "\n" + "\n".join(expected)


# --- the real files --------------------------------------------------------------------------------------------------


@pytest.fixture
def data_dir() -> Path:
    folder = os.environ.get("THINKER_DATA_DIR")
    if not folder:
        pytest.skip("THINKER_DATA_DIR names no folder with the original files")
    return Path(folder)


@pytest.fixture(autouse=True)
def warnings_are_errors():
    """The real files have exactly the rows that are expected of them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*were expected.*")
        yield


@pytest.mark.parametrize(
    ("name", "split", "count"),
    [
        ("gsm8k", "train", 7_473),
        ("gsm8k", "test", 1_319),
        ("math500", "test", 500),
    ],
)
def test_real_files(data_dir, name, split, count):
    loaded = load_benchmark(name, split=split, data_dir=data_dir)
    assert len(loaded.problems) == count and sum(loaded.dropped.values()) == 0
    assert len({problem.id for problem in loaded.problems}) == count
    if name == "gsm8k":
        assert all(problem.answer == str(int(problem.answer)) for problem in loaded.problems)
        assert not any("<<" in step or "####" in step for problem in loaded.problems for step in problem.steps)
    else:
        assert {problem.metadata["level"] for problem in loaded.problems} == {1, 2, 3, 4, 5}


def test_the_default_grader_accepts_every_real_gold_and_its_box_in_the_solution(data_dir):
    for problem in load_benchmark("math500", data_dir=data_dir).problems:
        assert grade(problem, problem.metadata["row"]["solution"]).correct, problem.answer


# --- sampling --------------------------------------------------------------------------------------------------------


def test_a_limit_is_a_seeded_sample_in_source_order(hub):
    hub.rows = [{"question": f"Q{i}?", "answer": f"#### {i}"} for i in range(50)]
    few = load_small("gsm8k", limit=10, seed=3)
    answers = [int(problem.answer) for problem in few.problems]
    assert len(answers) == 10 and answers == sorted(answers) and answers != list(range(10))
    assert few.source.endswith(", sample of 10 of 50 (seed 3)")
    assert few.problems == load_small("gsm8k", limit=10, seed=3).problems
    assert few.problems != load_small("gsm8k", limit=10, seed=4).problems
    every = load_small("gsm8k", limit=50)
    assert every.problems == load_small("gsm8k").problems and "sample" not in every.source


# --- one table over all of them --------------------------------------------------------------------------------------


def wrong_answer(problem: Problem) -> str:
    match problem.kind:
        case "mcq":
            return next(letter for letter in problem.letters if letter != problem.answer)
        case "bool":
            return "no" if problem.answer == "yes" else "yes"
        case "text":
            return "a wording that no task accepts"
        case _:
            return "7919.5"


@pytest.mark.parametrize("name", ["chains", "facts", "graphs", "phrases", "gsm8k", "math500"])
def test_gold_scores_one_and_a_wrong_answer_zero(name, hub):
    hub.rows = {"gsm8k": GSM8K_ROWS, "math500": MATH500_ROWS}.get(name, [])
    problems = load_small(name, limit=100).problems
    for problem in problems:
        for grader in GRADERS:
            gold = grade(problem, f"Thus \\boxed{{{problem.target()}}}.", grader=grader)
            assert gold.correct and gold.boxed and not gold.timed_out, (problem, grader)
            wrong = grade(problem, f"Thus \\boxed{{{wrong_answer(problem)}}}.", grader=grader)
            assert not wrong.correct and wrong.boxed, (problem, grader)
            for alias in problem.aliases:
                assert grade(problem, f"\\boxed{{{alias}}}", grader=grader).correct, (problem, alias)
    assert len({problem.id for problem in problems}) == len(problems)
    assert all(problem.id.startswith(f"{name}/test/") for problem in problems)


@pytest.mark.parametrize("name", ["gsm8k", "math500"])
def test_real_gold_scores_one_and_a_wrong_answer_zero(name, data_dir):
    for problem in load_benchmark(name, data_dir=data_dir).problems:
        assert grade(problem, f"\\boxed{{{problem.target()}}}").correct, problem.answer
        assert not grade(problem, f"\\boxed{{{wrong_answer(problem)}}}").correct, problem.answer


def test_listing_benchmarks_imports_nothing_heavy():
    code = "import sys, thinker_common.benchmarks; print(sorted({'torch', 'datasets', 'numpy'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
