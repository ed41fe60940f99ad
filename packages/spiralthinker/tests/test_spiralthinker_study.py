"""The study's command: its cells, that finished ones are kept, what a run's folder gives, and what its tables say."""

import importlib.util
import json
import re
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from latent_models import latent_model, problems, rows

from spiralthinker.annotation import IGNORED
from spiralthinker.columns import lay_out
from spiralthinker.model import SpiralThinkerModel
from thinker_common.benchmarks import graphs
from thinker_common.training.study import Ledger, pack_answers, unpack_answers

SCRIPTS = Path(__file__).parents[1] / "scripts"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"spiralthinker_{name}", SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def study() -> ModuleType:
    return script("study_embedded")


def packed(right: set[int]) -> dict[str, Any]:
    return pack_answers({f"p{i}": i in right for i in range(10)})


COST = {"text_tokens": 20.0, "latent_tokens": 5.0, "token_passes": 90.0, "seconds": 0.01}


def point(right: set[int]) -> dict[str, Any]:
    return {"accuracy": len(right) / 10, "answers": packed(right), **COST}


def result(study: ModuleType, cell: Any, right: set[int], *, passes: int = 1_000_000, steps: int = 200) -> Any:
    record = {
        "cell": cell.name, "seed": cell.seed, "settings": study.settings_of(cell, []), "accuracy": len(right) / 10,
        "standard_error": 0.1, "boxed_rate": 1.0, "answers": packed(right), **COST,
        "training_steps": steps, "training_token_passes": passes, "training_seconds": 60.0, "stage1": None,
        "cell_seconds": 2 * cell.assumed_seconds(),
        "curve": {"step": [20], "cross_entropy": [1.0], "alignment": [None]},
    }  # fmt: skip
    if cell.stage1:
        record["stage1"] = {"training_steps": 100, "training_token_passes": 400_000, "training_seconds": 20.0}
    if cell.tests:
        record["tests"] = {
            "K at test time": {"N = 5, K = 0": point({0}), "N = 5, K = 3": point(right)},
            "latents": {"zeroed": point(set())},
        }
    if cell.measures_mismatch:
        record["mismatch"] = {
            "trained": "sequential", "problems": 9, "left_out": 1, "own": -1.0, "other": -1.5, "difference": -0.5,
            "standard_error": 0.1, "absolute": 0.75, "choice": 0.25,
        }  # fmt: skip
    return record


def test_every_setting_of_every_cell_is_possible(study: ModuleType) -> None:
    from spiralthinker._common import load_settings, recipes
    from spiralthinker.config import Settings

    names = [(cell.name, cell.seed) for group in study.GROUPS.values() for cell in study.cells_of(group)]
    assert len(set(names)) == len(names), "a file has the result of one cell"
    methods = {method for group in study.GROUPS.values() for method in group.cells}
    assert methods == {*study.FROM_BASE, *study.FROM_STAGE1} == {*study.SECONDS}
    for group in study.GROUPS.values():
        assert {method for pair in group.pairs for method in pair} <= {*group.also, *group.cells} <= methods
    for task in study.TASKS.values():
        for own in (*study.FROM_BASE.values(), *study.FROM_STAGE1.values()):
            text = recipes.recipe_text("spiralthinker", task.recipe)
            overrides = [*study.TRAINING, *task.settings, *own]
            settings = load_settings(Settings, recipe_text=text, recipe_name=task.recipe, overrides=overrides)
            options = dict(option.split("=") for option in task.options)
            assert (settings.data.benchmark, settings.evaluation.benchmarks) == (task.trained, [task.tested])
            assert settings.data.options == options
            assert settings.evaluation.options.get(task.tested, {}) == options
            assert settings.evaluation.limit == (None if task.local else study.TEST_PROBLEMS)


def method_settings(study: ModuleType, method: str) -> Any:
    from spiralthinker._common import load_settings, recipes
    from spiralthinker.config import Settings

    text = recipes.recipe_text("spiralthinker", "embedded")
    return load_settings(
        Settings, recipe_text=text, recipe_name="embedded", overrides=[*study.FROM_STAGE1[method]]
    ).method


def test_the_square_differs_in_alignment_and_iteration_alone(study: ModuleType) -> None:
    square = {method: method_settings(study, method) for method in study.SQUARE}
    assert {name: (own.aligns, own.iterations > 0) for name, own in square.items()} == {
        "no-spelling": (True, True), "alignment-only": (True, False),
        "iteration-only": (False, True), "neither": (False, False),
    }  # fmt: skip
    assert not any(own.spells for own in square.values())
    assert method_settings(study, "spiral").spells
    assert method_settings(study, "no-alignment").spells
    assert (method_settings(study, "shift0").shift, method_settings(study, "no-spelling").shift) == (0, 1)
    grid = {(own.latents, own.iterations) for own in (method_settings(study, name) for name in (*study.GRID, "spiral"))}
    assert grid == {(n, k) for n in (2, 5, 8) for k in (1, 3)}


def test_all_methods_of_a_task_take_as_many_steps(study: ModuleType) -> None:
    for name, task in study.TASKS.items():
        stage1 = study.Cell(name, "stage1", 1).steps
        assert stage1 == task.first
        for method in study.FROM_STAGE1:
            assert stage1 + study.Cell(name, method, 1).steps == study.Cell(name, "explicit", 1).steps
        # the log counts token passes every so many steps, and Coconut's curriculum has three stages
        assert not {task.first % study.LOGGED, task.second % study.LOGGED}.difference({0})
    assert not study.TASKS["chains"].second % (3 * study.LOGGED)


def test_the_grid_fits_four_hours_of_two_cores(study: ModuleType) -> None:
    stated = re.search(r"Planned are ([\d.]+) core-hours", study.__doc__)
    assert stated is not None
    assert float(stated[1]) == round(study.planned_hours(), 1) <= 8


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


def test_cells_without_their_data_are_left_out_and_named(
    study: ModuleType, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    ledger = Ledger(tmp_path / "study.jsonl")
    without, given = (study.Study(ledger, tmp_path, [], data_dir=folder) for folder in (None, tmp_path))
    assert without.missing(["zero-shot"]) == []
    assert given.missing(["zero-shot"]) == without.left_out(["zero-shot"]) != []
    assert given.left_out(list(study.GROUPS)) == without.left_out(["main"]) == []
    command = ["study", "--plan", "--group", "zero-shot", "--results", str(tmp_path / "study.jsonl")]
    monkeypatch.setattr(sys, "argv", command)
    study.main()
    said = capsys.readouterr().out
    assert "left out, since --data-dir is not given: zero-shot-stage1-1" in said
    assert "zero-shot: 0 cells" in said


def test_the_plan_is_corrected_by_finished_cells(study: ModuleType, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "study.jsonl")
    runner = study.Study(ledger, tmp_path, [], data_dir=tmp_path)
    hours = study.planned_hours()
    assert f"left: {hours:.1f} core-hours, {hours / 2:.1f} hours with --jobs 2" in study.plan(
        runner, list(study.GROUPS), 2
    )
    stage1 = study.Cell("chains", "stage1", 1)
    ledger.append(result(study, stage1, {1}))  # took twice what was assumed
    left = 2 * (hours - stage1.assumed_seconds() / 3600)
    said = study.plan(runner, list(study.GROUPS), 1)
    assert f"left: {left:.1f} core-hours" in said
    assert "times 2.00, after finished cells" in said


def test_matched_cells_take_spirals_token_passes_in_all(study: ModuleType, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "study.jsonl")
    runner = study.Study(ledger, tmp_path, [])
    ledger.append(result(study, study.Cell("chains", "spiral", 2), {1}, passes=3_000_000, steps=700))
    ledger.append(result(study, study.Cell("chains", "neither", 2), {1}, passes=1_400_000, steps=700))
    ledger.append(result(study, study.Cell("chains", "explicit", 2), {1}, passes=1_500_000, steps=900))
    # behind stage 1 (400,000) neither has 1,000,000 in 600 steps and needs 2,600,000
    assert runner._matched_steps(study.Cell("chains", "matched", 2)) == 1560
    assert runner._matched_steps(study.Cell("chains", "matched-explicit", 2)) == 1800


def test_cells_that_share_a_stage_1_wait_for_it_and_run_side_by_side(
    study: ModuleType, tmp_path: Path, monkeypatch: Any
) -> None:
    ledger = Ledger(tmp_path / "study.jsonl")
    runner = study.Study(ledger, tmp_path / "work", [])
    together = threading.Barrier(2, timeout=20)
    trained = []

    def train(cell: Any, steps: int, folder: Path) -> None:
        trained.append(cell.method)
        if cell.method == "stage1":
            time.sleep(0.2)
        else:
            assert (tmp_path / "work/chains-stage1-1/model").exists()
            together.wait()  # the other one trains too
        (folder / "model").mkdir(parents=True)

    def keep(cell: Any, folder: Path, began: float) -> None:
        ledger.append(result(study, cell, {1}))

    monkeypatch.setattr(runner, "_train", train)
    monkeypatch.setattr(runner, "_keep", keep)
    with ThreadPoolExecutor(3) as pool:
        cells = [study.Cell("chains", method, 1) for method in ("stage1", "spiral", "neither")]
        for done in [pool.submit(runner.run, cell) for cell in cells]:
            done.result()
    assert sorted(trained) == ["neither", "spiral", "stage1"]


def test_the_committed_results_are_of_this_grid_and_on_its_page(study: ModuleType) -> None:
    page = study.LEDGER.parents[1] / "spiralthinker.md"
    if not page.exists():
        pytest.skip("the pages are not part of the source distribution")
    ledger = Ledger(study.LEDGER)
    study.Study(ledger, Path("unused"), []).missing(list(study.GROUPS))  # raises for a cell of other settings
    known = {cell.name for group in study.GROUPS.values() for cell in study.cells_of(group)}
    lines = study.LEDGER.read_text(encoding="utf-8").splitlines() if study.LEDGER.exists() else []
    assert {json.loads(line)["cell"] for line in lines} <= known
    _, heading, behind = page.read_text(encoding="utf-8").partition("### Methods, the same steps")
    said = study.tables(ledger)
    assert said.count("### ") == len(study.GROUPS)
    assert (heading + behind).strip() == said.strip(), f"{page} ends in what {study.__file__} --table prints"


def test_tables(study: ModuleType, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "study.jsonl")
    for method, seed, right in (
        ("spiral", 1, {0, 1, 2}), ("spiral", 2, {0, 1, 2, 3, 4}),
        ("explicit", 1, {0, 1, 2, 3}), ("explicit", 2, {0, 1, 2, 3, 4, 5, 6, 7}),
        ("no-spelling", 1, {0, 1, 2, 3, 4}), ("alignment-only", 1, {0, 1}), ("iteration-only", 1, {0}),
        ("neither", 1, {0, 1}), ("neither", 2, {0}),
    ):  # fmt: skip
        ledger.append(result(study, study.Cell("chains", method, seed), right))
    text = study.tables(ledger)
    assert "(`--group main`: 4 of 35 cells)" in text
    # two seeds, 30 and 50 %: standard deviation 14.1, standard error 10
    assert "| spiral | 2 | 40.0 ± 10.0 | 30.0, 50.0 | 100.0 | 20.0 | 5.0 | 90 | 10.0 | 200 | 1.00 | 60 |" in text
    # differences of 10 and 30 points: mean 20, deviation 14.1, half width of the t interval 12.706 * 10
    assert "| explicit - spiral | 2 | +20.0 ± 14.1 | -107.1 to +147.1 |" in text
    assert "| K at test time | N = 5, K = 0 | 2 | 10.0 ± 0.0 | 20.0 | 5.0 | 90 | 10.0 |" in text
    assert "| chains/spiral: zeroed - as trained | 2 | -40.0 ± 14.1 |" in text
    assert "K = 3 - as trained" not in text, "the same answers are not compared"
    assert "(both - alignment) - (iteration - neither), points: 40.0 (standard error over 1 seeds)" in text
    assert "| chains/spiral | 2 | 9 | -1.000 ± 0.000 | -1.500 ± 0.000 | -0.500 ± 0.000 | 0.750 ± 0.000 |" in text
    assert "graphs/" not in text
    # seven behind stage 1, with 40 s of their own
    assert "9 trainings, one thread each: 0.1 hours together; from 40 to 60 s" in text


def test_a_cell_runs_is_kept_and_goes_on_from_stage_1(study: ModuleType, tmp_path: Path, monkeypatch: Any) -> None:
    """Two steps of stage 1 and of stage 2, on four problems, through the real commands."""
    own = ("evaluation.limit=4", "data.limit=16")
    monkeypatch.setitem(study.TASKS, "chains", study.Task("embedded", 2, 2, "chains", "chains", own=own))
    monkeypatch.setattr(study, "TEST_PROBLEMS", 4)
    monkeypatch.setitem(study.TESTED["chains"], "spiral", ("latents", "decoded simultaneous"))
    small = ["method.latents=2", "method.iterations=1", "evaluation.max_new_tokens=16",
             "training.per_device_train_batch_size=2", "training.logging_steps=1"]  # fmt: skip
    ledger = Ledger(tmp_path / "study.jsonl")
    study.Study(ledger, tmp_path / "work", small).run(study.Cell("chains", "spiral", 1))
    again = Ledger(ledger.path)
    [first], [spiral] = again["chains/stage1"], again["chains/spiral"]
    assert spiral["settings"][:3] == ["recipe=embedded", "first=2", "steps=2"]
    assert first["stage1"] is None
    assert spiral["stage1"] == {name: first[name] for name in study.COSTS}
    assert spiral["training_steps"] == 4
    assert spiral["training_token_passes"] > first["training_token_passes"] > 0
    assert spiral["cell_seconds"] > spiral["training_seconds"] - first["training_seconds"]
    assert [len(unpack_answers(run["answers"])) for run in (first, spiral)] == [4, 4]
    assert spiral["curve"]["step"] == [1, 2]
    assert spiral["curve"]["alignment"][1] > 0
    assert first["curve"]["alignment"] == [None, None]
    assert {test: list(points) for test, points in spiral["tests"].items()} == {
        "latents": ["shuffled", "zeroed"],
        "decoded simultaneous": ["simultaneous"],
    }
    assert spiral["tests"]["latents"]["zeroed"]["token_passes"] > 0
    assert spiral["mismatch"]["problems"] + spiral["mismatch"]["left_out"] == 500
    assert spiral["mismatch"]["absolute"] > 0
    assert "chains/spiral: simultaneous" in study.tables(again) or (
        spiral["tests"]["decoded simultaneous"]["simultaneous"]["answers"] == spiral["answers"]
    )
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["chains-stage1-1", "logs"]
    log = json.loads((tmp_path / "work/chains-stage1-1/results.json").read_text())
    assert log["stages"]["explicit"]["steps"] == 2


def prosqa_row(problem: Any) -> dict[str, Any]:
    """A generated graph in the columns of ProsQA's files."""
    graph = problem.metadata
    return {
        "question": problem.question, "answer": f"{problem.answer}.", "steps": list(problem.steps),
        "idx_to_symbol": graph["symbols"], "edges": graph["edges"],
        "root": graph["root"], "target": graph["target"], "neg_target": graph["neg_target"],
    }  # fmt: skip


def test_cells_of_the_other_tasks_run(study: ModuleType, tmp_path: Path, monkeypatch: Any) -> None:
    """Coconut on small graphs with its controls; graphs of full size, tested on a file of ProsQA and on graphs."""
    monkeypatch.setattr(study, "TEST_PROBLEMS", 2)
    tasks = {name: replace(study.TASKS[name], first=2, second=3) for name in ("graphs", "zero-shot")}
    tasks["graphs"] = replace(tasks["graphs"], own=("evaluation.limit=2",))
    monkeypatch.setattr(study, "TASKS", study.TASKS | tasks)
    file = tmp_path / "data/prosqa/prosqa_valid.json"
    file.parent.mkdir(parents=True)
    rows_of_file = [prosqa_row(problem) for problem in graphs.generate("valid", 3)]
    file.write_text(json.dumps(rows_of_file), encoding="utf-8")
    small = ["data.limit=16", "evaluation.max_new_tokens=24", "training.per_device_train_batch_size=2",
             "training.logging_steps=1"]  # fmt: skip
    ledger = Ledger(tmp_path / "study.jsonl")
    runner = study.Study(ledger, tmp_path / "work", small, data_dir=tmp_path / "data")
    runner.run(study.Cell("graphs", "coconut", 1))
    runner.run(study.Cell("zero-shot", "explicit", 1))
    [coconut], [explicit] = ledger["graphs/coconut"], ledger["zero-shot/explicit"]
    assert coconut["training_steps"] == 2 + 3, "the curriculum divides the steps of stage 2"
    assert list(coconut["tests"]["latents"]) == ["shuffled", "zeroed"]
    assert coconut["tests"]["latents"]["zeroed"]["token_passes"] > 0
    assert len(unpack_answers(explicit["answers"])) == 3, "all of the file"
    found = explicit["tests"]["in distribution"]["graphs, full size"]
    assert len(unpack_answers(found["answers"])) == 2
    text = study.tables(ledger)
    assert "| in distribution | graphs, full size | 1 |" in text
    assert str(tmp_path) not in ledger.path.read_text(encoding="utf-8"), "no path of this machine is kept"


# ------------------------------------------------------------------------------------------------ the mismatch


def answer_logprob(model: SpiralThinkerModel, row: Any, length: int, schedule: Any) -> float:
    """By the loss's own way, of a batch of one."""
    model.settings = replace(model.settings, schedule=schedule)
    labels = [*[IGNORED] * (len(row["labels"]) - length), *row["labels"][-length:]]
    batch = lay_out([row | {"labels": labels}], latents=model.settings.annotation.latents, pad_token_id=0)
    return -float(model.nll(model(batch)[0].readings[-1], batch))


def test_the_mismatch_is_that_of_the_two_schedules_on_the_answer() -> None:
    measured = script("measure_mismatch")
    model = latent_model(latents=2, iterations=3, dtype=torch.float64).eval()
    found = measured.mismatch(model, problems())
    assert (found["problems"], found["left_out"]) == (2, 2)  # one and no latent step
    assert model.settings.schedule == "sequential", "the model is as before"
    some = rows(model, problems()[:2])
    examples = [model.settings.annotation.example(model.tokenizer, problem) for problem in problems()[:2]]
    lengths = [len(example.answer_ids) for example in examples]
    with torch.no_grad():
        own, other = (
            [answer_logprob(model, dict(row), length, schedule) for row, length in zip(some, lengths, strict=True)]
            for schedule in ("sequential", "simultaneous")
        )
    assert found["own"] == pytest.approx(sum(own) / 2, abs=1e-6)
    assert found["other"] == pytest.approx(sum(other) / 2, abs=1e-6)
    assert found["absolute"] == pytest.approx(sum(abs(b - a) for a, b in zip(own, other, strict=True)) / 2, abs=1e-6)
    assert found["absolute"] > 1e-4


def test_a_model_without_a_second_schedule_has_no_mismatch() -> None:
    measured = script("measure_mismatch")
    with pytest.raises(SystemExit, match="no iterations"):
        measured.mismatch(latent_model(iterations=0), problems())
    with pytest.raises(SystemExit, match="no problem has two latent steps"):
        measured.mismatch(latent_model(), problems()[2:])
