"""The parser of teacher's replies: the forms it takes, and malformed replies with the reason for each."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinythinker.questions import Explanation
from tinythinker.teacher.parse import REJECTIONS, Parsed, parse_reply
from tinythinker.teacher.prompt import EXAMPLES, reply_text

GOOD = "Key Information: Moss grows in shade.\nA is incorrect. Because it is dry.\nB is correct. Because it is damp."
EXPECTED = Parsed(Explanation("Moss grows in shade.", ("it is dry.", "it is damp.")), 1)

WELL_FORMED = {
    "as asked for": GOOD,
    "blank lines": GOOD.replace("\n", "\n\n"),
    "a heading": GOOD.replace("A is incorrect", "Explanations: A is incorrect"),
    "a heading on its own line": GOOD.replace("\nA is", "\nExplanations:\nA is"),
    "bold type": GOOD.replace("Key Information:", "**Key Information:**").replace("B is correct.", "**B is correct.**"),
    "list marks": GOOD.replace("A is", "- A is").replace("B is", "* B is"),
    "a heading mark": "## " + GOOD,
    "parentheses": GOOD.replace("A is", "(A) is").replace("B is", "(B) is"),
    "the word option": GOOD.replace("A is", "Option A is").replace("B is", "option B is"),
    "a comma": GOOD.replace("incorrect. Because", "incorrect, because"),
    "no because": GOOD.replace("Because it is dry", "it is dry"),
    "in another order": "Key Information: Moss grows in shade.\nB is correct. Because it is damp.\nA is incorrect. it is dry.",
    "a reason over two lines": GOOD.replace("it is dry", "it\nis dry"),
    "key information over two lines": GOOD.replace("Moss grows", "Moss\ngrows"),
    "no full stop": GOOD.replace("damp.", "damp").replace("shade.", "shade"),
    "Windows line ends": GOOD.replace("\n", "\r\n"),
    "small letters": GOOD.replace("Key Information", "key information").replace("A is", "a is"),
}


@pytest.mark.parametrize("name", WELL_FORMED)
def test_well_formed_replies(name):
    assert parse_reply(WELL_FORMED[name], "stop", 2) == EXPECTED


KEY = "Key Information: Moss grows in shade.\n"
A, B = "A is incorrect. Because it is dry.\n", "B is correct. Because it is damp.\n"
# (reply, finish reason, the reason for rejecting it), all for a question with two options
MALFORMED = [
    (GOOD, "length", "truncated"),
    (KEY + A + "B is corr", "length", "truncated"),
    ("", "length", "truncated"),
    (GOOD, "content_filter", "filtered"),
    (None, "content_filter", "filtered"),
    (None, "stop", "empty"),
    ("", "stop", "empty"),
    (" \n\t\n", "stop", "empty"),
    ("Sure! Here is the explanation.\n" + GOOD, "stop", "wrong prefix"),
    (A + B, "stop", "wrong prefix"),
    ("Key Info: Moss.\n" + A + B, "stop", "wrong prefix"),
    ("Key Information\n" + A + B, "stop", "wrong prefix"),
    ("Information: Moss.\n" + A + B, "stop", "wrong prefix"),
    ("The key information: Moss.\n" + A + B, "stop", "wrong prefix"),
    ("I'm sorry, but I can't help with that.", "stop", "wrong prefix"),
    ('{"key_information": "Moss.", "A": "incorrect"}', "stop", "wrong prefix"),
    ("```\n" + GOOD + "\n```", "stop", "wrong prefix"),
    ("<script>alert(1)</script>", "stop", "wrong prefix"),
    ("\x00\x00", "stop", "wrong prefix"),
    ("Key Information:\n" + A + B, "stop", "no key information"),
    ("Key Information: \n\n" + A + B, "stop", "no key information"),
    ("Key Information: ...\n" + A + B, "stop", "no key information"),
    (KEY, "stop", "missing option"),
    (KEY + A, "stop", "missing option"),
    (KEY + B, "stop", "missing option"),
    (KEY.replace("\n", " ") + A.replace("\n", " ") + B, "stop", "missing option"),  # all in one line
    (KEY + "A is wrong. Because it is dry.\n" + B, "stop", "missing option"),
    (KEY + "A: incorrect, because it is dry.\n" + B, "stop", "missing option"),
    (KEY + "A is not correct. Because it is dry.\n" + B, "stop", "missing option"),
    (KEY + "opra is incorrect. Because it is dry.\n" + B, "stop", "missing option"),
    (KEY + "1 is incorrect. Because it is dry.\n" + B, "stop", "missing option"),
    (KEY + "A is correctly dry.\n" + B, "stop", "missing option"),
    (KEY + A + A + B, "stop", "repeated option"),
    (KEY + A + B + "A is correct. Because it is dry after all.", "stop", "repeated option"),
    (KEY + A + B + "C is incorrect. Because it is wet.", "stop", "unknown option"),
    (KEY + "X is incorrect. Because it is dry.\n" + B, "stop", "unknown option"),
    (KEY + "A is incorrect.\n" + B, "stop", "no reason"),
    (KEY + "A is incorrect. Because\n" + B, "stop", "no reason"),
    (KEY + "A is incorrect. Because ...\n" + B, "stop", "no reason"),
    (KEY + A + "B is correct", "stop", "no reason"),
    (KEY + A + B.replace("is correct", "is incorrect"), "stop", "no option called correct"),
    (KEY + A.replace("incorrect", "correct") + B, "stop", "several options called correct"),
]


@pytest.mark.parametrize(("reply", "finish_reason", "reason"), MALFORMED)
def test_malformed_replies_are_rejected_for_their_reason(reply, finish_reason, reason):
    assert parse_reply(reply, finish_reason, 2) == reason


def test_there_are_forty_malformed_replies_and_every_reason_occurs():
    assert len(MALFORMED) >= 40
    assert {reason for _, _, reason in MALFORMED} == set(REJECTIONS)


@given(st.text(max_size=200), st.sampled_from(["stop", "length", None]), st.integers(2, 26))
def test_whatever_comes_is_parsed_or_rejected(reply, finish_reason, options):
    parsed = parse_reply(reply, finish_reason, options)
    assert parsed in REJECTIONS or isinstance(parsed, Parsed)


@given(st.integers(2, 26), st.data())
def test_a_reply_in_the_form_asked_for_is_read_back(options, data):
    word = st.text("abcdefgh", min_size=1, max_size=5).map(lambda text: f"{text}.")
    explanation = Explanation(data.draw(word), tuple(data.draw(word) for _ in range(options)))
    correct = data.draw(st.integers(0, options - 1))
    reply = reply_text(explanation.knowledge, explanation.reasons, correct)
    assert parse_reply(reply, None, options) == Parsed(explanation, correct)


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_worked_examples_are_in_the_form_they_ask_for(example):
    parsed = parse_reply(reply_text(example.knowledge, example.reasons, example.gold), "stop", len(example.options))
    assert parsed == Parsed(Explanation(example.knowledge, example.reasons), example.gold)
