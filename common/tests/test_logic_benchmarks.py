"""StrategyQA and ProsQA: what becomes of a row, at both doors, and every trap that their notes name."""

import json
import os
import re
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from thinker_common.benchmarks import graphs, prosqa, sources, strategyqa
from thinker_common.errors import DataError
from thinker_common.evaluation.grading import GRADERS, grade

FACTS = ["Ducks float.", "A stone of 1.5 kg sinks!", "Does a duck weigh less?"]


def strategyqa_row(number, answer=True, facts=FACTS):
    return {
        "qid": f"q{number}",
        "term": "Duck",
        "description": "bird",
        "question": f"Would duck number {number} float?",
        "answer": answer,
        "facts": facts,
        "decomposition": ["What floats?", "Is #1 a duck?"],
        "evidence": [[[["Duck-1"]], ["operation"]]],
    }


PROSQA_ROW = {
    "question": "Every zorpus is a blorp. Tom is a zorpus. Every zorp is a gump. Bob is a zorp. Is Tom a gump or blorp?",
    "answer": "Tom is a blorp.",
    "steps": ["Tom is a zorpus.", "Every zorpus is a blorp."],
    "idx_to_symbol": ["Tom", "zorpus", "blorp", "Bob", "zorp", "gump"],
    "edges": [[0, 1], [1, 2], [3, 4], [4, 5]],
    "root": 0,
    "target": 2,
    "neg_target": 5,
}


@pytest.fixture
def hub(monkeypatch):
    """A hub that serves the rows a test puts under (id, split)."""
    rows = {}

    def download(name, split, hub, revision):
        return [dict(row) for row in rows[hub.id, hub.splits.get(split, split)]], revision or "main"

    monkeypatch.setattr(sources, "download", download)
    return rows


@pytest.fixture
def data_dir() -> Path:
    folder = os.environ.get("THINKER_DATA_DIR")
    if not folder:
        pytest.skip("THINKER_DATA_DIR names no folder with the original files")
    return Path(folder)


def load(module, split, data_dir=None, **options):
    """Load, with the warning about the number of rows silenced."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*were expected")
        return module.load(split, data_dir, None, **options)


def write_array(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return path


# --- StrategyQA ------------------------------------------------------------------------------------------------------


def test_strategyqa_at_both_doors(hub, tmp_path):
    rows = [strategyqa_row(number, answer=number % 3 == 0) for number in range(60)]
    as_string = [row | {"facts": " ".join(FACTS)} for row in rows]
    hub["ChilleD/StrategyQA", "test"], hub["ChilleD/StrategyQA", "train"] = as_string[:20], as_string[20:]
    write_array(tmp_path / "strategyqa" / "train.json", rows)
    found = {}
    for split in ("train", "valid", "test"):
        from_hub, local = load(strategyqa, split), load(strategyqa, split, tmp_path)
        by_id = {problem.id: replace(problem, metadata={}) for problem in from_hub.problems}
        assert by_id == {problem.id: replace(problem, metadata={}) for problem in local.problems}
        assert local.source.endswith(f"train.json, part {split} of our division")
        assert from_hub.revision == strategyqa.HUB_REVISION
        found |= {problem.metadata["row"]["qid"]: (split, problem) for problem in local.problems}
    assert len(found) == 60
    assert Counter(split for split, _ in found.values()).most_common(1)[0][0] == "train"
    split, problem = found["q3"]
    assert (problem.id, problem.kind, problem.answer, problem.steps) == (
        f"strategyqa/{split}/q3",
        "bool",
        "yes",
        tuple(FACTS),
    )
    assert found["q4"][1].answer == "no"
    assert not any(fact in problem.prompt_text() for fact in FACTS)


def test_the_division_of_strategyqa_depends_on_the_question_alone(hub):
    owners = {n: strategyqa.split_of(f"Would duck number {n} float?") for n in (0, 1, 2, 17, 20, 36)}
    assert owners == {0: "train", 1: "valid", 2: "train", 17: "valid", 20: "test", 36: "test"}
    assert strategyqa.split_of("would duck  number 20 float? ") == "test"
    hub["ChilleD/StrategyQA", "train"] = [strategyqa_row(20), strategyqa_row(20)]
    hub["ChilleD/StrategyQA", "test"] = [strategyqa_row(20), strategyqa_row(20) | {"qid": "another"}]
    loaded = load(strategyqa, "test")
    assert [problem.id for problem in loaded.problems] == ["strategyqa/test/q20", "strategyqa/test/another"]
    assert loaded.dropped == {"the same qid again": 2}


def test_strategyqa_dev_is_the_official_file(tmp_path):
    write_array(tmp_path / "strategyqa" / "dev.json", [strategyqa_row(number) for number in range(5)])
    loaded = load(strategyqa, "dev", tmp_path)
    assert [problem.id for problem in loaded.problems] == [f"strategyqa/dev/q{number}" for number in range(5)]
    with pytest.raises(DataError, match=r"does not keep the official dev questions apart; .*DIR/strategyqa/dev\.json"):
        strategyqa.load("dev", None, None)
    with pytest.raises(DataError, match="strategyqa has no split 'validation'; it has train, valid, test, dev"):
        strategyqa.load("validation", tmp_path, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": 1}, "no bool in column answer"),
        ({"answer": "yes"}, "no bool in column answer"),
        ({"facts": ["Ducks float.", 7]}, "column facts is no list of texts"),
        ({"question": None}, "no text in column question"),
    ],
)
def test_a_malformed_strategyqa_row_is_named(tmp_path, change, message):
    rows = [strategyqa_row(number) for number in range(3)]
    path = write_array(tmp_path / "strategyqa" / "train.json", [*rows, rows[0] | {"qid": "bad"} | change])
    with pytest.raises(DataError, match=f"^{re.escape(str(path))}, line \\d+: {message}"):
        load(strategyqa, strategyqa.split_of(rows[0]["question"]), tmp_path)


# --- ProsQA ----------------------------------------------------------------------------------------------------------


def test_prosqa_has_one_sentence_as_gold_and_both_to_rank(tmp_path):
    write_array(tmp_path / "prosqa" / "prosqa_test.json", [PROSQA_ROW])
    (problem,) = load(prosqa, "test", tmp_path).problems
    assert (problem.id, problem.kind, problem.answer) == ("prosqa/test/0", "text", "Tom is a blorp.")
    assert problem.metadata["options"] == ("Tom is a gump.", "Tom is a blorp.")
    assert problem.steps == tuple(PROSQA_ROW["steps"])
    assert problem.metadata["row"] == PROSQA_ROW
    for right in ("Tom is a blorp.", "Tom is a blorp", "tom is a  blorp."):
        assert grade(problem, f"\\boxed{{{right}}}").correct
    for wrong in ("Tom is a gump.", "Tom is a zorp.", "Tom is a blorp or a gump.", "Bob is a blorp.", "blor", ""):
        assert not grade(problem, f"\\boxed{{{wrong}}}").correct


def test_prosqa_rows_that_contradict_themselves_are_counted(tmp_path):
    rows = [
        PROSQA_ROW,
        PROSQA_ROW | {"answer": "Tom is a gump."},
        PROSQA_ROW | {"target": 1},
        PROSQA_ROW | {"question": "Is Bob a gump or blorp?"},
        PROSQA_ROW | {"question": "Which is it?"},
    ]
    write_array(tmp_path / "prosqa" / "prosqa_valid.json", rows)
    loaded = load(prosqa, "valid", tmp_path)
    assert len(loaded.problems) == 1
    assert loaded.dropped == {
        "the answer is not the sentence of the target": 1,
        "the question does not end in the two options": 3,
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": 6}, "column target is 6, and there are 6 symbols"),
        ({"neg_target": -1}, "column neg_target is -1, and there are 6 symbols"),
        ({"idx_to_symbol": ["Tom", None]}, "column idx_to_symbol is no list of texts"),
        ({"steps": "Tom is a zorpus."}, "no list in column steps"),
        ({"root": "Tom"}, "no int in column root"),
    ],
)
def test_a_malformed_prosqa_row_is_named(tmp_path, change, message):
    path = write_array(tmp_path / "prosqa" / "prosqa_valid.json", [PROSQA_ROW, PROSQA_ROW | change])
    with pytest.raises(DataError, match=f"^{re.escape(str(path))}, line \\d+: {message}"):
        load(prosqa, "valid", tmp_path)


def test_prosqa_comes_from_files_or_from_a_data_set_that_the_user_names(hub, tmp_path):
    with pytest.raises(
        DataError, match=r"not on the Hugging Face hub: .*facebookresearch/coconut.*DIR/prosqa/prosqa_test\.json"
    ):
        prosqa.load("test", None, None)
    hub["someone/prosqa", "validation"] = [PROSQA_ROW]
    write_array(tmp_path / "prosqa" / "prosqa_valid.json", [PROSQA_ROW])
    assert load(prosqa, "valid", hub_id="someone/prosqa").problems == load(prosqa, "valid", tmp_path).problems


# --- the real files --------------------------------------------------------------------------------------------------


def grade_all(problems, wrong):
    for problem in problems:
        for grader in GRADERS:
            assert grade(problem, f"Thus \\boxed{{{problem.target()}}}.", grader=grader).correct, problem.id
            assert not grade(problem, f"Thus \\boxed{{{wrong(problem)}}}.", grader=grader).correct, problem.id


def test_real_strategyqa(data_dir):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        splits = {split: strategyqa.load(split, data_dir, None) for split in ("train", "valid", "test")}
    assert {split: len(loaded.problems) for split, loaded in splits.items()} == {
        "train": 1_661,
        "valid": 199,
        "test": 201,
    }
    assert all(loaded.dropped == {} for loaded in splits.values())
    assert {split: len(loaded.problems) for split, loaded in splits.items()}.items() <= strategyqa.HUB.rows.items()
    problems = [problem for loaded in splits.values() for problem in loaded.problems]
    assert Counter(problem.answer for problem in problems) == {"no": 1_097, "yes": 964}
    assert {len(problem.steps) for problem in problems} == {2, 3, 4, 5}
    places = Counter((problem.question, problem.id.split("/")[1]) for problem in problems)
    assert len({question for question, _ in places}) == len(places) == 2_060  # one question occurs twice, in one split
    grade_all(problems, wrong=lambda problem: "no" if problem.answer == "yes" else "yes")


def test_how_often_the_facts_of_strategyqa_are_found_again_in_one_string(data_dir):
    rows = json.loads((data_dir / "strategyqa" / "train.json").read_text(encoding="utf-8"))
    facts = [tuple(fact.strip() for fact in row["facts"]) for row in rows]
    joined = [tuple(strategyqa.sentences(" ".join(each))) for each in facts]
    assert sum(map(tuple.__eq__, facts, joined)) / len(facts) == pytest.approx(0.82, abs=0.01)


def test_real_prosqa(data_dir):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = prosqa.load("valid", data_dir, None)
    problems = loaded.problems
    assert len(problems) == 300
    assert loaded.dropped == {}
    assert sum(problem.metadata["options"][0] == problem.answer for problem in problems) == 144
    assert Counter(len(problem.steps) for problem in problems).keys() == {3, 4, 5, 6}
    assert graphs.statistics(problems)["right_first"] == 144  # the metadata is that of the generated benchmark
    grade_all(problems, wrong=lambda problem: next(o for o in problem.metadata["options"] if o != problem.answer))
