r"""Evaluation end to end, on a small model that was taught to answer some questions right, some wrong, some without a box."""

import copy
import json
import math
import os
import pickle
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from thinker_common.benchmarks.boxed import last_boxed
from thinker_common.benchmarks.problem import LoadedBenchmark, Problem
from thinker_common.errors import DataError, UserError
from thinker_common.evaluation import math_equality
from thinker_common.evaluation.evaluate import compare, evaluate, model_fingerprint
from thinker_common.evaluation.generations import GenerationsFile, rank_file, read_generations
from thinker_common.likelihood.boundary import split_response
from thinker_common.models.chat import render_prompt

# Question, gold, what the model learns to say; None: it never stops.
LESSONS = [
    ("one", "5", r"so \boxed{5}"),
    ("two", "-5", r"so \boxed{-5}"),
    ("three", "7", r"so \boxed{12}"),
    ("four", "1/2", r"so \boxed{\frac{1}{2}}"),
    ("five", "8", r"\boxed{3} no wait \boxed{8}"),
    ("six", "9", "the answer is 9"),
    ("seven", "4", r"and so on \boxed{4} and so on and so on and so on and so on and so on and so on"),
    ("eight", "6", r"so \boxed{}"),
]
MAX_NEW_TOKENS = 48
TEMPLATE = "{question}?"


def make_benchmark(limit: int = len(LESSONS)) -> LoadedBenchmark:
    problems = tuple(
        Problem(id=f"lessons/test/{word}", question=word, answer=gold, kind="math") for word, gold, _ in LESSONS[:limit]
    )
    return LoadedBenchmark("lessons", "test", problems, None, "written for this test", 1, {"no answer": 2})


@pytest.fixture(scope="module")
def taught(tokenizers):
    """A two-layer model that has the lessons by heart, and its tokenizer."""
    tokenizer = tokenizers["gpt2"]
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=128,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    rows = []
    for word, _, response in LESSONS:
        prompt = render_prompt(tokenizer, TEMPLATE.replace("{question}", word))
        rows.append((prompt, tokenizer(response)["input_ids"] + [tokenizer.eos_token_id]))
    width = max(len(prompt) + len(response) for prompt, response in rows)
    ids_BT = torch.tensor([p + r + [tokenizer.pad_token_id] * (width - len(p) - len(r)) for p, r in rows])
    labels_BT = torch.tensor([[-100] * len(p) + r + [-100] * (width - len(p) - len(r)) for p, r in rows])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(300):
        loss = model(input_ids=ids_BT, labels=labels_BT).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if loss < 2e-3:
            break
    assert loss < 0.05, "the lessons were not learnt"
    return model.eval(), tokenizer


def run(taught, output=None, benchmark=None, **settings):
    model, tokenizer = taught
    settings = {"template": TEMPLATE, "max_new_tokens": MAX_NEW_TOKENS, **settings}
    return evaluate(model, tokenizer, benchmark or make_benchmark(), output=output, **settings)


# --- the figures -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def result(taught):
    return run(taught)


def test_rows(result, taught):
    said = {word: response for word, _, response in LESSONS}
    _, tokenizer = taught
    assert [row["id"] for row in result.rows] == [f"lessons/test/{word}" for word, _, _ in LESSONS]
    for row in result.rows:
        response = said[row["id"].rpartition("/")[2]]
        length = len(tokenizer(response)["input_ids"])
        assert row["truncated"] == (length >= MAX_NEW_TOKENS)
        assert response.startswith(row["text"]) and row["tokens"] == min(length, MAX_NEW_TOKENS)
        assert row["boxed"] == (last_boxed(row["text"]) is not None)
    verdicts = {row["id"].rpartition("/")[2]: row["correct"] for row in result.rows}
    assert verdicts == {
        "one": True, "two": True, "three": False, "four": True, "five": True, "six": False, "seven": True, "eight": False
    }  # fmt: skip


def test_figures(result):
    summary = result.to_dict()
    assert (summary["n"], summary["accuracy"]) == (8, 5 / 8)
    assert summary["standard_error"] == pytest.approx(math.sqrt(5 / 8 * 3 / 8 / 7))
    assert summary["boxed_rate"] == 7 / 8
    assert summary["accuracy_given_boxed"] == 5 / 7
    assert summary["no_answer_rate"] == 2 / 8  # no box, and an empty one
    assert summary["truncation_rate"] == 1 / 8
    assert summary["timed_out"] == 0
    assert summary["answer_loglik_n"] == 7
    assert summary["mean_tokens"] == sum(row["tokens"] for row in result.rows) / 8
    assert summary["wilson_interval"][0] < 5 / 8 < summary["wilson_interval"][1]
    assert summary["grader"] == "default" and summary["seed"] == 0 and summary["dropped"] == {"no answer": 2}
    greedy = {"max_new_tokens": MAX_NEW_TOKENS, "temperature": 0.0, "top_p": 1.0, "top_k": 0, "samples": 1}
    assert summary["decoding"] == greedy and (summary["samples"], summary["at_k"]) == (1, {})
    assert "rows" not in summary and json.loads(json.dumps(summary, allow_nan=False)) == summary


@torch.no_grad()
def test_answer_logliks_against_brute_force(result, taught):
    """log p(target | prompt, y_R), and of all tokens that begin with }, by a full softmax in float64."""
    model, tokenizer = taught
    closing = [token for token in range(len(tokenizer)) if tokenizer.decode([token]).startswith("}")]
    checked = 0
    for row in result.rows:
        word = row["id"].rpartition("/")[2]
        if not row["boxed"]:
            assert row["answer_loglik"] is None
            continue
        response = tokenizer(row["text"])["input_ids"]
        split = split_response(tokenizer, response, truncated=False)
        prompt = render_prompt(tokenizer, TEMPLATE.replace("{question}", word))
        before = prompt + list(response[: split.reasoning_length])
        answer = tokenizer(split.opening + row["answer"])["input_ids"]
        if tokenizer(split.opening + row["answer"] + "}")["input_ids"][: len(answer)] != answer:
            continue  # the last token of the answer holds the brace too; the scorer's own tests cover that
        logits_TV = model(torch.tensor([before + answer])).logits[0].double()
        logprobs_TV = torch.log_softmax(logits_TV[len(before) - 1 :], -1)
        expected = sum(float(logprobs_TV[i, token]) for i, token in enumerate(answer))
        expected += float(torch.logsumexp(logprobs_TV[len(answer), closing], 0))
        assert row["answer_loglik"] == pytest.approx(expected, abs=1e-4), row["id"]
        checked += 1
    assert checked >= 5


def test_batching_changes_nothing(result, taught):
    for budget in (1, 150):
        rows = run(taught, max_tokens_per_batch=budget).rows
        for one, other in zip(result.rows, rows, strict=True):
            assert {**one, "answer_loglik": None} == {**other, "answer_loglik": None}
            if one["answer_loglik"] is not None:
                assert one["answer_loglik"] == pytest.approx(other["answer_loglik"], abs=1e-4)


def test_figures_that_do_not_exist_are_null(taught):
    problems = (Problem(id="lessons/test/six", question="six", answer="9", kind="math"),)
    benchmark = LoadedBenchmark("lessons", "test", problems, None, "", 1)
    summary = run(taught, benchmark=benchmark).to_dict()
    assert summary["accuracy_given_boxed"] is None and summary["standard_error"] is None
    assert (summary["answer_loglik"], summary["answer_loglik_n"]) == (None, 0)


def test_without_scoring_there_is_no_loglik(taught):
    result = run(taught, score_answers=False)
    assert all(row["answer_loglik"] is None for row in result.rows) and result.answer_loglik_n == 0
    assert result.accuracy == 5 / 8


def test_progress_counts_up_to_the_end(taught):
    seen = []
    run(taught, max_tokens_per_batch=1, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 8) for done in range(9)]


@pytest.mark.parametrize(
    "response",
    [
        r"so \boxed{5}",
        r"so \boxed{-5} or \boxed{(1, 2)}",
        r"\boxed{5",
        r"so \boxed{3} and \boxed{5",
        "so 5",
        r"so \boxed{}",
    ],
)
def test_grader_and_boundary_rule_agree_on_what_a_closed_box_is(taught, response):
    _, tokenizer = taught
    split = split_response(tokenizer, tokenizer(response)["input_ids"], truncated=False)
    boxed = last_boxed(response)
    assert (boxed is None) == (split.reason in ("no_box", "unbalanced"))
    assert (boxed or "") == split.answer_text.strip()


# --- the file, and going on after a kill -----------------------------------------------------------------------------


class Killed(BaseException):
    pass


def killed_after(batches: int):
    calls = 0

    def progress(done, total):
        nonlocal calls
        calls += 1
        if calls == batches + 1:  # the first call comes before any batch
            raise Killed

    return progress


@pytest.mark.parametrize("batches", [0, 1, 5])
@pytest.mark.parametrize("torn", [b"", b'{"id": "lessons/test/th', b"\x00\xff"])
def test_a_killed_evaluation_goes_on_without_repeating_or_losing_a_row(taught, tmp_path, result, batches, torn):
    output = tmp_path / "deep" / "generations.jsonl"
    with pytest.raises(Killed):
        run(taught, output, max_tokens_per_batch=1, progress=killed_after(batches))
    before = output.read_bytes()
    with open(output, "ab") as file:
        file.write(torn)
    done = []
    again = run(taught, output, max_tokens_per_batch=1, progress=lambda *counts: done.append(counts))
    assert output.read_bytes().startswith(before), "what was written stays as it was"
    assert done[0] == (batches, 8) and done[-1] == (8, 8) and len(done) == 9 - batches
    ids = [json.loads(line)["id"] for line in output.read_text().splitlines()[1:]]
    assert sorted(ids) == sorted(row["id"] for row in result.rows)
    assert [row["text"] for row in again.rows] == [row["text"] for row in result.rows]
    assert again.to_dict()["accuracy"] == result.accuracy


def test_a_finished_file_is_read_and_nothing_is_generated(taught, tmp_path, monkeypatch):
    output = tmp_path / "generations.jsonl"
    first = run(taught, output)
    content = output.read_bytes()
    monkeypatch.setattr(LlamaForCausalLM, "generate", None)
    second = run(taught, output)
    assert output.read_bytes() == content
    assert second.to_dict() == first.to_dict() and second.rows == first.rows


KILLED_RUN = """
import os, pickle, signal, sys
from transformers import AutoModelForCausalLM, AutoTokenizer
from thinker_common.evaluation.evaluate import evaluate
model, output, arguments = sys.argv[1:]
def progress(done, total):
    if done == 3:
        os.kill(os.getpid(), signal.SIGKILL)
with open(arguments, "rb") as file:
    benchmark, settings = pickle.load(file)
evaluate(AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model), benchmark,
         output=output, progress=progress, **settings)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_real_kill(taught, tmp_path, result):
    model, tokenizer = taught
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    settings = {"template": TEMPLATE, "max_new_tokens": MAX_NEW_TOKENS, "max_tokens_per_batch": 1}
    (tmp_path / "arguments").write_bytes(pickle.dumps((make_benchmark(), settings)))
    output = tmp_path / "generations.jsonl"
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    process = subprocess.run(
        [sys.executable, "-c", KILLED_RUN, tmp_path / "model", output, tmp_path / "arguments"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert len(read_generations(output)[1]) == 3
    again = run(taught, output, max_tokens_per_batch=1)
    assert [row["text"] for row in again.rows] == [row["text"] for row in result.rows]
    assert len(read_generations(output)[1]) == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_new_tokens": 32}, "max_new_tokens was 48 and is 32"),
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"grader": "generalthinker"}, 'grader was "default" and is "generalthinker"'),
        ({"template": "{question}!"}, r'template was "{question}?" and is "{question}!"; prompts was'),
        ({"benchmark": make_benchmark(limit=4)}, "n was 8 and is 4; problems was"),
        ({"temperature": 1.0}, "temperature was 0.0 and is 1.0"),
    ],
)
def test_a_file_of_other_settings_is_refused_and_left_alone(taught, tmp_path, change, message):
    output = tmp_path / "generations.jsonl"
    with pytest.raises(Killed):
        run(taught, output, max_tokens_per_batch=1, progress=killed_after(2))
    content = output.read_bytes()
    with pytest.raises(UserError) as caught:
        run(taught, output, **change)
    assert message in str(caught.value) and "Choose another output" in str(caught.value)
    assert output.read_bytes() == content


def test_a_file_of_another_model_is_refused(taught, tmp_path):
    model, tokenizer = taught
    output = tmp_path / "generations.jsonl"
    run(taught, output)
    other = LlamaForCausalLM(model.config)
    other.load_state_dict(model.state_dict())
    assert model_fingerprint(other) == model_fingerprint(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.001)
    with pytest.raises(UserError, match="model was"):
        run((other, tokenizer), output)


@pytest.mark.skipif(sys.platform == "win32", reason="needs fcntl")
def test_one_process_at_a_time_writes_to_a_file(tmp_path):
    """`evaluate`, `rank` and `score_rows` alike append to a GenerationsFile."""
    path = tmp_path / "generations.jsonl"
    code = f"""
from thinker_common.evaluation.generations import GenerationsFile
with GenerationsFile({str(path)!r}, {{"n": 2}}) as file:
    file.append([{{"id": "a"}}])
    print("open", flush=True)
    input()
"""
    other = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )  # fmt: skip
    assert other.stdout.readline() == "open\n"
    named = rf" \({other.pid}\)" if Path("/proc/locks").exists() else ""
    for settings in ({"n": 2}, {"n": 3}):
        with pytest.raises(UserError, match=rf"generations.jsonl: another process{named} is writing to it: wait for"):
            GenerationsFile(path, settings)
    with GenerationsFile(rank_file(path, 1), {"n": 2}) as own:  # of another rank: nobody is in its way
        own.append([{"id": "b"}])
    other.kill()
    other.wait()
    with GenerationsFile(path, {"n": 2}) as file:
        assert [row["id"] for row in file.rows] == ["a"]
        with pytest.raises(UserError, match="is writing to it"):
            GenerationsFile(path, {"n": 2})
    with pytest.raises(UserError, match="n was 2 and is 3"):
        GenerationsFile(path, {"n": 3})
    with GenerationsFile(path, {"n": 2}) as file:  # the refusal left no lock behind
        file.absorb_rank_files()
    assert [row["id"] for row in read_generations(path)[1]] == ["a", "b"]


def test_a_folder_is_no_file_of_generations(tmp_path):
    with pytest.raises(DataError, match="this is a folder; a file is needed"):
        GenerationsFile(tmp_path, {"n": 2})


def test_a_full_disk_leaves_the_rows_there_were(tmp_path, monkeypatch):
    path = tmp_path / "generations.jsonl"
    with GenerationsFile(path, {"n": 2}) as file:
        file.append([{"id": "a"}])
        content = path.read_bytes()

        def full(handle):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left on device") as caught:
            file.append([{"id": "b"}])
        assert caught.value.filename == str(path)
        assert path.read_bytes() == content and [row["id"] for row in file.rows] == ["a"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"question": "Q?"}\n', "line 1, column 1: no settings of an evaluation here"),
        ('{"question": "Q?"}', "no settings of an evaluation here"),
        ('{"settings": {}}\n{"id": "a"}\n{"id": "a"}\n', "line 3, column 1: the problem 'a' again"),
        ('{"settings": {}}\n{"id": \n', "line 2, column 8: broken JSON"),
        ('{"settings": {}}\n{"text": "x"}\n', "line 2, column 1: a row without an id"),
    ],
)
def test_files_that_are_no_generations(tmp_path, content, message):
    path = tmp_path / "generations.jsonl"
    path.write_text(content)
    with pytest.raises(DataError) as caught:
        read_generations(path)
    assert message in str(caught.value)


def test_a_file_torn_in_its_first_line_begins_anew(taught, tmp_path, result):
    output = tmp_path / "generations.jsonl"
    output.write_bytes(b'{"settings": {"benchm')
    assert run(taught, output).rows == result.rows
    assert read_generations(output)[0]["benchmark"] == "lessons"


def test_a_grader_that_does_not_work_stops_before_anything_is_generated(taught, tmp_path, monkeypatch):
    def broken(process_id):
        raise UserError("mathematics cannot be graded")

    math_equality.compare.cache_clear()
    monkeypatch.setattr(math_equality, "_verifier_of", broken)
    with pytest.raises(UserError, match="mathematics cannot be graded"):
        run(taught, tmp_path / "generations.jsonl")
    assert not (tmp_path / "generations.jsonl").exists()


def test_a_prompt_without_room_stops_before_anything_is_generated(taught, tmp_path):
    with pytest.raises(UserError, match="exceeds the model's context of 128 tokens"):
        run(taught, tmp_path / "generations.jsonl", max_new_tokens=127)


def test_rows_of_real_evaluations_compare(result, taught):
    comparison = compare(result.rows, run(taught, grader="default", max_tokens_per_batch=200).rows)
    assert (comparison.only_a, comparison.only_b, comparison.p_value) == (0, 0, 1.0)


# --- other models ----------------------------------------------------------------------------------------------------


def test_a_model_with_an_adapter_is_evaluated_as_it_is(taught, tmp_path, result):
    peft = pytest.importorskip("peft")
    model, tokenizer = taught
    adapted = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    untouched = run((adapted.eval(), tokenizer))
    assert [row["text"] for row in untouched.rows] == [row["text"] for row in result.rows], "a new adapter adds nothing"
    run((adapted, tokenizer), tmp_path / "generations.jsonl")
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5, generator=torch.Generator().manual_seed(0))
    changed = run((adapted, tokenizer))
    assert [row["text"] for row in changed.rows] != [row["text"] for row in result.rows]
    assert changed.answer_loglik != result.answer_loglik or changed.answer_loglik_n == 0
    with pytest.raises(UserError, match="model was"):
        run((adapted, tokenizer), tmp_path / "generations.jsonl")


@pytest.fixture
def t5(t5_style):
    """It says one thing whatever it is asked."""
    torch.manual_seed(0)
    tokens = {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 4}
    model = T5ForConditionalGeneration(T5Config(vocab_size=len(t5_style), **sizes, **tokens)).eval()
    question, said = (t5_style(text, return_tensors="pt")["input_ids"] for text in ("Which?", "The answer is B"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        model(input_ids=question, labels=said).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, t5_style


CHOICES = LoadedBenchmark(
    "choices",
    "test",
    (
        Problem(id="0", question="Which?", answer="B", kind="mcq", options=("one", "two", "three")),
        Problem(id="1", question="Which?", answer="A", kind="mcq", options=("four", "five")),
        Problem(id="2", question="How many?", answer=r"\frac{1}{2}", kind="math"),
    ),
    None,
    "written for this test",
    1,
    {},
)


def test_a_model_that_cannot_write_a_box_is_evaluated_without_answer_scores(t5, tmp_path):
    output = tmp_path / "generations.jsonl"
    with pytest.warns(UserWarning, match=r"cannot write \\boxed\{\}: reference answers are not scored"):
        result = run(t5, output, CHOICES)
    assert {row["text"] for row in result.rows} == {"The answer is B"}
    assert [row["correct"] for row in result.rows] == [True, False, False]
    assert [row["answer_loglik"] for row in result.rows] == [None] * 3
    assert result.answer_loglik_n == 0 and result.to_dict()["answer_loglik"] is None
    assert read_generations(output)[0]["score_answers"] is False
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # who leaves them out knows
        assert run(t5, benchmark=CHOICES, score_answers=False).rows == result.rows


@torch.no_grad()
def test_an_encoder_decoder_model(tokenizers):
    tokenizer = tokenizers["gpt2"]
    torch.manual_seed(0)
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 4}
    tokens = {"decoder_start_token_id": tokenizer.pad_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = T5Config(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, **sizes, **tokens)
    model = T5ForConditionalGeneration(config).eval()
    # It says one thing whatever it is asked: the reference is scored after that.
    said = tokenizer(r"so \boxed{5}")["input_ids"] + [tokenizer.eos_token_id]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    prompts = [tokenizer(f"{word}?", return_tensors="pt")["input_ids"] for word, _, _ in LESSONS]
    with torch.enable_grad():
        for step in range(400):
            loss = model(input_ids=prompts[step % len(prompts)], labels=torch.tensor([said])).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if step > 50 and loss < 1e-3:
                break
    evaluated = run((model, tokenizer), chat_template="none")
    assert {row["text"] for row in evaluated.rows} == {r"so \boxed{5}"}
    assert evaluated.accuracy == 1 / 8
    # log p of the first reference, 5, by a plain forward over prompt and response
    split = split_response(tokenizer, said[:-1], truncated=False)
    scored = tokenizer(split.opening + "5")["input_ids"]
    labels = torch.tensor([[*said[: split.reasoning_length], *scored, 0]])
    logprobs_TV = torch.log_softmax(model(input_ids=prompts[0], labels=labels).logits[0].double(), -1)
    closing = [token for token in range(len(tokenizer)) if tokenizer.decode([token]).startswith("}")]
    start = split.reasoning_length
    expected = sum(float(logprobs_TV[start + place, token]) for place, token in enumerate(scored))
    expected += float(logprobs_TV[start + len(scored), closing].logsumexp(0))
    assert evaluated.rows[0]["answer_loglik"] == pytest.approx(expected, abs=1e-4)
