"""A user's own JSON-lines file: what works, and what each mistake is told."""

import json

import pytest

from thinker_common.benchmarks.user_file import load_jsonl
from thinker_common.errors import DataError, SettingsError


@pytest.fixture
def write(tmp_path):
    def write(*lines: str | bytes | dict) -> str:
        path = tmp_path / "mine.jsonl"
        raw = [
            line if isinstance(line, bytes) else (line if isinstance(line, str) else json.dumps(line)).encode()
            for line in lines
        ]
        path.write_bytes(b"\n".join(raw) + b"\n")
        return path

    return write


def test_columns_under_their_own_names(write):
    loaded = load_jsonl(
        write({"question": " What is 1+1? ", "answer": 2, "steps": ["1+1=2"]}, "", {"question": "Q", "answer": "x"})
    )
    first, second = loaded.problems
    assert (first.id, first.question, first.answer, first.steps) == ("mine/file/1", "What is 1+1?", "2", ("1+1=2",))
    assert second.id == "mine/file/3"  # by line: blank ones count
    assert first.metadata["row"]["question"] == " What is 1+1? "
    assert (loaded.name, loaded.split) == ("mine", "file") and loaded.revision.startswith("sha256:")


def test_mapped_columns(write):
    path = write({"prompt": "Q?", "solution": 27.0, "uid": "a7", "question": "not this"})
    (problem,) = load_jsonl(path, {"question": "prompt", "answer": "solution", "id": "uid"}).problems
    assert (problem.id, problem.question, problem.answer) == ("mine/file/a7", "Q?", "27")


def test_other_kinds(write):
    choice = {"question": "Q?", "answer": "B", "options": ["x", "y"]}
    assert load_jsonl(write(choice), kind="mcq").problems[0].target() == "B. y"
    assert load_jsonl(write({"question": "Q?", "answer": True}), kind="bool").problems[0].answer == "yes"
    text = {"question": "Q?", "answer": "3:45", "aliases": ["quarter to four"]}
    assert load_jsonl(write(text), kind="text").problems[0].aliases == ("quarter to four",)


def test_windows_files(write):
    path = write(
        b"\xef\xbb\xbf" + b'{"question": "Q?", "answer": "1"}\r', b'{"question": "\xc3\xa9?", "answer": "2"}\r'
    )
    assert [problem.question for problem in load_jsonl(path).problems] == ["Q?", "é?"]


GOOD = {"question": "Q?", "answer": "1"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"question": "Q?", "answer": }', "line 2, column 30: broken JSON (Expecting value)"),
        ('{"question": "Q?", "answer": "1"', "line 2, column 33: broken JSON (Expecting ',' delimiter)"),
        ("[" * 100_000, "line 2, column 1: JSON that cannot be read"),
        ('{"question": "\u00e9\u00e9 '.encode() + b'\xff", "answer": "1"}', "line 2, column 18: not UTF-8 (byte 0xff)"),
        (b'{"question": "caf\xe9", "answer": "1"}', "line 2, column 18: not UTF-8 (byte 0xe9); save the file as UTF-8"),
        ('["Q?", "1"]', "line 2, column 1: a row must be a JSON object, and this is a list"),
        ("null", "line 2, column 1: a row must be a JSON object, and this is null"),
        ({"question": "Q?"}, "line 2, column 1: the row has no answer (column 'answer')"),
        ({"question": "Q?", "answer": None}, "line 2, column 20: the row has no answer (column 'answer')"),
        ({"question": "Q?", "answer": " "}, "line 2, column 20: the row has an empty answer (column 'answer')"),
        ({"answer": "1"}, "line 2, column 1: the row has no question (column 'question')"),
        ({"question": "", "answer": "1"}, "line 2, column 2: the row has an empty question (column 'question')"),
        ({"question": "Q?", "answer": ["1"]}, "line 2, column 20: answer must be a string or a number, and is list"),
        ({"question": "Q?", "answer": True}, "line 2, column 20: answer must be a string or a number, and is bool"),
        ({**GOOD, "aliases": "one"}, "line 2, column 35: aliases must be a list of non-empty strings"),
        ({**GOOD, "id": 1}, "line 2, column 35: the id of line 1 again; ids must differ"),
    ],
)
def test_a_broken_row_is_named_with_line_and_column(write, line, message):
    path = write({**GOOD, "id": 1}, line)
    with pytest.raises(DataError) as caught:
        load_jsonl(path)
    assert str(caught.value).startswith(f"{path}, {message}")


@pytest.mark.parametrize(
    ("row", "kind", "message"),
    [
        ({"question": "Q?", "answer": "maybe"}, "bool", "answer 'maybe' is neither yes nor no"),
        ({"question": "Q?", "answer": "C", "options": ["x", "y"]}, "mcq", "answer 'C' is no letter from A to B"),
        ({"question": "Q?", "answer": "A", "options": ["x"]}, "mcq", "1 options; there must be 2 to 10"),
        (
            {"question": "Q?", "answer": "A"},
            "mcq",
            "no column 'options' for options, map it: columns.options=NAME (columns: question, answer)",
        ),
    ],
)
def test_rows_that_do_not_fit_their_kind(write, row, kind, message):
    with pytest.raises(DataError) as caught:
        load_jsonl(write(row), kind=kind)
    assert message in str(caught.value)


def test_a_mapping_to_no_column_names_the_nearest(write):
    path = write({"prompt": "Q?", "solution": "1"})
    with pytest.raises(DataError) as caught:
        load_jsonl(path, {"question": "promt", "answer": "solution"})
    assert str(caught.value) == (
        f"{path}, line 1, column 1: no column 'promt' for question; did you mean 'prompt'? (columns: prompt, solution)"
    )


def test_missing_default_columns_say_how_to_map(write):
    with pytest.raises(
        DataError, match=r"no column 'question' for question, map it: columns\.question=NAME \(columns: prompt"
    ):
        load_jsonl(write({"prompt": "Q?", "solution": "1"}))


def test_an_unknown_field_or_kind_names_those_there_are(write):
    with pytest.raises(SettingsError, match="unknown field 'qestion'; did you mean 'question'"):
        load_jsonl(write(GOOD), {"qestion": "prompt"})
    with pytest.raises(SettingsError, match="kind = 'maths': must be one of math, mcq, bool, text"):
        load_jsonl(write(GOOD), kind="maths")


def test_files_that_are_none(tmp_path):
    with pytest.raises(DataError, match=r"absent\.jsonl: there is no such file"):
        load_jsonl(tmp_path / "absent.jsonl")
    with pytest.raises(DataError, match="this is a folder"):
        load_jsonl(tmp_path)
    (tmp_path / "empty.jsonl").write_bytes(b"\n\n")
    with pytest.raises(DataError, match=r"empty\.jsonl: the file holds no rows"):
        load_jsonl(tmp_path / "empty.jsonl")


def test_half_a_character_is_no_text(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text(
        '{"question": "a \\ud83d\\ude00 whole one", "answer": "1"}\n{"question": "half \\ud83d of it", "answer": "1"}\n'
    )
    with pytest.raises(DataError, match=r"mine.jsonl, line 2, column 1: \\ud83d alone is half of a character"):
        load_jsonl(path)


def test_a_benchmark_without_a_problem_is_an_error(tmp_path):
    from thinker_common.benchmarks import load_benchmark

    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k" / "test.jsonl").write_text('{"question": "How many?", "answer": "no mark"}\n')
    with pytest.raises(
        DataError, match=r"no row is a problem of gsm8k \(1 rows: no question, or no number after ####\)"
    ):
        load_benchmark("gsm8k", data_dir=tmp_path)
