"""The verb `evaluate` from the command line to the files, on a small random model and a user's own questions."""

import json
import subprocess
import sys

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from thinker_common.cli.app import run
from thinker_common.cli.main import app


@pytest.fixture(scope="module")
def model(tokenizers, tmp_path_factory):
    """A folder in Hugging Face format."""
    tokenizer = tokenizers["gpt2"]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=256,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    folder = tmp_path_factory.mktemp("model")
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def evaluate(model, tmp_path, monkeypatch, capsys):
    """Runs the verb on five questions in `mine.jsonl`: (exit code, stdout, error lines)."""
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"What is {i} + 1?", "gold": str(i + 1)} for i in range(5)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def call(*arguments, columns=("--column", "question=prompt", "--column", "answer=gold")):
        with pytest.raises(SystemExit) as caught:
            run(app, ["evaluate", model, "--file", "mine.jsonl", *columns, "--max-new-tokens", "8", *arguments])
        captured = capsys.readouterr()
        errors = [line for line in captured.err.splitlines() if line.startswith("error: ")]
        return caught.value.code, captured.out, errors

    return call


def test_results_and_rows_are_written(evaluate, tmp_path, model):
    code, out, err = evaluate("--output", "scores")
    assert (code, err) == (0, [])
    assert "mine" in out
    assert out.rstrip().endswith("results: scores")
    results = json.loads((tmp_path / "scores" / "results.json").read_text())
    assert results["model"] == model
    assert results["benchmarks"]["mine"]["n"] == 5
    assert results["benchmarks"]["mine"]["boxed_rate"] == 0.0
    assert results["benchmarks"]["mine"]["accuracy_given_boxed"] is None
    assert (tmp_path / "scores" / "environment.json").exists()
    assert len((tmp_path / "scores" / "mine" / "generations.jsonl").read_text().splitlines()) == 1 + 5


def test_json_output_is_the_results_file(evaluate, tmp_path):
    code, out, _ = evaluate("--output", "scores", "--json", "--limit", "3")
    assert code == 0
    assert json.loads(out) == json.loads((tmp_path / "scores" / "results.json").read_text())
    assert json.loads(out)["benchmarks"]["mine"]["n"] == 3


def test_a_folder_given_again_goes_on_and_other_settings_are_refused(evaluate, tmp_path):
    assert evaluate("--output", "scores")[0] == 0
    file = tmp_path / "scores" / "mine" / "generations.jsonl"
    whole = file.read_bytes()
    lines = whole.splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:3]) + lines[3][:10])  # killed in the middle of a line
    assert evaluate("--output", "scores")[0] == 0
    assert sorted(file.read_bytes().splitlines()) == sorted(whole.splitlines())
    code, _, [error] = evaluate("--output", "scores", "--max-new-tokens", "4")
    assert code == 2
    assert "max_new_tokens" in error
    (tmp_path / "scores" / "thesis.tex").touch()
    assert evaluate("--output", "scores")[2][0].startswith("error: output scores is not empty")


def test_comparison_with_an_earlier_evaluation(evaluate, tmp_path):
    assert evaluate("--output", "first")[0] == 0
    code, out, _ = evaluate("--output", "second", "--compare", "first")
    assert code == 0
    assert "mine, this - first: +0.0 points" in out
    results = json.loads((tmp_path / "second" / "results.json").read_text())
    assert results["compared_with"] == "first"
    assert results["comparisons"]["mine"]["n"] == 5
    code, _, [error] = evaluate("--output", "third", "--compare", "first", "--limit", "2")
    assert code == 2
    assert error.startswith("error: only results on the same problems can be compared")


def test_nothing_but_results_where_nobody_watches(evaluate, model, tmp_path):
    command = [sys.executable, "-c", "from thinker_common.cli.main import main; main()"]
    arguments = ["evaluate", model, "--file", "mine.jsonl", "--column", "question=prompt", "--column", "answer=gold"]
    done = subprocess.run([*command, *arguments, "--max-new-tokens", "4"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_a_bad_column_is_a_mistake_that_leaves_nothing(evaluate, tmp_path):
    code, _, errors = evaluate("--output", "scores", columns=("--column", "question=text"))
    assert (code, len(errors)) == (2, 1)
    assert not (tmp_path / "scores").exists()
