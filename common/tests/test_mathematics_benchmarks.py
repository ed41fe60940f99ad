r"""The mathematics benchmarks and training mixtures: what becomes of a row, at both doors, and every trap of their notes.

The hub cannot be reached from a test: its rows are written by hand here, in the exact shape of the published copies.
"""

import json
import os
import warnings
from pathlib import Path

import pytest

from thinker_common.benchmarks import load_benchmark, sources
from thinker_common.errors import DataError, SettingsError
from thinker_common.evaluation.grading import grade

COMMIT = "c" * 40


@pytest.fixture
def serve(monkeypatch):
    """A hub that holds these rows, by data set or for all."""

    def serve(rows):
        def download(name, split, hub, revision):
            served = rows[name] if isinstance(rows, dict) else rows
            return [dict(row) for row in served], revision or COMMIT

        monkeypatch.setattr(sources, "download", download)

    return serve


@pytest.fixture
def data_dir() -> Path:
    folder = os.environ.get("THINKER_DATA_DIR")
    if not folder:
        pytest.skip("THINKER_DATA_DIR names no folder with the original files")
    return Path(folder)


def load(*args, **options):
    """Load, without the warning that a handful of rows is not the whole set."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*were expected.*")
        return load_benchmark(*args, **options)


def write(path: Path, rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def right(problem, answer, **options) -> bool:
    return grade(problem, f"Thus \\boxed{{{answer}}}.", **options).correct


# --- Minerva Math ----------------------------------------------------------------------------------------------------

MINERVA_HUB = [
    {"question": "How many photons a second?", "answer": "4.5e33"},
    {"question": "Give the velocity.", "answer": "-1./3"},
    {"question": "What is the length?", "answer": "np.sqrt(2)"},
    {"question": "Estimate it.", "answer": "0.37"},
    {"question": "Part (a) is solved: \\boxed{7}. Do part (b).", "answer": 8.0},
]
MINERVA_FILE = [
    {"problem": "How many photons a second?", "solution": r"\boxed{4.5e33} photons", "type": "Astronomy", "idx": 0},
    {"problem": "Find it.", "solution": "no box", "type": "Astronomy", "idx": 1},
]


def test_minerva_from_the_hub(serve):
    serve(MINERVA_HUB)
    loaded = load("minerva_math")
    assert [problem.answer for problem in loaded.problems] == ["4.5e33", "-1./3", "np.sqrt(2)", "0.37", "8.0"]
    assert loaded.problems[0].id == "minerva_math/test/0"
    assert loaded.revision == "ee46ddc498933b1977577953250ca5c66be64f96"


def test_minerva_from_the_harness_file(tmp_path):
    write(tmp_path / "minerva_math" / "test.jsonl", MINERVA_FILE)
    loaded = load("minerva_math", data_dir=tmp_path)
    (problem,) = loaded.problems
    assert (problem.answer, problem.metadata["subject"]) == ("4.5e33", "Astronomy")
    assert problem.steps == (r"\boxed{4.5e33} photons",) and problem.metadata["row"] == MINERVA_FILE[0]
    assert loaded.dropped == {"no question, or no answer": 1}


@pytest.mark.parametrize(
    ("row", "accepted", "refused"),
    [
        (0, ["4.5e33", r"4.5 \times 10^{33}", r"4.5\cdot10^{33}"], ["4.5", "4.5e", "4.5e32", r"4.5 \times 10^{32}"]),
        (1, [r"-\frac{1}{3}", "-1/3"], ["-1", "1/3"]),
        (2, [r"\sqrt{2}", r"\sqrt2"], ["2", r"\sqrt{3}"]),
        (3, ["0.37", ".37"], ["0.371", "0.4"]),
        (4, ["8"], ["7"]),
    ],
)
def test_minerva_golds_in_the_spelling_of_programs(serve, row, accepted, refused):
    serve(MINERVA_HUB)
    problem = load("minerva_math").problems[row]
    assert right(problem, problem.target())
    assert [answer for answer in accepted if not right(problem, answer)] == []
    assert [answer for answer in refused if right(problem, answer)] == []


def test_minerva_has_a_relative_tolerance_that_is_off_and_is_reported(serve):
    serve(MINERVA_HUB)
    strict, tolerant = load("minerva_math"), load("minerva_math", relative_tolerance=0.01)
    assert "tolerance" not in strict.source and tolerant.source.endswith(", relative_tolerance = 0.01")
    assert not right(strict.problems[3], "0.371") and right(tolerant.problems[3], "0.371")
    assert not right(tolerant.problems[3], "0.38")
    assert right(tolerant.problems[0], r"4.51 \times 10^{33}") and not right(
        tolerant.problems[0], r"4.51 \times 10^{32}"
    )


@pytest.mark.parametrize("value", [-0.1, 1, "0.1", True])
def test_minerva_refuses_an_impossible_tolerance(serve, value):
    serve(MINERVA_HUB)
    with pytest.raises(SettingsError, match="relative_tolerance = "):
        load("minerva_math", relative_tolerance=value)


def test_a_copy_with_other_columns_is_told_what_is_known(serve):
    serve([{"prompt": "Q?", "answer": "1"}])
    known = r"not those of any known copy: question, answer; or problem, solution \(there are: prompt, answer\)"
    with pytest.raises(DataError, match=known):
        load("minerva_math")


# --- OlympiadBench ---------------------------------------------------------------------------------------------------


def olympiad_row(number, answer, **more):
    return {
        "id": number,
        "subfield": "Algebra",
        "context": None,
        "question": f"Question {number}?",
        "solution": ["It follows."],
        "final_answer": answer,
        "is_multiple_answer": False,
        "unit": None,
        "answer_type": "Numerical",
        "error": None,
        **more,
    }


def olympiad(serve, *rows):
    serve(rows)
    return load("olympiadbench")


def test_olympiadbench_takes_the_gold_out_of_its_list_and_dollars(serve):
    loaded = olympiad(
        serve,
        olympiad_row(1606, ["2"]),
        olympiad_row(7, [r"$\frac{1}{2}$."], context="Let $x$ be real."),
        olympiad_row(8, ["$69$,$84$"], is_multiple_answer=True),
        olympiad_row(9, ["$1$", "$2$"], is_multiple_answer=True),
        olympiad_row(10, [r"\$30"]),
    )
    assert [problem.answer for problem in loaded.problems] == ["2", r"\frac{1}{2}", "69,84", "1, 2", r"\$30"]
    first, second, third, *_ = loaded.problems
    assert first.id == "olympiadbench/test/1606"
    assert second.question == "Let $x$ be real.\n\nQuestion 7?"
    assert (first.metadata["subject"], first.metadata["answer_type"]) == ("Algebra", "Numerical")
    assert "multiple_answers" not in first.metadata and third.metadata["multiple_answers"] is True


def test_olympiadbench_several_values_are_a_set_and_tuples_keep_their_order(serve):
    values, tuples = olympiad(
        serve,
        olympiad_row(1, ["$1$,$-2$, 5"], is_multiple_answer=True),
        olympiad_row(2, ["$(1,8,19), (2,7,13)$"], is_multiple_answer=True, answer_type="Tuple"),
    ).problems
    assert all(right(values, answer) for answer in ("1,-2,5", "5, 1, -2", r"-2,5,1,1", r"\{-2, 1, 5\}"))
    assert not any(right(values, answer) for answer in ("1,-2", "1,-2,5,6", "1,2,5", "5"))
    assert right(tuples, "(2,7,13),(1,8,19)")
    assert not any(right(tuples, answer) for answer in ("(8,1,19),(2,7,13)", "(1,8,19)", "(2,7,13),(1,8,19),(0,0,0)"))


def test_olympiadbench_units_and_tolerances(serve):
    distance, percent, expression, words = olympiad(
        serve,
        olympiad_row(1, [r"$\frac{41}{12}$"], unit="km"),
        olympiad_row(2, ["4.2"], unit="%", error="1e-1"),
        olympiad_row(3, ["4.2"], error="1e-1", answer_type="Expression"),
        olympiad_row(4, ["4.2"], error="about"),
    ).problems
    assert distance.metadata["unit"] == "km" and percent.metadata["tolerance"] == pytest.approx(0.1)
    assert all(right(distance, answer) for answer in (r"\frac{41}{12}", r"\frac{41}{12} \text{ km}"))
    assert not right(distance, r"\frac{41}{13} \text{ km}")
    assert all(right(percent, answer) for answer in ("4.2", r"4.2\%", "4.25", r"4.11 \%"))
    assert not any(right(percent, answer) for answer in ("4.35", "4.0", "0.42"))
    assert "tolerance" not in expression.metadata and "tolerance" not in words.metadata
    several = olympiad(serve, olympiad_row(5, ["1,2"], error="1e-1,1e-3")).problems[0]
    assert several.metadata["tolerance"] == pytest.approx(1e-3)


def test_olympiadbench_drops_and_counts_rows_of_other_parts(serve):
    loaded = olympiad(
        serve,
        olympiad_row(1, ["2"], image_1=None, language="English", modality="Text-only"),
        olympiad_row(2, ["2"], image_1={"bytes": b""}),
        olympiad_row(3, ["2"], modality="Multimodal"),
        olympiad_row(4, ["2"], language="Chinese"),
        olympiad_row(5, ["2"], question="求最小值。"),
        olympiad_row(6, None),
        olympiad_row(7, []),
        olympiad_row(8, ["2"], question=" "),
    )
    assert [problem.id for problem in loaded.problems] == ["olympiadbench/test/1"]
    assert loaded.dropped == {
        "it has an image": 2,
        "it is in Chinese": 2,
        "no answer, or no text as the answer": 2,
        "no question": 1,
    }


def test_olympiadbench_reads_the_copy_with_answer_in_place_of_final_answer(serve):
    row = olympiad_row(1, None)
    del row["final_answer"]
    (problem,) = olympiad(serve, {**row, "answer": "$3$"}).problems
    assert problem.answer == "3"


@pytest.mark.parametrize(("rows", "warned"), [(673, 1), (674, 0), (675, 0), (676, 1)])
def test_olympiadbench_accepts_674_and_675_rows(serve, rows, warned):
    serve([olympiad_row(number, ["1"]) for number in range(rows)])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert len(load_benchmark("olympiadbench").problems) == rows
    assert len(caught) == warned and all("674 or 675 were expected" in str(warning.message) for warning in caught)


def test_real_olympiadbench(data_dir):
    problems = load_benchmark("olympiadbench", data_dir=data_dir).problems
    assert len(problems) == 675 and not any("$" in problem.answer for problem in problems)
    several = [problem for problem in problems if problem.metadata.get("multiple_answers")]
    assert len(several) == 94
    assert sum("unit" in problem.metadata for problem in problems) == 8
    assert [problem.id for problem in problems if "tolerance" in problem.metadata] == ["olympiadbench/test/2592"]
    # Written the other way round, with blanks, each value twice: the same answer.
    plain = [problem for problem in several if problem.metadata["answer_type"] == "Numerical"]
    reversible = [problem for problem in plain if "(" not in problem.answer]
    assert len(reversible) > 50
    for problem in reversible:
        backwards = ", ".join(problem.answer.split(",")[::-1])
        assert right(problem, f"{backwards}, {problem.answer}"), problem.answer


# --- AMC23, AIME24, AIME25 -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "row", "answer"),
    [
        ("amc23", {"id": 0, "question": "Q?", "answer": "27", "url": "u"}, "27"),
        ("amc23", {"id": 0, "problem": "Q?", "question": "Q?", "answer": 27.0, "url": "u"}, "27"),
        ("amc23", {"id": 0, "problem": "Q?", "answer": -1.0}, "-1"),
        ("aime24", {"id": 0, "problem": "Q?", "solution": "s", "answer": "025", "url": "u", "year": "2024"}, "25"),
        ("aime24", {"ID": 0, "Problem": "Q?", "Solution": "s", "Answer": 204}, "204"),
        ("aime24", {"id": 0, "problem": "Q?", "solution": r"So \boxed{073}.", "url": "u"}, "73"),
        ("aime25", {"id": "0", "problem": "Q?", "answer": "588"}, "588"),
        ("aime25", {"problem_idx": 0, "problem": "Q?", "answer": 588}, "588"),
    ],
)
def test_golds_of_contests_become_plain_integers(serve, name, row, answer):
    serve([row])
    (problem,) = load(name).problems
    assert (problem.id, problem.question, problem.answer) == (f"{name}/test/0", "Q?", answer)
    assert problem.metadata["row"] == row
    padded = f"{int(answer):03d}"
    assert all(right(problem, written) for written in (answer, padded, f"{answer}.0"))
    assert not right(problem, str(int(answer) + 1))


def test_a_contest_row_without_a_whole_number_is_dropped(serve):
    rows = [{"problem": "Q?", "answer": answer} for answer in ("3.5", "about 7", "nan", "12")]
    serve(rows)
    loaded = load("aime25")
    assert [problem.id for problem in loaded.problems] == ["aime25/test/3"]
    assert loaded.dropped == {"no question, or no whole number as the answer": 3}


def test_the_hub_holds_the_questions_of_aime24_in_a_split_called_train(monkeypatch):
    asked = []

    def download(name, split, hub, revision):
        asked.append((hub.splits.get(split, split), revision))
        return [{"problem": "Q?", "answer": "1"}], revision

    monkeypatch.setattr(sources, "download", download)
    loaded = load("aime24")
    assert asked == [("train", "2fe88a2f1091d5048c0f36abc874fb997b3dd99a")]
    assert loaded.split == "test" and "(default, train)" in loaded.source


def test_real_contests(data_dir):
    aime = load_benchmark("aime24", data_dir=data_dir).problems
    assert len(aime) == 30 and all(0 <= int(problem.answer) <= 999 for problem in aime)
    assert {"25", "73", "23", "45", "33", "80", "55"} <= {problem.answer for problem in aime}
    amc = load_benchmark("amc23", data_dir=data_dir).problems
    assert len(amc) == 40 and [problem.answer for problem in amc].count("-1") == 1
    assert all(problem.answer == str(int(problem.answer)) for problem in amc)
    assert amc[6].id == "amc23/test/7"  # ids are not consecutive


# --- GSM8K-Aug -------------------------------------------------------------------------------------------------------

AUG_LINES = [
    "He cuts grass || twice.||<<4-2=2>> <<2/.5=4>> #### 4",
    "No steps? || #### 2,000",
    "Trivial?||<<800=800>> #### -5",
]


def test_gsm8k_aug_from_the_authors_text_file(tmp_path):
    folder = tmp_path / "gsm8k_aug"
    folder.mkdir()
    (folder / "valid.txt").write_bytes("\r\n".join([AUG_LINES[1], "", AUG_LINES[2].replace("?", "?\u2028")]).encode())
    loaded = load("gsm8k_aug", split="valid", data_dir=tmp_path)
    assert [(problem.answer, problem.steps) for problem in loaded.problems] == [
        ("2000", ()),
        ("-5", ("<<800=800>>",)),
    ]
    assert loaded.source.endswith("valid.txt, 1 rows without steps")
    assert loaded.problems[1].question == "Trivial?"


def test_gsm8k_aug_splits_at_the_first_bars_and_the_last_mark(tmp_path):
    (tmp_path / "valid.txt").write_text("Who is #### 1?||<<1+1=2>> #### 3 #### 2\n", encoding="utf-8")
    (problem,) = load("gsm8k_aug", split="valid", data_dir=tmp_path).problems
    assert (problem.question, problem.steps, problem.answer) == ("Who is #### 1?", ("<<1+1=2>>",), "2")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("no bars #### 2", "line 2, column 1: a row must be: question"),
        ("no mark||<<1=1>> 2", "line 2, column 1: a row must be: question"),
        (b"bad \xff||#### 2", "line 2, column 5: not UTF-8"),
    ],
)
def test_gsm8k_aug_names_the_line_of_a_broken_row(tmp_path, line, message):
    raw = line if isinstance(line, bytes) else line.encode()
    (tmp_path / "valid.txt").write_bytes(AUG_LINES[1].encode() + b"\n" + raw)
    with pytest.raises(DataError, match=message):
        load("gsm8k_aug", split="valid", data_dir=tmp_path)


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Q?", "steps": ["<<4-2=2>>", "<<2/.5=4>>"], "answer": "1,004"},
        {"question": "Q?", "cot": "<<4-2=2>> <<2/.5=4>>", "answer": "#### 1004"},
    ],
)
def test_gsm8k_aug_from_both_hub_copies(serve, row):
    serve([row])
    loaded = load("gsm8k_aug", split="train")
    (problem,) = loaded.problems
    assert (problem.answer, problem.steps) == ("1004", ("<<4-2=2>>", "<<2/.5=4>>"))
    assert loaded.revision == COMMIT  # none is pinned, so the one that was loaded is recorded
    (bare,) = load("gsm8k_aug", split="train", calculator_marks=False).problems
    assert bare.steps == ("4-2=2", "2/.5=4")


def test_real_gsm8k_aug_and_its_leak(data_dir):
    loaded = load_benchmark("gsm8k_aug", split="valid", data_dir=data_dir)
    assert len(loaded.problems) == 500 and "6 rows without steps" in loaded.source
    assert all(problem.answer == str(int(problem.answer)) for problem in loaded.problems)
    train = load_benchmark("gsm8k_train", split="train", data_dir=data_dir)
    clear = load_benchmark("gsm8k_train", split="train", data_dir=data_dir, without_aug_valid=True)
    assert (len(train.problems), len(clear.problems)) == (7_473, 6_973)
    assert clear.dropped["a validation question of GSM8K-Aug"] == 500
    assert not {problem.question for problem in loaded.problems} & {problem.question for problem in clear.problems}


# --- training mixtures -----------------------------------------------------------------------------------------------


def math_rows(count):
    return [
        {"problem": f"M{n}?", "solution": rf"$\boxed{{{n}}}$", "subject": "Algebra", "level": 3} for n in range(count)
    ]


def crossthink_rows(count):
    options = "\n".join(f"{letter}: option {letter}" for letter in "ABCDEFGHIJ")
    return [
        {
            "prompt": [{"role": "user", "content": "x"}],
            "reward_model": {"ground_truth": "C: option C"},
            "meta_data": {"question": f"X{n}?\n{options}"},
        }
        for n in range(count)
    ]


def test_the_mixture_keeps_sizes_share_and_disjoint_splits(serve, monkeypatch):
    from thinker_common.benchmarks import generalthinker_mix

    monkeypatch.setattr(generalthinker_mix, "SIZES", {"train": 80, "valid": 20})
    serve({"math_train": [*math_rows(60), *math_rows(5)], "crossthink": crossthink_rows(90)})
    train, valid = (load("generalthinker_mix", split=split) for split in ("train", "valid"))
    assert (len(train.problems), len(valid.problems)) == (80, 20)
    for loaded, mathematics in ((train, 29), (valid, 7)):
        assert sum(problem.kind == "math" for problem in loaded.problems) == mathematics
    assert not {problem.id for problem in train.problems} & {problem.id for problem in valid.problems}
    assert train.dropped["a question that is there already"] == 5
    assert load("generalthinker_mix", split="train").problems == train.problems
    assert load("generalthinker_mix", split="train", draw_seed=1).problems != train.problems
    kinds = [problem.kind for problem in train.problems]
    assert kinds != sorted(kinds)  # mixed, not one after the other


def test_a_mixture_of_small_sources_keeps_the_share_and_says_so(serve):
    serve({"math_train": math_rows(36), "crossthink": crossthink_rows(400)})
    with pytest.warns(UserWarning, match="the sources allow 100 problems at this share, not 22204"):
        train = load("generalthinker_mix", split="train")
    with pytest.warns(UserWarning, match="the sources allow 100 problems"):
        valid = load("generalthinker_mix", split="valid")
    assert len(train.problems) + len(valid.problems) == 100
    assert sum(problem.kind == "math" for problem in (*train.problems, *valid.problems)) == 36


def test_the_mixture_has_no_revision_and_no_impossible_share(serve):
    with pytest.raises(SettingsError, match="no revision of its own"):
        load("generalthinker_mix", split="train", revision="abc")
    with pytest.raises(SettingsError, match="math_share = 1: must be a number between 0 and 1"):
        load("generalthinker_mix", split="train", math_share=1)
    with pytest.raises(DataError, match="has no split 'test'; it has train, valid"):
        load("generalthinker_mix")


def test_math_train_from_the_hub_and_from_the_file(serve, data_dir):
    serve(math_rows(3))
    from_hub = load("math_train", split="train")
    assert [problem.answer for problem in from_hub.problems] == ["0", "1", "2"]
    loaded = load_benchmark("math_train", split="train", data_dir=data_dir)
    assert len(loaded.problems) == 4_500 and not any(loaded.dropped.values())
    assert loaded.source.endswith("math_test_minus_500.jsonl, 4500 of the 12000 problems")
    assert {problem.metadata["level"] for problem in loaded.problems} == {1, 2, 3, 4, 5}
    assert len({problem.metadata["subject"] for problem in loaded.problems}) == 7
    test = {problem.question for problem in load_benchmark("math500", data_dir=data_dir).problems}
    assert not test & {problem.question for problem in loaded.problems}
    with pytest.raises(DataError, match="math_train has no split 'test'; it has train"):
        load("math_train", data_dir=data_dir)
