"""Runs that are cut off in every step, for tests that they go on to the same end, bit for bit.

    torchrun --nproc-per-node 2 cut_runs.py METHOD IMAGES RUN ARGUMENTS...   # METHOD train ARGUMENTS... --output RUN

The tests of the methods load this file by its path. A kill is a copy ("image") of the run folder, as it is on the disk
at that instant, which the same command goes on from. While METHOD trains, two are made in every optimiser step of every
phase:

    IMAGES/PHASE-STEP-trained   the step is taken, validated and logged, and its checkpoint not yet begun: the run goes
                                on from the checkpoint before, and has to take back what it finds of this step
    IMAGES/PHASE-STEP-saved     its checkpoint is in place

PHASE is the folder that the phase has its checkpoints in, relative to RUN ("run" for RUN itself).
"""

import hashlib
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from thinker_common.distributed import ranks
from thinker_common.training.dependable import DependableMixin

# What a process says of itself: when, for how long, and what it alone has measured.
OF_A_PROCESS = re.compile(r"seconds|runtime|per_second|resumed_at|^responses$|cost_of_a_response")

Patch = Callable[[Any, str, Any], None]  # sets an attribute


def take_images(run: Path, images: Path, patch: Patch) -> None:
    """Copies `run` twice at every save, from here on; of several ranks the first one does."""
    own = DependableMixin._save_checkpoint

    def save(trainer: DependableMixin, *args: Any, **kwargs: Any) -> None:
        phase = trainer._folder.parent.relative_to(run).as_posix()
        name = f"{'run' if phase == '.' else phase}-{trainer.state.global_step}"
        ranks.on_main(lambda: shutil.copytree(run, images / f"{name}-trained"), "copy the run")
        own(trainer, *args, **kwargs)
        ranks.on_main(lambda: shutil.copytree(run, images / f"{name}-saved"), "copy the run")

    patch(DependableMixin, "_save_checkpoint", save)


def stop_every_step_once(patch: Patch) -> None:
    """Sends this process SIGTERM in the middle of every optimiser step, the first time that it is trained."""
    own, stopped = DependableMixin.training_step, set()

    def step(trainer: DependableMixin, *args: Any, **kwargs: Any) -> torch.Tensor:
        place = (trainer._folder, trainer.state.global_step)
        if place not in stopped:
            stopped.add(place)
            os.kill(os.getpid(), signal.SIGTERM)
        return own(trainer, *args, **kwargs)

    patch(DependableMixin, "training_step", step)


def assert_same_end(ours: Path, theirs: Path) -> None:
    """Two run folders have the same weights, logs, answers and results, bit for bit."""
    for pattern, read in READ.items():
        names = [sorted(path.relative_to(run).as_posix() for path in run.rglob(pattern)) for run in (ours, theirs)]
        assert names[0] == names[1]
        for name in names[0]:
            assert read(ours / name) == read(theirs / name), name


def _tensors(path: Path) -> dict[str, str]:
    """Name -> SHA-256 of its bytes."""
    return {
        name: hashlib.sha256(tensor.flatten().view(torch.uint8).numpy()).hexdigest()
        for name, tensor in load_file(path).items()
    }


def _rows(path: Path) -> list[Any]:
    rows = [timeless(json.loads(line)) for line in path.read_text().splitlines()]
    # Answers are in the order in which they were finished.
    return rows if path.name == "metrics.jsonl" else sorted(rows, key=json.dumps)


def _plain(path: Path) -> Any:
    return timeless(json.loads(path.read_text()))


def timeless(value: Any) -> Any:
    """Plain data without what a process says of itself."""
    if isinstance(value, dict):
        return {name: timeless(item) for name, item in value.items() if not OF_A_PROCESS.search(name)}
    return [timeless(item) for item in value] if isinstance(value, list) else value


READ: dict[str, Callable[[Path], Any]] = {
    "*.safetensors": _tensors,
    "*.jsonl": _rows,
    "results.json": _plain,
    "trained.json": _plain,
    "phase.json": _plain,
}


def main(method: str, images: str, run: str, *arguments: str) -> None:
    take_images(Path(run), Path(images), setattr)
    import_module(f"{method}.cli").app(["train", *arguments, "--output", run])


if __name__ == "__main__":
    main(*sys.argv[1:])
