"""The verb `evaluate` from the command line to the files, on a small random model and a user's own questions."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from thinker_common.cli.app import run
from thinker_common.cli.main import app
from thinker_common.cli.vllm_engine import vllm_arguments
from thinker_common.evaluation.generate import Generation


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
    assert "Responses, mine" in (tmp_path / "scores" / "report.html").read_text()
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
    assert results["comparisons"]["mine"]["adjusted_p_value"] == 1.0
    assert (tmp_path / "second" / "mine" / "changes.jsonl").read_text() == ""
    code, out, _ = evaluate("--output", "third", "--compare", "first", "--limit", "2")
    assert code == 0, "a part of the problems"
    assert "n = 2 shared problems (3 of the larger evaluation are left out)" in out


def test_what_cannot_be_compared_is_refused_before_any_work(evaluate, tmp_path):
    assert evaluate("--output", "first")[0] == 0
    for arguments, named in (
        (("--max-new-tokens", "4"), "--compare, mine: these results cannot be compared, they differ in the decoding"),
        (("--grader", "generalthinker"), 'the grader ("default" and "generalthinker")'),
        (("--chat-template", "none"), 'the chat template ("auto" and "none")'),
        (("--samples", "2", "--temperature", "1"), "the number of samples (1 and 2)"),
    ):
        code, _, [error] = evaluate("--output", "other", "--compare", "first", *arguments)
        assert code == 2
        assert named in error
        assert not (tmp_path / "other").exists()
    code, _, [error] = evaluate("--output", "other", "--compare", "nowhere")
    assert code == 2
    assert "nowhere: there is no mine/generations.jsonl, so nothing to compare with" in error


def test_finished_evaluations_are_compared_without_a_model(evaluate, tmp_path, capsys):
    assert evaluate("--output", "before")[0] == 0
    assert evaluate("--output", "after")[0] == 0
    rows = (tmp_path / "after" / "mine" / "generations.jsonl").read_text().splitlines()
    changed = {**json.loads(rows[1]), "correct": True, "extracted": "1"}
    (tmp_path / "after" / "mine" / "generations.jsonl").write_text(
        "\n".join([rows[0], json.dumps(changed), *rows[2:]]) + "\n"
    )

    def call(*arguments):
        with pytest.raises(SystemExit) as caught:
            run(app, ["evaluate", *arguments])
        captured = capsys.readouterr()
        return caught.value.code, captured.out, captured.err

    code, out, _ = call("--compare", "before", "after", "--output", "compared")
    assert code == 0
    assert "mine, after - before: +20.0 points" in out and "exact McNemar p = 1, n = 5" in out
    assert sorted(entry.name for entry in (tmp_path / "compared").iterdir()) == ["mine", "report.html", "results.json"]
    [change] = [
        json.loads(line) for line in (tmp_path / "compared" / "mine" / "changes.jsonl").read_text().splitlines()
    ]
    assert (change["id"], change["change"]) == (changed["id"], "wrong -> right")
    assert json.loads((tmp_path / "compared" / "results.json").read_text())["after"] == "after"
    code, out, _ = call("--compare", "before", "after", "--json")
    assert json.loads(out)["comparisons"]["mine"]["only_a"] == 1

    header = json.loads(rows[0])
    header["settings"]["temperature"] = 0.6
    (tmp_path / "after" / "mine" / "generations.jsonl").write_text("\n".join([json.dumps(header), *rows[1:]]) + "\n")
    code, _, error = call("--compare", "before", "after")
    assert code == 2
    assert "mine: these results cannot be compared, they differ in the decoding (temperature) (0.0 and 0.6)" in error
    code, _, error = call("--compare", "before", "missing")
    assert code == 2
    assert "missing is no folder of a finished evaluation; name a --benchmark" in error
    (tmp_path / "after" / "mine").rename(tmp_path / "after" / "theirs")
    code, _, error = call("--compare", "before", "after")
    assert code == 2
    assert "before and after share no benchmark: they hold mine and theirs" in error


def test_samples_and_their_figures(evaluate, tmp_path):
    code, out, _ = evaluate("--output", "scores", "--samples", "4", "--temperature", "1", "--k", "2,4")
    assert code == 0
    assert "4 samples at temperature 1" in out and "pass@2 %" in out and "maj@4 %" in out
    result = json.loads((tmp_path / "scores" / "results.json").read_text())["benchmarks"]["mine"]
    assert sorted(result["at_k"]) == ["maj@2", "maj@4", "pass@2", "pass@4"]
    assert set(result["at_k"]["pass@4"]) == {"value", "standard_error", "n"}
    assert len((tmp_path / "scores" / "mine" / "generations.jsonl").read_text().splitlines()) == 1 + 5 * 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--samples", "4"), "samples = 4: greedy responses are all equal"),
        (("--samples", "2", "--temperature", "1", "--k", "4"), "k = 4: must be at least 1 and at most"),
        (("--k", "one"), "--k one: numbers with commas between them are needed"),
        (("--option", "a=1"), "--option is a benchmark's own: name one --benchmark with it"),
        (("--rank-options", "letter"), "mine: no problem has options to rank"),
        (("--top-p", "0"), "top_p = 0.0: must be above 0"),
    ],
)
def test_impossible_settings_leave_nothing(evaluate, tmp_path, arguments, message):
    code, _, [error] = evaluate("--output", "scores", *arguments)
    assert code == 2
    assert message in error
    assert not (tmp_path / "scores").exists()


def test_options_are_ranked_and_rankings_compared(evaluate, tmp_path):
    rows = [{"q": f"Which is {i}?", "gold": "AB"[i % 2], "choices": [str(i), "b"]} for i in range(4)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = ("--column", "question=q", "--column", "answer=gold", "--column", "options=choices", "--kind", "mcq")
    code, out, _ = evaluate("--output", "first", "--rank-options", "letter", columns=columns)
    assert code == 0
    assert "options by likelihood of their letter" in " ".join(out.split())
    assert len((tmp_path / "first" / "mine" / "ranking.jsonl").read_text().splitlines()) == 5
    result = json.loads((tmp_path / "first" / "results.json").read_text())["benchmarks"]["mine"]
    assert result["chance"] == 0.5 and result["form"] == "letter"
    code, out, _ = evaluate("--output", "second", "--rank-options", "letter", "--compare", "first", columns=columns)
    assert code == 0
    assert "mine, this - first: +0.0 points" in out
    code, _, [error] = evaluate("--output", "third", "--rank-options", "text", "--compare", "first", columns=columns)
    assert code == 2
    assert 'the form of the options ("letter" and "text")' in error


def test_several_benchmarks_are_averaged(evaluate, tmp_path):
    code, out, _ = evaluate("--benchmark", "chains,facts", "--limit", "3", "--output", "scores")
    assert code == 0
    assert "average of 3 benchmarks: 0.0±0.0 %" in out
    results = json.loads((tmp_path / "scores" / "results.json").read_text())
    assert list(results["benchmarks"]) == ["chains", "facts", "mine"]
    assert results["average"] == {"value": 0.0, "standard_error": 0.0, "note": ""}
    assert "operations" in results["benchmarks"]["chains"]["groups"]
    page = (tmp_path / "scores" / "report.html").read_text()
    assert "Responses, mine" in page and "average of 3 benchmarks" in page


@pytest.mark.parametrize(
    ("options", "said"),
    [([], "reference answers are not scored"), (["--rank-options", "letter"], "ranked as `The answer is (option)`")],
)
def test_a_model_that_cannot_write_a_box(t5_style, tmp_path, monkeypatch, capsys, options, said):
    monkeypatch.chdir(tmp_path)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
    T5ForConditionalGeneration(T5Config(vocab_size=len(t5_style), **sizes)).save_pretrained("t5")
    t5_style.save_pretrained("t5")
    rows = [{"question": f"Which {i}?", "answer": "B", "options": ["one", "two"]} for i in range(3)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["--file", "mine.jsonl", "--kind", "mcq", "--max-new-tokens", "4", "--output", "scores", *options]
    with pytest.raises(SystemExit) as caught:
        run(app, ["evaluate", "t5", *arguments])
    captured = capsys.readouterr()
    assert caught.value.code == 0, captured.err
    [line] = [line for line in captured.err.splitlines() if line.startswith("warning: ")]
    assert said in line
    result = json.loads((tmp_path / "scores" / "results.json").read_text())["benchmarks"]["mine"]
    assert result["n"] == 3 and (result["answer_loglik"] is None) == (not options)


def test_vllm_where_it_is_not_installed_is_an_error_that_says_what_to_do(evaluate, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    code, _, [error] = evaluate("--output", "scores", "--backend", "vllm")
    assert code == 2
    assert 'pip install "thinker-common[vllm]"' in error
    assert not (tmp_path / "scores").exists()


class Recorded:
    """In the place of the backend on vLLM: remembers how it was made, and answers 1 to everything."""

    context = module = None
    made = None

    def __init__(self, *arguments, **settings):
        Recorded.made = (arguments, settings)

    def check_lengths(self, prompt_ids):
        pass

    def sample(self, prompt_ids, samples=1, *, keys=None, on_batch=None):
        for index in range(len(prompt_ids)):
            on_batch([index], [[Generation((1, 2), r"\boxed{1}", truncated=False)]])
        return []


def test_vllm_generates_in_the_place_of_the_model(evaluate, tmp_path, model, monkeypatch):
    monkeypatch.setattr("thinker_common.evaluation.vllm_backend.VllmBackend", Recorded)
    arguments = ("--backend", "vllm", "--temperature", "0.6", "--seed", "3", "--samples", "2")
    code, _, _ = evaluate("--output", "scores", *arguments)
    assert code == 0
    (name, _), settings = Recorded.made
    assert (name, settings["adapter"], settings["seed"], settings["temperature"]) == (model, None, 3, 0.6)
    result = json.loads((tmp_path / "scores" / "results.json").read_text())["benchmarks"]["mine"]
    assert (result["accuracy"], result["answer_loglik"]) == (1 / 5, None)
    code, _, [error] = evaluate("--output", "scores", *arguments[2:])
    assert code == 2
    assert 'backend was "Recorded" and is "Generator"' in error

    adapter = tmp_path / "adapter"
    adapter.mkdir()
    configuration = {"r": 8, "base_model_name_or_path": model, "revision": "abc"}
    (adapter / "adapter_config.json").write_text(json.dumps(configuration))
    arguments = vllm_arguments(str(adapter), None, revision=None, dtype="auto", seed=0, decoding={"samples": 1})
    assert Recorded.made[0][0] == model and Recorded.made[1]["adapter"] == adapter
    assert Recorded.made[1]["engine"]["revision"] == "abc", "that of the base"
    assert arguments["fingerprint"].startswith("sha256:") and arguments["score_answers"] is False


def test_an_adapter_on_vllm_is_told_apart_by_its_base_as_well(tmp_path, model, monkeypatch):
    monkeypatch.setattr("thinker_common.evaluation.vllm_backend.VllmBackend", Recorded)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    base = shutil.copytree(model, tmp_path / "base")

    def fingerprint(name, revision=None):
        configuration = {"r": 8, "base_model_name_or_path": str(name), "revision": revision}
        (adapter / "adapter_config.json").write_text(json.dumps(configuration))
        given = {"revision": None, "dtype": "auto", "seed": 0, "decoding": {"samples": 1}}
        return vllm_arguments(str(adapter), None, **given)["fingerprint"]

    before = fingerprint(base)
    assert fingerprint(base) == before
    weights = base / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert fingerprint(base) != before
    assert fingerprint("some/model", "abc").endswith(" on some/model@abc")
    fingerprint("embedded")
    assert Path(Recorded.made[0][0]).is_dir(), "vLLM knows no model of that name"


def test_one_problem_has_no_error_and_no_nan(evaluate, tmp_path):
    code, out, _ = evaluate("--limit", "1", "--output", "scores")
    assert code == 0
    assert "nan" not in out.lower()
    assert "nan" not in (tmp_path / "scores" / "report.html").read_text()


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


# --- several ranks -----------------------------------------------------------------------------------------------------


def test_the_output_folder_is_checked_where_it_is_written(evaluate, tmp_path, monkeypatch):
    """A host that shares no folder keeps an empty one of each evaluation."""
    (tmp_path / "scores" / "mine").mkdir(parents=True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, expected in (("0", 2), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        code, _, errors = evaluate("--output", "scores", "--dry-run")
        assert code == expected and any("scores is not empty" in error for error in errors) == (rank == "0")


def test_ranks_share_the_questions_and_one_of_them_writes_and_prints(model, tmp_path):
    """Through the launcher, which runs this command line once a rank."""
    rows = [{"prompt": f"What is {i} + 1?", "gold": str(i + 1)} for i in range(5)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [
        sys.executable, "-m", "thinker_common.cli", "evaluate", model, "--file", "mine.jsonl", "--column",
        "question=prompt", "--column", "answer=gold", "--max-new-tokens", "8", "--json", "--output",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    shared, alone = (
        subprocess.run([*command, *options], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        for options in (["two", "--gpus", "2", "--launcher", "torchrun"], ["one", "--gpus", "1"])
    )
    assert (shared.returncode, alone.returncode) == (0, 0), shared.stderr
    ours, theirs = (json.loads(done.stdout)["benchmarks"]["mine"] for done in (shared, alone))
    assert ours.pop("wilson_interval") == pytest.approx(theirs.pop("wilson_interval"))
    assert ours == theirs
    assert sorted(path.name for path in (tmp_path / "two" / "mine").iterdir()) == ["generations.jsonl"]
    rows = [
        sorted((tmp_path / name / "mine" / "generations.jsonl").read_text().splitlines()) for name in ("two", "one")
    ]
    assert rows[0] == rows[1]


def test_dry_run_shows_what_would_run_and_loads_no_model(evaluate, tmp_path, monkeypatch):
    monkeypatch.setattr("thinker_common.models.load.load_policy", None)
    code, out, _ = evaluate("--gpus", "3", "--samples", "2", "--temperature", "1", "--output", "scores", "--dry-run")
    lines = out.splitlines()
    assert code == 0
    assert lines[1] == "mine, file: 5 problems, 10 responses, at most 4 on each of 3 ranks"
    assert lines[2] == "hosts: localhost (3 ranks)"
    command = shlex.split(lines[-1])
    assert command[command.index("thinker_common.distributed.worker") + 1] == "thinker_common.cli"
    for asked in ("--column answer=gold", "--samples 2", "--output scores", "--gpus 3", "--max-new-tokens 8"):
        assert asked in lines[-1]
    code, out, _ = evaluate("--dry-run")
    assert code == 0 and out.splitlines()[1:] == ["mine, file: 5 problems, 5 responses, in one process"]
    code, out, _ = evaluate("--gpus", "8", "--nodes", "2", "--launcher", "slurm", "--output", "scores", "--dry-run")
    assert code == 0 and "at most 1 on each of 16 ranks" in out and "#SBATCH --nodes=2" in out
    code, out, _ = evaluate("--gpus", "2", "--zero", "3", "--offload", "--output", "scores", "--dry-run")
    assert code == 0 and "divided between 2 ranks" in out and "--zero 3 --offload" in out.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["mine.jsonl"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--zero", "2"], "--zero 2: an evaluation has neither gradients nor an optimiser to divide"),
        (["--gpus", "2", "--offload"], "--offload: say --zero 3 with it"),
        (["--backend", "vllm", "--zero", "3"], "--backend vllm splits a model by itself: leave --zero out"),
        (["--backend", "vllm", "--gpus", "2"], "--backend vllm takes all GPUs of one process: leave --gpus"),
        (["--nodes", "2"], "launch.nodes = 2: name the hosts in a hostfile"),
        (["--hostfile", "hosts"], "hosts"),
        (["--launcher", "slurm"], "submit the script that --dry-run shows"),
    ],
)
def test_launches_that_are_not_possible(evaluate, tmp_path, options, message):
    code, out, [error] = evaluate(*options)
    assert (code, out) == (2, "") and message in error
    assert [path.name for path in tmp_path.iterdir()] == ["mine.jsonl"]
