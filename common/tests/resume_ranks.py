"""Worker of test_resume_ranks.py: on several ranks, a stop by a signal and a resume are bit-exact.

    torchrun --nproc-per-node 2 resume_ranks.py FOLDER none|0|1|2|3 [kill|full]

Trains six steps untouched. Trains again, gets a SIGTERM on rank 1 alone in the middle of step 4, goes on from what all
ranks saved, and compares. Dropout is on, and every rank holds a factor of its own that three steps use. Then rank 1 gets a
loss that is not a number, once skipped and once stopped at. `kill`: rank 1 kills itself while it saves step 4 instead;
`full`: from there on the disk is full for rank 1 alone (needs fault_shim.c preloaded). Nothing follows then.
"""

import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
import parity
import tiny_training

from thinker_common.distributed import ranks
from thinker_common.distributed.process_group import leave
from thinker_common.errors import UserError
from thinker_common.training.dependable import choose_together
from thinker_common.training.signals import SavedAndStopped
from thinker_common.training.supervised import SupervisedTrainer

STEPS, STOP = 6, 4
FULL = 2  # of fault_shim.c


class Rollouts(SupervisedTrainer):
    """Draws, every third step and on every rank, a factor that three steps train with, as a rollout would be."""

    interrupted = False
    killed = full = False
    factor = torch.ones(())

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.state.global_step % 3 == 0 and self.accelerator.sync_gradients is False:
            self.factor = torch.rand(())
        if self.interrupted and self.state.global_step == STOP - 1 and ranks.rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
            self.interrupted = False
        return super().training_step(*args, **kwargs)

    def compute_loss(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return super().compute_loss(*args, **kwargs) * self.factor

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        if self.full and self.state.global_step == STOP and ranks.rank() == 1:
            shim = ctypes.CDLL(None)
            shim.fault_watch(f"{self.args.output_dir}/".encode())
            shim.fault_arm(1, FULL)
        super()._save_checkpoint(*args, **kwargs)

    def _save_rng_state(self, output_dir: str) -> None:
        """Written by every rank, behind the weights and the optimiser."""
        if self.killed and self.state.global_step == STOP and ranks.rank() == 1:
            (Path(self.args.output_dir) / "when").write_text(str(time.time()))
            os.kill(os.getpid(), signal.SIGKILL)
        super()._save_rng_state(output_dir)

    def rank_state(self) -> dict[str, Any]:
        return {} if self.state.global_step % 3 == 0 else {"factor": self.factor}

    def load_rank_state(self, state: dict[str, Any]) -> None:
        self.factor = state["factor"]


class Overflowing(SupervisedTrainer):
    """The first forward pass of step 3 gives rank 1 a loss that is not a number."""

    def compute_loss(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().compute_loss(*args, **kwargs)
        bad = self.state.global_step == 2 and ranks.rank() == 1 and not self.accelerator.sync_gradients
        return loss * float("nan") if bad else loss


def trainer(folder: Path, zero: str, cls: Any = Rollouts, **changes: Any) -> Any:
    layout = parity.Layout(
        ranks=int(os.environ["WORLD_SIZE"]), accumulation=2, zero=None if zero == "none" else int(zero)
    )
    arguments = parity.training_arguments(layout, folder, hidden_size=tiny_training.config().hidden_size)
    return tiny_training.trainer(
        folder, cls=cls, max_steps=STEPS, per_device_train_batch_size=2, gradient_accumulation_steps=2,
        deepspeed=arguments["deepspeed"], weight_decay=0.01, **changes,
    )  # fmt: skip


def weights(made: Any) -> dict[str, torch.Tensor]:
    """On rank 0; under ZeRO-3 the others get nothing."""
    return made.accelerator.get_state_dict(made.model_wrapped) or {}


def steps_not_finite(path: Path, zero: str) -> dict[str, Any]:
    """What a run does that skips them, and one that stops at them."""
    skipping = trainer(path / "skip", zero, Overflowing, save_strategy="no", nonfinite="skip")
    skipping.train()
    stopping = trainer(path / "stop", zero, Overflowing, save_strategy="no")
    try:
        stopping.train()
        raise AssertionError("a loss that is not a number was trained on")
    except UserError as error:
        message = str(error)
    return {
        "message": message.partition(";")[0].rpartition(" is ")[0],
        "finite": all(
            bool(tensor.isfinite().all()) for made in (skipping, stopping) for tensor in weights(made).values()
        ),
        "steps": [skipping.state.global_step, stopping.state.global_step],
        "batches": sorted(file.name for name in ("skip", "stop") for file in (path / name / "nonfinite").iterdir()),
    }


def main(folder: str, zero: str, *options: str) -> None:
    path = Path(folder)
    if options:
        made = trainer(path, zero)
        made.killed, made.full = "kill" in options, "full" in options
        made.train()
        raise AssertionError("the save of step 4 was to fail")
    whole = trainer(path / "whole", zero, save_strategy="no")
    whole.train()
    expected = weights(whole)

    stopped = trainer(path / "run", zero, save_strategy="no")
    stopped.interrupted = True
    try:
        stopped.train()
        raise AssertionError("the signal was not heard")
    except SavedAndStopped as stop:
        code = stop.code
    point = choose_together(path / "run", "auto")
    assert point.checkpoint is not None
    resumed = trainer(path / "run", zero, save_strategy="no")
    resumed.train(resume_from_checkpoint=point.checkpoint.path)
    found = weights(resumed)

    not_finite = steps_not_finite(path, zero)
    if ranks.is_main():
        logs = [
            [(row["step"], row["loss"]) for row in made.state.log_history if "loss" in row] for made in (whole, resumed)
        ]
        record = {
            "code": code,
            "step": point.checkpoint.manifest.step,
            "files": sorted(point.checkpoint.manifest.files),
            "rank_bound": point.checkpoint.manifest.rank_bound,
            "equal": all(torch.equal(found[name], expected[name]) for name in expected)
            and found.keys() == expected.keys(),
            "logs": logs[0] == logs[1],
        }
        (path / "record.json").write_text(json.dumps(record | not_finite))
    leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
