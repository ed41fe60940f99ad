"""JSON arrays and CSV files as people send them: the rows, and the file and line of every complaint."""

import json
import re

import pytest

from thinker_common.benchmarks.jsonl import parse_array, parse_csv
from thinker_common.errors import DataError


@pytest.fixture
def read(tmp_path):
    def read(parse, content, *arguments):
        raw = content if isinstance(content, bytes) else content.encode()
        return list(parse(tmp_path / "data", raw, *arguments))

    return read


def test_an_array_gives_its_objects_with_their_lines(read):
    rows = [{"q": "a\u2028b", "n": [1, {"x": "]"}]}, {"q": "c, [d]"}, {}]
    compact = read(parse_array, json.dumps(rows, ensure_ascii=False))
    assert [line.row for line in compact] == rows and {line.number for line in compact} == {1}
    spread = read(parse_array, "\ufeff\n" + json.dumps(rows, indent=1).replace("\n", "\r\n") + "\n\n")
    assert [line.row for line in spread] == rows
    text = json.dumps(rows, indent=1).split("\n")
    assert [line.number for line in spread] == [number + 2 for number, line in enumerate(text) if line.startswith(" {")]
    assert spread[1].text == spread[1].text.strip() and json.loads(spread[1].text) == rows[1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "line 1, column 1: the file must be one JSON array of objects, in [ ]"),
        ('{"a": 1}\n{"a": 2}', "line 1, column 1: the file must be one JSON array of objects, in [ ]"),
        ("\n[ ]", ": the file holds no rows"),
        ('[{"a": 1},\n {"a": }]', "line 2, column 8: broken JSON (Expecting value)"),
        ('[{"a": 1}\n {"a": 2}]', "line 2, column 2: broken JSON (a comma, or ] at the end, is missing)"),
        ('[{"a": 1},\n\n{"a": 2}', "line 3, column 9: broken JSON (a comma, or ] at the end, is missing)"),
        ('[{"a": 1},\n]', "line 2, column 1: broken JSON (Expecting value)"),
        ('[{"a": 1}]\n[]', "line 1, column 10: '[]' after the end of the array"),
        ("[\n[1]]", "line 2, column 1: a row must be a JSON object, and this is a list"),
        ("[\n null]", "line 2, column 2: a row must be a JSON object, and this is null"),
        (b'[{"a":\n "\xff"}]', "line 2, column 3: not UTF-8 (byte 0xff); save the file as UTF-8"),
        ("[" + "[" * 100_000, "JSON that cannot be read"),
    ],
)
def test_a_broken_array_is_told_where(read, content, message):
    with pytest.raises(DataError, match="data.*" + re.escape(message)):
        read(parse_array, content)


def test_a_csv_file_keeps_commas_line_breaks_and_words_that_look_like_nothing(read):
    content = b'question,A,B\r\n"Which, of\r\nthese?",None,"N/A"\r\n\r\nQ2, 1 ,"say ""x"""\r\n'
    lines = read(parse_csv, content)
    assert [line.row for line in lines] == [
        {"question": "Which, of\r\nthese?", "A": "None", "B": "N/A"},
        {"question": "Q2", "A": " 1 ", "B": 'say "x"'},
    ]
    assert [line.number for line in lines] == [2, 5]
    (without_header,) = read(parse_csv, "Q,1,2", ("question", "A", "B"))
    assert (without_header.row, without_header.number) == ({"question": "Q", "A": "1", "B": "2"}, 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", ": the file holds no rows"),
        ("a,b\n", ": the file holds no rows"),
        ("a,b\n1,2\n1,2,3", "line 3: 3 cells, and there are 2 columns"),
        ('a,b\n"x\ny",1\nz', "line 4: 1 cells, and there are 2 columns"),
        ('a,b\n1,"open', "line 2: broken CSV (unexpected end of data)"),
        (b"a,b\n1,2\n1,\xff", "line 3, column 3: not UTF-8 (byte 0xff); save the file as UTF-8"),
    ],
)
def test_a_broken_csv_file_is_told_where(read, content, message):
    with pytest.raises(DataError, match="data.*" + re.escape(message)):
        read(parse_csv, content)
