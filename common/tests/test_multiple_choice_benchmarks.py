"""The multiple-choice data sets: what becomes of a row, at both doors, and every trap that their notes name.

The hub cannot be reached from a test. Its rows are written by hand here, in the exact shape of the published copies; no
question of GPQA is among them.
"""

import csv
import json
import os
import re
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from thinker_common.benchmarks import (
    crossthink,
    csqa,
    gpqa,
    gpqa_diamond,
    mmlu,
    mmlu_pro,
    mmlu_redux,
    obqa,
    prosqa,
    sources,
    supergpqa,
)
from thinker_common.benchmarks.multiple_choice import gold_position
from thinker_common.errors import DataError, SettingsError
from thinker_common.evaluation.grading import GRADERS, grade

MODULES = [gpqa, gpqa_diamond, mmlu, mmlu_pro, mmlu_redux, supergpqa, csqa, obqa, crossthink]


def gpqa_row(record, right, *wrong, question="Which one?", **more):
    answers = dict(zip(gpqa.ANSWERS, [right, *wrong], strict=True))
    groups = {"High-level domain": "Physics", "Subdomain": "Optics", "Canary String": "made up for this test"}
    return {
        "Pre-Revision Question": "not this one",
        "Question": question,
        **answers,
        "Record ID": record,
        **groups,
        **more,
    }


GPQA_ROWS = [gpqa_row(f"rec{n}", f"right {n}\n", f"wrong {n}a", f"wrong {n}b ", f"wrong {n}c") for n in range(12)]
MMLU_ROWS = [
    {"question": "Which set is empty? ", "subject": "abstract_algebra", "choices": ["None", "0, 1", "{\n}", "N/A"], "answer": 2},
    {"question": "Is it even?", "subject": "abstract_algebra", "choices": ["1", "2", "3", "5"], "answer": 1},
    {"question": "What is a fallacy, \"exactly\"?", "subject": "logical_fallacies", "choices": ["same", "same", "other", "else"], "answer": 1},
]  # fmt: skip
MMLU_PRO_ROW = {
    "question_id": 70,
    "question": "How many?",
    "options": [str(n) for n in range(10)],
    "answer": "J",
    "answer_index": 9,
    "cot_content": "",
    "category": "math",
    "src": "stemez-Math",
}
REDUX_ROW = {
    "question": "Which planet is red?",
    "choices": ["Venus", "Mars", "Saturn", "Neptune"],
    "answer": 1,
    "error_type": "ok",
    "source": None,
    "correct_answer": None,
    "potential_reason": None,
}
SUPERGPQA_ROW = {
    "uuid": "u-1",
    "question": "Which enzyme?",
    "options": ["lipase", "amylase", "pepsin", "lactase", "trypsin"],
    "answer": "trypsin",
    "answer_letter": "E",
    "discipline": "Medicine",
    "field": "Basic Medicine",
    "subfield": "Biochemistry",
    "difficulty": "middle",
    "is_calculation": False,
}
CSQA_ROW = {
    "id": "c1",
    "question": "Where do you put a plate?",
    "question_concept": "plate",
    "choices": {"label": ["A", "B", "C", "D", "E"], "text": ["table", "moon", "table", "sea", "cloud"]},
    "answerKey": "C",
}
CSQA_NESTED = {
    "answerKey": "C",
    "id": "c1",
    "question": {
        "question_concept": "plate",
        "choices": [
            {"label": label, "text": text} for label, text in zip("ABCDE", CSQA_ROW["choices"]["text"], strict=True)
        ],
        "stem": "Where do you put a plate?",
    },
}
OBQA_ROW = {
    "id": "7-1",
    "question_stem": "The sun is responsible for",
    "choices": {"text": ["puppies", "wind", "stones", "letters"], "label": ["A", "B", "C", "D"]},
    "answerKey": " B",
}
OBQA_NESTED = {
    "id": "7-1",
    "question": {
        "stem": "The sun is responsible for",
        "choices": [
            {"text": text, "label": label} for text, label in zip(OBQA_ROW["choices"]["text"], "ABCD", strict=True)
        ],
    },
    "answerKey": "B",
}


def crossthink_row(question, gold, **meta):
    return {
        "data_source": "crossthink",
        "prompt": [{"role": "user", "content": f"Answer with a letter.\n{question}"}],
        "ability": "qa",
        "reward_model": {"style": "rule", "ground_truth": gold},
        "meta_data": {"index": 7, "question": question, **meta},
    }


TEN = "\n".join(f"{letter}: option {letter.lower()}" for letter in "ABCDEFGHIJ")
CROSSTHINK_ROW = crossthink_row(f"Which one is it?\n\n{TEN}", "F: option f")


@pytest.fixture
def hub(monkeypatch):
    """A hub that holds the rows a test puts there under (id, configuration, split), and remembers what was asked of it."""

    class Hub:
        def __init__(self):
            self.rows, self.asked = {}, []

        def download(self, name, split, hub, revision):
            key = (hub.id, hub.config, hub.splits.get(split, split))
            self.asked.append((*key, revision))
            return [dict(row) for row in self.rows[key]], revision or "main"

    served = Hub()
    monkeypatch.setattr(sources, "download", served.download)
    return served


@pytest.fixture
def data_dir() -> Path:
    folder = os.environ.get("THINKER_DATA_DIR")
    if not folder:
        pytest.skip("THINKER_DATA_DIR names no folder with the original files")
    return Path(folder)


def load(module, split="test", data_dir=None, revision=None, **options):
    """Load, with the warning about the number of rows silenced."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*say so beside any figure")
        return module.load(split, data_dir, revision, **options)


def without_rows(loaded):
    """Problems without the source row, which differs between copies of other shapes."""
    return [
        replace(p, metadata={key: value for key, value in p.metadata.items() if key != "row"}) for p in loaded.problems
    ]


def write_lines(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def gold_text(problem):
    return problem.options[problem.letters.index(problem.answer)]


# --- what all of them have -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_every_module_says_where_its_data_come_from(module):
    info = module.INFO
    assert re.search(r"20\d\d.*arXiv \d{4}\.\d{5}", info.citation)
    assert re.fullmatch(r"[0-9a-f]{40}", info.hub.revision)
    assert info.license
    assert info.notes
    assert module.VERSION == 1


def test_gold_positions():
    assert [gold_position(gold) for gold in (0, 3, "2", " C ", "J")] == [0, 3, 2, 2, 9]
    assert [gold_position(gold) for gold in (None, True, "", "K", "12", "c", 1.0, "AB")] == [None] * 8


# --- GPQA ------------------------------------------------------------------------------------------------------------


def serve_gpqa(hub, rows):
    for config in ("gpqa_main", "gpqa_diamond"):
        hub.rows["Idavidrein/gpqa", config, "train"] = rows


def test_gpqa_is_read_from_the_split_called_train(hub):
    serve_gpqa(hub, GPQA_ROWS)
    loaded = load(gpqa)
    assert hub.asked == [("Idavidrein/gpqa", "gpqa_main", "train", gpqa.HUB_REVISION)]
    assert [problem.id for problem in loaded.problems] == [f"gpqa/test/rec{n}" for n in range(12)]
    for number, problem in enumerate(loaded.problems):
        assert gold_text(problem) == f"right {number}"  # the line break after it is gone
        assert sorted(problem.options) == sorted(
            f"{w} {number}{s}" for w, s in (("right", ""), ("wrong", "a"), ("wrong", "b"), ("wrong", "c"))
        )
        assert (problem.metadata["subject"], problem.metadata["subdomain"]) == ("Physics", "Optics")
    assert len({problem.answer for problem in loaded.problems}) > 1
    assert "options ordered by seed 0 and record id" in loaded.source
    with pytest.raises(DataError, match="gpqa_diamond has no split 'train'; it has test"):
        gpqa_diamond.load("train", None, None)


def test_gpqa_letters_follow_from_the_seed_and_the_record_alone(hub):
    serve_gpqa(hub, GPQA_ROWS)
    options = {problem.id: problem.options for problem in load(gpqa).problems}
    serve_gpqa(hub, GPQA_ROWS[::-1][:5])
    few = load(gpqa)
    assert {problem.id: problem.options for problem in few.problems}.items() <= options.items()
    assert [p.options for p in load(gpqa_diamond).problems] == [p.options for p in few.problems]
    serve_gpqa(hub, GPQA_ROWS)
    assert {problem.id: problem.options for problem in load(gpqa, option_seed=1).problems} != options
    assert options["gpqa/test/rec0"] == ("wrong 0a", "right 0", "wrong 0b", "wrong 0c"), (
        "the letters of every stored result move"
    )


def test_gpqa_in_alphabetical_order_holds_the_gold_by_its_position(hub):
    serve_gpqa(
        hub, [gpqa_row("r1", "Beta", "beta", "alpha", "Gamma"), gpqa_row("r2", "beta", "Beta", "alpha", "Gamma")]
    )
    loaded = load(gpqa, option_order="alphabetical")
    assert [(p.options, p.answer) for p in loaded.problems] == [
        (("alpha", "Beta", "beta", "Gamma"), "B"),
        (("alpha", "beta", "Beta", "Gamma"), "B"),
    ]
    assert loaded.source.endswith("options ordered alphabetically")
    with pytest.raises(SettingsError, match="option_order = 'random': must be one of shuffled, alphabetical"):
        gpqa.load("test", None, None, option_order="random")


def test_gpqa_rows_with_an_empty_answer_are_counted(hub):
    bad = [
        gpqa_row("r1", "a", "b", "c", None),
        gpqa_row("r2", " ", "b", "c", "d"),
        gpqa_row("r3", "a", "b", "c", "d", question=None),
    ]
    serve_gpqa(hub, [*bad, *GPQA_ROWS])
    loaded = load(gpqa)
    assert len(loaded.problems) == 12
    assert loaded.dropped == {"no record id, or an empty answer": 2, "no question": 1}


def test_gpqa_from_the_published_csv(hub, tmp_path):
    serve_gpqa(hub, GPQA_ROWS)
    (tmp_path / "gpqa").mkdir()
    for config in ("gpqa_main", "gpqa_diamond"):
        with (tmp_path / "gpqa" / f"{config}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(GPQA_ROWS[0]))
            writer.writeheader()
            writer.writerows(GPQA_ROWS)
    for module in (gpqa, gpqa_diamond):
        for folder in (tmp_path, tmp_path / "gpqa"):
            local = load(module, data_dir=folder)
            assert local.problems == load(module).problems
            assert local.revision.startswith("sha256:")


def test_a_gated_download_names_the_page_and_the_token(monkeypatch, tmp_path):
    import datasets

    def refuse(*_, **__):
        raise datasets.exceptions.DatasetNotFoundError("Dataset 'Idavidrein/gpqa' is a gated dataset on the Hub.")

    monkeypatch.setattr(datasets, "load_dataset_builder", refuse)
    with pytest.raises(DataError) as caught:
        gpqa_diamond.load("test", None, None)
    message = str(caught.value)
    assert "gated dataset on the Hub" in message
    assert "accept its terms at https://huggingface.co/datasets/Idavidrein/gpqa" in message
    assert "HF_TOKEN" in message
    assert "DIR/gpqa/" in message
    with pytest.raises(DataError, match=r"neither .*gpqa_diamond\.csv") as caught:
        gpqa_diamond.load("test", tmp_path, None)
    assert "accept its terms" not in str(caught.value)


# --- MMLU ------------------------------------------------------------------------------------------------------------


def write_mmlu(folder, line_end="\n"):
    """The rows of MMLU_ROWS as the authors' files."""
    folder.mkdir(parents=True, exist_ok=True)
    for subject in {row["subject"] for row in MMLU_ROWS}:
        with (folder / f"{subject}_test.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator=line_end)
            writer.writerows(
                [r["question"], *r["choices"], "ABCD"[r["answer"]]] for r in MMLU_ROWS if r["subject"] == subject
            )


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_mmlu_at_both_doors(hub, tmp_path, line_end):
    hub.rows["cais/mmlu", "all", "test"] = MMLU_ROWS
    write_mmlu(tmp_path / "mmlu" / "test", line_end)
    from_hub = load(mmlu)
    assert (
        without_rows(from_hub)
        == without_rows(load(mmlu, data_dir=tmp_path))
        == without_rows(load(mmlu, data_dir=tmp_path / "mmlu"))
    )
    first, second, third = from_hub.problems
    assert first.question == "Which set is empty?"
    assert first.options == ("None", "0, 1", "{\n}", "N/A")
    assert [p.answer for p in from_hub.problems] == ["C", "B", "B"]
    assert [p.id for p in from_hub.problems] == [
        f"mmlu/test/{s}" for s in ("abstract_algebra/0", "abstract_algebra/1", "logical_fallacies/0")
    ]
    assert (first.metadata["subject"], first.metadata["area"], third.metadata["area"]) == (
        "abstract_algebra",
        "stem",
        "humanities",
    )
    assert not grade(third, r"\boxed{A}").correct  # its text is that of B
    assert grade(third, r"\boxed{B}").correct
    assert second.prompt_text() == "Is it even?\n\nA. 1\n\nB. 2\n\nC. 3\n\nD. 5"


def test_mmlu_golds_may_be_letters_on_the_hub(hub):
    hub.rows["cais/mmlu", "all", "validation"] = [row | {"answer": "ABCD"[row["answer"]]} for row in MMLU_ROWS]
    assert [problem.answer for problem in load(mmlu, "valid").problems] == ["C", "B", "B"]


def test_mmlu_subjects(hub, tmp_path):
    hub.rows["cais/mmlu", "all", "test"] = MMLU_ROWS
    write_mmlu(tmp_path / "mmlu" / "test")
    for loaded in (
        load(mmlu, subjects="logical_fallacies"),
        load(mmlu, data_dir=tmp_path, subjects=" logical_fallacies,"),
    ):
        assert [problem.id for problem in loaded.problems] == ["mmlu/test/logical_fallacies/0"]
        assert loaded.source.endswith("1 of 57 subjects")
    with pytest.raises(SettingsError, match="subjects: MMLU has no subject 'law'"):
        mmlu.load("test", None, None, subjects="law")
    with pytest.raises(DataError, match=r"there is no virology_test\.csv"):
        mmlu.load("test", tmp_path, None, subjects="virology")
    assert len(mmlu.SUBJECTS) == 57
    assert {
        len([s for s in mmlu.SUBJECTS if mmlu.AREAS[s] == area])
        for area in ("stem", "humanities", "social_sciences", "other")
    } == {18, 13, 12, 14}


def test_mmlu_says_that_subjects_are_missing(tmp_path):
    write_mmlu(tmp_path / "mmlu" / "test")
    with pytest.warns(UserWarning, match="files of 2 of 57 subjects; say so beside any figure"):
        mmlu.load("test", tmp_path, None)
    with pytest.raises(DataError, match=r"mmlu: there is no <subject>_val\.csv in .*val, nor in .*val"):
        mmlu.load("valid", tmp_path, None)
    with pytest.raises(DataError, match="mmlu has no split 'train'; it has test, valid, dev"):
        mmlu.load("train", tmp_path, None)


def test_a_broken_mmlu_file_is_named_with_its_line(tmp_path):
    folder = tmp_path / "mmlu" / "test"
    write_mmlu(folder)
    with (folder / "abstract_algebra_test.csv").open("a", encoding="utf-8") as file:
        file.write("only,four,cells,here\n")
    with pytest.raises(DataError, match=r"abstract_algebra_test\.csv, line 4: 4 cells, and there are 6 columns"):
        load(mmlu, data_dir=tmp_path)


# --- MMLU-Pro, MMLU-Redux, SuperGPQA -----------------------------------------------------------------------------------


def test_mmlu_pro(hub):
    padded = {
        **MMLU_PRO_ROW,
        "question_id": 71,
        "options": ["a", "N/A", "c", "N/A", " N/A"],
        "answer": "C",
        "answer_index": 2,
    }
    differ = {**MMLU_PRO_ROW, "question_id": 72, "answer_index": 3}
    beyond = {**MMLU_PRO_ROW, "question_id": 73, "options": ["a", "b"]}
    hub.rows["TIGER-Lab/MMLU-Pro", "default", "test"] = [MMLU_PRO_ROW, padded, differ, beyond]
    hub.rows["TIGER-Lab/MMLU-Pro", "default", "validation"] = [MMLU_PRO_ROW]
    loaded = load(mmlu_pro)
    first, second = loaded.problems
    assert (first.id, first.answer, len(first.options), first.metadata["subject"]) == (
        "mmlu_pro/test/70",
        "J",
        10,
        "math",
    )
    assert (second.options, second.answer) == (("a", "N/A", "c"), "C")
    assert loaded.dropped == {
        "the letter and the index of the gold differ": 1,
        "no gold answer, or one that is none of the options": 1,
    }
    assert load(mmlu_pro, "valid").problems[0].id == "mmlu_pro/valid/70"


def redux_rows():
    def flawed(error, correct):
        return {**REDUX_ROW, "error_type": error, "correct_answer": correct}

    return [
        REDUX_ROW,
        {**REDUX_ROW, "answer": "2"},
        flawed("wrong_groundtruth", "2"),
        flawed("wrong_groundtruth", "Neptune"),
        flawed("wrong_groundtruth", "a comet"),
        flawed("no_correct_answer", "a comet"),
        flawed("bad_question_clarity", None),
    ]


@pytest.mark.parametrize(
    ("gold", "answers", "dropped"),
    [
        ("all", "BCBBBBB", {}),
        ("ok", "BC", {"wrong_groundtruth": 3, "no_correct_answer": 1, "bad_question_clarity": 1}),
        (
            "corrected",
            "BCCD",
            {
                "wrong_groundtruth, and no option is named as right": 1,
                "no_correct_answer": 1,
                "bad_question_clarity": 1,
            },
        ),
    ],
)
def test_mmlu_redux_keeps_or_drops_mislabelled_rows(hub, gold, answers, dropped):
    hub.rows["edinburgh-dawg/mmlu-redux-2.0", "astronomy", "test"] = redux_rows()
    loaded = load(mmlu_redux, gold=gold, subjects="astronomy")
    assert "".join(problem.answer for problem in loaded.problems) == answers
    assert loaded.dropped == dropped
    assert loaded.source.endswith(f"(1 of 57 subjects), gold = {gold}")
    assert loaded.problems[0].id == "mmlu_redux/test/astronomy/0"
    assert loaded.problems[0].metadata["error_type"] == "ok"
    assert loaded.problems[0].metadata["area"] == "stem"


def test_mmlu_redux_asks_for_every_subject(hub):
    for subject in mmlu.SUBJECTS:
        hub.rows["edinburgh-dawg/mmlu-redux-2.0", subject, "test"] = [REDUX_ROW]
    loaded = load(mmlu_redux)
    assert [asked[1] for asked in hub.asked] == list(mmlu.SUBJECTS)
    assert len(loaded.problems) == 57
    assert loaded.revision == mmlu_redux.HUB_REVISION
    with pytest.raises(SettingsError, match="gold = 'best': must be one of all, ok, corrected"):
        mmlu_redux.load("test", None, None, gold="best")


def test_mmlu_redux_from_files(hub, tmp_path):
    for subject in ("astronomy", "virology"):
        hub.rows["edinburgh-dawg/mmlu-redux-2.0", subject, "test"] = redux_rows()
        write_lines(tmp_path / "mmlu_redux" / f"{subject}.jsonl", *redux_rows())
    local = load(mmlu_redux, data_dir=tmp_path, subjects="astronomy,virology")
    assert local.problems == load(mmlu_redux, subjects="astronomy,virology").problems
    assert local.revision.startswith("sha256:")


@pytest.mark.parametrize(
    ("correct", "position"),
    [
        ("2", 2),
        (1, 1),
        ("D", 3),
        ("Mars", 1),
        (" Mars ", 1),
        ("4", None),
        ("twin", None),
        (None, None),
        ("A and B", None),
    ],
)
def test_a_corrected_label_counts_only_where_it_names_one_option(correct, position):
    assert mmlu_redux.corrected_position(correct, ["twin", "Mars", "twin", "Neptune"]) == position


def test_supergpqa(hub, tmp_path):
    rows = [
        SUPERGPQA_ROW,
        {**SUPERGPQA_ROW, "uuid": "u-2", "answer": "pepsin"},
        {**SUPERGPQA_ROW, "uuid": "u-3", "answer_letter": "H"},
    ]
    hub.rows["m-a-p/SuperGPQA", "default", "train"] = rows
    loaded = load(supergpqa)
    (problem,) = loaded.problems
    assert (problem.id, problem.answer, gold_text(problem)) == ("supergpqa/test/u-1", "E", "trypsin")
    assert [problem.metadata[key] for key in ("subject", "field", "subfield", "difficulty")] == [
        "Medicine",
        "Basic Medicine",
        "Biochemistry",
        "middle",
    ]
    assert loaded.dropped == {
        "the letter and the text of the gold differ": 1,
        "no gold answer, or one that is none of the options": 1,
    }
    write_lines(tmp_path / "supergpqa" / "SuperGPQA-all.jsonl", *rows)
    assert load(supergpqa, data_dir=tmp_path).problems == loaded.problems


def test_a_sample_of_supergpqa_is_stratified_and_does_not_depend_on_the_order_of_rows(hub):
    sizes = {"Algebra": 50, "Optics": 30, "Law": 20, "Music": 1}
    rows = [
        {**SUPERGPQA_ROW, "uuid": f"{name}-{n}", "subfield": name} for name, size in sizes.items() for n in range(size)
    ]
    key = ("m-a-p/SuperGPQA", "default", "train")
    hub.rows[key] = rows
    loaded = load(supergpqa, sample_size=20)
    assert "20 of 101 stratified by subfield (seed 0)" in loaded.source
    counts = {name: sum(p.metadata["subfield"] == name for p in loaded.problems) for name in sizes}
    assert counts == {"Algebra": 10, "Optics": 6, "Law": 4, "Music": 0}
    ids = [problem.id for problem in loaded.problems]
    assert ids != [p.id for p in load(supergpqa, sample_size=20, sample_seed=1).problems]
    hub.rows[key] = rows[::-1]
    assert [p.id for p in load(supergpqa, sample_size=20).problems] == ids[::-1]
    assert len(load(supergpqa, sample_size=500).problems) == 101
    with pytest.raises(SettingsError, match="sample_size = 0: must be at least 1"):
        supergpqa.load("test", None, None, sample_size=0)


# --- CommonsenseQA, OpenBookQA ---------------------------------------------------------------------------------------


def test_csqa_nested_and_flat(hub, tmp_path):
    hub.rows["tau/commonsense_qa", "default", "validation"] = [CSQA_ROW]
    write_lines(tmp_path / "csqa" / "dev_rand_split.jsonl", CSQA_NESTED)
    from_hub = load(csqa, "valid")
    assert without_rows(from_hub) == without_rows(load(csqa, "valid", tmp_path))
    (problem,) = from_hub.problems
    assert (problem.id, problem.answer, problem.metadata["concept"]) == ("csqa/valid/c1", "C", "plate")
    assert grade(problem, r"\boxed{C}").correct
    assert not grade(problem, r"\boxed{A}").correct  # another option with the text of C


def test_csqa_has_no_answers_to_its_test_questions(tmp_path):
    with pytest.raises(DataError, match=r"the test split has no gold answers; evaluate on the split valid \(1,221"):
        csqa.load("test", tmp_path, None)


def test_obqa_nested_and_flat(hub, tmp_path):
    hub.rows["allenai/openbookqa", "main", "validation"] = [OBQA_ROW]
    write_lines(tmp_path / "obqa" / "dev.jsonl", OBQA_NESTED)
    from_hub = load(obqa, "valid")
    assert without_rows(from_hub) == without_rows(load(obqa, "valid", tmp_path))
    (problem,) = from_hub.problems
    assert (problem.id, problem.question, problem.answer, problem.steps) == (
        "obqa/valid/7-1",
        "The sun is responsible for",
        "B",
        (),
    )


def test_obqa_with_the_fact_behind_each_question(hub, tmp_path):
    fact = {"fact1": "the sun heats the air unevenly "}
    hub.rows["allenai/openbookqa", "additional", "train"] = [OBQA_ROW | fact]
    write_lines(tmp_path / "obqa" / "train_complete.jsonl", OBQA_NESTED | fact)
    from_hub = load(obqa, "train", facts=True)
    assert from_hub.problems[0].steps == ("the sun heats the air unevenly",)
    assert "heats" not in from_hub.problems[0].prompt_text()
    assert without_rows(from_hub) == without_rows(load(obqa, "train", tmp_path, facts=True))


def test_the_gold_goes_through_the_labels_and_not_through_the_alphabet(hub):
    choices = {"text": ["one", "two", "three", "four"], "label": ["D", "C", "B", "A"]}
    rows = [OBQA_ROW | {"choices": choices}, OBQA_ROW | {"answerKey": ""}, OBQA_ROW | {"answerKey": "E"}]
    hub.rows["allenai/openbookqa", "main", "test"] = rows
    loaded = load(obqa)
    assert [(p.answer, gold_text(p)) for p in loaded.problems] == [("C", "three")]
    assert loaded.dropped == {"no gold answer, or one that is none of the options": 2}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**CSQA_NESTED, "question": {"stem": "Where?"}}, "line 2: column question holds no stem, or no choices"),
        (
            {**CSQA_NESTED, "question": {"stem": "Where?", "choices": ["a", "b"]}},
            "line 2: column choices holds neither",
        ),
        (
            {**CSQA_NESTED, "question": {"stem": "Where?", "choices": [{"label": "A"}]}},
            "line 2: column choices holds neither",
        ),
        ({**CSQA_NESTED, "question": "Where?"}, "line 2: no dict in column question"),
        ({**CSQA_NESTED, "answerKey": None}, "line 2: no text in column answerKey"),
    ],
)
def test_a_malformed_nested_row_is_named(tmp_path, row, message):
    path = write_lines(tmp_path / "csqa" / "dev_rand_split.jsonl", CSQA_NESTED, row)
    with pytest.raises(DataError, match=f"^{re.escape(str(path))}, {message}"):
        load(csqa, "valid", tmp_path)


def test_a_malformed_list_of_options_is_named(hub):
    hub.rows["TIGER-Lab/MMLU-Pro", "default", "test"] = [MMLU_PRO_ROW, MMLU_PRO_ROW | {"options": ["a", None]}]
    with pytest.raises(DataError, match="row 2: column options is no list of texts"):
        load(mmlu_pro)


# --- the training mixture --------------------------------------------------------------------------------------------


def serve_crossthink(hub, *rows):
    hub.rows["nvidia/Nemotron-CrossThink", "default", "train_qa"] = rows


def test_crossthink(hub, tmp_path):
    serve_crossthink(hub, CROSSTHINK_ROW)
    loaded = load(crossthink, "train")
    (problem,) = loaded.problems
    assert (problem.id, problem.kind, problem.question) == ("crossthink/train/0", "mcq", "Which one is it?")
    assert problem.options == tuple(f"option {letter}" for letter in "abcdefghij")
    assert (problem.answer, problem.target()) == ("F", "F. option f")
    assert loaded.source.endswith("questions = ten_options")
    write_lines(tmp_path / "crossthink" / "Nemotron-CrossThink-QA.jsonl", CROSSTHINK_ROW)
    assert load(crossthink, "train", tmp_path).problems == loaded.problems


def test_crossthink_options_are_read_from_the_text():
    text = "Rules:\nA. first rule\nB. second rule\nWhich one?\n\n(A) one\nand more\nB) two\n C. three"
    assert crossthink.inline_options(text) == (
        "Rules:\nA. first rule\nB. second rule\nWhich one?",
        ["one\nand more", "two", "three"],
    )
    for none in ("Which one?", "A. only one", "A. one\nC. three", "Vitamin A. What is it?", "B. two\nC. three"):
        assert crossthink.inline_options(none) is None


@pytest.mark.parametrize(
    ("gold", "expected"),
    [
        ("B. two", "B"),
        ("b. two", "no gold answer, or one that is none of the options"),
        ("(B) two", "B"),
        ("B:  Two ", "B"),
        ("B", "B"),
        ("C. same", "C"),
        ("three", "E"),
        ("same", "no gold answer, or one that is none of the options"),
        ("A. two", "the letter and the text of the gold differ"),
        ("J. two", "no gold answer, or one that is none of the options"),
        ("Because", "no gold answer, or one that is none of the options"),
        (" ", "no gold answer"),
    ],
)
def test_crossthink_golds(hub, gold, expected):
    serve_crossthink(hub, crossthink_row("Which?\nA. one\nB. two\nC. same\nD. same\nE. three", gold))
    loaded = load(crossthink, "train", questions="multiple_choice")
    assert [problem.answer for problem in loaded.problems] or [*loaded.dropped] == [expected]
    assert [problem.answer for problem in loaded.problems] == ([expected] if len(expected) == 1 else [])


def test_crossthink_keeps_what_its_setting_says(hub):
    bare_prompt = {**CROSSTHINK_ROW, "meta_data": {}}
    four = crossthink_row("Which?\nA. one\nB. two\nC. three\nD. four", "D. four")
    serve_crossthink(hub, CROSSTHINK_ROW, bare_prompt, four, crossthink_row("Who wrote Faust?", "Goethe"))
    kinds = {
        questions: [p.kind for p in load(crossthink, "train", questions=questions).problems]
        for questions in ("ten_options", "multiple_choice", "all")
    }
    assert kinds == {"ten_options": ["mcq"] * 2, "multiple_choice": ["mcq"] * 3, "all": ["mcq"] * 3 + ["text"]}
    assert load(crossthink, "train").dropped == {"not ten options": 1, "an open question": 1}
    assert load(crossthink, "train").problems[1].question == "Answer with a letter.\nWhich one is it?"
    with pytest.raises(SettingsError, match="questions = 'some': must be one of ten_options, multiple_choice, all"):
        crossthink.load("train", None, None, questions="some")


# --- grading ---------------------------------------------------------------------------------------------------------


def small(hub):
    serve_gpqa(hub, GPQA_ROWS)
    serve_crossthink(hub, CROSSTHINK_ROW)
    hub.rows |= {
        ("cais/mmlu", "all", "test"): MMLU_ROWS[:2],
        ("TIGER-Lab/MMLU-Pro", "default", "test"): [MMLU_PRO_ROW],
        ("edinburgh-dawg/mmlu-redux-2.0", "astronomy", "test"): [REDUX_ROW],
        ("m-a-p/SuperGPQA", "default", "train"): [SUPERGPQA_ROW],
        ("tau/commonsense_qa", "default", "validation"): [CSQA_ROW],
        ("allenai/openbookqa", "main", "test"): [OBQA_ROW],
    }
    options = {mmlu_redux: {"subjects": "astronomy"}}
    splits = {csqa: "valid", crossthink: "train"}
    return [
        p for module in MODULES for p in load(module, splits.get(module, "test"), **options.get(module, {})).problems
    ]


@pytest.mark.parametrize("grader", GRADERS)
def test_gold_scores_one_and_every_other_letter_zero(hub, grader):
    problems = small(hub)
    assert len(problems) == 12 * 2 + 2 + 6
    for problem in problems:
        for letter in problem.letters:
            assert grade(problem, f"Thus \\boxed{{{letter}}}.", grader=grader).correct == (letter == problem.answer)
        assert grade(problem, f"Thus \\boxed{{{problem.target()}}}.", grader=grader).correct


# --- the real files --------------------------------------------------------------------------------------------------

MMLU_COUNTS = {
    "abstract_algebra": 100, "college_mathematics": 100, "college_physics": 102, "high_school_chemistry": 203,
    "high_school_biology": 310, "machine_learning": 112, "clinical_knowledge": 265, "philosophy": 311,
    "international_law": 121, "logical_fallacies": 163, "high_school_geography": 198, "econometrics": 114,
}  # fmt: skip


@pytest.mark.parametrize(
    ("module", "split", "count", "twins"),
    [
        (mmlu, "test", 2_099, 2),
        (mmlu, "dev", 60, 1),
        (csqa, "train", 9_741, 122),
        (csqa, "valid", 1_221, 24),
        (obqa, "train", 4_957, 3),
        (obqa, "valid", 500, 0),
    ],
    ids=lambda value: value.__name__.rpartition(".")[2] if hasattr(value, "__name__") else str(value),
)
def test_real_files(data_dir, module, split, count, twins):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*were expected.*")
        warnings.filterwarnings("ignore", message="(?s).*files of 12 of 57 subjects")
        loaded = module.load(split, data_dir, None)
    problems = loaded.problems
    assert len(problems) == count
    assert loaded.dropped == {}
    assert len({problem.id for problem in problems}) == count
    assert sum(len(set(problem.options)) < len(problem.options) for problem in problems) == twins
    for problem in problems:
        assert grade(problem, f"\\boxed{{{problem.answer}}}").correct, problem.id
        wrong = problem.letters[problem.letters.index(problem.answer) - 1]
        assert not grade(problem, f"\\boxed{{{wrong}}}").correct, problem.id
    # With the text of the option too; in the one exception the text is made of asterisks, commas and letters.
    misread = {problem.id for problem in problems if not grade(problem, f"\\boxed{{{problem.target()}}}").correct}
    assert misread <= {"mmlu/test/machine_learning/97"}


def test_real_mmlu(data_dir):
    problems = load(mmlu, data_dir=data_dir).problems
    counts = {subject: sum(problem.metadata["subject"] == subject for problem in problems) for subject in MMLU_COUNTS}
    assert counts == MMLU_COUNTS
    assert sum(option == "None" for problem in problems for option in problem.options) == 4
    assert {problem.metadata["area"] for problem in problems} == {"stem", "humanities", "social_sciences", "other"}
    assert load(mmlu, data_dir=data_dir, subjects="philosophy").problems == tuple(
        p for p in problems if p.metadata["subject"] == "philosophy"
    )


# --- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (gpqa, {"option_seed": "one"}, "option_seed = 'one': must be a whole number"),
        (gpqa_diamond, {"option_order": None}, "option_order = None: must be one of shuffled, alphabetical"),
        (mmlu, {"subjects": ["virology"]}, "subjects = ['virology']: must be names separated by commas"),
        (mmlu_redux, {"gold": True}, "gold = True: must be one of all, ok, corrected"),
        (supergpqa, {"sample_size": 10.5}, "sample_size = 10.5: must be a whole number"),
        (supergpqa, {"sample_seed": True}, "sample_seed = True: must be a whole number"),
        (obqa, {"facts": "yes"}, "facts = 'yes': must be true or false"),
        (crossthink, {"questions": 10}, "questions = 10: must be one of ten_options, multiple_choice, all"),
        (prosqa, {"hub_id": 3}, "hub_id = 3: must be the name of a data set, like someone/prosqa"),
    ],
)
def test_an_impossible_option_is_an_error_before_anything_is_read(module, options, message):
    with pytest.raises(SettingsError, match=f"^{re.escape(message)}$"):
        module.load("train" if module is crossthink else "test", None, None, **options)
