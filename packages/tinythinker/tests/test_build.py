"""From replies to rows: what is used, what is left out and counted, and the verb `data` from end to end."""

import json
import os
from pathlib import Path

import pytest

from tinythinker import _common, cli
from tinythinker._common import DataError
from tinythinker.build import build_from_references, build_from_replies
from tinythinker.config import BuildSettings, DataSettings
from tinythinker.question_sets import QuestionSet, load_questions
from tinythinker.questions import Question, fingerprint
from tinythinker.rows import folder_of_rows, read_rows, select
from tinythinker.stages import STAGES
from tinythinker.teacher.prompt import reply_text

QUESTIONS = (
    Question("q0", "Which is green?", ("moss", "snow"), 0),
    Question("q1", "Which is white?", ("moss", "snow", "coal"), 1),
    Question("q2", "Which is black?", ("coal", "coal"), 0),
)


def the_set(questions=QUESTIONS):
    return QuestionSet(
        "mine", "all", questions, "a list", None, fingerprint(questions), frozenset(q.id for q in questions)
    )


def reply(question, correct, knowledge):
    options = range(len(QUESTIONS[question].options))
    text = reply_text(knowledge, tuple(f"{knowledge} {option}." for option in options), correct)
    return {"id": f"q{question}", "reply": text}


def written(path, rows, settings=None):
    lines = [{"settings": settings}] if settings else []
    path.write_text("".join(json.dumps(row) + "\n" for row in [*lines, *rows]))
    return path


# 1 well-formed of another opinion, 2 that agree and hardly differ, 1 that differs, 2 malformed
REPLIES = [
    reply(0, 1, "Snow is said to be green by some"),
    reply(0, 0, "Moss is a green plant that grows in shade"),
    reply(0, 0, "Moss is a green plant that grows in shades"),
    reply(0, 0, "The colour of many plants comes from chlorophyll"),
    {"id": "q0", "reply": "Sorry."},
    {"id": "q0", "reply": "Key Information: x", "finish_reason": "length"},
    reply(1, 2, "Coal shines"),
    reply(1, 2, "Coal may look white in the sun"),
    reply(1, 1, "Snow is white"),
    reply(2, 0, "Coal is black"),
]


def build(tmp_path, rows=REPLIES, **settings):
    return build_from_replies(the_set(), written(tmp_path / "replies.jsonl", rows), BuildSettings(**settings))


def test_rows_and_counts_with_gold_labels(tmp_path):
    built = build(tmp_path)
    assert built.report.rows == {"recall": 4, "analyze": 3 * 2 + 3, "summarize": 4}
    assert built.report.replies == 10 and built.report.replies_used == 4 and built.report.replies_disagreeing == 3
    assert built.report.replies_rejected == {"wrong prefix": 1, "truncated": 1}
    assert built.report.questions_left_out == {"two options with the same text": 1}
    assert {row.target for row in built.rows["summarize"]} == {
        "So the answer is option A.",
        "So the answer is option B.",
    }
    assert [(row["id"], row["sample"], row["reason"]) for row in built.rejected] == [
        ("q0", 4, "wrong prefix"),
        ("q0", 5, "truncated"),
    ]
    row = next(row for row in built.rows["analyze"] if row.question.id == "q1" and row.option == 2)
    assert row.target == "Snow is white 2." and row.knowledge == "Snow is white."
    assert row.provenance == {"teacher": "recorded", "sample": 2, "labels": "keep_gold", "label": "B"}


def test_label_policies(tmp_path):
    dropped = build(tmp_path, labels="drop_disagreeing").report
    assert dropped.questions_left_out["most replies disagree with the gold answer"] == 1 and dropped.relabelled == 0
    voted = build(tmp_path, labels="vote")
    assert voted.report.relabelled == 1
    (label,) = {row.target for row in voted.rows["summarize"] if row.question.id == "q1"}
    assert label == "So the answer is option C."
    assert {row.provenance["label"] for row in voted.rows["recall"] if row.question.id == "q1"} == {"C"}
    assert all(row.question.answer == "B" for row in voted.rows["recall"] if row.question.id == "q1")  # the gold stays


def test_texts_that_differ_are_preferred(tmp_path):
    built = build(tmp_path, keep=2)
    knowledge = [row.target for row in built.rows["recall"] if row.question.id == "q0"]
    assert knowledge[0].startswith("Moss") and knowledge[1:] == ["The colour of many plants comes from chlorophyll."]
    assert built.report.replies_alike == 1


def test_rows_come_back_from_their_files_and_serve_the_ablations(tmp_path):
    from tinythinker.build import write_built

    built = build(tmp_path)
    write_built(built, tmp_path)
    rows = read_rows(folder_of_rows(str(tmp_path)))
    assert select(rows, STAGES) == built.rows
    alone = select(rows, ["summarize"])
    assert [row.prompt(["summarize"]).text() for row in alone["summarize"]] == [
        "Which is green?\n(A) moss (B) snow\nSummarize:",
        "Which is white?\n(A) moss (B) snow (C) coal\nSummarize:",
    ]  # each once, though q0 has three explanations
    assert list(select(rows, ["summarize", "recall"])) == ["recall", "summarize"]
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["replies_rejected"] == {"wrong prefix": 1, "truncated": 1}
    assert report["fingerprint"] == the_set().fingerprint


@pytest.mark.parametrize(
    ("stage", "changed", "message"),
    [
        ("recall", {"stage": "analyze"}, "a row of 'analyze' in the file of recall"),
        ("recall", {"target": ""}, "target must be a text that is not empty"),
        ("recall", {"options": ["moss"]}, "1 options; there must be 2 to 26"),
        ("recall", {"answer": "E"}, "answer 'E' is no letter from A to B"),
        ("analyze", {"option": "Q"}, "option 'Q' is no letter from A to B"),
        ("analyze", {"knowledge": None}, "knowledge must be a text that is not empty"),
        ("summarize", {"analyses": ["one"]}, "1 analyses for 2 options"),
        ("summarize", {"target": "So be it."}, "the target names none of the options"),
        ("summarize", {"provenance": []}, "provenance must be an object"),
    ],
)
def test_bad_rows_are_named_by_file_and_line(tmp_path, stage, changed, message):
    from tinythinker.build import write_built

    write_built(build(tmp_path), tmp_path)
    path = tmp_path / f"{stage}.jsonl"
    first, second, *rest = path.read_text().splitlines()
    path.write_text("\n".join([first, json.dumps(json.loads(second) | changed), *rest]) + "\n")
    with pytest.raises(DataError) as caught:
        read_rows(tmp_path)
    assert str(caught.value).startswith(f"{path}, line 2, column ") and str(caught.value).endswith(message)


@pytest.mark.parametrize(
    ("rows", "settings", "place", "message"),
    [
        ([{"id": "other/7", "reply": "x"}], None, "line 1", "is this the reply file of another data set?"),
        ([{"reply": "x"}], None, "line 1", "a reply without the id of its question"),
        ([REPLIES[0], {"id": "q0"}], None, "line 2", "a row without a reply (a text)"),
        ([{"id": "q0", "reply": 5}], None, "line 1", "a row without a reply (a text)"),
        ([{"id": "q0", "reply": "x", "sample": -1}], None, "line 1", "sample must be a whole number"),
        ([{"id": "q0", "reply": "x", "sample": 1}] * 2, None, "line 2", "sample 1 of the question 'q0' again"),
        ([{"id": "q0", "reply": "x", "finish_reason": 3}], None, "line 1", "finish_reason must be a text"),
        (REPLIES, {"fingerprint": "sha256:0", "dataset": "csqa", "split": "train"}, "line 1", "another data set: csqa train, sha256:0"),
    ],
)  # fmt: skip
def test_replies_that_do_not_belong_here(tmp_path, rows, settings, place, message):
    path = written(tmp_path / "replies.jsonl", rows, settings)
    with pytest.raises(DataError) as caught:
        build_from_replies(the_set(), path, BuildSettings())
    assert f"{path}, {place}, column " in str(caught.value) and message in str(caught.value)


def test_broken_reply_files(tmp_path):
    path = tmp_path / "replies.jsonl"
    path.write_bytes(json.dumps(REPLIES[0]).encode() + b'\n{"id": "q0"\n')
    with pytest.raises(DataError, match=r"line 2, column \d+: broken JSON"):
        build_from_replies(the_set(), path, BuildSettings())
    path.write_bytes(b'{"id": "q0", "reply": "\xff"}\n')
    with pytest.raises(DataError, match=r"line 1, column 24: not UTF-8"):
        build_from_replies(the_set(), path, BuildSettings())


def test_exact_explanations_become_exact_rows():
    questions = load_questions(DataSettings(benchmark="facts", split="train", limit=40))
    built = build_from_references(questions)
    assert built.report.rows == {"recall": 40, "analyze": 160, "summarize": 40}
    for row in built.rows["summarize"]:
        question = row.question
        assert row.knowledge == question.reference.knowledge and row.analyses == question.reference.reasons
        assert row.target == f"So the answer is option {question.answer}."
    with pytest.raises(DataError, match="mine has no exact explanations"):
        build_from_references(the_set())


# ------------------------------------------------------------------------------------------------------------- the verb


def ended(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        _common.run(cli.app, [str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return caught.value.code, captured.out, captured.err


def test_the_embedded_task_from_questions_to_tokens(tmp_path, capsys):
    rows = tmp_path / "rows"
    code, out, _ = ended(capsys, "data", "build", "--benchmark", "facts", "--limit", 20, "--output", rows)
    assert code == 0 and "80  rows of analyze" in out
    code, out, _ = ended(capsys, "data", "preview", rows, "--stage", "summarize", "--tokens", "embedded")
    assert code == 0 and "\nSummarize:\nSo the answer is option " in out
    assert "learnt   13 tokens:  So| the| answer| is|" in out
    code, _, err = ended(capsys, "data", "build", "--benchmark", "facts", "--limit", 20, "--output", rows)
    assert code == 2 and "is not empty: choose another --output" in err


def test_a_local_model_is_asked_and_goes_on(tmp_path, capsys):
    """The embedded model writes nothing that can be used; what counts is that it is asked, cached and reported."""
    asking = ("data", "teach", "--benchmark", "facts", "teacher.kind=model", "teacher.model=embedded",
              "teacher.max_tokens=8", "teacher.shots=0", "--output", tmp_path / "out")  # fmt: skip
    code, out, _ = ended(capsys, *asking, "--limit", 2, "teacher.samples=1")
    assert code == 0 and "to ask: 2 replies to 2 questions" in out
    first = (tmp_path / "out" / "replies.jsonl").read_text().splitlines()
    code, out, _ = ended(capsys, *asking, "--limit", 2, "teacher.samples=2")
    assert code == 0 and "2 replies are there already" in out and "to ask: 2 replies to 2 questions" in out
    lines = (tmp_path / "out" / "replies.jsonl").read_text().splitlines()
    assert lines[:3] == first and len(lines) == 5
    replies = {(row["id"], row["sample"]): row["reply"] for row in map(json.loads, lines[1:])}
    assert len(replies) == 4 and len(set(replies.values())) > 2
    code, _, err = ended(
        capsys, "data", "build", "--benchmark", "facts", "--limit", 2, "--replies", tmp_path / "out" / "replies.jsonl",
        "--output", tmp_path / "rows",
    )  # fmt: skip
    assert code == 2 and "no reply can be used" in err and not (tmp_path / "rows").exists()


def test_recorded_replies_and_a_file_of_questions(tmp_path, capsys):
    questions = [{"id": q.id, "question": q.text, "choices": q.options, "answer": q.answer} for q in QUESTIONS[:2]]
    mine = written(tmp_path / "mine.jsonl", questions)
    recorded = written(tmp_path / "recorded.jsonl", REPLIES[:-1])
    which = ("--file", mine, "--column", "options=choices", "--split", "all")
    code, out, err = ended(
        capsys, "data", "teach", *which, "teacher.kind=recorded", f"teacher.file={recorded}", "--output", tmp_path / "t"
    )
    assert code == 0, err
    assert "9 replies to 2 of 2 questions" in out
    code, out, _ = ended(
        capsys,
        "data",
        "build",
        *which,
        "--replies",
        tmp_path / "t" / "replies.jsonl",
        "--output",
        tmp_path / "rows",
        "--json",
    )
    assert code == 0 and json.loads(out)["replies_rejected"] == {"wrong prefix": 1, "truncated": 1}
    code, _, err = ended(
        capsys,
        "data",
        "build",
        "--benchmark",
        "facts",
        "--replies",
        tmp_path / "t" / "replies.jsonl",
        "--output",
        tmp_path / "no",
    )
    assert code == 2 and "these are replies to another data set: mine all" in err


def test_people_explain(tmp_path, capsys):
    rows = [
        {"id": f"csqa/train/{n}", "question": f"Which {n}?", "options": ["red moss", "snow"], "answer": "A"}
        for n in range(3)
    ]
    mine = written(tmp_path / "mine.jsonl", rows)
    ecqa = written(
        tmp_path / "ecqa.jsonl",
        [{"id": str(n), "positives": ["Red moss is red"], "negatives": ["Snow is white", "Coal is black"], "explanation": "x"} for n in range(3)],
    )  # fmt: skip
    which = ("--file", mine, "--split", "all")
    code, out, err = ended(
        capsys, "data", "teach", *which, "teacher.kind=human", f"teacher.file={ecqa}", "--output", tmp_path / "t"
    )
    assert code == 0, err
    assert "6 of 6 analyses are a person's" in out
    ended(capsys, "data", "build", *which, "--replies", tmp_path / "t" / "replies.jsonl", "--output", tmp_path / "rows")
    row = json.loads((tmp_path / "rows" / "summarize.jsonl").read_text().splitlines()[0])
    assert row["knowledge"] == "Red moss is red." and row["analyses"] == ["Red moss is red.", "Snow is white."]
    code, _, err = ended(capsys, "data", "teach", *which, "teacher.kind=human", "--output", tmp_path / "none")
    assert code == 2 and "holds nothing that people wrote about its answers" in err and not (tmp_path / "none").exists()


def test_replies_of_another_file_are_refused_and_the_same_ones_are_not(tmp_path, capsys):
    questions = [
        {"id": q.id, "question": q.text, "options": q.options, "answer": q.answer, "facts": [f"Fact of {q.id}."]}
        for q in QUESTIONS[:2]
    ]
    mine = written(tmp_path / "mine.jsonl", questions)
    first = written(tmp_path / "first.jsonl", REPLIES[:3])
    second = written(tmp_path / "second.jsonl", [{**row, "reply": f"{row['reply']} Or so."} for row in REPLIES[:3]])
    which = ("data", "teach", "--file", mine, "--split", "all", "--output")
    recorded = (*which, tmp_path / "t", "teacher.kind=recorded")
    for _ in range(2):  # the same command goes on
        assert ended(capsys, *recorded, f"teacher.file={first}")[0] == 0
    before = (tmp_path / "t/replies.jsonl").read_bytes()
    code, _, err = ended(capsys, *recorded, f"teacher.file={second}")
    assert code == 2 and 'under other settings: file was "sha256:' in err
    assert (tmp_path / "t/replies.jsonl").read_bytes() == before

    # What people wrote stands in the questions, whose fingerprint does not cover it.
    people = (*which, tmp_path / "p", "teacher.kind=human")
    for _ in range(2):
        assert ended(capsys, *people)[0] == 0
    before = (tmp_path / "p/replies.jsonl").read_bytes()
    written(mine, [{**row, "facts": ["Another fact."]} for row in questions])
    code, _, err = ended(capsys, *people)
    assert code == 2 and "replies.jsonl holds another explanation of q0: choose another --output" in err
    assert (tmp_path / "p/replies.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    "changed",
    [{"reasons": ["one"]}, {"correct": "C"}, {"correct": "AB"}, {"knowledge": " "}, {"reasons": ["one", 2]}, {"correct": None}],
    ids=lambda changed: str(changed)[1:-1],
)  # fmt: skip
def test_an_explanation_that_does_not_fit_is_named_with_its_line(tmp_path, changed):
    good = {"id": "q0", "explanation": {"knowledge": "k", "reasons": ["one", "two"], "correct": "A"}}
    bad = {"id": "q0", "explanation": {**good["explanation"], **changed}}
    with pytest.raises(DataError) as caught:
        build(tmp_path, [good, bad])
    assert str(caught.value).startswith(f"{tmp_path / 'replies.jsonl'}, line 2, column ")
    assert "the explanation of q0 needs knowledge, 2 reasons and a correct letter from A to B" in str(caught.value)
    assert len(build(tmp_path, [good]).rows["recall"]) == 1


def test_the_facts_of_strategyqa(tmp_path, capsys):
    folder = os.environ.get("THINKER_DATA_DIR")
    if not folder:
        pytest.skip("THINKER_DATA_DIR does not name the original files")
    which = ("--benchmark", "strategyqa", "--data-dir", Path(folder), "--limit", 50)
    assert ended(capsys, "data", "teach", *which, "teacher.kind=human", "--output", tmp_path / "t")[0] == 0
    code, out, _ = ended(
        capsys, "data", "build", *which, "--replies", tmp_path / "t" / "replies.jsonl", "--output", tmp_path / "rows"
    )
    assert code == 0 and "50  rows of recall" in out and "100  rows of analyze" in out


def test_splits_are_written_with_what_identifies_them(tmp_path, capsys):
    mine = written(
        tmp_path / "mine.jsonl",
        [{"question": f"Which {n}?", "options": ["one", "two"], "answer": "A"} for n in range(20)],
    )
    code, out, _ = ended(capsys, "data", "split", "--file", mine, "--output", tmp_path / "out")
    assert code == 0 and "train: 16 questions, sha256:" in out
    summary = json.loads((tmp_path / "out" / "split.json").read_text())
    assert [summary[split]["questions"] for split in ("train", "valid", "test")] == [16, 2, 2]
    again = load_questions(DataSettings(train_file=str(tmp_path / "out" / "valid.jsonl"), split="all"))
    assert again.fingerprint == summary["valid"]["fingerprint"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("build", "--benchmark", "facts", "--file", "x"), "--benchmark and --file exclude each other"),
        (("build", "--benchmark", "fact"), "unknown benchmark 'fact'; did you mean 'facts'?"),
        (("build", "--benchmark", "gsm8k"), "its questions have no options, which the method needs"),
        (("build", "--file", "nowhere.jsonl"), "nowhere.jsonl: there is no such file"),
        (("build", "--benchmark", "facts", "--column", "a=b"), "--column is for --file, which is not given"),
        (("build", "--benchmark", "facts", "build.label=vote"), "unknown setting 'build.label'; did you mean 'build.labels'?"),
        (("build", "--benchmark", "facts", "build.labels=gold"), "build.labels = 'gold': expected one of keep_gold, drop_disagreeing, vote"),
        (("build", "--benchmark", "facts", "build.keep=0"), "build.keep = 0: expected a whole number of at least 1"),
        (("build", "--benchmark", "facts", "--split", "dev"), "facts has no split 'dev'"),
        (("teach", "--benchmark", "facts", "teacher.kind=recorded"), "for kind = recorded it has to name the replies"),
        (("teach", "--benchmark", "facts", "teacher.temperature=0"), "samples = 8 at temperature 0 are all the same"),
        (("teach", "--benchmark", "facts", "teacher.base_url=localhost"), "base_url: expected an address such as"),
    ],
)  # fmt: skip
def test_mistakes_of_the_command_line(tmp_path, capsys, arguments, message):
    code, _, err = ended(capsys, "data", *arguments, "--output", tmp_path / "out")
    assert code == 2 and message in err and "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_a_folder_without_rows(tmp_path, capsys):
    code, _, err = ended(capsys, "data", "preview", tmp_path)
    assert code == 2 and "there is no recall.jsonl; make the rows with `tinythinker data build`" in err


def test_what_a_dry_run_says_and_that_it_writes_nothing(tmp_path, capsys):
    code, out, _ = ended(
        capsys, "data", "teach", "--benchmark", "facts", "--limit", 10, "teacher.input_price=2.5",
        "teacher.output_price=10", "--output", tmp_path / "out", "--dry-run",
    )  # fmt: skip
    assert code == 0 and "to ask: 80 replies to 10 questions; about " in out
    assert "at most 20,480 of replies; at most 0.2" in out
    assert not (tmp_path / "out").exists()
