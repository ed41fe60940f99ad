"""`data preview`: what it shows is what the trainer reads, scores and trains on."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from generalthinker.cli import app
from generalthinker.config import MethodSettings
from generalthinker.data import training_rows
from generalthinker.preview import preview, prompt_lengths
from thinker_common.benchmarks import chains, facts
from thinker_common.benchmarks.problem import Problem
from thinker_common.likelihood.boundary import encode_mid_text, split_response
from thinker_common.likelihood.scorer import AnswerScorer, ScoringItem
from thinker_common.models import chat
from thinker_common.models.load import load_policy, load_tokenizer

TOKENIZER = load_tokenizer("embedded")
NEGATIVE = Problem(id="n/1", question="What is 2 - 7?", answer="-5", kind="math", steps=("2-7=-5",))


def shown(problem=NEGATIVE, method=None, *, answer=None, chat_template="auto"):
    method = method or MethodSettings()
    return preview(problem, answer or problem.target(), method, TOKENIZER, chat_template=chat_template)


def text_of(tokens, what=None):
    return "".join(token.text for token in tokens if what is None or getattr(token, what))


@pytest.mark.parametrize("closing", ["prefix_mass", "token", "none"])
@pytest.mark.parametrize("answer", ["-5", "5", "(5)", r"\frac{1}{2}", "é"])
def test_scored_tokens_are_those_that_the_scorer_scores(answer, closing):
    found = shown(method=MethodSettings(closing=closing), answer=answer)
    ids = encode_mid_text(TOKENIZER, "2-7=-5\n\\boxed{-5}")
    split = split_response(TOKENIZER, ids, truncated=False)
    assert split.opening == "{", "the embedded tokenizer has a token {-"
    item = ScoringItem("2 - 7?", ids[: split.reasoning_length], answer, "}", split.opening)
    [score] = AnswerScorer(load_policy("embedded"), TOKENIZER, closing=closing).score([item])
    assert len(found.scored) == len(score.token_ids)
    assert text_of(found.scored).replace("\ufffd", "") == TOKENIZER.decode(list(score.token_ids))


def test_scored_tokens_say_what_they_hold():
    assert [(token.text, token.holds) for token in shown().scored] == [
        ("{-", "opening + answer"), ("5", "answer"), ("}", "closing"),
    ]  # fmt: skip
    five = replace(NEGATIVE, answer="5", steps=())
    assert [(token.text, token.holds) for token in shown(five).scored] == [("5", "answer"), ("}", "closing")]


def test_loss_and_credit_of_a_response():
    problem = next(one for one in chains.generate("train", 20) if one.answer != "-5")
    whole = "\n".join(problem.steps) + f"\n\\boxed{{{problem.answer}}}" + TOKENIZER.eos_token
    found = shown(problem)
    assert found.malformed is None
    assert text_of(found.response) == whole
    assert text_of(found.response, "loss") == text_of(found.response, "credit") == whole[: whole.index("{") + 1]
    # The token that holds the { and the minus sign belongs to the answer.
    assert text_of(shown().response, "loss") == "2-7=-5\n\\boxed"

    without = shown(problem, MethodSettings(credit="none"))
    assert text_of(without.response, "credit") == ""
    assert without.response[0].loss
    verified = shown(problem, MethodSettings(reward="binary"))
    assert text_of(verified.response, "loss") == whole


def test_a_malformed_response_and_one_that_brings_its_box():
    unbalanced = replace(NEGATIVE, steps=(r"It is \boxed{-5",))
    found = shown(unbalanced)
    assert found.malformed == "unbalanced"
    assert all(token.loss and not token.credit for token in found.response)
    left_out = shown(unbalanced, MethodSettings(malformed="exclude"))
    assert not any(token.loss for token in left_out.response)
    boxed = shown(replace(NEGATIVE, steps=(r"It is \boxed{-5}.",)))
    assert text_of(boxed.response) == r"It is \boxed{-5}." + TOKENIZER.eos_token


@pytest.mark.parametrize("chat_template", ["auto", "none"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"conditioning": "assistant"},
        {"conditioned_template": "Answer: {answer}. {question}"},
        {"conditioned_template": "{question} ANSWER {answer}"},
    ],
)
def test_the_answer_is_marked_in_the_conditioned_prompt(settings, chat_template):
    # The answer stands in the question too, where it is not marked.
    problem = replace(NEGATIVE, question="Is 2 - 7 = -5, or 13?", answer="13")
    method = MethodSettings(**settings)
    found = shown(problem, method, chat_template=chat_template)
    [row] = training_rows([problem], method, seed=0)
    prompts = [(found.prompt, "prompt", ""), (found.conditioned, "conditioned_prompt", row["assistant_prefix"])]
    for prompt, column, prefix in prompts:
        ids = chat.render_prompt(TOKENIZER, row[column], chat_template=chat_template, assistant_prefix=prefix)
        assert prompt.ids == ids
        assert "".join(prompt.texts) == TOKENIZER.decode(ids)
    assert not found.prompt.answer
    marked = "".join(found.conditioned.texts[place] for place in found.conditioned.answer)
    assert marked.strip(" {}.") == "13"
    before = "".join(found.conditioned.texts[: found.conditioned.answer.start])
    assert "{question}" not in before
    expected = "Answer:" if settings.get("conditioned_template", "").startswith("Answer") else "or 13?"
    assert expected in before


@pytest.mark.parametrize("chat_template", ["auto", "none"])
@pytest.mark.parametrize("conditioning", ["user", "assistant"])
def test_prompt_lengths_are_those_of_rendered_prompts(chat_template, conditioning):
    problems = [*chains.generate("train", 40), *facts.generate("train", 40)]
    rows = training_rows(problems, MethodSettings(conditioning=conditioning), seed=0)
    for column, prefixed in (("prompt", False), ("conditioned_prompt", True)):
        expected = [
            len(
                chat.render_prompt(
                    TOKENIZER,
                    row[column],
                    chat_template=chat_template,
                    assistant_prefix=row["assistant_prefix"] if prefixed else "",
                )
            )
            for row in rows
        ]
        assert prompt_lengths(rows, column, TOKENIZER, chat_template=chat_template, prefixed=prefixed) == expected


# --- the verb -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def invoke(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"question": f"What is {i} - 9?", "answer": str(i - 9)} for i in range(6)]
    rows.append({"question": "what is 0 - 9?  ", "answer": "-9"})
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(*arguments):
        result = CliRunner().invoke(app, ["data", "preview", "data.train_file=mine.jsonl", *arguments])
        assert result.exit_code == 0, result.output
        assert [path.name for path in tmp_path.iterdir()] == ["mine.jsonl"], "nothing is written"
        return result.output

    return run


def test_the_verb_shows_data_prompts_answer_and_masks(invoke, monkeypatch):
    # Weights are not read.
    monkeypatch.setattr(torch.nn.Module, "load_state_dict", None)
    printed = invoke("evaluation.validation_limit=2", "--index", "1", "--limit", "2")
    assert re.search(r"^[45] problems to train on, from mine.jsonl, 2 held out for validation \(seed 0\)", printed)
    assert "revision sha256:" in printed
    assert re.search(r"^tokens of x: \d+ in the median, \d+ at most$", printed, flags=re.MULTILINE)
    assert re.search(r"\(generation.max_new_tokens\): \d+, in the model's 1024 positions", printed)
    assert printed.count("--- mine/file/") == 2
    assert printed.count("x+, which token credit comes from") == 2
    assert re.search(r"'\{-' +│ opening \+ answer", printed)
    assert re.search(r"'boxed' +│ yes +│ yes", printed)
    assert re.search(r"'\{-' +│ +│ +│", printed), "no loss on the answer"
    assert "there are none" in printed, "the file has no steps"


def test_the_verb_says_what_the_settings_leave_out(invoke):
    plain = invoke("evaluation.every_steps=null", "method.credit=none", "method.reward=binary", "method.answers=wrong")
    assert plain.startswith("7 problems to train on, from mine.jsonl, revision")
    assert "x+ is not read (method.credit = none)" in plain
    assert "the reward is a verifier's" in plain
    assert "(method.answers = wrong); the data say -9" in plain


def test_help_shows_examples_and_loads_nothing_heavy():
    script = (
        "import sys\nfrom generalthinker.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    print('loaded', *{name.partition('.')[0] for name in sys.modules})"
    )
    command = [sys.executable, "-c", script, "data", "preview", "--help"]
    text, _, loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.partition("loaded ")
    assert "Examples:\n    generalthinker data preview" in text
    assert "typer" in loaded.split()
    assert not {"torch", "transformers", "trl", "datasets", "numpy"} & set(loaded.split())
