"""Whole runs through the command line, on the embedded model: what is promised of a run folder, and going on."""

import functools
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import latent_models as lm
import pytest
import torch
from transformers import LlamaModel
from typer.testing import CliRunner

from spiralthinker import plan, sweep
from spiralthinker.cli import app
from spiralthinker.columns import lay_out
from spiralthinker.config import MethodSettings, Settings
from spiralthinker.model import SpiralThinkerModel
from thinker_common.benchmarks import benchmark_module, load_benchmark
from thinker_common.benchmarks.problem import Problem
from thinker_common.errors import SettingsError
from thinker_common.evaluation.grading import grade
from thinker_common.models.load import load_policy
from thinker_common.training import recipes
from thinker_common.training.settings import load_settings

TINY = [
    "training.max_steps=3", "stage1.max_steps=2", "training.per_device_train_batch_size=4", "training.logging_steps=1",
    "training.save_strategy=steps", "training.save_steps=1", "data.limit=12", "method.latents=2", "method.iterations=2",
    "evaluation.limit=3", "evaluation.max_new_tokens=40",
]  # fmt: skip


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def refused(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code != 0
    return str(result.exception)


def metrics(folder: Path) -> list[dict]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "loss" in row]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("runs") / "run"
    return folder, invoke("train", "--output", str(folder), "--seed", "5", *TINY)


def test_a_run_of_both_stages_leaves_what_it_promises(finished):
    folder, printed = finished
    assert {path.name for path in folder.iterdir()} >= {
        "config.yaml", "environment.json", "metrics.jsonl", "results.json", "report.html", "model", "stage1",
        "checkpoints", "evaluation",
    }  # fmt: skip
    assert re.search(r"chains\s+explicit\s+3 ", printed)
    assert re.search(r"chains\s+implicit\s+3 ", printed)
    results = json.loads((folder / "results.json").read_text())
    assert {name: stage["steps"] for name, stage in results["stages"].items()} == {"explicit": 2, "implicit": 3}
    assert results["stages"]["implicit"]["latent_steps"] > 12
    for row in metrics(folder):
        terms = ("cross_entropy", "alignment", "latent_cross_entropy")  # the recipe's weights are 1
        assert row["loss"] == pytest.approx(sum(row[name] for name in terms), abs=1e-4)
        assert row["token_passes"] > 0
    assert all(not row.keys() & {"alignment", "latent_cross_entropy"} for row in metrics(folder / "stage1"))
    report = (folder / "report.html").read_text()
    assert "Spelling of the steps" in report and not re.search(r"""(src|href)=["']https?:""", report), "opens offline"

    model, first = SpiralThinkerModel.from_pretrained(folder / "model"), folder / "stage1" / "model"
    assert model.settings.iterations == 2
    assert model.settings.annotation.latents == 2
    assert model.parts.adapter.outer.weight.any(), "trained"
    assert not SpiralThinkerModel.from_pretrained(first).parts.adapter.outer.weight.any(), "not in stage 1"
    before, after = load_policy("embedded"), load_policy(folder / "model")
    name = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(before.get_parameter(name), after.get_parameter(name))


@pytest.mark.parametrize("cut", ["in stage 1", "in stage 2"])
def test_a_run_that_was_stopped_goes_on_to_the_same_end(finished, tmp_path, cut):
    folder, _ = finished
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    for name in ("results.json", "report.html"):
        (copy / name).unlink()
    for name in ("evaluation", *(["stage1/evaluation"] if cut == "in stage 1" else [])):  # models are written anew
        shutil.rmtree(copy / name)
    stopped = copy / "stage1" if cut == "in stage 1" else copy
    for checkpoint in (stopped / "checkpoints").glob("checkpoint-*"):
        if checkpoint.name != "checkpoint-1":
            shutil.rmtree(checkpoint)
    if cut == "in stage 1":
        (copy / "stage1/trained.json").unlink()
        shutil.rmtree(copy / "checkpoints")
    invoke("train", "--output", str(copy), "--seed", "5", *TINY)
    for part in ("", "stage1"):
        assert [row["loss"] for row in metrics(copy / part)] == [row["loss"] for row in metrics(folder / part)]
    whole, again = (SpiralThinkerModel.from_pretrained(run / "model") for run in (folder, copy))
    for name, weight in whole.base.state_dict().items():
        assert torch.equal(again.base.state_dict()[name], weight), name


def test_a_stage_that_was_trained_and_not_evaluated_is_evaluated_and_not_trained(finished, tmp_path):
    folder, _ = finished
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    for name in ("results.json", "report.html"):
        (copy / name).unlink()
    for name in ("model", "evaluation", "checkpoints", "stage1/evaluation", "stage1/checkpoints"):
        shutil.rmtree(copy / name)
    written = (copy / "stage1/model/model.safetensors").stat().st_mtime_ns
    printed = invoke("train", "--output", str(copy), "--seed", "5", *TINY)
    assert re.search(r"chains\s+explicit\s+3 ", printed)
    assert (copy / "stage1/model/model.safetensors").stat().st_mtime_ns == written
    assert not (copy / "stage1/checkpoints").exists()
    for stage in ("explicit", "implicit"):
        whole, again = (json.loads((run / "results.json").read_text())["stages"][stage] for run in (folder, copy))
        for found in (whole, again):
            found["evaluations"]["chains"]["cost_of_a_response"].pop("seconds")
            found.pop("training_seconds")
        assert again == whole


def test_lora_goes_on_too(tmp_path):
    """A checkpoint of it holds the low-rank matrices, the latent adapter and the markers' rows."""
    stage1, whole, copy = (tmp_path / name for name in ("stage1", "whole", "copy"))
    lora = [*TINY, "model.lora.r=2", "evaluation.at_end=false"]
    invoke("train", "--output", str(stage1), *lora, "method.stages=explicit")
    second = [*lora, "method.stages=implicit", f"model.name_or_path={stage1 / 'model'}", "training.learning_rate=1e-2"]
    invoke("train", "--output", str(whole), *second)
    shutil.copytree(whole, copy)
    (copy / "results.json").unlink()
    for name in ("model", "checkpoints/checkpoint-2", "checkpoints/checkpoint-3"):
        shutil.rmtree(copy / name)
    invoke("train", "--output", str(copy), *second)
    assert [row["loss"] for row in metrics(copy)] == [row["loss"] for row in metrics(whole)]
    models = [SpiralThinkerModel.from_pretrained(run / "model") for run in (stage1, whole, copy)]
    before, expected, found = (model.state_dict() for model in models)
    changed = {name for name, weight in expected.items() if not torch.equal(weight, before[name])}
    assert any("adapter.outer" in name for name in changed)
    assert any("embed_tokens" in name for name in changed)
    assert [name for name, weight in expected.items() if not torch.equal(found[name], weight)] == []


def test_a_checkpoint_of_one_stage_is_not_taken_for_another(finished, tmp_path):
    folder, _ = finished
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    for name in ("results.json", "stage1/trained.json"):
        (copy / name).unlink()
    shutil.rmtree(copy / "checkpoints")
    shutil.rmtree(copy / "stage1/checkpoints/checkpoint-2")
    first = copy / "stage1/checkpoints/checkpoint-1"
    outside = refused("train", "--output", str(copy), "--seed", "5", *TINY, "--resume", str(folder / "model"))
    assert "goes on from a checkpoint of one of them" in outside
    invoke("train", "--output", str(copy), "--seed", "5", *TINY, "--resume", str(first))
    assert [row["loss"] for row in metrics(copy)] == [row["loss"] for row in metrics(folder)]


def test_stage_2_alone_starts_from_a_model_of_stage_1_and_is_the_same(finished, tmp_path):
    folder, _ = finished
    alone = tmp_path / "alone"
    given = ["method.stages=implicit", f"model.name_or_path={folder / 'stage1' / 'model'}", "evaluation.at_end=false"]
    invoke("train", "--output", str(alone), "--seed", "5", *TINY, *given)
    losses = [[row["loss"] for row in metrics(run)] for run in (folder, alone)]
    assert losses[0] == losses[1]


def test_stage_2_with_other_numbers_than_the_model_has(finished, tmp_path):
    """Another N or K is said, another adapter is refused: a saved model's width cannot change."""
    folder, _ = finished
    given = ["train", "--output", str(tmp_path / "run"), "--dry-run", *TINY, "method.stages=implicit"]
    given.append(f"model.name_or_path={folder / 'stage1' / 'model'}")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "trained with")
        invoke(*given)
    with pytest.warns(UserWarning, match="stage1/model: trained with iterations = 2, used with 7"):
        invoke(*given, "method.iterations=7")
    with pytest.warns(UserWarning, match="stage1/model: trained with latents = 2, used with 3"):
        invoke(*given, "method.latents=3")
    said = refused(*given, "method.adapter_width=4")
    width = SpiralThinkerModel.from_pretrained(folder / "model").parts.adapter.width
    assert f"method.adapter_width = 4: the latent adapter of {folder / 'stage1' / 'model'} is {width} wide" in said
    assert "set it to null, or start from a plain model" in said


def test_evaluations_at_other_numbers_are_warned_of(finished, tmp_path):
    model = SpiralThinkerModel.from_pretrained(finished[0] / "model")
    benchmark = load_benchmark("chains", split="test", limit=1)
    points = sweep.points(model, latents=[2, 3], iterations=[2, 4])
    with pytest.warns(UserWarning, match="trained with") as said:
        assert len(list(sweep.evaluate_points(model, benchmark, points, max_new_tokens=8))) == 4
    messages = {str(each.message) for each in said if "trained with" in str(each.message)}
    assert messages == {"trained with latents = 2, used with 3", "trained with iterations = 2, used with 4"}


def test_stage_2_and_preview_of_a_model_on_the_hub(finished, tmp_path):
    """The hub is its cache on disk, as a download leaves it, which a process of its own reads."""
    folder, _ = finished
    commit = "0123456789abcdef" * 2 + "01234567"
    snapshot = tmp_path / "cache" / "models--owner--latent" / "snapshots" / commit
    shutil.copytree(folder / "stage1" / "model", snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "trained").write_text(commit)
    model = ["model.name_or_path=owner/latent", "model.revision=trained", "method.stages=implicit"]
    alone = tmp_path / "alone"

    def ended(*arguments):
        script = "from spiralthinker.cli import main; main()"
        environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "'<latent>'" in ended("data", "preview", "data.limit=4", *model)
    ended("train", "--output", str(alone), "--seed", "5", *TINY, *model, "evaluation.at_end=false")
    losses = [[row["loss"] for row in metrics(run)] for run in (folder, alone)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("when", [pytest.param("while training", marks=pytest.mark.slow), "behind stage 1"])
def test_a_run_without_memory_for_an_evaluation_goes_on_with_smaller_ones(when, finished, tmp_path, monkeypatch):
    own = LlamaModel.forward

    @functools.wraps(own)  # its parameters are looked at
    def forward(self, *args, inputs_embeds=None, **kwargs):
        if inputs_embeds is not None and len(inputs_embeds) == 3:  # an evaluation's; a training batch has 4 rows
            torch.empty(1 << 50)  # more than any host has
        return own(self, *args, inputs_embeds=inputs_embeds, **kwargs)

    monkeypatch.setattr(LlamaModel, "forward", forward)
    given = ["train", "--output", str(tmp_path / "run"), "--seed", "5", *TINY]
    if when == "while training":
        given += ["evaluation.every_steps=2", "evaluation.validation_limit=3"]
    said = refused(*given)
    assert re.search(
        r"^out of memory while generating 3 responses at once: lower max_tokens_per_batch \(now 32768\) .* "
        r"max_new_tokens \(now 40\)",
        said,
    )
    assert (tmp_path / "run/stage1/checkpoints/checkpoint-1").is_dir()
    invoke(*given, "evaluation.max_tokens_per_batch=1")
    if when == "behind stage 1":
        assert [row["loss"] for row in metrics(tmp_path / "run")] == [row["loss"] for row in metrics(finished[0])]


def test_lora_and_validation_and_a_users_file(tmp_path):
    file = tmp_path / "mine.jsonl"
    lines = [
        {"question": f"What is {n} + 1?", "answer": str(n + 1), "how": [f"{n}+1={n + 1}"] * (n % 3)} for n in range(12)
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    folder = tmp_path / "run"
    printed = invoke(
        "train", "--output", str(folder), *TINY, "model.lora.r=2", f"data.train_file={file}",
        "data.columns={steps: how}", "data.limit=null", "evaluation.every_steps=1", "evaluation.validation_limit=3",
        "method.teacher=frozen", "method.schedule=simultaneous", "method.cross_entropy=every",
    )  # fmt: skip
    assert re.search(r"implicit stage: \d of 9 problems have no steps", printed)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "validation/accuracy" in row] == [1, 2, 3]
    SpiralThinkerModel.from_pretrained(folder / "model")


def test_an_evaluation_with_an_option_of_the_benchmark(tmp_path):
    """What it would do; the model is not read for that."""
    output = ["--output", str(tmp_path / "evaluation"), "--dry-run"]
    printed = invoke("evaluate", "embedded", "--benchmark", "graphs", "--option", "size=small", "--limit", "7", *output)
    assert "graphs, test: 7 problems at each point" in printed
    assert not (tmp_path / "evaluation").exists()


def test_answers_without_a_box(finished, tmp_path):
    """Taught and graded on request; the responses of a model that writes boxes are graded the same."""
    given = ["train", "--dry-run", "--output", str(tmp_path / "run"), *TINY, "method.answer_template='{answer}'"]
    assert "graders look for" in refused(*given)
    invoke(*given, "evaluation.grader=unboxed")
    output = tmp_path / "evaluation"
    model = str(finished[0] / "model")
    asked = ["--benchmark", "chains", "--limit", "2", "--max-new-tokens", "20", "--grader", "unboxed"]
    invoke("evaluate", model, *asked, "--output", str(output))
    assert json.loads((output / "results.json").read_text())["points"][0]["grader"] == "unboxed"


def test_dry_run_writes_nothing(tmp_path):
    printed = invoke("train", "--dry-run", "--output", str(tmp_path / "run"), *TINY)
    assert "explicit stage: 2 steps of 4 examples" in printed
    assert "implicit stage: 3 steps of 4 examples" in printed
    assert re.search(r"token passes: \d+ an example", printed)
    assert "for keys and values" in printed
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "method",
    [
        {"schedule": "sequential"},
        {"schedule": "simultaneous"},
        {"schedule": "simultaneous", "cross_entropy": "every"},
        {"name": "codi"},
    ],
    ids=lambda method: ", ".join(method.values()),
)
def test_a_plan_counts_what_a_model_reads(method):
    settings = Settings(method=MethodSettings(latents=3, iterations=4, **method))
    model = lm.latent_model()
    model.settings = settings.latent_settings()
    for row in lm.rows(model, trains_teacher=method.get("name") == "codi"):
        batch = lay_out([row], latents=3, pad_token_id=0)
        iterated, passes = model(batch, every_reading=method.get("cross_entropy") == "every" and bool(row["bols"]))
        if method.get("name") == "codi" and row["bols"]:
            passes += model.explicit_version(batch, iterated.prefix)[2]
        assert plan.read_again(row, model.settings, settings) == passes - len(row["input_ids"])


def test_a_plan_knows_the_schedule(tmp_path):
    """Simultaneous iterations read all between two latent steps again, in fewer readings."""
    given = ["train", "--dry-run", "--output", str(tmp_path / "run"), *TINY, "method.stages=implicit"]
    tokens, copies = {}, {}
    for schedule in ("sequential", "simultaneous"):
        printed = invoke(*given, f"method.schedule={schedule}")
        assert f"an example ({schedule} schedule" in printed
        tokens[schedule] = int(re.search(r"rows x (\d+) tokens", printed)[1])
        copies[schedule] = int(re.search(r"(\d+) readings", printed)[1])
    assert tokens["simultaneous"] > tokens["sequential"]
    assert copies["simultaneous"] == 2
    assert copies["sequential"] > 2


def test_preview_shows_targets_and_what_a_latent_step_stands_for():
    printed = invoke("data", "preview", "method.latents=2", "--index", "1")
    explicit, _, implicit = printed.partition("implicit:")
    assert "'<latent>'" not in explicit
    first = next(line for line in explicit.splitlines() if "'<bot>'" in line)
    assert "yes" in first
    for line in implicit.splitlines():
        if "'<latent>'" in line:
            assert "step 1: " in line or "step 3: " in line or "step 5: " in line
            assert "yes" not in line.split("step")[0]
    assert "'<bol>'" in implicit
    assert "numbered from 0" in refused("data", "preview", "data.limit=3", "--index", "7")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["method.latents=0"], "method.latents = 0: expected at least 1"),
        (["method.iterations=-1"], "method.iterations = -1: expected at least 0"),
        (["method.parity=all"], "method.parity = 'all': expected one of odd, even"),
        (["method.alignement=false"], "did you mean 'method.alignment'"),
        (["method.cross_entropy=every"], "method.cross_entropy = 'every': expected last, or schedule simultaneous"),
        (["method.align_weight=-1"], "method.align_weight = -1.0: expected a number of at least 0"),
        (["method.answer_template=x"], "method.answer_template = 'x': expected a text with {answer}"),
        (
            ["method.answer_template='It is {answer}'"],
            "method.answer_template = 'It is {answer}': no right answer to chains",
        ),
        (["training.learning_rat=1"], "did you mean 'training.learning_rate'"),
        (["stage1.max_steps=0"], "stage1.max_steps = 0: expected at least 1"),
        (["training.gradient_checkpointing=true"], "use training.activation_checkpointing"),
        (["model.dtype=float16"], "model.dtype = 'float16'"),
        (["evaluation.at_start=true"], "evaluation.at_start = true: expected false"),
    ],
)
def test_impossible_settings_are_refused_before_anything_is_written(given, message, tmp_path):
    assert message in refused("train", "--output", str(tmp_path / "run"), *TINY, *given)
    assert not (tmp_path / "run").exists()


ANSWERED = {
    "math": Problem("p", "How many?", "-1200", "math"),
    "bool": Problem("p", "Is it?", "no", "bool"),
    "text": Problem(
        "p", "Is Tom a w or a v?", "Tom is a w", "text", metadata={"options": ["Tom is a w", "Tom is a v"]}
    ),
}


@pytest.mark.parametrize("recipe", recipes.recipe_names("spiralthinker"))
def test_a_right_answer_as_a_recipe_teaches_it_is_graded_as_right(recipe):
    text = recipes.recipe_text("spiralthinker", recipe)
    settings = load_settings(Settings, recipe_text=text, recipe_name=recipe, overrides=[])
    for name in settings.evaluation.benchmarks:
        problem = ANSWERED[benchmark_module(name).INFO.kind]
        taught = settings.latent_settings().annotation.answer_text(problem)
        assert grade(problem, taught, grader=settings.evaluation.grader).correct, (name, taught)


def test_one_gold_that_no_grader_finds_refuses_nothing(tmp_path):
    file = tmp_path / "mine.jsonl"
    rows = [{"question": f"w {n}", "answer": "a } b" if n == 0 else str(n), "steps": ["one"]} for n in range(4)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = [f"data.train_file={file}", "data.limit=null", f"evaluation.benchmarks=[{file}]", "evaluation.limit=null"]
    assert "4 problems" in invoke("train", "--dry-run", "--output", str(tmp_path / "run"), *TINY, *given)


def test_data_without_a_latent_step_is_refused(tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text(json.dumps({"question": "w", "answer": "1", "steps": ["one"]}) + "\n")
    given = [f"data.train_file={file}", "data.limit=null", "method.parity=even", "method.stages=implicit"]
    said = refused("train", "--output", str(tmp_path / "run"), *TINY, *given)
    assert "no problem has a step that method.parity = even makes latent" in said
    file.write_text(json.dumps({"question": "w " * 2000, "answer": "1", "steps": ["one"]}) + "\n")
    said = refused("train", "--output", str(tmp_path / "run"), *TINY, *given[:2])
    assert "and the model has 1024 positions" in said
    assert not (tmp_path / "run").exists()


def test_defaults_are_those_of_the_documentation():
    method = MethodSettings()
    assert (method.latents, method.iterations, method.parity, method.alpha, method.align_weight) == (
        5,
        5,
        "odd",
        1.0,
        1.0,
    )
    assert Settings().latent_settings().shift == 0
    with pytest.raises(SettingsError, match="align_weight"):
        MethodSettings(align_weight=float("nan"))
