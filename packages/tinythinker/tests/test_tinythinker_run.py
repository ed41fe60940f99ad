"""Whole runs: what they leave, that they go on after a kill at any write, ablations, baselines, LoRA, bad input."""

import importlib.util
import json
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_run
from safetensors.torch import load_file
from tiny_run import Killed, named_at_random, run, saved_student, watch_writes
from typer.testing import CliRunner

from tinythinker._common import SettingsError, UserError, load_settings, recipes
from tinythinker.arguments import spread
from tinythinker.cli import app
from tinythinker.config import Settings
from tinythinker.prepare import load_material
from tinythinker.student import load_student

_path = Path(__file__).parents[3] / "common/tests/cut_runs.py"
_spec = importlib.util.spec_from_file_location("cut_runs", _path)
cut_runs: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(cut_runs)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return saved_student(tmp_path_factory.mktemp("student"))


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    """A run that nothing disturbs: its folder, its results, and how often it wrote."""
    folder, count = tmp_path_factory.mktemp("runs") / "run", 0

    def happened():
        nonlocal count
        count += 1

    with pytest.MonkeyPatch.context() as patch:
        watch_writes(patch.setattr, happened)
        results = run(folder, model)
    return folder, results, count


@pytest.fixture(scope="module")
def finished(whole):
    return whole[:2]


@pytest.fixture(scope="module")
def writes(whole):
    return whole[2]


def metrics(folder: Path):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# ------------------------------------------------------------------------------------------------------------- one run


def test_a_run_leaves_what_it_promises(finished):
    folder, results = finished
    assert {path.name for path in folder.iterdir()} == {
        "config.yaml", "environment.json", "results.json", "report.html", "model", "acquisition", "iteration-1",
        "iteration-2",
    }  # fmt: skip
    assert [phase["steps"] for phase in results["phases"].values()] == [4, 3, 3]
    assert results["training_rows"] == {"recall": 5, "analyze": 20, "summarize": 5}
    for name in ("iteration-1", "iteration-2"):
        phase = results["phases"][name]
        assert phase["recall_pass"]["chains"] == phase["analyze_pass"]["chains"] == 10
        assert phase["pairs"]["recall"] > 0
        assert not (folder / name / "checkpoints").exists(), "of a phase that is done"
        first = next(row for row in metrics(folder / name) if "preference" in row)
        assert first["margin"] == pytest.approx(0, abs=1e-3), "policy and reference begin as one"
        assert first["loss"] == pytest.approx(first["preference"] + 0.5 * first["nll"], rel=1e-4)
        assert first["preference"] == pytest.approx(0.6931, abs=1e-3)
    validated = [row for row in metrics(folder / "acquisition") if "validation/accuracy" in row]
    assert [row["step"] for row in validated] == [2, 4]
    assert load_student(str(folder / "model")).form.stages == ("recall", "analyze", "summarize")
    page = (folder / "report.html").read_text()
    assert "Chains and pairs of phase 2" in page and not re.search(r"""(src|href)=["']https?:""", page)
    exported, best = (
        load_file(f / "model.safetensors") for f in (folder / "model", folder / results["exported"] / "model")
    )
    assert all((exported[key] == best[key]).all() for key in best)


def test_a_finished_run_is_not_run_again(finished, model):
    with pytest.raises(UserError, match="holds another run, which is finished"):
        run(finished[0], model)


def test_evaluate_and_inspect_take_its_model(finished, tmp_path):
    folder, results = finished
    invoked("evaluate", str(folder / "model"), "--benchmark", "facts", "--limit", "3", "--output", str(tmp_path / "a"))
    found = json.loads((tmp_path / "a/results.json").read_text())["benchmarks"]["facts"]
    expected = results["phases"][results["exported"]]["tests"]["facts-greedy"]
    assert (found["n"], found["accuracy"]) == (3, expected["accuracy"])
    assert found["answer_loglik"] == pytest.approx(expected["answer_loglik"], rel=1e-5)
    text = invoked(
        "evaluate", str(folder / "model"), "--benchmark", "facts", "--limit", "3", "--output", str(tmp_path / "b"),
        "--compare", str(tmp_path / "a"),
    )  # fmt: skip
    assert "+0.0 points" in text
    said = refused(
        "evaluate", str(folder / "model"), "--benchmark", "facts", "--limit", "3", "--answer", "option_likelihood",
        "--output", str(tmp_path / "c"), "--compare", str(tmp_path / "a"), "--split", "valid",
    )  # fmt: skip
    assert "the split" in said


# ------------------------------------------------------------------------------------------------------------- kills


def killed_at(point, model, folder):
    left = point

    def happened():
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        watch_writes(patch.setattr, happened)
        with pytest.raises(Killed):
            run(folder, model)


@pytest.mark.parametrize("share", [0.2, 0.55, 0.9], ids=["acquisition", "sampling", "iteration-2"])
def test_a_run_that_is_cut_off_at_a_write_goes_on_to_the_same_end(
    share, finished, writes, model, tmp_path, record_property
):
    point = int(share * writes)
    killed_at(point, model, tmp_path / "run")
    reached = sorted(path.name for path in (tmp_path / "run").iterdir() if path.is_dir())
    record_property(f"cut off at write {point} of {writes}", ", ".join(reached))
    run(tmp_path / "run", model)
    cut_runs.assert_same_end(tmp_path / "run", finished[0])


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_that_is_killed_at_random_writes_goes_on_to_the_same_end(finished, writes, model, tmp_path):
    """Twenty processes that end themselves, with nothing cleaned up, each at a random write of what is left to do."""
    rng = random.Random(0)
    worker = Path(tiny_run.__file__)
    for number in range(20):
        folder = tmp_path / str(number)
        point = rng.randrange(1, writes)
        done = subprocess.run(
            [sys.executable, str(worker), str(folder), model, str(point)], capture_output=True, text=True
        )
        assert done.returncode == 137, done.stderr[-2000:]
        run(folder, model)
        cut_runs.assert_same_end(folder, finished[0])


def test_other_settings_are_refused_and_named(writes, model, tmp_path):
    killed_at(writes // 4, model, tmp_path / "run")
    with pytest.raises(UserError, match=r"method.acquisition.learning_rate was 0.01 and is 0.02"):
        run(tmp_path / "run", model, "method.acquisition.learning_rate=0.02")


# ------------------------------------------------------------------------------------------------- ablations, baselines

SHORT = ["method.reflection.iterations=0", "evaluation.validation_limit=0", "evaluation.at_end=false"]


@pytest.mark.parametrize(
    ("overrides", "rows"),
    [
        (["method.baseline=label"], {"summarize": 5}),
        (["method.baseline=cot"], {"recall": 5}),
        (["method.acquisition.stages=[recall, summarize]"], {"recall": 5, "summarize": 5}),
        (["method.acquisition.stages=[analyze, summarize]"], {"analyze": 20, "summarize": 5}),
        (["method.acquisition.mixing=proportional"], {"recall": 5, "analyze": 20, "summarize": 5}),
        (["method.acquisition.mixing=sequential"], {"recall": 5, "analyze": 20, "summarize": 5}),
    ],
)
def test_baselines_and_ablations_of_phase_1(overrides, rows, model, tmp_path):
    results = run(tmp_path / "run", model, *SHORT, "method.acquisition.max_steps=2", *overrides)
    assert results["training_rows"] == rows and list(results["phases"]) == ["acquisition"]
    form = load_student(str(tmp_path / "run/model")).form
    assert form.one_pass == ("method.baseline=cot" in overrides)


@pytest.mark.parametrize(
    ("kind", "overrides"),
    [
        ("t5", ["method.reflection.reference=acquired", "model.lora.r=2", "model.lora.target_modules=[q, v]"]),
        ("causal", ["method.reflection.stages=[recall]", "method.acquisition.stages=[recall, summarize]"]),
    ],
    ids=["t5, LoRA, acquired", "no analyze"],
)
def test_other_students_and_references(kind, overrides, tmp_path):
    student = saved_student(tmp_path / "student", kind)
    results = run(tmp_path / "run", student, *SHORT, "method.reflection.iterations=2", *overrides)
    assert [phase["steps"] for phase in results["phases"].values()] == [4, 3, 3]
    before, after = (
        load_file(tmp_path / "run" / name / "model/model.safetensors") for name in ("acquisition", "iteration-2")
    )
    changed = {key for key in before if (before[key] != after[key]).any()}
    assert before.keys() == after.keys() and changed
    if any("lora" in override for override in overrides):
        assert {key.split(".")[-2] for key in changed} == {"q", "v"}, "an adapter changes its own modules alone"
        begun = load_file(Path(student) / "model.safetensors")
        assert {key.split(".")[-2] for key in begun if (begun[key] != before[key]).any()} == {"q", "v"}
    # Before its first step a student is as far from the reference as the iterations before have taken it.
    margins = [
        next(row["margin"] for row in metrics(tmp_path / "run" / f"iteration-{t}") if "margin" in row) for t in (1, 2)
    ]
    acquired = "method.reflection.reference=acquired" in overrides
    assert margins[0] == pytest.approx(0, abs=1e-3)
    assert (abs(margins[1]) > 0.01) == acquired, margins


@pytest.mark.parametrize("stages", ["[analyze]", "[recall, analyze]"])
def test_phase_2_of_analyses_of_all_options_after_several_recalls(stages, model, tmp_path, monkeypatch):
    monkeypatch.setattr("tinythinker.inference.answered_option", named_at_random)
    results = run(
        tmp_path / "run", model, *SHORT, "method.reflection.iterations=1", f"method.reflection.stages={stages}",
        "method.reflection.pairs=all_options", "method.reflection.recalls=2", "method.reflection.samples=4",
    )  # fmt: skip
    found = results["phases"]["iteration-1"]
    assert found["steps"] == 3
    assert found["recall_pass"]["chains"] == 5 * 4, "recalls to go on from are drawn whatever is trained"
    assert found["analyze_pass"]["chains"] == 5 * 4 * 2, "after two recalls of each question"
    lines = (tmp_path / "run/iteration-1/chains/pairs.jsonl").read_text().splitlines()
    pairs = [json.loads(line) for line in lines]
    assert {pair["stage"] for pair in pairs} == ({"analyze"} if stages == "[analyze]" else {"recall", "analyze"})
    analyses = [pair for pair in pairs if pair["stage"] == "analyze"]
    assert found["pairs"]["analyze"] == len(analyses) > 0
    assert len({pair["prompt"] for pair in analyses if pair["option"] == "A"}) > len(
        {pair["question_id"] for pair in analyses if pair["option"] == "A"}
    ), "some question has pairs after two recalls"
    partners: dict[tuple[str, ...], set[str]] = {}
    for pair in analyses:
        origin = pair["provenance"]
        recalled = pair["prompt"].partition("Recall: ")[2].partition("\nAnalyze:")[0]
        key = (pair["question_id"], recalled, str(origin["chosen_draw"]), str(origin["rejected_draw"]))
        partners.setdefault(key, set()).add(pair["option"])
    assert max(map(len, partners.values())) == 4, "all options, not the gold and the predicted one alone"


def test_baselines_have_no_phase_2(model, tmp_path):
    results = run(tmp_path / "run", model, "method.baseline=label", "method.acquisition.max_steps=1")
    assert list(results["phases"]) == ["acquisition"]


def test_an_iteration_without_a_pair_leaves_the_student_as_it_is(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tinythinker.reflect.recall_pairs", lambda *_, **__: [])
    results = run(tmp_path / "run", model, "method.reflection.iterations=1")
    assert results["phases"]["iteration-1"]["steps"] == 0
    assert "no pair of a right and a wrong chain among 5 questions" in capsys.readouterr().err
    first, second = (
        load_file(tmp_path / "run" / name / "model/model.safetensors") for name in ("acquisition", "iteration-1")
    )
    assert all((first[key] == second[key]).all() for key in first)


# ------------------------------------------------------------------------------------------------- settings, bad input


def invoked(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def refused(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code != 0 and isinstance(result.exception, UserError), result.exception
    return str(result.exception)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["method.acquisition.stages=[recall]"], "without summarize there is no answer"),
        (["method.acquisition.stages=[summarize]"], "recall is not among acquisition.stages"),
        (["method.acquisition.mixing=single"], "mixing = 'single': is for one stage"),
        (["method.acquisition.intervall=3"], "did you mean 'method.acquisition.interval'"),
        (["method.reflection.samples=1"], "samples = 1: expected a whole number of at least 2"),
        (["method.reflection.beta=0"], "beta = 0.0: expected a number above 0"),
        (["method.reflection.alpha=-1"], "alpha = -1.0: expected a number of at least 0"),
        (["method.baseline=chain"], "method.baseline = 'chain': expected"),
        (["training.learning_rate=1e-3"], "use method.acquisition.learning_rate and method.reflection.learning_rate"),
        (["training.per_device_train_batch_size=0"], "training.per_device_train_batch_size = 0"),
        (["training.save_strategy=best"], "training.save_strategy = 'best'"),
        (["evaluation.answering=[]"], "answering = []: expected each way once"),
        (["evaluation.benchmarks=[gsm8k]"], "its questions have no options"),
        (["data.benchmark=chains"], "its questions have no options"),
        (["data.train_file=x.jsonl", "data.split=all"], "leaves nothing to validate on"),
        (["data.train_file=x.jsonl"], "x.jsonl: there is no such file"),
        (["data.rows=nowhere"], "there is no recall.jsonl"),
        (["model.dtype=float16"], "model.dtype = 'float16'"),
        (["model.name_or_path=./nothing"], "there is no such folder"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_before_anything_is_written(given, message, model, tmp_path):
    said = refused("train", "--output", str(tmp_path / "run"), f"model.name_or_path={model}", "data.limit=5", *given)
    assert message in said
    assert not (tmp_path / "run").exists()


def questions_file(tmp_path, **changes):
    rows = [
        {"question": f"Which is {n}?", "options": [f"{n}", f"{n + 1}"], "answer": "A", "knowledge": "Numbers.",
         "reasons": ["It is.", "It is not."]}
        for n in range(20)
    ]  # fmt: skip
    rows[6] |= changes
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"options": []}, "line 7, column .*a question without options"),
        ({"options": [str(n) for n in range(27)]}, "line 7, column .*27 options; there must be 2 to 26"),
        ({"options": ["6", " 6 "]}, "line 7, column .*options A and B have the same text"),
        ({"answer": "C"}, "line 7, column .*answer 'C' is no letter from A to B"),
        ({"question": " "}, "line 7, column .*question must be a text that is not empty"),
        ({"reasons": ["It is."]}, "line 7, column .*1 reasons for 2 options"),
    ],
)
def test_a_row_that_is_no_question_is_named_with_file_and_line(changes, message, model, tmp_path):
    path = questions_file(tmp_path, **changes)
    said = refused("train", "--output", str(tmp_path / "run"), f"model.name_or_path={model}", f"data.train_file={path}")
    assert re.search(f"{re.escape(str(path))}, {message}", said), said
    assert not (tmp_path / "run").exists()


def test_rows_of_other_questions_and_a_student_whose_context_is_too_short(model, tmp_path):
    path = questions_file(tmp_path)
    rows = tmp_path / "rows"
    invoked("data", "build", "--file", str(path), "--output", str(rows))
    given = ["train", "--output", str(tmp_path / "run"), f"model.name_or_path={model}", f"data.rows={rows}"]
    assert "its rows are of mine, split train, and the settings name facts, split train" in refused(*given)
    given.append(f"data.train_file={path}")
    lines = (rows / "analyze.jsonl").read_text().splitlines()
    long = {**json.loads(lines[2]), "target": "word " * 600}
    (rows / "analyze.jsonl").write_text("\n".join([*lines[:2], json.dumps(long), *lines[3:]]) + "\n")
    said = refused(*given)
    assert re.search(
        rf"{re.escape(str(rows))}/analyze.jsonl, line 3, analyze: \d+ tokens of the prompt and \d+ to", said
    )
    assert "the model has 512 positions" in said
    assert not (tmp_path / "run").exists()


LENGTHS = ["generation.recall_tokens=20", "generation.analyze_tokens=10", "generation.summarize_tokens=10"]


@pytest.mark.parametrize("dry", [False, True], ids=["run", "dry run"])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([*LENGTHS, "generation.recall_tokens=500"], (r"recall: \d+ tokens of the prompt and 500 to follow.* 512 positions; "
         r"lower generation.recall_tokens \(now 500\), leave the question out, or take a student with a longer context")),
        ([*LENGTHS, "generation.analyze_tokens=470"], (r"analyze: \d+ tokens of the prompt and 470 to follow.*lower "
         r"generation.recall_tokens \(now 20\) or generation.analyze_tokens \(now 470\)")),
        ([*LENGTHS, "generation.analyze_tokens=240"], r"summarize: \d+ tokens .* and 1\d to follow"),
        ([*LENGTHS, "generation.analyze_tokens=240", "method.baseline=cot"], r"recall: \d+ tokens .* and 5\d\d to follow"),
    ],
    ids=["recall", "analyze", "summarize", "one pass"],
)  # fmt: skip
def test_a_student_whose_context_is_too_short_for_what_it_may_write(given, message, dry, model, tmp_path):
    path = questions_file(tmp_path)
    rows = tmp_path / "rows"
    invoked("data", "build", "--file", str(path), "--output", str(rows))
    said = refused(
        "train", *(["--dry-run"] if dry else []), "--output", str(tmp_path / "run"), f"model.name_or_path={model}",
        f"data.train_file={path}", f"data.rows={rows}", *given,
    )  # fmt: skip
    assert re.search(message, said), said
    # Of a training question the row that asks it, where phase 2 draws chains of it; else the question itself.
    place = (
        r"mine valid, mine/\d+" if "method.baseline=cot" in given else rf"{re.escape(str(rows))}/recall.jsonl, line 1"
    )
    assert re.search(f"^{place}, ", said), said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("stages", ["[recall, analyze, summarize]", "[recall, summarize]", "[analyze, summarize]"])
@pytest.mark.parametrize("part", ["validation", "test"])
def test_only_what_is_written_must_fit(stages, part, model, tmp_path):
    """Without the stage whose texts are too long the student fits; and each set of questions is looked at."""
    given = [
        f"model.name_or_path={model}", f"data.train_file={questions_file(tmp_path)}", *LENGTHS,
        "generation.analyze_tokens=240", f"method.acquisition.stages={stages}", "method.reflection.iterations=0",
        "evaluation.validation_limit=0" if part == "test" else "evaluation.at_end=false",
    ]  # fmt: skip
    command = ["train", "--dry-run", "--output", str(tmp_path / "run"), *given]
    if stages == "[recall, summarize]":
        assert "phase 1:" in invoked(*command)
    else:
        assert refused(*command).startswith("mine valid, " if part == "validation" else "mine test, ")


def test_a_chain_in_one_text_needs_room_for_itself_alone(model, tmp_path):
    given = [
        f"model.name_or_path={model}", f"data.train_file={questions_file(tmp_path)}", *LENGTHS, "method.baseline=cot",
        "generation.analyze_tokens=160",
    ]  # fmt: skip
    assert "phase 1:" in invoked("train", "--dry-run", "--output", str(tmp_path / "run"), *given)


def test_training_on_a_users_file_with_any_number_of_options(model, tmp_path):
    path = questions_file(tmp_path, options=["6", "7", "8"], reasons=["yes", "no", "no"])
    results = run(
        tmp_path / "run", model, f"data.train_file={path}", "data.benchmark=null", "data.limit=null",
        "method.reflection.iterations=0", "method.acquisition.max_steps=2",
    )  # fmt: skip
    assert results["training_questions"] == 16
    assert set(results["phases"]["acquisition"]["tests"]) == {"mine-greedy"}
    assert results["tests_trained_on"] == []
    assert "trained on" not in (tmp_path / "run" / "report.html").read_text()


def test_a_test_of_questions_that_were_trained_on_says_so(model, tmp_path):
    given = [
        f"model.name_or_path={model}", f"data.train_file={questions_file(tmp_path)}", "data.benchmark=null",
        "data.limit=null", "data.split=all", "evaluation.validation_limit=0", "method.reflection.iterations=0",
        "method.acquisition.max_steps=1", "generation.recall_tokens=6", "generation.analyze_tokens=5",
    ]  # fmt: skip
    said = "mine: 2 of its 2 questions were trained on"
    assert said in invoked("train", "--dry-run", "--output", str(tmp_path / "run"), *given)
    assert said in invoked("train", "--output", str(tmp_path / "run"), *given)
    assert json.loads((tmp_path / "run" / "results.json").read_text())["tests_trained_on"] == [said]
    assert said in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize("batch", [6, 8, 12, 64])
@pytest.mark.parametrize("most", [1, 3, 8, 100])
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_batch_is_the_same_however_it_is_spread(batch, most, ranks):
    micro_batch, accumulation = spread(batch, most, ranks=ranks)
    assert micro_batch * accumulation * ranks == batch and micro_batch <= most
    with pytest.raises(SettingsError, match="cannot be dealt to 5 ranks"):
        spread(batch, most, ranks=5)


def test_dry_run_of_a_plan_writes_nothing(model, tmp_path):
    text = invoked(
        "train", "--dry-run", "--output", str(tmp_path / "run"), "data.limit=100", "method.reflection.limit=50",
        f"model.name_or_path={model}", *LENGTHS,
    )  # fmt: skip
    assert "100 questions from generated" in text and "phase 2: 2 iterations" in text and "memory of one rank" in text
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", recipes.recipe_names("tinythinker"))
def test_every_recipe_loads_and_says_how_it_is_run(name):
    text = recipes.recipe_text("tinythinker", name)
    settings = load_settings(Settings, recipe_text=text, recipe_name=name, overrides=[])
    first, second = (line for line in text.splitlines() if line.startswith("#   tinythinker train"))
    assert f"--recipe {name} --output" in first and f"--recipe {name} " in second
    overrides = [part for part in second.split("    #")[0].split() if "=" in part]
    load_settings(Settings, recipe_text=text, recipe_name=name, overrides=overrides)
    for phase in (settings.method.acquisition, settings.method.reflection):
        for ranks in (1, 2, 4, 8):
            spread(phase.batch_size, settings.training["per_device_train_batch_size"], ranks=ranks)


PAPER = {
    "method.acquisition.mixing": "interval", "method.acquisition.interval": 100, "method.acquisition.batch_size": 64,
    "method.acquisition.num_train_epochs": 10, "method.acquisition.learning_rate": 5e-4,
    "method.acquisition.lr_scheduler_type": "cosine", "method.acquisition.warmup_share": 0.1,
    "method.acquisition.stages": ["recall", "analyze", "summarize"], "method.acquisition.max_steps": None,
    "method.reflection.iterations": 5, "method.reflection.samples": 10, "method.reflection.temperature": 0.7,
    "method.reflection.top_k": 0, "method.reflection.reference": "previous", "method.reflection.beta": 0.5,
    "method.reflection.alpha": 0.5, "method.reflection.learning_rate": 5e-6, "method.reflection.batch_size": 32,
    "method.reflection.pairs": "gold_and_predicted", "method.reflection.stages": ["recall", "analyze"],
    "method.reflection.limit": None, "model.dtype": "float32", "training.seed": 42, "data.limit": None,
    "evaluation.samples": 10, "evaluation.temperature": 0.7, "evaluation.limit": None, "evaluation.export": "best",
    "evaluation.validation_limit": None,
    "evaluation.answering": ["greedy", "self_consistency", "option_likelihood"],
}  # fmt: skip
# What stands in a recipe in the place of that, for a reason that the recipe gives.
OTHERWISE = {
    "csqa-t5-base": {"model.name_or_path": "google-t5/t5-base", "data.benchmark": "csqa"},
    "obqa-t5-base": {"model.name_or_path": "google-t5/t5-base", "data.benchmark": "obqa"},
    "strategyqa-t5-base": {"model.name_or_path": "google-t5/t5-base", "data.benchmark": "strategyqa"},
    "t5-large": {"model.name_or_path": "google-t5/t5-large", "data.benchmark": "csqa"},
    "csqa-qwen2.5-0.5b-instruct": {
        "model.name_or_path": "Qwen/Qwen2.5-0.5B-Instruct", "data.benchmark": "csqa", "model.chat_template": "auto",
        "model.dtype": "auto", "method.acquisition.num_train_epochs": 3, "method.acquisition.learning_rate": 2e-5,
        "method.reflection.learning_rate": 1e-6, "method.reflection.num_train_epochs": 1,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(set(recipes.recipe_names("tinythinker")) - {"embedded"}))
def test_recipes_carry_the_settings_of_the_paper(name):
    text = recipes.recipe_text("tinythinker", name)
    settings = load_settings(Settings, recipe_text=text, recipe_name=name, overrides=[])
    for setting, expected in {**PAPER, **OTHERWISE[name]}.items():
        found: Any = settings
        for part in setting.split("."):
            found = found[part] if isinstance(found, dict) else getattr(found, part)
        assert found == expected, setting
    options = {"csqa": 5, "obqa": 4, "strategyqa": 2}[settings.data.benchmark]
    assert settings.method.acquisition.steps_between_evaluations(options) == (2 + options) * 100


def test_null_validates_on_all_questions_of_valid():
    overrides = ["data.benchmark=facts", "data.limit=5", "evaluation.validation_limit=null", "evaluation.at_end=false"]
    settings = load_settings(Settings, recipe_text=None, recipe_name="defaults", overrides=overrides)
    validation = load_material(settings).validation
    assert validation is not None and len(validation.questions) == len(validation.ids) == 500
    with pytest.raises(SettingsError, match="leaves nothing to validate on"):
        load_settings(
            Settings, recipe_text=None, recipe_name="defaults",
            overrides=["data.train_file=x.jsonl", "data.split=all", "evaluation.validation_limit=null"],
        )  # fmt: skip


def test_another_data_set_of_the_tests_has_its_own_division(tmp_path):
    path = questions_file(tmp_path)
    overrides = [
        f"data.train_file={path}", "data.split_seed=3", "evaluation.benchmarks=[facts]", "evaluation.limit=2",
        "evaluation.validation_limit=0",
    ]  # fmt: skip
    settings = load_settings(Settings, recipe_text=None, recipe_name="defaults", overrides=overrides)
    assert [test.name for test in load_material(settings).tests] == ["facts"]


def test_defaults_are_those_of_the_paper():
    settings = Settings()
    acquisition, reflection = settings.method.acquisition, settings.method.reflection
    assert (acquisition.batch_size, acquisition.num_train_epochs, acquisition.learning_rate) == (64, 10, 5e-4)
    assert (acquisition.interval, acquisition.warmup_share, acquisition.steps_between_evaluations(5)) == (100, 0.1, 700)
    assert (reflection.iterations, reflection.samples, reflection.temperature, reflection.top_k) == (5, 10, 0.7, 0)
    assert (reflection.beta, reflection.alpha, reflection.learning_rate, reflection.batch_size) == (0.5, 0.5, 5e-6, 32)
    assert settings.training["seed"] == 42
