"""A run that goes on by the same command ends bit for bit where it would have ended, from every step of both phases."""

import functools
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import SETTINGS, run
from tiny_students import KINDS, save, student
from transformers import T5ForConditionalGeneration

from thinker_common.benchmarks import facts
from thinker_common.errors import UserError
from thinker_common.likelihood.scorer import AnswerScorer
from thinker_common.training.signals import SavedAndStopped

_path = Path(__file__).parents[3] / "common/tests/cut_runs.py"
_spec = importlib.util.spec_from_file_location("cut_runs", _path)
cut_runs: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(cut_runs)

STEPS = {"acquisition": 4, "iteration-1": 3, "iteration-2": 3}
DROPOUT = {"causal": {"attention_dropout": 0.1}, "t5": {"dropout_rate": 0.1}}  # phase 2 has none
# Every second step is logged: every other checkpoint is in the middle of what a row of the log is about. Exported are
# the last weights, which all steps before have made.
RUN = ["training.logging_steps=2", "training.per_device_train_batch_size=2", "evaluation.export=last"]
TRAINED = [f"{phase}-{step}-trained" for phase, steps in STEPS.items() for step in range(1, steps + 1)]
CUTS = [*TRAINED, *(f"{phase}-{steps}-saved" for phase, steps in STEPS.items())]
QUICK = [("t5", "acquisition-4-trained"), ("t5", "iteration-1-2-trained"), ("t5", "iteration-2-3-saved")]


@pytest.fixture(scope="module", autouse=True)
def _data_drawn_once() -> Iterator[None]:
    """Drawing all of facts takes longer than one of these runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(facts, "generate", functools.cache(facts.generate))
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """By its kind, a student with dropout, which random numbers go into."""
    return functools.cache(
        lambda kind: save(student(kind, seed=2, **DROPOUT[kind]), tmp_path_factory.mktemp("student"))
    )


@pytest.fixture(scope="module")
def straight(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """By the kind of its student, a run that nothing stops, and the images of that."""

    @functools.cache
    def of(kind: str) -> tuple[Path, Path]:
        folder = tmp_path_factory.mktemp("straight")
        with pytest.MonkeyPatch.context() as patch:
            cut_runs.take_images(folder / "run", folder / "images", patch.setattr)
            run(folder / "run", model(kind), *RUN)
        return folder / "run", folder / "images"

    return of


@pytest.mark.parametrize(
    ("kind", "cut"),
    [pytest.param(kind, cut, marks=[] if (kind, cut) in QUICK else pytest.mark.slow) for kind in KINDS for cut in CUTS],
)
def test_a_kill_in_any_step(straight: Any, model: Any, tmp_path: Path, kind: str, cut: str) -> None:
    whole, images = straight(kind)
    shutil.copytree(images / cut, tmp_path / "run")
    run(tmp_path / "run", model(kind), *RUN)
    cut_runs.assert_same_end(tmp_path / "run", whole)


TOO_MUCH = {
    "generate": (
        (T5ForConditionalGeneration, "generate"),
        r"generating for recall: lower generation.max_tokens_per_batch \(now 16384\) .* generation.recall_tokens \(now 6\)",
    ),
    "pairs": ((AnswerScorer, "score"), r"scoring the pairs: lower generation.max_tokens_per_batch \(now 16384\)$"),
    "options": ((AnswerScorer, "score"), r"scoring the options: lower generation.max_tokens_per_batch \(now 16384\)$"),
}


@pytest.mark.parametrize(
    ("phase", "what"),
    [
        ("acquisition", "options"),
        pytest.param("acquisition", "generate", marks=pytest.mark.slow),
        ("iteration-1", "generate"),
        pytest.param("iteration-1", "pairs", marks=pytest.mark.slow),
        pytest.param("iteration-2", "generate", marks=pytest.mark.slow),
    ],
)
def test_a_run_without_memory_says_what_to_lower_and_goes_on(
    straight: Any, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str, what: str
) -> None:
    """In an evaluation while phase 1 trains, in the chains of phase 2 and in the scores of its reference."""
    whole, _ = straight("t5")
    (owner, name), message = TOO_MUCH[what]
    own = getattr(owner, name)

    def too_large(*args: Any, **kwargs: Any) -> Any:
        if (tmp_path / "run" / phase).is_dir():
            torch.empty(1 << 50)  # more than any host has
        return own(*args, **kwargs)

    monkeypatch.setattr(owner, name, too_large)
    with pytest.raises(UserError, match=f"^out of memory while {message}"):
        run(tmp_path / "run", model("t5"), *RUN)
    monkeypatch.undo()
    run(tmp_path / "run", model("t5"), *RUN)
    cut_runs.assert_same_end(tmp_path / "run", whole)


def test_a_stop_in_every_step(straight: Any, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a signal, with checkpoints of nothing but the stops."""
    whole, _ = straight("t5")
    cut_runs.stop_every_step_once(monkeypatch.setattr)
    for _ in range(sum(STEPS.values())):
        with pytest.raises(SavedAndStopped):
            run(tmp_path / "run", model("t5"), *RUN, "training.save_strategy=no")
    run(tmp_path / "run", model("t5"), *RUN, "training.save_strategy=no")
    cut_runs.assert_same_end(tmp_path / "run", whole)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="DeepSpeed is for Linux")
@pytest.mark.parametrize("zero", ["2", "3"])
def test_a_kill_of_two_ranks_in_each_phase(model: Any, tmp_path: Path, zero: str) -> None:
    whole, images = tmp_path / "whole", tmp_path / "images"
    options = [*SETTINGS, *RUN, f"model.name_or_path={model('t5')}", "--gpus", "2", "--zero", zero]
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command(*launcher, str(_path), "tinythinker", str(images), str(whole), *options)
    for cut in ("acquisition-2-trained", "iteration-1-2-trained", "iteration-2-2-trained"):
        shutil.copytree(images / cut, tmp_path / cut)
        command("tinythinker", "train", *options, "--output", str(tmp_path / cut))
        cut_runs.assert_same_end(tmp_path / cut, whole)


def command(*arguments: str) -> None:
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *arguments], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
