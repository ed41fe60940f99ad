"""`inspect`: the chains of a question, their log-likelihoods, the votes, and what the recall does."""

import html
import math
from pathlib import Path

import pytest
import torch
from tiny_run import saved_student
from tiny_students import KINDS, LENGTHS, questions, student
from typer.testing import CliRunner

from tinythinker._common import UserError
from tinythinker.cli import app
from tinythinker.inference import Sampling
from tinythinker.inspect.look import look_at
from tinythinker.inspect.show import write_look_page
from tinythinker.questions import Question
from tinythinker.stages import analyze_prompt, recall_prompt
from tinythinker.student import Form, write_form


@pytest.mark.parametrize("kind", KINDS)
def test_log_likelihoods_votes_and_recalls(kind):
    taught, (asked, other) = student(kind), questions(2)
    swap = "A glim eats moss."
    look = look_at(taught, asked, gold_known=True, samples=3, sampling=Sampling(seed=1), other=other, swap=swap)
    assert [part.stage for part in look.greedy.parts] == [
        "recall", "analyze A", "analyze B", "analyze C", "analyze D", "summarize",
    ]  # fmt: skip
    knowledge = look.greedy.parts[0].text
    for position, prompt in ((0, recall_prompt(asked)), (2, analyze_prompt(asked, 1, knowledge))):
        part = look.greedy.parts[position]
        ids, target = taught.prompt_ids(prompt), taught.target_ids(part.text)
        with torch.no_grad():
            if kind == "t5":
                loss = taught.model(input_ids=torch.tensor([ids]), labels=torch.tensor([target])).loss
            else:
                labels = torch.tensor([[-100] * len(ids) + target])
                loss = taught.model(input_ids=torch.tensor([ids + target]), labels=labels).loss
        assert part.loglik == pytest.approx(-float(loss) * len(target), rel=1e-4)
    assert sum(look.votes.values()) == len(look.draws) == 3
    own, blank, swapped = look.recalls
    assert own.scores == pytest.approx(look.greedy.scores, abs=1e-4)
    assert [seen.parts[0].text for seen in look.recalls] == [knowledge, "", swap]
    assert math.isnan(blank.parts[0].loglik) and swapped.scores != own.scores
    assert blank.scores != pytest.approx(own.scores, abs=1e-4), "the recall is read"


def test_a_student_without_recall_has_none_to_swap():
    form = Form(("analyze", "summarize"), chat_template="none", generation=LENGTHS)
    look = look_at(student("causal", form=form), questions(1)[0], gold_known=True, samples=0, sampling=Sampling())
    assert look.recalls == () and look.draws == () and look.greedy.parts[0].stage == "analyze A"


def test_everything_on_the_page_is_escaped(tmp_path):
    question = Question("q", "<script>alert(1)</script>", ("<b>one</b>", "two"), 0)
    look = look_at(student("causal"), question, gold_known=False, samples=0, sampling=Sampling(), swap="<i>moss</i>")
    write_look_page(tmp_path / "page.html", look, "<img src=x>")
    page = (tmp_path / "page.html").read_text()
    for given in ("<script>alert", "<b>one", "<i>moss", "<img src=x"):
        assert given not in page and html.escape(given) in page
    assert "gold:" not in page


def test_the_verb_prints_and_writes(tmp_path):
    model = saved_student(tmp_path / "student")
    write_form(Path(model), Form(chat_template="none", generation=LENGTHS))
    given = ["inspect", model, "--samples", "2", "--page", str(tmp_path / "page.html")]
    result = CliRunner().invoke(app, [*given, "--question", "Which [red]?", "--options", "one|two, three|four"])
    assert result.exit_code == 0, result.output
    assert "Which [red]?" in result.output and "(B) two, three" in result.output and "votes: " in result.output
    assert "draw 2: " in result.output and "blank" in result.output
    assert "What the recall does" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--question", "Which?"], "--question and --options belong together"),
        (["--question", "Which?", "--options", "one"], "1 options; there must be 2 to 26"),
        (["--question", "Which?", "--options", "|".join(map(str, range(27)))], "27 options; there must be 2 to 26"),
        (["--question", "Which?", "--options", "one|one "], "A and B have the same text"),
        (["--question", "Which?", "--options", "one||two"], "must not be empty"),
        (["--question", "Which?", "--options", "one|two", "--answer", "C"], "expected a letter from A to B"),
        (["--answer", "A"], "--answer is for --question"),
        (["--temperature", "0"], "--temperature 0.0"),
        (["--index", "1000"], "--index 1000: facts has 1000 questions"),
        (["--benchmark", "chains"], "its questions have no options"),
    ],
)
def test_what_cannot_be_inspected(given, message):
    result = CliRunner().invoke(app, ["inspect", "embedded", *given])
    assert result.exit_code != 0 and isinstance(result.exception, UserError)
    assert message in str(result.exception)
