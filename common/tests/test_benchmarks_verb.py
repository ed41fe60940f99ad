"""The verb `benchmarks`: list, show, preview and check, on what ships and on files of the published schema."""

import json
import subprocess
import sys

import pytest

from thinker_common.benchmarks import NAMES, TRAINING_NAMES, benchmark_module, load_benchmark
from thinker_common.cli.app import run
from thinker_common.cli.main import app
from thinker_common.models.chat import PROMPT_TEMPLATE, fill, render_prompt
from thinker_common.models.load import load_tokenizer


@pytest.fixture
def benchmarks(capsys):
    """Runs the verb: (exit code, stdout, stderr)."""

    def call(*arguments):
        with pytest.raises(SystemExit) as caught:
            run(app, ["benchmarks", *arguments])
        captured = capsys.readouterr()
        return caught.value.code, captured.out, captured.err

    return call


@pytest.fixture
def data_dir(tmp_path):
    """Four rows of GSM8K's own schema, two of them the same question."""
    rows = [("What is 1 + 1?", "1 + 1 = <<1+1=2>>2\n#### 2"), ("How much is 500 + 500?", "Easy.\n#### 1,000")]
    rows += [("What is  1 + 1 ?", "#### 2"), ("And 2 - 5?", "#### -3")]
    (tmp_path / "gsm8k").mkdir()
    for split, chosen in {"test": rows, "train": rows[1:2]}.items():
        lines = [json.dumps({"question": question, "answer": answer}) for question, answer in chosen]
        (tmp_path / "gsm8k" / f"{split}.jsonl").write_text("\n".join(lines))
    return tmp_path


@pytest.mark.parametrize("verb", ["list", "show", "preview", "check"])
def test_help_of_each_has_examples_and_loads_nothing_heavy(verb):
    script = (
        "import sys\nfrom thinker_common.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit:\n    print('loaded', *{name.partition('.')[0] for name in sys.modules})"
    )
    command = [sys.executable, "-c", script, "benchmarks", verb, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    text, _, loaded = done.stdout.partition("loaded ")
    assert f"Examples:\n    thinker benchmarks {verb}" in text
    assert not {"torch", "transformers", "datasets", "numpy", "sympy", "rich"} & set(loaded.split())


def test_list_names_every_benchmark_with_source_and_licence(benchmarks):
    code, out, err = benchmarks("list")
    assert (code, err) == (0, "")
    header, *lines = out.splitlines()
    assert header.split() == ["name", "kind", "rows", "hub", "licence"]
    assert [line.split()[0] for line in lines] == [*NAMES, *TRAINING_NAMES]
    gsm8k = next(line for line in lines if line.startswith("gsm8k "))
    assert "train 7,473, test 1,319" in gsm8k and "openai/gsm8k" in gsm8k and "MIT" in gsm8k

    facts = json.loads(benchmarks("list", "--json")[1])
    assert [fact["name"] for fact in facts] == [*NAMES, *TRAINING_NAMES]
    assert [fact["name"] for fact in facts if fact["use"] == "training"] == list(TRAINING_NAMES)
    assert all(fact["title"] and fact["license"] and fact["citation"] and fact["reading"] for fact in facts)


@pytest.mark.parametrize("name", [*NAMES, *TRAINING_NAMES])
def test_show_says_all_that_the_module_knows(benchmarks, name):
    code, out, err = benchmarks("show", name)
    assert (code, err) == (0, "")
    info = benchmark_module(name).INFO
    facts = json.loads(benchmarks("show", name, "--json")[1])
    for text in (info.title, info.license, info.citation, *info.notes, *info.shares, *facts["options"]):
        assert text in out
    if info.hub is None:
        assert facts["hub"] is None
    else:
        assert info.hub.id in out and (info.hub.revision or "not pinned") in out
        assert facts["hub"]["splits"].keys() == info.hub.rows.keys()


def test_preview_shows_prompts_as_a_model_gets_them(benchmarks):
    code, out, err = benchmarks("preview", "facts", "--limit", "2", "--seed", "3", "--json")
    assert (code, err) == (0, "")
    shown = json.loads(out)["problems"]
    expected = load_benchmark("facts", limit=2, seed=3).problems
    assert [row["id"] for row in shown] == [problem.id for problem in expected]
    for row, problem in zip(shown, expected, strict=True):
        assert row["prompt"] == fill(PROMPT_TEMPLATE, question=problem.prompt_text())
        assert row["target"] == problem.target()
        assert "prompt_tokens" not in row
    text = benchmarks("preview", "facts", "--limit", "2", "--seed", "3")[1]
    for row in shown:
        assert f"--- {row['id']}\n{row['prompt']}\ntarget: {row['target']}" in text


def test_preview_with_a_model_shows_its_chat_template_and_counts_tokens(benchmarks):
    [row] = json.loads(benchmarks("preview", "chains", "--limit", "1", "--tokens", "embedded", "--json")[1])["problems"]
    [problem] = load_benchmark("chains", limit=1).problems
    tokenizer = load_tokenizer("embedded")
    ids = render_prompt(tokenizer, fill(PROMPT_TEMPLATE, question=problem.prompt_text()))
    assert (row["prompt"], row["prompt_tokens"]) == (tokenizer.decode(ids), len(ids))
    assert row["prompt"].startswith("<|user|>")
    text = benchmarks("preview", "chains", "--limit", "1", "--tokens", "embedded")[1]
    assert f"prompt: {len(ids)} tokens" in text
    assert f"({row['target_tokens']} tokens with the closing brace)" in text


def test_preview_of_a_local_file_obeys_no_control_characters(benchmarks, tmp_path):
    (tmp_path / "test.jsonl").write_text(json.dumps({"question": "\x1b[2J red \x07?", "answer": "#### 1"}) + "\n")
    code, out, err = benchmarks("preview", "gsm8k", "--data-dir", str(tmp_path))
    assert code == 0
    assert "\x1b" not in out and "\x07" not in out and "�[2J red �?" in out
    assert err == f"warning: {tmp_path}/test.jsonl: 1 rows where 1319 were expected; say so beside any figure\n"


def test_check_counts_gold_wrong_repeats_and_overlap(benchmarks, data_dir):
    code, out, err = benchmarks("check", "gsm8k", "--data-dir", str(data_dir))
    assert (code, err) == (0, "")
    assert "problems: 4 (1,319 rows expected)" in out
    assert "gold graded as right: 4 of 4" in out
    assert "wrong answer graded as right: 0 of 4" in out
    assert "questions that occur twice or more: 1\n  gsm8k/test/0, gsm8k/test/2" in out
    assert "questions that gsm8k/train has too: 1" in out
    assert out.rstrip().endswith("passed")
    report = json.loads(benchmarks("check", "gsm8k", "--data-dir", str(data_dir), "--json")[1])
    assert (report["passed"], report["gold_right"], report["wrong_right"]) == (True, 4, 0)
    assert report["overlaps"]["gsm8k/train"] == ["gsm8k/test/1"]


def test_a_check_that_fails_ends_with_1(benchmarks, data_dir, monkeypatch):
    from thinker_common.evaluation import grading

    right = grading.Grade(True, True, "2")
    monkeypatch.setattr(grading, "grade", lambda problem, response: right)
    code, out, err = benchmarks("check", "gsm8k", "--data-dir", str(data_dir))
    assert (code, err) == (1, "")
    assert "wrong answer graded as right: 4 of 4" in out
    assert out.rstrip().endswith("failed")
    assert "the gold is '2'" in out


def test_generated_tasks_pass_their_check(benchmarks):
    for name in ("facts", "phrases"):  # one of letters, one of texts; their own tests check all of them
        code, out, _ = benchmarks("check", name)
        assert code == 0, out
