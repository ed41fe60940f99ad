"""Whole runs through the command line, on the embedded model: what is promised of a run folder."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from generalthinker import callbacks
from generalthinker.cli import app
from generalthinker.config import MethodSettings
from generalthinker.data import training_rows, wrong_answers
from generalthinker.samples import read_samples
from thinker_common.benchmarks import chains, facts
from thinker_common.benchmarks.problem import LoadedBenchmark, Problem
from thinker_common.errors import DataError
from thinker_common.evaluation.grading import grade
from thinker_common.models.load import load_policy, load_tokenizer
from thinker_common.training.problems import hold_out

TINY = [
    "training.max_steps=2", "training.per_device_train_batch_size=8", "training.num_generations=4", "data.limit=12",
    "evaluation.limit=4", "evaluation.validation_limit=4", "evaluation.every_steps=1", "generation.max_new_tokens=32",
    "evaluation.max_new_tokens=32", "evaluation.export=last",
]  # fmt: skip


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_a_run_leaves_what_it_promises(tmp_path: Path, lora: bool) -> None:
    folder = tmp_path / "run"
    adapter = ["model.lora.r=4", "training.learning_rate=1e-2"] if lora else []
    printed = invoke("train", "--output", str(folder), "--seed", "5", *TINY, *adapter)

    assert {path.name for path in folder.iterdir()} >= {
        "config.yaml", "environment.json", "metrics.jsonl", "results.json", "report.html", "model", "evaluation",
    }  # fmt: skip
    assert re.search(r"chains\s+before\s+4 ", printed)
    assert re.search(r"chains\s+after\s+4 ", printed)
    assert "report.html" in printed

    results = json.loads((folder / "results.json").read_text())
    assert results["steps"] == 2
    assert results["training_problems"] == 8, "four of twelve are held out"
    assert results["evaluations"]["before"]["chains"]["n"] == 4
    assert results["paired"]["chains"]["n"] == 4
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "reward" in row] == [1, 2]
    assert [row["step"] for row in rows if "validation/accuracy" in row] == [1, 2]
    assert all(0 < row["completions/mean_length"] <= 32 for row in rows if "reward" in row)
    samples = read_samples(folder / "samples.jsonl")  # of all four problems that are held out
    for row in rows:
        if "validation/answer_loglik" in row:
            own = [sample for sample in samples if sample["step"] == row["step"]]
            logliks = [sample["answer_loglik"] for sample in own if sample["boxed"]]
            assert row["validation/answer_loglik"] == pytest.approx(sum(logliks) / len(logliks))
            assert row["validation/boxed_rate"] == len(logliks) / len(own) == len(logliks) / 4

    before, after = load_policy("embedded"), load_policy(folder / "model")
    load_tokenizer(folder / "model")
    changed = [name for name, weight in after.named_parameters() if not torch.equal(weight, before.get_parameter(name))]
    assert changed, "the exported model is the trained one"
    assert not any("lora" in name for name, _ in after.named_parameters())

    page = (folder / "report.html").read_text()
    assert "Token credit" in page
    assert not re.search(r"""(src|href)=["']https?:""", page), "opens offline"

    again = tmp_path / "again"
    invoke("train", "--config", str(folder / "config.yaml"), "--output", str(again), "--seed", "5")
    repeated = [json.loads(line) for line in (again / "metrics.jsonl").read_text().splitlines()]
    for first, second in zip(rows, repeated, strict=True):
        if "reward" in first:
            assert first["reward"] == pytest.approx(second["reward"], rel=1e-5), "config.yaml runs the same again"


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_the_weights_of_the_best_step_are_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lora: bool) -> None:
    """Of four validated steps the second is the best, and the last one only as good."""
    accuracies = iter([0.0, 0.25, 0.75, 0.5, 0.75])  # the first one is of the samples before training
    validate = callbacks.evaluate_one
    monkeypatch.setattr(
        callbacks, "evaluate_one", lambda *arguments: replace(validate(*arguments), accuracy=next(accuracies))
    )
    folder = tmp_path / "run"
    printed = invoke(
        "train", "--output", str(folder), *TINY, "training.max_steps=4", "training.warmup_steps=0",
        "training.learning_rate=1e-3", "training.save_steps=1", "training.save_total_limit=null",
        "evaluation.at_start=false", "evaluation.at_end=false", "evaluation.export=best",
        *(["model.lora.r=4", "training.learning_rate=1e-2"] if lora else []),
    )  # fmt: skip
    results = json.loads((folder / "results.json").read_text())
    assert (results["steps"], results["exported_step"]) == (4, 2)
    assert "the weights of step 2, the best by validation" in printed

    def weights(path: Path) -> dict[str, torch.Tensor]:
        model = load_policy(path, dtype="float32")
        return (model.merge_and_unload() if lora and path.name != "model" else model).state_dict()

    exported = weights(folder / "model")
    for step in (1, 2, 3, 4):
        saved = weights(folder / "checkpoints" / f"checkpoint-{step}")
        assert saved.keys() == exported.keys()
        same = all(torch.allclose(saved[name], exported[name], rtol=0, atol=1e-7) for name in saved)
        assert same == (step == 2), f"step {step}"


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    printed = invoke("train", "--dry-run", "--output", str(tmp_path / "run"), *TINY)
    assert "steps: 2" in printed
    assert not (tmp_path / "run").exists()


def test_wrong_answers_are_wrong_and_the_same_for_a_seed() -> None:
    problems = [*chains.generate("train", 40), *facts.generate("train", 20)]
    wrong = wrong_answers(problems, seed=1)
    assert wrong == wrong_answers(problems, seed=1)
    assert wrong != wrong_answers(problems, seed=2)
    for problem, answer in zip(problems, wrong, strict=True):
        assert not grade(problem, f"\\boxed{{{answer}}}").correct
        if problem.kind == "mcq":
            assert answer[3:] in problem.options
    same = [Problem(id=f"x/{i}", question="?", answer=answer, kind="math") for i, answer in enumerate(("0.5", "1/2"))]
    with pytest.raises(DataError, match="found no other problem with another answer"):
        wrong_answers(same, seed=0)


def test_rows_and_hold_out() -> None:
    loaded = LoadedBenchmark("chains", "train", tuple(chains.generate("train", 10)), None, "made", 1)
    training, validation = hold_out(loaded, 3, seed=4)
    assert len(training.problems) == 7
    assert len(validation.problems) == 3
    assert {p.id for p in training.problems} | {p.id for p in validation.problems} == {p.id for p in loaded.problems}
    with pytest.raises(DataError, match="validation_limit = 10 would hold out all 10 problems"):
        hold_out(loaded, 10, seed=4)
    [row] = training_rows(loaded.problems[:1], MethodSettings(), seed=0)
    problem = loaded.problems[0]
    assert row["prompt"] == (
        f"{problem.question} Please reason step by step, and put your final answer within \\boxed{{}}."
    )
    assert row["conditioned_prompt"] == (
        f"{problem.question} Please reason step by step given the final answer within \\boxed{{}}. "
        f"\\boxed{{{problem.answer}}}"
    )
