"""The study's command: which cells there are, that finished ones are kept, and what its tables say."""

import importlib.util
import sys
from dataclasses import replace
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from thinker_common.training.study import Ledger, pack_answers

SCRIPT = Path(__file__).parents[1] / "scripts/study_grid.py"


@pytest.fixture
def study() -> ModuleType:
    spec = importlib.util.spec_from_file_location("study_grid", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["study_grid"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def result(study: ModuleType, cell: Any, right: set[int]) -> dict[str, Any]:
    trained = cell.settings is not None
    return {
        "task": cell.task, "cell": cell.name, "seed": cell.seed, "settings": study.settings_of(cell, []),
        "accuracy": len(right) / 10, "boxed_rate": 1.0, "truncation_rate": 0.0, "answer_loglik": -1.0,
        "answers": pack_answers({f"p{i}": i in right for i in range(10)}),
        "validation": {"4": [0.5, -1.0]} if trained else {},
        "training_seconds": 90.0 if trained else None,
        "curves": {
            "step": [1, 2], "kl": [0.01, 0.02], "grad_norm": [1.0, 1.0], "entropy": [0.5, 0.25],
            "groups_without_signal": [0.0, 0.0], "well_formed_rate": [0.75, 0.75],
            "credit/sign_flip_ratio": [None, None], "completions/mean_length": [20.0, 20.0],
        } if trained else {},
    }  # fmt: skip


def test_every_setting_of_every_cell_is_possible(study: ModuleType) -> None:
    from generalthinker._common import load_settings, recipes
    from generalthinker.arguments import training_arguments
    from generalthinker.config import Settings

    names = []
    for group in study.GROUPS.values():
        for cell in study.cells_of(group):
            names.append((cell.name, cell.seed))
            if cell.settings is not None and cell.seed == 1:
                arguments = study.command(cell, Path("out"), Path("run"), [])
                settings = load_settings(
                    Settings,
                    recipe_text=recipes.recipe_text("generalthinker", "embedded"),
                    recipe_name="embedded",
                    overrides=arguments[arguments.index("--seed") + 2 :],
                )
                rate = cell.name.partition("-")[2] if cell.name.endswith(("2.5e-4", "1e-3")) else "5e-4"
                assert training_arguments(settings, Path("run")).learning_rate == float(rate), cell.name
        known = {cell for other in study.GROUPS.values() for cell in other.cells}
        assert set(group.also) <= known
        assert set(chain.from_iterable(group.pairs)) <= {*group.also, *group.cells}, "what is compared is shown"
        assert len(set(group.pairs)) == len(group.pairs)
    assert len(set(names)) == len(names), "a file has the result of one cell"


def test_finished_cells_are_kept_and_others_settings_refused(study: ModuleType, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "study.jsonl")
    first, *rest = study.missing(ledger, ["main"], [])
    assert (first.name, len(rest)) == ("base", 30)
    ledger.append(result(study, first, {1}))
    assert study.missing(ledger, ["main"], []) == rest
    ledger.append(result(study, rest[0], {1}) | {"settings": ["other"]})
    with pytest.raises(SystemExit, match=r"binary, seed 1 was made with other settings"):
        study.missing(ledger, ["main"], [])


def test_the_committed_results_are_of_this_grid_and_on_its_page(study: ModuleType) -> None:
    page = study.LEDGER.parents[1] / "generalthinker.md"
    if not page.exists():
        pytest.skip("the pages are not part of the source distribution")
    ledger = Ledger(study.LEDGER)
    study.missing(ledger, list(study.GROUPS), [])  # raises for a cell of other settings
    _, heading, behind = page.read_text(encoding="utf-8").partition("### Methods, the same budget")
    shown = heading + behind.partition("## What each reward calls good")[0]
    assert shown.strip() == study.tables(ledger).strip(), f"{page} holds what {SCRIPT.name} --table prints"


def test_tables(study: ModuleType, tmp_path: Path) -> None:
    cells = {(c.name, c.seed): c for c in study.cells_of(study.GROUPS["main"])}
    right = {
        ("base", 1): {0}, ("likelihood", 1): {0, 1, 2}, ("likelihood", 2): {0, 1, 2, 3, 4},
        ("generalthinker", 1): {0, 1, 2, 3}, ("generalthinker", 2): {0, 1, 2, 3, 4, 5, 6, 7}, ("rlpr", 1): {5},
    }  # fmt: skip
    ledger = Ledger(tmp_path / "study.jsonl")
    for key, numbers in right.items():
        ledger.append(result(study, cells[key], numbers))
    text = study.tables(ledger)
    assert "(`--group main`: 6 of 31 cells)" in text
    assert "(`--group phrases`: 0 of 31 cells)" in text
    assert "| likelihood | 2 | 40.0 ± 14.1 | 30.0, 50.0 | 100.0 | 0.0 | -1.00 ± 0.00 |" in text
    assert "| base | 1 | 10.0 | 10.0 | 100.0 |" in text
    # differences of 10 and 30 points: mean 20, deviation 14.1, half width of the t interval 12.706 * 10
    assert "| generalthinker - likelihood | 2 | +20.0 ± 14.1 | -107.1 to +147.1 |" in text
    assert "| base - likelihood | 2 | -30.0 ± 14.1 |" in text, "the untrained model is compared with every seed"
    assert "| rlpr - likelihood | 1 | -20.0 |  |" in text
    assert "| rlpr - generalthinker | 1 | -30.0 |  |" in text
    assert "| 512 |" in text, "after four steps of 128 responses"
    row = "| likelihood | 0.0200 ± 0.0000 | 0.50, 0.50 ± 0.00, 0.25 ± 0.00 | 1.00 ± 0.00 |  | 0.0 | 25.0 | 20 |"
    assert row in text
    assert text.endswith("5 trainings, one thread each: 0.1 hours together; from 90 to 90 s, median 90 s.\n")


def test_every_row_of_a_table_is_on_the_seeds_of_its_group(study: ModuleType, tmp_path: Path, monkeypatch: Any) -> None:
    """A cell of another group, with more seeds, stands in it with the same ones as its neighbours."""
    ledger = Ledger(tmp_path / "study.jsonl")
    rates = replace(study.GROUPS["learning-rate"], seeds=2)
    monkeypatch.setitem(study.GROUPS, "learning-rate", rates)
    for cell in chain(study.cells_of(study.GROUPS["main"]), study.cells_of(rates)):
        if cell.name in ("likelihood", "likelihood-1e-3"):
            ledger.append(result(study, cell, set(range(cell.seed))))
    text = study.tables(ledger)
    main, of_rates = text[: text.index("### Free-form")], text[text.index(f"### {rates.title}") :]
    assert "| likelihood | 5 | 30.0 ± 15.8 | 10.0, 20.0, 30.0, 40.0, 50.0 |" in main
    assert "| likelihood | 2 | 15.0 ± 7.1 | 10.0, 20.0 |" in of_rates
    assert "best of the three rates" not in of_rates, "a rate is missing"


def test_the_best_learning_rate_is_chosen_without_the_test_problems(study: ModuleType, tmp_path: Path) -> None:
    """By the held-out accuracy of the last step; `binary` is best on the test problems at another rate."""
    held_out = {
        "binary": 0.6, "binary-2.5e-4": 0.6, "binary-1e-3": 0.5,
        "likelihood": 0.3, "likelihood-2.5e-4": 0.2, "likelihood-1e-3": 0.4,
    }  # fmt: skip
    right = {"binary": 5, "binary-2.5e-4": 6, "binary-1e-3": 9, "likelihood-1e-3": 2}
    ledger = Ledger(tmp_path / "study.jsonl")
    for cell in chain.from_iterable(study.cells_of(study.GROUPS[name]) for name in ("main", "learning-rate")):
        if cell.name in held_out and cell.seed <= 2:
            validation = {"validation": {"4": [0.99, -1.0], "16": [held_out[cell.name], -1.0]}}
            ledger.append(result(study, cell, set(range(right.get(cell.name, 1)))) | validation)
    text = study.tables(ledger)
    assert "| binary | 5e-4 | 60.0 ± 0.0 | 50.0 ± 0.0 |" in text, "the recipe's rate wins a tie"
    assert "| likelihood | 1e-3 | 40.0 ± 0.0 | 20.0 ± 0.0 |" in text
    assert "| binary - likelihood-1e-3 | 2 | +30.0 ± 0.0 |" in text
    assert "| binary-1e-3 - likelihood-1e-3 | 2 | +70.0 ± 0.0 |" in text, "and at equal rates"
