"""Options ranked by likelihood, against a plain full softmax over the same texts."""

import json
import math

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from thinker_common.benchmarks.problem import LoadedBenchmark, Problem
from thinker_common.errors import SettingsError, UserError
from thinker_common.evaluation import ranking
from thinker_common.evaluation.generations import read_generations
from thinker_common.evaluation.ranking import rank
from thinker_common.models.chat import render_prompt

TEMPLATE = "{question}\nAnswer"
PROBLEMS = (
    Problem(id="r/test/0", question="Which?", answer="B", kind="mcq", options=("one", "-5", "three four", "words"),
            metadata={"subject": "x"}),
    Problem(id="r/test/1", question="And which?", answer="A", kind="mcq", options=("twin", "twin"),
            metadata={"subject": "y"}),
    Problem(id="r/test/2", question="Is it so?", answer="no", kind="bool"),
    Problem(id="r/test/3", question="Is Sam a P or Q?", answer="Sam is a Q.", kind="text",
            metadata={"options": ("Sam is a P.", "Sam is a Q.")}),
    Problem(id="r/test/4", question="How many?", answer="4", kind="math"),
)  # fmt: skip


def benchmark(problems=PROBLEMS):
    return LoadedBenchmark("r", "test", tuple(problems), None, "written for this test", 1, {"no key": 1})


@pytest.fixture(scope="module")
def model(tokenizers):
    tokenizer = tokenizers["gpt2"]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.5,  # far from uniform, so that options differ
    )
    return LlamaForCausalLM(config).eval(), tokenizer


def run(model, problems=PROBLEMS, **settings):
    return rank(*model, benchmark(problems), **{"template": TEMPLATE, **settings})


@torch.no_grad()
def brute_force(model, problem, option):
    r"""log p of the tokens of `{option`, and of all that begin with `}` after them; the prompt, then `The answer is \boxed`."""
    network, tokenizer = model
    closing = [token for token in range(len(tokenizer)) if tokenizer.decode([token]).startswith("}")]
    before = render_prompt(tokenizer, TEMPLATE.replace("{question}", problem.prompt_text()))
    before = before + tokenizer(r"The answer is \boxed")["input_ids"]
    ids = tokenizer("{" + option)["input_ids"]
    assert tokenizer("{" + option + "}")["input_ids"][: len(ids)] == ids, "the brace stands alone"
    logprobs_TV = torch.log_softmax(network(torch.tensor([before + ids])).logits[0].double(), -1)[len(before) - 1 :]
    values = [float(logprobs_TV[place, token]) for place, token in enumerate(ids)]
    values.append(float(logprobs_TV[len(ids), closing].logsumexp(0)))
    return sum(values), sum(values) / len(values)


@pytest.mark.parametrize("form", ["letter", "text"])
def test_options_are_scored_as_a_full_softmax_scores_them(model, form):
    result = run(model, form=form)
    assert [row["id"] for row in result.rows] == [f"r/test/{i}" for i in range(4)]
    right_by_sum, right_by_mean = [], []
    for problem, row in zip(PROBLEMS, result.rows, strict=False):
        named = problem.kind == "mcq"
        texts = (problem.letters if form == "letter" else problem.options) if named else None
        texts = texts or ({"bool": ("yes", "no")}.get(problem.kind) or problem.metadata["options"])
        gold = problem.letters.index(problem.answer) if named else texts.index(problem.answer)
        expected = [brute_force(model, problem, text) for text in texts]
        for found, (total, mean) in zip(row["options"], expected, strict=True):
            assert found["sum"] == pytest.approx(total, abs=1e-4) and found["mean"] == pytest.approx(mean, abs=1e-4)
        assert row["answer_loglik"] == pytest.approx(expected[gold][0], abs=1e-4)
        for values, scores in ((right_by_sum, [e[0] for e in expected]), (right_by_mean, [e[1] for e in expected])):
            leaders = [place for place, score in enumerate(scores) if score > max(scores) - 1e-5]
            values.append((gold in leaders) / len(leaders))
    assert [row["correct"] for row in result.rows] == right_by_sum
    assert result.accuracy == pytest.approx(sum(right_by_sum) / 4)
    assert result.accuracy_per_token == pytest.approx(sum(right_by_mean) / 4)


@torch.no_grad()
def test_options_of_a_model_that_cannot_write_a_box(t5_style, tmp_path):
    torch.manual_seed(0)
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 4, "decoder_start_token_id": 0}
    model = T5ForConditionalGeneration(T5Config(vocab_size=len(t5_style), **sizes)).eval()
    output = tmp_path / "ranking.jsonl"
    with pytest.warns(UserWarning, match=r"cannot write \\boxed\{\}: options are ranked as `The answer is \(option\)`"):
        result = run((model, t5_style), output=output, form="letter")
    assert read_generations(output)[0]["ranked_as"] == "The answer is (option)"
    for problem, row in zip(PROBLEMS, result.rows, strict=False):
        texts = problem.letters or {"bool": ("yes", "no")}.get(problem.kind) or problem.metadata["options"]
        prompt = t5_style(TEMPLATE.replace("{question}", problem.prompt_text()), return_tensors="pt")["input_ids"]
        lead = t5_style("The answer is", add_special_tokens=False)["input_ids"]
        for text, found in zip(texts, row["options"], strict=True):
            whole = t5_style(f"The answer is ({text})", add_special_tokens=False)["input_ids"]
            assert whole[: len(lead)] == lead and t5_style.unk_token_id not in whole
            logprobs_TV = torch.log_softmax(model(prompt, labels=torch.tensor([whole])).logits[0].double(), -1)
            expected = sum(float(logprobs_TV[at, whole[at]]) for at in range(len(lead), len(whole)))
            assert found["sum"] == pytest.approx(expected, abs=1e-4)
            assert found["tokens"] == len(whole) - len(lead)


def test_equal_texts_tie_and_share_the_credit(model):
    by_letter, by_text = run(model, form="letter"), run(model, form="text")
    assert by_letter.tied == 0
    twins = by_text.rows[1]
    assert (twins["tied"], twins["correct"], twins["extracted"]) == (True, 0.5, None)
    assert (by_text.tied, by_text.tied_per_token) == (1, 1)


def test_figures(model):
    result = run(model)
    assert result.n == 4 and result.dropped == {"no key": 1, "no options to rank": 1}
    assert result.chance == pytest.approx((1 / 4 + 1 / 2 + 1 / 2 + 1 / 2) / 4)
    assert set(result.groups["subject"].accuracies) == {"x", "y"}
    summary = result.to_dict()
    assert json.loads(json.dumps(summary, allow_nan=False))["form"] == "letter" and "rows" not in summary
    assert math.isfinite(summary["standard_error"])


def test_the_batch_changes_nothing(model):
    for one, other in zip(run(model).rows, run(model, max_tokens_per_batch=1).rows, strict=True):
        assert one["extracted"] == other["extracted"]
        assert one["answer_loglik"] == pytest.approx(other["answer_loglik"], abs=1e-4)


class Killed(BaseException):
    pass


def test_a_killed_ranking_goes_on(model, tmp_path, monkeypatch):
    monkeypatch.setattr(ranking, "PROBLEMS_A_WRITE", 1)
    output = tmp_path / "ranking.jsonl"

    def kill(done, total):
        if done == 2:
            raise Killed

    with pytest.raises(Killed):
        run(model, output=output, progress=kill)
    before = output.read_bytes()
    seen = []
    again = run(model, output=output, progress=lambda *counts: seen.append(counts))
    assert seen == [(2, 4), (3, 4), (4, 4)] and output.read_bytes().startswith(before)
    assert [row["extracted"] for row in again.rows] == [row["extracted"] for row in run(model).rows]
    assert len(read_generations(output)[1]) == 4
    with pytest.raises(UserError, match='ranking was "letter" and is "text"'):
        run(model, output=output, form="text")


def test_what_cannot_be_ranked_is_refused(model):
    with pytest.raises(UserError, match="r: no problem has options to rank; evaluate it by generating"):
        run(model, PROBLEMS[4:])
    with pytest.raises(SettingsError, match="form = 'both': must be one of letter, text"):
        run(model, form="both")
    long = Problem(id="r/l", question="why? " * 300, answer="A", kind="mcq", options=("a", "b"))
    with pytest.raises(UserError, match=r"options cannot be scored: .*256 positions"):
        run(model, (long,))
