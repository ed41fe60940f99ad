"""Questions of benchmarks and of files: what is refused, with file and line, and the splits."""

import itertools
import json
import os
from pathlib import Path

import pytest

from tinythinker._common import DataError, SettingsError
from tinythinker.config import DataSettings
from tinythinker.question_sets import SPLITS, load_questions, question_row, read_questions
from tinythinker.questions import LETTERS, asked, fingerprint

ROW = {"question": "Which?", "options": ["one", "two"], "answer": "B"}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"options": None}, "a question without options; there must be 2 to 26"),
        ({"options": []}, "a question without options; there must be 2 to 26"),
        ({"options": ["one"], "answer": "A"}, "1 options; there must be 2 to 26"),
        ({"options": [f"text {n}" for n in range(27)]}, "27 options; there must be 2 to 26"),
        ({"options": ["one", "two", " one "]}, "options A and C have the same text"),
        ({"options": ["one  two", "one two"]}, "options A and B have the same text"),
        ({"options": "one, two"}, "options must be a list of texts that are not empty"),
        ({"options": ["one", ""]}, "options must be a list of texts that are not empty"),
        ({"options": ["one", 2]}, "options must be a list of texts that are not empty"),
        ({"answer": "C"}, "answer 'C' is no letter from A to B"),
        ({"answer": "two"}, "answer 'two' is no letter from A to B"),
        ({"answer": "AB"}, "answer 'AB' is no letter from A to B"),
        ({"answer": "b"}, "answer 'b' is no letter from A to B"),
        ({"answer": 1}, "answer must be a text that is not empty"),
        ({"answer": None}, "the row has no answer (column 'answer')"),
        ({"question": None}, "the row has no question (column 'question')"),
        ({"question": "  "}, "question must be a text that is not empty"),
        ({"id": 1.5}, "id must be a text or a whole number"),
        ({"facts": "a fact"}, "facts must be a list of texts that are not empty"),
        ({"knowledge": "k", "reasons": ["one"]}, "1 reasons for 2 options"),
        ({"knowledge": "k"}, "0 reasons for 2 options"),
        ({"reasons": ["one", "two"]}, "the row has no knowledge (column 'knowledge')"),
    ],
)
def test_bad_rows_are_named_by_file_and_line(tmp_path, changed, message):
    path = write(tmp_path / "mine.jsonl", [ROW, ROW | changed])
    with pytest.raises(DataError) as caught:
        read_questions(path, {})
    assert str(caught.value).startswith(f"{path}, line 2, column ") and str(caught.value).endswith(message)


@pytest.mark.parametrize(
    ("content", "place", "reason"),
    [
        (b'{"question": "Which?"\n', "line 1, column 22", "broken JSON"),
        (b"\n\n[1, 2]\n", "line 3, column 1", "a row must be a JSON object, and this is a list"),
        (b'{"question": "caf\xe9"}\n', "line 1, column 18", "not UTF-8 (byte 0xe9)"),
        (b"", "", "the file holds no rows"),
    ],
)
def test_broken_files(tmp_path, content, place, reason):
    path = tmp_path / "mine.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_questions(path, {})
    assert str(path) in str(caught.value) and place in str(caught.value) and reason in str(caught.value)


def test_an_id_twice_and_an_unknown_field(tmp_path):
    path = write(tmp_path / "mine.jsonl", [ROW | {"id": 7}, ROW, ROW | {"id": "7"}])
    with pytest.raises(DataError, match=r"line 3, column \d+: the id of line 1 again"):
        read_questions(path, {})
    with pytest.raises(SettingsError, match="unknown field 'query'"):
        read_questions(path, {"query": "prompt"})


def test_26_options_other_columns_and_exact_explanations(tmp_path):
    options = [f"text {n}" for n in range(26)]
    row = {"prompt": "Which?", "choices": options, "gold": "Z", "knowledge": "k.", "reasons": ["r."] * 26}
    path = write(tmp_path / "mine.jsonl", [row])
    (question,), revision = read_questions(path, {"question": "prompt", "options": "choices", "answer": "gold"})
    assert question.answer == "Z" and question.letters == LETTERS and question.id == "mine/1"
    assert question.reference.reasons == ("r.",) * 26 and revision.startswith("sha256:")
    again = write(tmp_path / "again.jsonl", [question_row(question)])
    assert read_questions(again, {})[0] == (question,)


def test_a_file_is_divided_the_same_way_whatever_its_order(tmp_path):
    rows = [ROW | {"id": f"q{n}", "question": f"Which {n}?"} for n in range(50)]
    there = write(tmp_path / "mine.jsonl", rows)
    back = write(tmp_path / "back.jsonl", rows[::-1])

    def ids(path, split, seed=0):
        settings = DataSettings(train_file=str(path), split=split, split_seed=seed)
        return [question.id for question in load_questions(settings).questions]

    parts = {split: ids(there, split) for split in ("train", "valid", "test")}
    assert [len(part) for part in parts.values()] == [40, 5, 5]
    assert sorted(itertools.chain(*parts.values())) == sorted(row["id"] for row in rows)
    for split, part in parts.items():
        assert sorted(ids(back, split)) == sorted(part)
    assert set(ids(there, "test", seed=1)) != set(parts["test"])
    assert len(ids(there, "all")) == 50
    with pytest.raises(DataError, match="there is no split 'dev'"):
        ids(there, "dev")


def test_the_embedded_facts_bring_exact_explanations():
    loaded = load_questions(DataSettings(benchmark="facts", split="valid", limit=30))
    assert len(loaded.questions) == 30 and "sample of 30 of 500 (seed 0)" in loaded.source
    assert len(loaded.ids) == 500
    for question in loaded.questions:
        gold = question.options[question.gold]
        assert f" {gold} " in question.reference.knowledge
        for position, (option, reason) in enumerate(zip(question.options, question.reference.reasons, strict=True)):
            facts, _, verdict = reason.partition(". ")
            assert f" {option} " in facts
            assert verdict == ("So it fits." if position == question.gold else "So it does not fit.")


@pytest.mark.parametrize("split", ["valid", "test"])
def test_facts_of_the_test_are_those_of_training_in_new_combinations(split):
    """The recipe's 4,000 training questions hold every fact that a test question turns on, and none of its questions."""

    def loaded(split, limit=None):
        return load_questions(DataSettings(benchmark="facts", split=split, limit=limit)).questions

    def facts(questions):
        return {reason.partition(". ")[0] for question in questions for reason in question.reference.reasons}

    trained, held_out = loaded("train", 4000), loaded(split)
    assert facts(held_out) <= facts(trained) and len(facts(held_out)) > 300
    assert {q.reference.knowledge for q in held_out} <= {q.reference.knowledge for q in trained}
    assert not {asked(question) for question in held_out} & {asked(question) for question in loaded("train")}


def test_a_limit_does_not_change_the_fingerprint():
    whole = load_questions(DataSettings(benchmark="facts", split="valid"))
    part = load_questions(DataSettings(benchmark="facts", split="valid", limit=3))
    assert part.fingerprint == whole.fingerprint == fingerprint(whole.questions[::-1])
    assert fingerprint(part.questions) != part.fingerprint


def strategyqa_files(folder, count=2061):
    """Questions in the place of the original ones; as many, since other counts are warned of."""
    rows = [
        {"qid": f"id{n}", "question": f"Is {n} odd?", "answer": n % 2 == 1, "facts": [f"{n} is."]} for n in range(count)
    ]
    (folder / "strategyqa").mkdir()
    (folder / "strategyqa/train.json").write_text(json.dumps(rows))
    (folder / "strategyqa/dev.json").write_text(json.dumps(rows[:229]))
    return folder


def test_a_split_seed_divides_strategyqa_anew(tmp_path):
    folder = strategyqa_files(tmp_path)

    def loaded(split, seed):
        return load_questions(
            DataSettings(benchmark="strategyqa", split=split, split_seed=seed, data_dir=str(folder)), human=True
        )

    divisions = {seed: {split: loaded(split, seed) for split in SPLITS} for seed in (0, 7, 8)}
    texts = {
        seed: {split: {question.text for question in part.questions} for split, part in parts.items()}
        for seed, parts in divisions.items()
    }
    for seed, parts in texts.items():
        assert sum(map(len, parts.values())) == len(set.union(*parts.values())) == 2061, seed
        assert all(len(part.ids) == len(part.questions) for part in divisions[seed].values())
    assert [len(texts[7][split]) for split in SPLITS] == [1649, 206, 206]
    for one, other in itertools.combinations(texts, 2):
        assert all(texts[one][split] != texts[other][split] for split in SPLITS)
    test = divisions[7]["test"]
    assert "206 of 2061, part test of our division (seed 7)" in test.source and "part train" not in test.source
    assert all(question.id.startswith("strategyqa/test/id") and question.facts for question in test.questions)
    assert loaded("test", 7) == test and test.fingerprint == fingerprint(test.questions)
    # The official dev questions are of no division.
    assert loaded("dev", 7).fingerprint == loaded("dev", 0).fingerprint


@pytest.mark.parametrize("benchmark", ["facts", "obqa", "mmlu"])
def test_a_split_seed_where_there_is_nothing_to_divide_is_refused(benchmark):
    with pytest.raises(SettingsError, match=rf"data.split_seed = 7: {benchmark} has its own splits"):
        load_questions(DataSettings(benchmark=benchmark, split_seed=7))


def test_a_benchmark_without_options_is_refused():
    with pytest.raises(SettingsError, match=r"data\.benchmark = 'chains': its questions have no options"):
        load_questions(DataSettings(benchmark="chains"))


# ------------------------------------------------------------------------------------------------- the published splits


@pytest.fixture
def real_files():
    folder = os.environ.get("THINKER_DATA_DIR")
    if not folder:
        pytest.skip("THINKER_DATA_DIR does not name the original files")
    return Path(folder)


PUBLISHED = {
    ("csqa", "train"): (8520, "sha256:3d876d4c73830283a"),
    ("csqa", "valid"): (1221, "sha256:1582d6b869d82a45c"),
    ("csqa", "test"): (1221, "sha256:c96976ac32f1d1d9b"),
    ("obqa", "train"): (4957, "sha256:95d1723b3da4d3cc9"),
    ("obqa", "valid"): (500, "sha256:b69a79aec6cf62f50"),
    ("strategyqa", "train"): (1661, "sha256:b7909a422c23eb826"),
    ("strategyqa", "valid"): (199, "sha256:3f672cec60bc81008"),
    ("strategyqa", "test"): (201, "sha256:68d3193b4fa50b17d"),
}


@pytest.mark.parametrize(("benchmark", "split"), PUBLISHED)
def test_the_published_splits_of_the_original_files(real_files, benchmark, split):
    loaded = load_questions(DataSettings(benchmark=benchmark, split=split, data_dir=str(real_files)))
    count, start = PUBLISHED[benchmark, split]
    assert len(loaded.questions) == count and loaded.fingerprint.startswith(start)


def test_commonsenseqa_is_divided_without_a_shared_question(real_files):
    parts = [
        load_questions(DataSettings(benchmark="csqa", split=split, data_dir=str(real_files))).questions
        for split in ("train", "valid", "test")
    ]
    texts = [{question.text.casefold() for question in part} for part in parts]
    assert not texts[0] & texts[1] and not texts[0] & texts[2] and not texts[1] & texts[2]


def test_yes_and_no_are_the_options_of_strategyqa(real_files):
    data = DataSettings(benchmark="strategyqa", split="test", data_dir=str(real_files))
    questions = load_questions(data).questions
    assert {question.options for question in questions} == {("yes", "no")}
    assert all(question.facts for question in questions) and {q.answer for q in questions} == {"A", "B"}
