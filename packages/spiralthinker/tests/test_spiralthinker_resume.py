"""A run that goes on by the same command ends bit for bit where it would have ended, from every step of both stages."""

import functools
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from spiralthinker.cli import app
from thinker_common.benchmarks import chains
from thinker_common.models.load import load_policy, load_tokenizer

_path = Path(__file__).parents[3] / "common/tests/cut_runs.py"
_spec = importlib.util.spec_from_file_location("cut_runs", _path)
cut_runs: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(cut_runs)

STEPS = {"stage1": 4, "run": 5}  # of both stages; three make an epoch
# Every second step is logged: every other checkpoint is in the middle of what a row of the log is about.
RUN = [
    f"stage1.max_steps={STEPS['stage1']}", f"training.max_steps={STEPS['run']}", "training.logging_steps=2",
    "training.per_device_train_batch_size=2", "training.gradient_accumulation_steps=2", "training.learning_rate=1e-3",
    "training.save_total_limit=2", "data.limit=15", "method.latents=2", "method.iterations=2", "evaluation.limit=3",
    "evaluation.max_new_tokens=24", "evaluation.every_steps=1", "evaluation.validation_limit=3",
]  # fmt: skip
SAVING = ["training.save_strategy=steps", "training.save_steps=1"]
VARIANTS = {
    "full": [],
    "LoRA": ["model.lora.r=2", "model.lora.dropout=0.1", "evaluation.export=last"],
    "frozen teacher": ["method.teacher=frozen", "evaluation.export=last"],
}
TRAINED = [f"{stage}-{step}-trained" for stage, steps in STEPS.items() for step in range(1, steps + 1)]
CUTS = [*TRAINED, *(f"{stage}-{steps}-saved" for stage, steps in STEPS.items())]
QUICK = [("full", "stage1-3-trained"), ("full", "stage1-4-saved"), ("full", "run-4-trained")]


def train(output: Path, *options: str) -> int:
    """The exit code of a run in this process: 0, or 75 where it was stopped."""
    result = CliRunner().invoke(app, ["train", *RUN, *options, "--output", str(output)], catch_exceptions=False)
    return result.exit_code


@pytest.fixture(scope="module", autouse=True)
def _data_drawn_once() -> Iterator[None]:
    """Drawing all of chains takes longer than one of these runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chains, "generate", functools.cache(chains.generate))
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The embedded model with dropout, which random numbers go into."""
    folder = tmp_path_factory.mktemp("model")
    load_policy("embedded").save_pretrained(folder)
    load_tokenizer("embedded").save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"attention_dropout": 0.1}))
    return f"model.name_or_path={folder}"


@pytest.fixture(scope="module")
def straight(model: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """By its name a variant's options, a run of it that nothing stops, and the images of that."""

    @functools.cache
    def of(variant: str) -> tuple[list[str], Path, Path]:
        folder, options = tmp_path_factory.mktemp("straight"), [model, *VARIANTS[variant], *SAVING]
        with pytest.MonkeyPatch.context() as patch:
            cut_runs.take_images(folder / "run", folder / "images", patch.setattr)
            assert train(folder / "run", *options) == 0
        return options, folder / "run", folder / "images"

    return of


@pytest.mark.parametrize(
    ("variant", "cut"),
    [
        pytest.param(variant, cut, marks=[] if (variant, cut) in QUICK else pytest.mark.slow)
        for variant in VARIANTS
        for cut in CUTS
    ],
)
def test_a_kill_in_any_step(straight: Any, tmp_path: Path, variant: str, cut: str) -> None:
    options, whole, images = straight(variant)
    shutil.copytree(images / cut, tmp_path / "run")
    assert train(tmp_path / "run", *options) == 0
    cut_runs.assert_same_end(tmp_path / "run", whole)


def test_a_stop_in_every_step(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a signal, with checkpoints of nothing but the stops."""
    options = [model, "evaluation.export=last", "training.save_strategy=no"]
    assert train(tmp_path / "whole", *options) == 0
    cut_runs.stop_every_step_once(monkeypatch.setattr)
    codes = [train(tmp_path / "run", *options) for _ in range(sum(STEPS.values()) + 1)]
    assert codes == [75] * sum(STEPS.values()) + [0]
    for checkpoints in tmp_path.rglob("checkpoints"):
        shutil.rmtree(checkpoints)  # of the whole run there are none
    cut_runs.assert_same_end(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="DeepSpeed is for Linux")
@pytest.mark.parametrize("zero", ["2", "3"])
def test_a_kill_of_two_ranks_in_each_stage(model: str, tmp_path: Path, zero: str) -> None:
    whole, images = tmp_path / "whole", tmp_path / "images"
    options = [*RUN, *SAVING, model, "training.per_device_train_batch_size=1", "--gpus", "2", "--zero", zero]
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command(*launcher, str(_path), "spiralthinker", str(images), str(whole), *options)
    for cut in ("stage1-2-trained", "run-4-trained"):
        shutil.copytree(images / cut, tmp_path / cut)
        command("spiralthinker", "train", *options, "--output", str(tmp_path / cut))
        cut_runs.assert_same_end(tmp_path / cut, whole)


def command(*arguments: str) -> None:
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *arguments], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
