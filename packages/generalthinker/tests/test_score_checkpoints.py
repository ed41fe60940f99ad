"""The script that scores right answers behind fixed reasoning at every checkpoint of a run."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from generalthinker.cli import app

SCRIPT = Path(__file__).parents[1] / "scripts/score_checkpoints.py"


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("score_checkpoints", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_change_is_that_of_the_weights(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first checkpoint is put back to the start's weights, so that nothing changes there; the second is not."""
    result = CliRunner().invoke(
        app,
        ["train", "--recipe", "embedded", "--output", str(tmp_path / "run"), "training.max_steps=2",
         "training.save_steps=1", "training.save_total_limit=5", "training.learning_rate=1e-2", "training.warmup_steps=0",
         "training.per_device_train_batch_size=8", "training.gradient_accumulation_steps=1", "evaluation.limit=4",
         "evaluation.every_steps=null", "evaluation.export=last"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    from thinker_common.models.load import load_policy

    first = tmp_path / "run/checkpoints/checkpoint-1/model.safetensors"
    start = load_policy("embedded@1", dtype="float32").state_dict()
    held = {name: start[name].to(weight.dtype).contiguous() for name, weight in load_file(first).items()}
    save_file(held, first, metadata={"format": "pt"})

    monkeypatch.setattr(sys, "argv", ["score_checkpoints.py", str(tmp_path / "run"), "--problems", "5"])
    with torch.random.fork_rng():
        script.main()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    head, _, before, unchanged, changed = rows
    assert head[1] == "reference (n = 5)"
    assert [row[0] for row in (before, unchanged, changed)] == ["0", "1", "2"]
    assert unchanged[1] == before[1] and unchanged[2] == "+0.00 ± 0.00"
    assert changed[1] != before[1] and changed[2] != "+0.00 ± 0.00"
