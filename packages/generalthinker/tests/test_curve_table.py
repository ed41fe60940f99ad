"""The script that prints a run's curves as a table."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts/curve_table.py"


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("curve_table", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_means_over_steps_and_what_some_steps_lack(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = [
        {"step": 0, "validation/accuracy": 0.25, "validation/boxed_rate": 1.0, "validation/answer_loglik": -2.0},
        {"step": 1, "reward": -4.0, "boxed_rate": 0.5, "kl": 0.1, "answer_logprob": -3.0},
        {"step": 2, "reward": -2.0, "boxed_rate": 1.0, "kl": 0.3},
        {"step": 3, "reward": -1.0, "boxed_rate": 1.0, "kl": 0.5, "answer_logprob": -1.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics))
    monkeypatch.setattr(sys, "argv", ["curve_table.py", str(tmp_path), "--every", "2"])
    script.main()
    printed = capsys.readouterr().out
    assert "| 1 to 2 | -3.0 | 75% |  |  | 0.20 |  |  | -3.0 |" in printed
    assert "| 3 to 3 | -1.0 | 100% |  |  | 0.50 |  |  | -1.0 |" in printed
    assert "| 0 | 25.0% | 100% | -2.00 |" in printed
