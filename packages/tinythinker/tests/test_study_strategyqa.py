"""The command for StrategyQA: from the authors' file to the lines and the tables, on a tiny student."""

import importlib.util
import json
import sys
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tiny_run import saved_student

from thinker_common.training import study
from thinker_common.training.study import Ledger
from tinythinker import _common, cli
from tinythinker._common import load_settings, recipes
from tinythinker.config import Settings

SCRIPT = Path(__file__).parents[1] / "scripts/study_strategyqa.py"
TINY = (
    "data.limit=6", "method.acquisition.max_steps=2", "method.acquisition.evaluate_every=1", "evaluation.limit=3",
    "evaluation.validation_limit=2", "method.reflection.limit=2", "method.reflection.samples=2",
    "generation.recall_tokens=4", "generation.analyze_tokens=3", "generation.summarize_tokens=3",
)  # fmt: skip


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("study_strategyqa", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["study_strategyqa"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def here(arguments: Sequence[str], log: Path, threads: int) -> None:
    """In place of a process of its own."""
    with pytest.raises(SystemExit) as caught:
        _common.run(cli.app, list(arguments))
    assert caught.value.code in (0, None), arguments


class OneAfterAnother(Executor):
    """A training in this process takes the main thread, for its signals."""

    def __init__(self, workers: int) -> None:
        assert workers == 1

    def submit(self, work: Any, /, *given: Any, **named: Any) -> "Future[Any]":
        done: Future[Any] = Future()
        done.set_result(work(*given, **named))
        return done


def test_the_settings_are_possible_and_steps_an_epoch(script: ModuleType) -> None:
    for name in script.CELLS:
        given = script.command(script.Cell(name, 1), "model", Path("data"), Path("work"))
        overrides = [one for one in given if "=" in one]
        text = recipes.recipe_text("tinythinker", "embedded")  # what a command without a recipe takes
        settings = load_settings(Settings, recipe_text=text, recipe_name="embedded", overrides=overrides)
        assert settings.evaluation.limit is None and settings.generation.recall_tokens == 128
        assert settings.method.iterations == (1 if name == "both" else 0)
        assert settings.data.limit * 4 == script.STEPS * settings.method.acquisition.batch_size, "one epoch of phase 1"
    assert script.MINUTES.keys() == script.CELLS.keys()
    assert 60 <= script.MINUTES["both"] + script.MINUTES["label"] <= 120


def test_from_the_authors_file_to_the_tables(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    rows = [
        {
            "qid": f"q{n}",
            "question": f"Is {n} an even number?",
            "answer": n % 2 == 0,
            "facts": [f"{n} ends in {n % 10}."],
        }
        for n in range(120)
    ]
    (tmp_path / "data/strategyqa").mkdir(parents=True)
    (tmp_path / "data/strategyqa/train.json").write_text(json.dumps(rows))
    monkeypatch.setattr(script, "tinythinker", here)
    monkeypatch.setattr(study, "ThreadPoolExecutor", OneAfterAnother)
    monkeypatch.setattr(script, "COMMON", (*script.COMMON, *TINY))
    ledger, work = tmp_path / "study.jsonl", tmp_path / "work"
    model = saved_student(tmp_path / "model")
    given = [model, "--data-dir", str(tmp_path / "data"), "--results", str(ledger), "--work", str(work)]
    monkeypatch.setattr(sys, "argv", ["study_strategyqa", *given])
    script.main()
    text = capsys.readouterr().out
    [both] = Ledger(ledger)["both"]
    assert list(both["phases"]) == ["acquisition", "iteration-1"]
    assert both["phases"]["acquisition"]["validation"].keys() == {"1", "2"}, "the curve"
    assert both["phases"]["acquisition"]["tests"]["greedy"]["answers"]["n"] == 3
    assert "| label | acquisition | option_likelihood | 3 | 1 |" in text
    assert "| held-out accuracy, %, at step | student | 1 | 2 | kept |" in text
    assert "| both, acquisition - label, acquisition | 1 |" in text
    monkeypatch.setattr(script, "tinythinker", None)  # nothing is left to run
    script.main()
    assert "| both, iteration-1 - both, acquisition | 1 |" in capsys.readouterr().out
