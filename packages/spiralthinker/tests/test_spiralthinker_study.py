"""The study's command: its cells, that finished ones are kept, what a run's folder gives, and what its tables say."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from thinker_common.training.study import Ledger, pack_answers, unpack_answers

SCRIPT = Path(__file__).parents[1] / "scripts/study_embedded.py"


@pytest.fixture
def study() -> ModuleType:
    spec = importlib.util.spec_from_file_location("spiralthinker_study", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["spiralthinker_study"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def packed(right: set[int]) -> dict[str, Any]:
    return pack_answers({f"p{i}": i in right for i in range(10)})


def result(study: ModuleType, cell: Any, right: set[int], passes: int = 1_000_000) -> dict[str, Any]:
    record = {
        "cell": cell.name, "seed": cell.seed, "settings": study.settings_of(cell, []), "accuracy": len(right) / 10,
        "standard_error": 0.1, "boxed_rate": 1.0, "answers": packed(right), "text_tokens": 20.0, "latent_tokens": 5.0,
        "token_passes": 90.0, "seconds": 0.01, "training_steps": 200, "training_token_passes": passes,
        "training_seconds": 60.0, "curve": {"step": [20], "cross_entropy": [1.0], "alignment": [None]},
    }  # fmt: skip
    if cell.method in study.TESTED_CELLS:
        record["tests"] = {
            "K at test time": {"K = 0": packed({0}), "K = 5": packed(right)},
            "latents": {"zeroed": packed(set())},
            "decoding": {"sequential": packed(right)},
        }
    return record


def test_every_setting_of_every_cell_is_possible(study: ModuleType) -> None:
    from spiralthinker._common import load_settings, recipes
    from spiralthinker.config import Settings

    names = [(cell.name, cell.seed) for group in study.GROUPS.values() for cell in study.cells_of(group)]
    assert len(set(names)) == len(names), "a file has the result of one cell"
    methods = {method for group in study.GROUPS.values() for method in group.cells}
    assert methods == {*study.FROM_BASE, *study.FROM_STAGE1}
    for group in study.GROUPS.values():
        assert {method for pair in group.pairs for method in pair} <= {*group.also, *group.cells} <= methods
    for name, task in study.TASKS.items():
        for own in (*study.FROM_BASE.values(), *study.FROM_STAGE1.values()):
            text = recipes.recipe_text("spiralthinker", task.recipe)
            overrides = [*study.TRAINING, *task.settings(name), *own]
            settings = load_settings(Settings, recipe_text=text, recipe_name=task.recipe, overrides=overrides)
            options = dict(option.split("=") for option in task.options)
            assert settings.data.options == options
            assert settings.evaluation.options.get(name, {}) == options


def test_all_methods_of_a_task_take_as_many_steps(study: ModuleType) -> None:
    for name, task in study.TASKS.items():
        stage1 = study.Cell(name, "stage1", 1).steps
        assert stage1 == task.first
        for method in study.FROM_STAGE1:
            assert stage1 + study.Cell(name, method, 1).steps == study.Cell(name, "explicit", 1).steps


def test_finished_cells_are_kept_and_others_settings_refused(study: ModuleType, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "study.jsonl")
    runner = study.Study(ledger, tmp_path, [])
    first, *rest = runner.missing(["main"])
    assert (first.name, first.seed, len(rest)) == ("chains/stage1", 1, 34)
    ledger.append(result(study, first, {1}))
    assert runner.missing(["main"]) == rest
    assert {cell.task for cell in runner.missing(["graphs"])} == {"graphs"}
    ledger.append(result(study, rest[0], {1}) | {"settings": ["other"]})
    with pytest.raises(SystemExit, match=r"chains/explicit, seed 1 was made with other settings"):
        runner.missing(["main"])


def test_the_matched_cell_takes_spirals_token_passes(study: ModuleType, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "study.jsonl")
    ledger.append(result(study, study.Cell("chains", "spiral", 2), {1}, passes=3_000_000))
    ledger.append(result(study, study.Cell("chains", "neither", 2), {1}, passes=2_000_000))
    matched = study.Cell("chains", "matched", 2)
    assert study.Study(ledger, tmp_path, [])._matched_steps(matched) == round(1.5 * study.TASKS["chains"].second)


def test_the_committed_results_are_of_this_grid(study: ModuleType) -> None:
    ledger = Ledger(study.LEDGER)
    study.Study(ledger, Path("unused"), []).missing(list(study.GROUPS))  # raises for a cell of other settings
    study.tables(ledger)


def test_tables(study: ModuleType, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "study.jsonl")
    for method, seed, right in (
        ("spiral", 1, {0, 1, 2}), ("spiral", 2, {0, 1, 2, 3, 4}),
        ("explicit", 1, {0, 1, 2, 3}), ("explicit", 2, {0, 1, 2, 3, 4, 5, 6, 7}),
    ):  # fmt: skip
        ledger.append(result(study, study.Cell("chains", method, seed), right))
    text = study.tables(ledger)
    assert "(`--group main`: 4 of 35 cells)" in text
    assert "| spiral | 2 | 40.0 ± 14.1 | 30.0, 50.0 | 100.0 | 20.0 | 5.0 | 90 | 10.0 | 200 | 1.00 | 60 |" in text
    # differences of 10 and 30 points: mean 20, deviation 14.1, half width of the t interval 12.706 * 10
    assert "| explicit - spiral | 2 | +20.0 ± 14.1 | -107.1 to +147.1 |" in text
    assert "| K at test time | K = 0 | 2 | 10.0 ± 0.0 |" in text
    assert "| chains/spiral: zeroed - as trained | 2 | -40.0 ± 14.1 |" in text
    assert "sequential - as trained" not in text, "the same answers are not compared"
    assert "graphs/" not in text
    assert "4 trainings, one thread each: 0.1 hours together" in text


def test_a_cell_runs_is_kept_and_goes_on_from_stage_1(study: ModuleType, tmp_path: Path) -> None:
    """Two steps of stage 1 and of stage 2, on four problems, through the real command."""
    study.TASKS["chains"] = study.Task("embedded", 2, 2)
    study.TRAINING = ("evaluation.at_start=false", "evaluation.limit=4", "training.save_strategy=no")
    study.TEST_PROBLEMS = 4
    study.TESTED = {"latents": ["--control", "shuffled,zeroed"], "decoding": ["--decoding", "simultaneous"]}
    small = ["data.limit=16", "method.latents=2", "method.iterations=1", "evaluation.max_new_tokens=16",
             "training.per_device_train_batch_size=2", "training.logging_steps=1"]  # fmt: skip
    ledger = Ledger(tmp_path / "study.jsonl")
    study.Study(ledger, tmp_path / "work", small).run(study.Cell("chains", "spiral", 1))
    again = Ledger(ledger.path)
    [first], [spiral] = again["chains/stage1"], again["chains/spiral"]
    assert spiral["settings"][:3] == ["recipe=embedded", "first=2", "steps=2"]
    assert spiral["training_steps"] == 2
    assert spiral["training_token_passes"] > 0
    assert [len(unpack_answers(run["answers"])) for run in (first, spiral)] == [4, 4]
    assert spiral["curve"]["step"] == [1, 2]
    assert spiral["curve"]["alignment"][1] > 0
    assert first["curve"]["alignment"] == [None, None]
    assert {test: list(points) for test, points in spiral["tests"].items()} == {
        "latents": ["shuffled", "zeroed"],
        "decoding": ["simultaneous"],
    }
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["chains-stage1-1", "logs"]
    log = json.loads((tmp_path / "work/chains-stage1-1/results.json").read_text())
    assert log["stages"]["explicit"]["steps"] == 2
