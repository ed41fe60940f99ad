"""Several samples a problem: every one is a row, figures are over problems, and a kill at any instant loses nothing."""

import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from thinker_common.benchmarks.problem import LoadedBenchmark, Problem
from thinker_common.errors import SettingsError, UserError
from thinker_common.evaluation.evaluate import evaluate
from thinker_common.evaluation.generations import read_generations
from thinker_common.evaluation.results import summarise
from thinker_common.evaluation.statistics import clustered_mean, mean, pass_at_k

SAMPLES = 4
DECODING = {"temperature": 1.0, "max_new_tokens": 12, "samples": SAMPLES}


def make_benchmark(count=6) -> LoadedBenchmark:
    problems = tuple(
        Problem(id=f"q/test/{i}", question=f"What is {i}?", answer=str(i), kind="math", metadata={"level": i % 2})
        for i in range(count)
    )
    return LoadedBenchmark("q", "test", problems, None, "written for this test", 1)


@pytest.fixture(scope="module")
def model(tokenizers):
    tokenizer = tokenizers["gpt2"]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=128,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config).eval(), tokenizer


def run(model, output=None, **settings):
    return evaluate(*model, make_benchmark(), output=output, **{"template": "{question}", **DECODING, **settings})


@pytest.fixture(scope="module")
def sampled(model):
    return run(model)


def key(row):
    return row["id"], row["sample"]


def test_every_sample_is_a_row_and_samples_differ(sampled):
    assert [key(row) for row in sampled.rows] == [(f"q/test/{i}", s) for i in range(6) for s in range(SAMPLES)]
    assert len({row["text"] for row in sampled.rows}) > 20
    assert (sampled.n, sampled.samples) == (6, SAMPLES)


def test_samples_do_not_depend_on_the_batch_and_follow_from_the_seed(model, sampled):
    for budget in (1, 100):
        assert [r["text"] for r in run(model, max_tokens_per_batch=budget).rows] == [r["text"] for r in sampled.rows]
    assert [r["text"] for r in run(model, seed=1).rows] != [r["text"] for r in sampled.rows]
    fewer = run(model, samples=2).rows
    assert [r["text"] for r in fewer] == [r["text"] for r in sampled.rows if r["sample"] < 2], "more samples only add"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "samples = 4: greedy responses are all equal"),
        ({"samples": 0}, "samples = 0: must be at least 1"),
        ({"ks": [8]}, "k = 8: must be at least 1 and at most the number of samples, 4"),
        ({"grader": "strict"}, "grader = 'strict': must be one of default, generalthinker"),
    ],
)
def test_impossible_settings_are_refused_before_a_file_is_begun(model, tmp_path, change, message):
    with pytest.raises(SettingsError) as caught:
        run(model, tmp_path / "generations.jsonl", **change)
    assert message in str(caught.value)
    assert not (tmp_path / "generations.jsonl").exists()


def test_another_number_of_samples_is_another_evaluation(model, tmp_path):
    run(model, tmp_path / "generations.jsonl", samples=2)
    with pytest.raises(UserError, match="samples was 2 and is 4"):
        run(model, tmp_path / "generations.jsonl")


# --- figures ----------------------------------------------------------------------------------------------------------


def graded(answers_of):
    """Rows as `evaluate` makes them, from the answers of each problem's samples; None: no box."""
    return [
        {
            "id": problem_id,
            "sample": sample,
            "extracted": answer,
            "boxed": answer is not None,
            "correct": answer == problem_id.rpartition("/")[2],
            "truncated": answer is None,
            "timed_out": False,
            "tokens": 10 + sample,
            "answer_loglik": None if answer is None else -1.0 * sample,
        }
        for problem_id, answers in answers_of.items()
        for sample, answer in enumerate(answers)
    ]


def test_figures_are_over_problems():
    answers_of = {
        "q/test/0": ["0", "0", "1", "0"],
        "q/test/1": ["1", "2", "2", "2"],
        "q/test/2": [None, None, "2", None],
        "q/test/3": [None, None, None, None],
    }
    got = summarise(
        make_benchmark(4), graded(answers_of), samples=4, ks=[1, 2, 4], grader="default", seed=0, decoding={},
        template="", chat_template="",
    )  # fmt: skip
    means = [3 / 4, 1 / 4, 1 / 4, 0]
    assert got.accuracy == mean(means).value and got.standard_error == pytest.approx(mean(means).standard_error)
    assert got.at_k["pass@1"].value == got.accuracy
    expected = [pass_at_k(4, right, 2) for right in (3, 1, 1, 0)]
    assert got.at_k["pass@2"].value == pytest.approx(mean(expected).value)
    assert got.at_k["pass@2"].standard_error == pytest.approx(mean(expected).standard_error)
    assert got.at_k["pass@4"].value == 3 / 4
    assert got.at_k["maj@4"].value == (1 + 0 + 1 + 0) / 4, "three of four, one of four, the only vote, no vote"
    assert "maj@1" not in got.at_k
    given = clustered_mean([[1, 1, 0, 1], [1, 0, 0, 0], [1], []])
    assert got.accuracy_given_boxed == given.value == 5 / 9
    assert got.accuracy_given_boxed_standard_error == pytest.approx(given.standard_error)
    assert got.boxed_rate == 9 / 16 and got.truncation_rate == 7 / 16 and got.mean_tokens == 11.5
    assert got.answer_loglik_n == 9
    assert got.groups["level"].accuracies["0"].value == (3 / 4 + 1 / 4) / 2
    assert got.groups["level"].macro.value == pytest.approx(got.accuracy)
    json.dumps(got.to_dict(), allow_nan=False)


def test_votes_are_for_answers_not_for_texts():
    problem = Problem(id="v/1", question="Q?", answer="1/2", kind="math")
    rows = [
        {**row, "id": "v/1", "correct": answer in ("1/2", "0.5", r"\frac12")}
        for row, answer in zip(graded({"q/0": ["1/2", "3", "0.5", "3", r"\frac12"]}), range(5), strict=True)
        for answer in [row["extracted"]]
    ]
    got = summarise(
        LoadedBenchmark("v", "test", (problem,), None, "", 1), rows, samples=5, ks=[5], grader="default", seed=0,
        decoding={}, template="", chat_template="",
    )  # fmt: skip
    assert got.at_k["maj@5"].value == 1.0


def test_a_comparison_that_was_given_up_is_not_tried_again_in_the_vote(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("compared")

    monkeypatch.setattr("thinker_common.evaluation.results.same_answer", refuse)
    rows = [{**row, "timed_out": True} for row in graded({"q/test/0": ["9^{9^9}", "8^{8^8}"]})]
    got = summarise(
        make_benchmark(1), rows, samples=2, ks=[2], grader="default", seed=0, decoding={}, template="", chat_template=""
    )
    assert (got.at_k["maj@2"].value, got.timed_out) == (0.0, 2)


# --- kill -9 ----------------------------------------------------------------------------------------------------------

RUN = """
import pickle, sys, time
from transformers import AutoModelForCausalLM, AutoTokenizer
from thinker_common.evaluation.evaluate import evaluate
model, output, arguments = sys.argv[1:]
with open(arguments, "rb") as file:
    benchmark, settings = pickle.load(file)
model, tokenizer = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
evaluate(model, tokenizer, benchmark, output=output, progress=lambda *_: time.sleep(0.02), **settings)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_kills_at_random_instants_lose_and_repeat_nothing(model, sampled, tmp_path):
    for part in model:
        part.save_pretrained(tmp_path / "model")
    settings = {"template": "{question}", **DECODING, "max_tokens_per_batch": 1}
    (tmp_path / "arguments").write_bytes(pickle.dumps((make_benchmark(), settings)))
    output = tmp_path / "generations.jsonl"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)}
    rng = random.Random(int(time.time()))
    kept, killed = b"", 0
    for _ in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, tmp_path / "model", output, tmp_path / "arguments"], env=environment
        )
        size = output.stat().st_size if output.exists() else -1
        while process.poll() is None and (not output.exists() or output.stat().st_size == size):
            time.sleep(0.005)  # until it writes
        time.sleep(rng.uniform(0, 0.25))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        content = output.read_bytes()
        assert content.startswith(kept[: kept.rfind(b"\n") + 1]), "what was written stays as it was"
        kept = content
    assert killed >= 3, "the kills came while it ran"
    final = run(model, output, max_tokens_per_batch=1)
    assert [row["text"] for row in final.rows] == [row["text"] for row in sampled.rows]
    rows = read_generations(output)[1]
    assert sorted(map(key, rows)) == [key(row) for row in sampled.rows]
