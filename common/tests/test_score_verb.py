"""The verb `score`: the numbers against brute force, the file against kills, other settings and odd rows."""

import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from thinker_common.cli.app import run
from thinker_common.cli.main import app
from thinker_common.errors import DataError
from thinker_common.evaluation.score_file import read_scores
from thinker_common.likelihood.scorer import AnswerScorer, ScoringItem
from thinker_common.models.chat import render_prompt
from thinker_common.models.load import load_policy, load_tokenizer

ROWS = [
    {"prompt": "What is 2 + 3?", "reasoning": " 2 + 3 = 5. \\boxed{", "answers": ["5", "6", "-5"], "suffix": "}"},
    {"id": "capital", "prompt": "The capital of France is", "answer": " Paris"},
    {"id": 70, "prompt": "line\u2028separator", "answer": " é\u2028🙂", "suffix": ""},
    {"prompt": "A long question. " * 5, "reasoning": None, "answers": [" yes", " no"], "level": 3},
]
IDS = [1, "capital", 70, 4]


def save_changed(folder, change):
    """A folder with the embedded model after `change(its head's weights)`."""
    policy = load_policy("embedded")
    change(policy.lm_head.weight.data)
    policy.save_pretrained(folder)
    load_tokenizer("embedded").save_pretrained(folder)
    return str(folder)


@pytest.fixture
def score(tmp_path, monkeypatch, capsys):
    """Runs the verb on `rows.jsonl`: (exit code, stdout, error lines)."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "rows.jsonl", ROWS)

    def call(*arguments, file="rows.jsonl", model="embedded"):
        with pytest.raises(SystemExit) as caught:
            run(app, ["score", file, "--model", model, *arguments])
        captured = capsys.readouterr()
        errors = [line for line in captured.err.splitlines() if "error: " in line]  # libraries draw bars on stderr
        return caught.value.code, captured.out, "\n".join(errors)

    return call


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def items(rows=ROWS):
    return [
        ScoringItem(row["prompt"], row.get("reasoning") or "", answer, row.get("suffix") or "")
        for row in rows
        for answer in row.get("answers", [row.get("answer")])
    ]


def flat(path):
    return [score for row in read_scores(path)[1] for score in row["scores"]]


def test_one_row_has_no_error_and_no_nan(score):
    code, out, _ = score("--limit", "1")
    assert code == 0 and "nan" not in out.lower() and "±" not in out
    assert "±" in score("--output", "all.jsonl")[1]


def test_scores_are_those_of_the_model(score, tmp_path):
    code, out, err = score()
    assert (code, err) == (0, "")
    assert out.endswith("scores: rows.scores.jsonl\n")
    policy, tokenizer = load_policy("embedded"), load_tokenizer("embedded")
    scores = flat(tmp_path / "rows.scores.jsonl")
    assert [s["answer"] for s in scores] == [item.answer for item in items()]
    for item, scored in zip(items(), scores, strict=True):
        context = tokenizer(item.prompt + item.reasoning)["input_ids"]
        ids = torch.tensor([context + scored["token_ids"]])
        with torch.no_grad():
            logprobs = policy(ids).logits.double().log_softmax(-1)[0, len(context) - 1 : -1]
        brute = logprobs.gather(-1, ids[0, len(context) :, None])[:, 0].tolist()
        if item.suffix:  # what begins with the suffix counts, not its own token alone
            alike = [i for text, i in tokenizer.get_vocab().items() if text.startswith("}")]
            brute[-1] = logprobs[-1, alike].logsumexp(-1).item()
        assert scored["token_logprobs"] == pytest.approx(brute, abs=1e-5)
        assert tokenizer.decode(scored["token_ids"]) == item.answer + item.suffix
        assert scored["tokens"] == [tokenizer.decode([token]) for token in scored["token_ids"]]


def test_aggregates_follow_from_the_tokens_and_ranks_from_the_sums(score, tmp_path):
    assert score()[0] == 0
    for row in read_scores(tmp_path / "rows.scores.jsonl")[1]:
        for scored in row["scores"]:
            logprobs = scored["token_logprobs"]
            assert scored["sum"] == pytest.approx(sum(logprobs))
            assert scored["mean"] == pytest.approx(sum(logprobs) / len(logprobs))
            assert scored["probability"] == pytest.approx(math.exp(sum(logprobs)))
            assert scored["mean_probability"] == pytest.approx(sum(map(math.exp, logprobs)) / len(logprobs))
            assert scored["perplexity"] == pytest.approx(math.exp(-sum(logprobs) / len(logprobs)))
        by_rank = sorted(row["scores"], key=lambda scored: scored["rank"])
        assert [scored["rank"] for scored in by_rank] == list(range(1, len(by_rank) + 1))
        assert [scored["sum"] for scored in by_rank] == sorted((s["sum"] for s in by_rank), reverse=True)


def test_equal_answers_share_a_rank(score, tmp_path):
    write(tmp_path / "rows.jsonl", [{"prompt": "Q", "answers": ["a", "b", "a", "b"]}])
    assert score()[0] == 0
    ranks = [scored["rank"] for scored in flat(tmp_path / "rows.scores.jsonl")]
    assert sorted(ranks) == [1, 1, 3, 3]
    assert ranks[:2] == ranks[2:]


def test_rows_come_in_the_order_of_the_file_whatever_the_batches(score, tmp_path):
    assert score("--output", "whole.jsonl")[0] == 0
    for tokens in ("1", "20", "200"):
        assert score("--output", f"{tokens}.jsonl", "--max-tokens-per-batch", tokens)[0] == 0
        assert [row["id"] for row in read_scores(tmp_path / f"{tokens}.jsonl")[1]] == IDS
        same_scores(tmp_path / f"{tokens}.jsonl", tmp_path / "whole.jsonl")


def same_scores(one, other):
    for a, b in zip(flat(one), flat(other), strict=True):
        assert (a["answer"], a["rank"], a["token_ids"]) == (b["answer"], b["rank"], b["token_ids"])
        assert a["token_logprobs"] == pytest.approx(b["token_logprobs"], rel=1e-6, abs=1e-5)


def test_closing(score, tmp_path):
    for closing in ("prefix_mass", "token", "none"):
        assert score("--closing", closing, "--output", f"{closing}.jsonl")[0] == 0
        expected = AnswerScorer(load_policy("embedded"), load_tokenizer("embedded"), closing=closing).score(items())
        sums = [scored["sum"] for scored in flat(tmp_path / f"{closing}.jsonl")]
        assert sums == pytest.approx([score.sum for score in expected], abs=1e-5)


def test_prompts_in_a_chat_template(score, tmp_path):
    assert score("--chat-template", "auto", "--output", "auto.jsonl")[0] == 0
    policy, tokenizer = load_policy("embedded"), load_tokenizer("embedded")
    turns = [
        ScoringItem(render_prompt(tokenizer, item.prompt), item.reasoning, item.answer, item.suffix) for item in items()
    ]
    sums = [scored["sum"] for scored in flat(tmp_path / "auto.jsonl")]
    assert sums == pytest.approx([s.sum for s in AnswerScorer(policy, tokenizer).score(turns)], abs=1e-4)
    assert score("--output", "none.jsonl")[0] == 0
    assert sums != pytest.approx([scored["sum"] for scored in flat(tmp_path / "none.jsonl")], abs=1e-2)


def test_columns_under_other_names(score, tmp_path):
    rows = [{"question": "Q?", "choices": [" a", " b"], "answer": 1, "uid": "u1", "id": None}]
    write(tmp_path / "other.jsonl", rows)
    mapping = ("--column", "prompt=question", "--column", "answers=choices", "--column", "id=uid")
    assert score(*mapping, file="other.jsonl")[0] == 0
    [row] = read_scores(tmp_path / "other.scores.jsonl")[1]
    assert row["id"] == "u1"
    assert [scored["answer"] for scored in row["scores"]] == [" a", " b"]


@pytest.mark.parametrize(("line_break", "last"), [("\n", ""), ("\r\n", "\r\n"), ("\n\n", "\n")])
def test_line_breaks_of_any_system(score, tmp_path, line_break, last):
    text = line_break.join(json.dumps(row, ensure_ascii=False) for row in ROWS) + last
    (tmp_path / "rows.jsonl").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert score()[0] == 0
    assert [scored["answer"] for scored in flat(tmp_path / "rows.scores.jsonl")] == [item.answer for item in items()]


def test_json_summary(score, tmp_path):
    code, out, err = score("--json")
    assert (code, err) == (0, "")
    summary = json.loads(out)
    rows = read_scores(tmp_path / "rows.scores.jsonl")[1]
    logprobs = [logprob for scored in flat(tmp_path / "rows.scores.jsonl") for logprob in scored["token_logprobs"]]
    of_rows = [sum(s["sum"] for s in row["scores"]) / len(row["scores"]) for row in rows]
    mean = sum(of_rows) / 4
    error = math.sqrt(sum((value - mean) ** 2 for value in of_rows) / 3 / 4)
    assert summary == {
        "model": "embedded",
        "file": "rows.jsonl",
        "output": "rows.scores.jsonl",
        "rows": 4,
        "new_rows": 4,
        "answers": 7,
        "tokens": len(logprobs),
        "answer_logprob": pytest.approx(mean),
        "answer_logprob_standard_error": pytest.approx(error),
        "token_logprob": pytest.approx(sum(logprobs) / len(logprobs)),
        "perplexity": pytest.approx(math.exp(-sum(logprobs) / len(logprobs))),
        "not_finite": 0,
    }
    again = json.loads(score("--json")[1])
    assert again == {**summary, "new_rows": 0}


def test_limit_takes_a_seeded_sample_in_order(score, tmp_path):
    chosen = {}
    for seed in range(6):
        assert score("--limit", "2", "--seed", str(seed), "--output", f"{seed}.jsonl")[0] == 0
        chosen[seed] = [row["id"] for row in read_scores(tmp_path / f"{seed}.jsonl")[1]]
        assert [row for row in IDS if row in chosen[seed]] == chosen[seed]
        assert len(chosen[seed]) == 2
    assert len({tuple(ids) for ids in chosen.values()}) > 1
    assert score("--limit", "9", "--output", "all.jsonl")[0] == 0
    assert [row["id"] for row in read_scores(tmp_path / "all.jsonl")[1]] == IDS


@pytest.mark.filterwarnings("ignore:.*output head", "ignore:prefixes that items share")
def test_numbers_that_are_not_finite_are_null_and_counted(score, tmp_path):
    folder = save_changed(tmp_path / "diverged", lambda weights: weights.fill_(math.nan))
    code, out, _ = score("--json", model=folder)
    assert code == 0
    summary = json.loads(out)
    assert (summary["not_finite"], summary["answer_logprob"], summary["perplexity"]) == (7, None, None)
    assert all(scored["sum"] is None for scored in flat(tmp_path / "rows.scores.jsonl"))


def test_encoder_decoder_models(score, tmp_path, tokenizers):
    tokenizer = tokenizers["llama2"]
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=16,
        d_kv=8,
        d_ff=16,
        num_layers=1,
        num_heads=2,
        initializer_factor=4.0,
        decoder_start_token_id=0,
        pad_token_id=tokenizer.pad_token_id,
    )
    policy = T5ForConditionalGeneration(config).eval()
    policy.save_pretrained(tmp_path / "t5")
    tokenizer.save_pretrained(tmp_path / "t5")
    rows = [
        {"prompt": "add 3 + 4", "answers": ["7", "12"]},
        {"prompt": "the answer", "reasoning": "3 + 4 = 7 so ", "answer": "words"},
    ]
    write(tmp_path / "rows.jsonl", rows)
    code, _, err = score(model=str(tmp_path / "t5"))
    assert (code, err) == (0, "")
    for item, scored in zip(items(rows), flat(tmp_path / "rows.scores.jsonl"), strict=True):
        read = tokenizer(item.reasoning, add_special_tokens=False)["input_ids"] if item.reasoning else []
        decoder_ids = torch.tensor([[0, *read, *scored["token_ids"]]])
        with torch.no_grad():
            logits = policy(
                input_ids=torch.tensor([tokenizer(item.prompt)["input_ids"]]), decoder_input_ids=decoder_ids
            ).logits
        logprobs = logits.double().log_softmax(-1)[0, len(read) : -1]
        targets = torch.tensor(scored["token_ids"])
        brute = logprobs.gather(-1, targets[:, None])[:, 0].tolist()
        assert scored["token_logprobs"] == pytest.approx(brute, rel=1e-6, abs=1e-5)

    policy.config.decoder_start_token_id = None
    policy.generation_config.decoder_start_token_id = None
    policy.save_pretrained(tmp_path / "t5")
    code, _, err = score("--output", "unstarted.jsonl", model=str(tmp_path / "t5"))
    assert (code, err.partition(" decoder_start_token_id")[0]) == (2, "error: the model's configuration has no")
    assert not (tmp_path / "unstarted.jsonl").exists()


# --- stopped and continued ----------------------------------------------------------------------------------------------


def test_goes_on_from_every_byte(score, tmp_path):
    small = ("--max-tokens-per-batch", "1")  # a block a row
    assert score(*small)[0] == 0
    file = tmp_path / "rows.scores.jsonl"
    whole = file.read_bytes()
    (tmp_path / "whole.jsonl").write_bytes(whole)
    ends = [index + 1 for index, byte in enumerate(whole) if byte == ord("\n")]
    for end in (0, 1, *ends, *(end + 5 for end in ends[:-1]), *(end - 1 for end in ends)):
        file.write_bytes(whole[:end])
        code, out, err = score(*small, "--json")
        assert (code, err) == (0, ""), end
        kept = max(sum(1 for e in ends if e <= end) - 1, 0)
        assert json.loads(out)["new_rows"] == len(ROWS) - kept, end
        assert file.read_bytes()[: ends[kept]] == whole[: ends[kept]]  # what was there is untouched
        assert [row["id"] for row in read_scores(file)[1]] == IDS
        same_scores(file, tmp_path / "whole.jsonl")


SLOWLY = """
import sys, time
from thinker_common.likelihood.scorer import AnswerScorer
score = AnswerScorer.score
def slow_score(self, items):
    time.sleep(0.2)
    return score(self, items)
AnswerScorer.score = slow_score
from thinker_common.cli.main import main
main()
"""


def test_killed_in_the_middle(score, tmp_path):
    rows = [{"prompt": f"Question {number}?", "answers": [" a", " b"]} for number in range(12)]
    write(tmp_path / "many.jsonl", rows)
    small = ("--max-tokens-per-batch", "1")
    command = [sys.executable, "-c", SLOWLY, "score", "many.jsonl", "--model", "embedded", *small]
    output = tmp_path / "many.scores.jsonl"
    for kill in range(2):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 120
            while not output.exists() or output.read_bytes().count(b"\n") < 3 * (kill + 1):
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.01)
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
    done = len(read_scores(output)[1])
    assert 0 < done < len(rows)
    code, out, err = score(*small, "--json", file="many.jsonl")
    assert (code, err) == (0, "")
    assert json.loads(out)["new_rows"] == len(rows) - done
    assert [row["id"] for row in read_scores(output)[1]] == list(range(1, len(rows) + 1))
    assert score("--output", "whole.jsonl", file="many.jsonl")[0] == 0
    same_scores(output, tmp_path / "whole.jsonl")


def test_other_settings_rows_or_weights_are_refused_and_named(score, tmp_path):
    assert score()[0] == 0
    file = tmp_path / "rows.scores.jsonl"
    before = file.read_bytes()
    other = save_changed(tmp_path / "other", lambda weights: weights.mul_(1.01))
    (tmp_path / "plain.jinja").write_text("{% for m in messages %}{{ m['content'] }}!{% endfor %}")
    for arguments, named in {
        ("--closing", "token"): 'closing was "prefix_mass" and is "token"',
        ("--chat-template", "plain.jinja"): 'chat_template was "none" and is "plain.jinja"',
        ("--limit", "2"): "rows was ",
        ("--model", other): "model was ",
        ("--dtype", "bfloat16"): "model was ",
    }.items():
        code, out, err = score(*arguments)
        assert (code, out) == (2, "")
        assert named in err
        assert "written under other settings" in err and len(err.splitlines()) == 1
    write(tmp_path / "rows.jsonl", [*ROWS[:-1], {**ROWS[-1], "reasoning": "x"}])
    assert "rows was" in score()[2]
    assert file.read_bytes() == before


def test_another_kind_of_file_is_no_file_of_scores(tmp_path):
    (tmp_path / "generations.jsonl").write_text('{"settings": {"benchmark": "gsm8k"}}\n')
    with pytest.raises(DataError, match="holds no scores"):
        read_scores(tmp_path / "generations.jsonl")
