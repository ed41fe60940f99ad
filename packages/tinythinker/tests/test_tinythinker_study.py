"""The study's command: its cells can be run, a changed recipe is noticed, a run becomes a line, and what tables say."""

import importlib.util
import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console
from tiny_run import SETTINGS, run, saved_student

from thinker_common.training.study import Ledger, pack_answers, unpack_answers
from tinythinker import cli
from tinythinker._common import load_settings, recipes
from tinythinker._common import run as app_run
from tinythinker.config import Settings
from tinythinker.prepare import load_material
from tinythinker.train import train

SCRIPT = Path(__file__).parents[1] / "scripts/study_embedded.py"
NOWHERE = Path("there is none")


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))  # as for a script that is run
    spec = importlib.util.spec_from_file_location("study_embedded", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["study_embedded"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def settings_of(overrides: Sequence[str]) -> Settings:
    text = recipes.recipe_text("tinythinker", "embedded")
    return load_settings(Settings, recipe_text=text, recipe_name="embedded", overrides=list(overrides))


def test_every_setting_of_every_cell_is_possible(study: ModuleType) -> None:
    cells = study.missing(Ledger(NOWHERE), list(study.GROUPS))
    assert len({str(cell) for cell in cells}) == len(cells) == 63, "a folder and a line have one cell"
    for cell in cells:
        given = study.command(cell, Path("work"), Path("run"))
        settings = settings_of(given[given.index(str(cell.seed)) + 1 + ("--allow-changes" in given) :])
        assert settings.data.seed == cell.seed
        assert ("--allow-changes" in given) == (cell.name in study.SHARED)
        assert settings.model.name_or_path == (f"work/t5-student-{cell.seed}" if cell.t5 else "embedded@1")
    assert {cell.name for cell in cells} == study.SECONDS.keys()


def test_what_is_compared_is_shown_and_differs(study: ModuleType) -> None:
    """Every student of a pair is one that a shown cell has; `acquired` is another from iteration 2 on only."""
    for group in study.GROUPS.values():
        shown = {**{name: own for other in study.GROUPS.values() for name, own in other.cells.items()}, **group.cells}
        shown = {name: shown[name] for name in (*group.also, *group.cells)}
        students = set()
        for name, given in shown.items():
            settings = settings_of([*study.COMMON, *given])
            phases = [study.ACQUISITION, *(f"iteration-{i + 1}" for i in range(settings.method.iterations))]
            for phase in phases:
                if phase not in study.SHARED.get(name, ()):
                    students |= {study.student(name, phase, way) for way in settings.evaluation.answering}
        assert set(chain.from_iterable(group.pairs)) <= students
        assert len(set(group.pairs)) == len(group.pairs) and all(one != other for one, other in group.pairs)
    main = study.GROUPS["main"]
    assert ("both, iteration-2", "both, iteration-1") in main.pairs
    assert ("both, acquisition", "label, acquisition") in main.pairs
    assert ("acquired, iteration-2", "both, iteration-2") in study.GROUPS["reflection"].pairs


def test_baselines_and_ablations_have_the_optimiser_steps_of_phase_1(study: ModuleType) -> None:
    steps = {}
    for name in ("main", "stages", "mixing", "t5"):
        for cell in study.cells_of(study.GROUPS[name]):
            if cell.seed == 1:
                settings = settings_of(cell.settings)
                acquisition, questions = settings.method.acquisition, settings.data.limit
                stages = acquisition.stages if settings.method.baseline is None else ["summarize"]
                rows = {stage: questions * (4 if stage == "analyze" else 1) for stage in stages}  # four options
                once = sum(-(-count // acquisition.batch_size) for count in rows.values())
                steps[cell.name] = acquisition.max_steps or acquisition.num_train_epochs * once
    assert (steps.pop("label, once"), steps.pop("cot, once")) == (250, 250)
    assert (steps.pop("t5"), steps.pop("t5 label")) == (3000, 3000)
    assert set(steps.values()) == {1500} and {"both", "label", "cot", "recall+summarize", "sequential"} <= steps.keys()


def test_seeds_have_other_questions_to_train_on_and_the_same_to_be_judged_by(study: ModuleType) -> None:
    one, other, *_ = (
        load_material(settings_of(cell.settings))
        for cell in study.cells_of(study.GROUPS["main"])
        if cell.name == "both" and cell.seed <= 2
    )
    trained = [{question.id for question in material.questions} for material in (one, other)]
    assert len(trained[0] & trained[1]) < 1200, "two samples of 4,000 out of 20,000"
    assert one.validation == other.validation and one.tests == other.tests


def test_the_grid_fits_four_hours_of_two_cores(study: ModuleType) -> None:
    cells = study.missing(Ledger(NOWHERE), list(study.GROUPS))
    assert study.planned_seconds(cells, Ledger(NOWHERE)) < 0.9 * 2 * 4 * 3600, "what is around trainings takes time too"


def test_the_plan_goes_by_finished_cells(study: ModuleType, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    ledger = Ledger(tmp_path / "study.jsonl")
    first = next(study.cells_of(study.GROUPS["main"]))
    finished = {"cell": first.name, "seed": 1, "settings": study.settings_of(first), "seconds": 2000, "phases": {}}
    ledger.append(finished)
    others = ("label", "cot", "label, once", "cot, once")
    expected = 4 * 2000 + 5 * sum(study.SECONDS[name] for name in others)
    given = ["--plan", "--group", "main", "--jobs", "2", "--results", str(ledger.path)]
    monkeypatch.setattr(sys, "argv", ["study_embedded", *given])
    study.main()
    assert (
        f"about {expected / 3600:.1f} hours of one core, {expected / 7200:.1f} with --jobs 2" in capsys.readouterr().out
    )


def test_a_cell_of_another_recipe_is_refused(study: ModuleType, tmp_path: Path, monkeypatch: Any) -> None:
    ledger = Ledger(tmp_path / "study.jsonl")
    cell = next(study.cells_of(study.GROUPS["main"]))
    ledger.append({"cell": cell.name, "seed": cell.seed, "settings": study.settings_of(cell)})
    assert cell not in study.missing(ledger, ["main"])
    monkeypatch.setattr(study, "recipe_text", lambda package, name: "another")
    with pytest.raises(SystemExit, match="both, seed 1 was made with other settings"):
        study.missing(ledger, ["main"])


def test_a_run_becomes_a_line_of_figures(study: ModuleType, tmp_path: Path) -> None:
    results = run(tmp_path / "run", saved_student(tmp_path / "model"))
    found = study.read_run(tmp_path / "run")
    assert list(found["phases"]) == ["acquisition", "iteration-1", "iteration-2"]
    for phase, own in found["phases"].items():
        test = results["phases"][phase]["tests"]["facts-greedy"]
        answers = own["tests"]["greedy"]["answers"]
        assert (answers["n"], sum(unpack_answers(answers)) / 3) == (3, test["accuracy"])
        assert own["stages"] == [0.0, 0.0, 0.0, 0.0], "this student writes nothing that is right"
        assert own["held_out"] == results["phases"][phase]["validation"]["validation/accuracy"]
    assert found["phases"]["acquisition"]["curves"]["step"] == [1, 2, 3, 4]
    assert len(found["phases"]["acquisition"]["validation"]) == 2
    assert list(study.read_run(tmp_path / "run", ("acquisition", "iteration-1"))["phases"]) == ["iteration-2"]


def test_a_run_that_goes_on_from_phases_of_another_is_the_whole_run(study: ModuleType, tmp_path: Path) -> None:
    """Phase 1, and iteration 1 of `acquired`, are those of `both`: what follows is what a run of its own finds."""
    model, acquired = saved_student(tmp_path / "model"), "method.reflection.reference=acquired"
    run(tmp_path / "both", model)
    run(tmp_path / "whole", model, acquired)
    study.keep_phases(tmp_path / "both", tmp_path / "start", ("acquisition", "iteration-1"))
    study.keep_phases(tmp_path / "start", tmp_path / "gone-on", study.SHARED["acquired"])
    settings = load_settings(
        Settings,
        recipe_text=None,
        recipe_name="defaults",
        overrides=[f"model.name_or_path={model}", *SETTINGS, acquired],
    )
    train(settings, tmp_path / "gone-on", seed=5, console=Console(file=io.StringIO()), allow_changes=True)
    for part in ("metrics.jsonl", "chains/pairs.jsonl"):
        one, other = ((tmp_path / name / "iteration-2" / part).read_text() for name in ("whole", "gone-on"))
        assert without_times(one) == without_times(other)
    shared = study.SHARED["acquired"]
    own, whole = (study.read_run(tmp_path / name, shared)["phases"] for name in ("gone-on", "whole"))
    assert own["iteration-2"]["tests"] == whole["iteration-2"]["tests"]
    assert own["iteration-2"]["curves"] == whole["iteration-2"]["curves"]
    assert "acquired" in (tmp_path / "gone-on/config.yaml").read_text()


TINY = (
    *SETTINGS, "data.limit=4", "method.acquisition.max_steps=2", "method.reflection.max_steps=2", "evaluation.limit=2",
    "evaluation.validation_limit=2", "evaluation.samples=2", "training.seed=1", "training.save_steps=2",
)  # fmt: skip


def test_cells_are_run_kept_and_gone_on_from(study: ModuleType, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    """`both`, then a cell that shares its first phases: one line each, and the phases are trained once."""
    monkeypatch.setattr(study, "COMMON", (*TINY, f"model.name_or_path={saved_student(tmp_path / 'model')}"))
    found_phases: list[list[str]] = []

    def here(command: Sequence[str], log: Path) -> None:
        output = Path(command[command.index("--output") + 1])
        found_phases.append(sorted(marker.parent.name for marker in output.glob("*/phase.json")))
        with pytest.raises(SystemExit) as caught:
            app_run(cli.app, list(command[3:]))
        assert caught.value.code in (0, None), command

    monkeypatch.setattr(study.study, "run_command", here)
    ledger, work = Ledger(tmp_path / "study.jsonl"), tmp_path / "work"
    cells = {
        cell.name: cell
        for name in ("main", "reflection")
        for cell in study.cells_of(study.GROUPS[name])
        if cell.seed == 1
    }
    for name in ("both", "acquired"):
        study.run(cells[name], work, ledger)
    assert found_phases == [[], ["acquisition", "iteration-1"]]
    assert not list(work.glob("*-1/results.json")), "what is in the ledger needs no folder"
    [both], [acquired] = ledger["both"], ledger["acquired"]
    assert list(both["phases"]) == ["acquisition", "iteration-1", "iteration-2"]
    assert list(both["phases"]["acquisition"]["tests"]) == ["greedy", "self_consistency", "option_likelihood"]
    assert list(acquired["phases"]) == ["iteration-2"] and list(acquired["phases"]["iteration-2"]["tests"]) == [
        "greedy"
    ]
    assert cells["both"] not in study.missing(ledger, ["main"]), "its line is of these settings"
    text = study.tables(ledger)
    assert "| both, iteration-2, self_consistency - both, iteration-2 | 1 |" in text
    assert "| acquired, iteration-2 - both, iteration-2 | 1 |" in text


def without_times(text: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in text.splitlines()]
    return [
        {name: value for name, value in row.items() if "second" not in name and "runtime" not in name} for row in rows
    ]


def test_a_student_that_is_there_is_whole(study: ModuleType, tmp_path: Path) -> None:
    [*_, cell] = study.cells_of(study.GROUPS["t5"])
    (tmp_path / f".t5-student-{cell.seed}.partial").mkdir(parents=True)  # of a command that was killed
    study.prepare([cell], tmp_path)
    made = study.t5_folder(tmp_path, cell.seed)
    before = (made / "model.safetensors").read_bytes()
    study.make_t5(tmp_path / "another", cell.seed)
    assert (tmp_path / "another/model.safetensors").read_bytes() == before, "its weights follow from the seed"
    study.make_t5(tmp_path / "other", cell.seed + 1)
    assert (tmp_path / "other/model.safetensors").read_bytes() != before
    assert {entry.name for entry in tmp_path.iterdir()} == {made.name, "another", "other"}


# --------------------------------------------------------------------------------------------------------------- tables


def phase(right: set[int], way: str = "greedy", **rest: Any) -> dict[str, Any]:
    answers = pack_answers({f"p{i}": i in right for i in range(10)})
    figures = {
        "accuracy": len(right) / 10, "no_answer_rate": 0.1, "truncation_rate": 0.0, "answer_loglik": -1.0,
        "mean_tokens": 90.0,
    }  # fmt: skip
    return {
        "tests": {way: {**figures, "answers": answers}}, "steps": 6, "training_seconds": 300.0, "held_out": 0.5,
        "stages": [None] * 4, **rest,
    }  # fmt: skip


def counts(right: int) -> dict[str, int]:
    return {
        "right": right, "chains": 12, "abstained": 3, "truncated": 0, "questions_all_right": 1, "questions_all_wrong": 2
    }  # fmt: skip


REFLECTED: dict[str, Any] = {
    "questions": 4,
    "recall_pass": counts(3),
    "analyze_pass": counts(6),
    "pairs": {"recall": 4, "recall_from_teacher": 1, "analyze": 5, "analyze_of_gold": 2, "questions": 3},
    "curves": {"step": [1, 2], "agreement": [0.5, 0.75], "preference": [0.69, 0.5], "nll": [1.0, 0.9]},
    "sampling_seconds": 60.0,
}
WITHOUT_ANALYZE_PASS = {name: value for name, value in REFLECTED.items() if name != "analyze_pass"}


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    found = Ledger(tmp_path / "study.jsonl")
    acquired = {"stages": [75.0, 90.0, 80.0, 25.0], "validation": {"250": 0.25, "750": 0.5}}
    both, again = phase({0, 1, 2}, **acquired), phase({0, 1}, **acquired)
    both["tests"] |= phase({0, 1, 2, 9}, "self_consistency")["tests"]
    again["tests"] |= phase({0, 1, 8}, "self_consistency")["tests"]
    runs: dict[tuple[str, int], dict[str, Any]] = {
        ("both", 1): {"acquisition": both, "iteration-1": phase({0, 1, 2, 3}, **REFLECTED)},
        ("both", 2): {"acquisition": again, "iteration-1": phase({0, 1, 2, 3, 4}, **REFLECTED)},
        ("label", 1): {"acquisition": phase({5})},
        ("recall pairs", 2): {"iteration-1": phase({0}, **WITHOUT_ANALYZE_PASS)},
    }
    for (cell, seed), phases in runs.items():
        found.append({"cell": cell, "seed": seed, "settings": [], "phases": phases, "exported": "acquisition"})
    return found


def test_tables(study: ModuleType, ledger: Ledger) -> None:
    text = study.tables(ledger)
    assert "(`--group main`: 3 of 25 cells)" in text and "(`--group t5`: 0 of 4 cells)" in text
    row = "| both | acquisition | greedy | 10 | 2 | 25.0 ± 7.1 | 30.0, 20.0 | 10.0 ± 0.0 | 0.0 ± 0.0 | -1.00 ± 0.00 | 90 |"
    assert row in text
    assert "| both | acquisition | 75.0 ± 0.0 | 90.0 ± 0.0 | 80.0 ± 0.0 | 25.0 ± 0.0 |" in text
    assert "| held-out accuracy, %, at step | student | 250 | 750 | kept |" in text
    assert "| both | acquisition | 25.0 ± 0.0 | 50.0 ± 0.0 | 50.0 ± 0.0 |" in text
    assert "| both | iteration-1 |  |  | 50.0 ± 0.0 |" in text
    assert (
        "| both | iteration-1 | recall | 2 | 4 | 12 | 25.0 ± 0.0 | 25.0 ± 0.0 | 0.0 ± 0.0 | 25.0 ± 0.0 | 50.0 ± 0.0 |"
        in text
    )
    row = "| both | iteration-1 | 2 | 4 ± 0 | 1 ± 0 | 5 ± 0 | 2 ± 0 | 3 ± 0 | 6 | 0.50 ± 0.00, 0.75 ± 0.00 | 0.69 ± 0.00, 0.50 ± 0.00 | 1.00 ± 0.00, 0.90 ± 0.00 |"
    assert row in text
    assert "| both, iteration-1 - both, acquisition | 2 | +20.0 ± 14.1 | -107.1 to +147.1 |" in text
    assert "| both, acquisition - label, acquisition | 1 | +20.0 |  |" in text
    assert "| both, acquisition, self_consistency - both, acquisition | 2 | +10.0 ± 0.0 |" in text
    assert (
        "Exported by validation, both: acquisition, acquisition." in text
        and "Exported by validation, label" not in text
    )
    # 300 s of six trainings, and 60 s of draws before three of them
    assert text.endswith("6 trainings, one thread each: 0.6 hours together; from 300 to 360 s, median 330 s.\n")


def test_a_pass_that_was_not_run_has_no_figures(study: ModuleType, ledger: Ledger) -> None:
    text = study.tables(ledger)
    apart = text[text.index(study.GROUPS["reflection"].title) :]
    rows = [line for line in apart.splitlines() if line.startswith("| recall pairs | iteration-1 | ")]
    assert sum(row.startswith("| recall pairs | iteration-1 | recall |") for row in rows) == 1
    assert not any(row.startswith("| recall pairs | iteration-1 | analyze |") for row in rows)
    # on the seed that both have: 10 against 50 %
    assert "| recall pairs, iteration-1 - both, iteration-1 | 1 | -40.0 |  |" in apart


def test_the_order_of_rows_does_not_depend_on_hashes(ledger: Ledger) -> None:
    command = [sys.executable, str(SCRIPT), "--table", "--results", str(ledger.path)]
    one, other = (
        subprocess.run(
            command, env={**os.environ, "PYTHONHASHSEED": number}, capture_output=True, text=True, check=True
        ).stdout
        for number in ("1", "2")
    )
    assert one == other and "| label | acquisition |" in one
