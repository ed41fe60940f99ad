"""The study's command: its cells can be run, a changed recipe is noticed, a run becomes a line, and what tables say."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tiny_run import run, saved_student

from thinker_common.training.study import Ledger, pack_answers, unpack_answers
from tinythinker._common import load_settings, recipes
from tinythinker.config import Settings

SCRIPT = Path(__file__).parents[1] / "scripts/study_embedded.py"


@pytest.fixture
def study() -> ModuleType:
    spec = importlib.util.spec_from_file_location("study_embedded", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["study_embedded"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_every_setting_of_every_cell_is_possible(study: ModuleType) -> None:
    cells = study.missing(Ledger(Path("there is none")), list(study.GROUPS))
    assert len({(cell.name, cell.seed) for cell in cells}) == len(cells) == 39
    for cell in cells:
        text = recipes.recipe_text("tinythinker", "embedded")
        load_settings(Settings, recipe_text=text, recipe_name="embedded", overrides=list(cell.settings))


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
    assert found["phases"]["acquisition"]["curves"]["step"] == [1, 2, 3, 4]
    assert len(found["phases"]["acquisition"]["validation"]) == 2


def test_tables(study: ModuleType, tmp_path: Path) -> None:
    def phase(right: set[int], **rest: Any) -> dict[str, Any]:
        answers = pack_answers({f"p{i}": i in right for i in range(10)})
        figures = {"accuracy": len(right) / 10, "no_answer_rate": 0.1, "answer_loglik": -1.0, "mean_tokens": 90.0}
        return {"tests": {"greedy": {**figures, "answers": answers}}, "steps": 6, **rest}

    reflected = {
        "recall_pass": {"right": 3, "chains": 12},
        "analyze_pass": {"right": 6, "chains": 12},
        "pairs": {"recall": 4, "recall_from_teacher": 1, "analyze": 5},
        "curves": {"step": [1, 2], "agreement": [0.5, 0.75]},
    }
    runs = {
        ("both", 1): {"acquisition": phase({0, 1, 2}), "iteration-1": phase({0, 1, 2, 3}, **reflected)},
        ("both", 2): {"acquisition": phase({0, 1}), "iteration-1": phase({0, 1, 2, 3, 4}, **reflected)},
        ("label", 1): {"acquisition": phase({5})},
    }
    ledger = Ledger(tmp_path / "study.jsonl")
    for (cell, seed), phases in runs.items():
        ledger.append({"cell": cell, "seed": seed, "settings": [], "phases": phases})
    text = study.tables(ledger)
    assert "(`--group main`: 3 of 15 cells)" in text and "(`--group t5`: 0 of 3 cells)" in text
    assert "| both | acquisition | greedy | 10 | 2 | 25.0 ± 7.1 | 10.0 ± 0.0 | -1.00 ± 0.00 | 90 |" in text
    assert "| both | iteration-1 | 2 | 25.0 ± 0.0 | 50.0 ± 0.0 | 4 | 1 | 5 | 6 | 0.50, 0.75 |" in text
    assert "| both, iteration-1, greedy - both, acquisition | 2 | +20.0 ± 14.1 | -107.1 to +147.1 |" in text
    assert "| label, acquisition, greedy - both, acquisition | 1 | -20.0 |  |" in text
