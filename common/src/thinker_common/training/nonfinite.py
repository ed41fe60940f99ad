"""What happens when a loss or a gradient is not a finite number: stop, or leave the step out. Never train on it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import UserError

NonFinite = Literal["stop", "skip"]
MOST_SKIPPED = 10  # optimiser steps in a row; by then it is the weights, and no batch will be better


class NonFiniteGuard:
    """Keeps the batches of the current optimiser step until it is known that they can be trained on."""

    def __init__(self, policy: NonFinite, folder: Path) -> None:
        self.policy = policy
        self._folder = folder
        self._batches: list[Any] = []
        self._losses: list[Tensor] = []
        self._skipped_in_a_row = 0

    def saw_batch(self, batch: Any) -> None:
        self._batches.append(batch)

    def saw_loss(self, loss: Tensor) -> None:
        self._losses.append(loss)

    def losses_finite(self) -> bool:
        """On this rank, in this step so far."""
        return all(bool(loss.isfinite().all()) for loss in self._losses)

    def passed(self) -> None:
        """The step is sound."""
        self._skipped_in_a_row = 0
        self._forget()

    def failed(self, step: int, rank: int, grad_norm: float) -> None:
        """The step is not: saves this rank's batches, and raises unless the step is to be left out.

        Every rank calls this in the same step. A rank whose own losses are finite saves its batches too where no
        loss but the gradient is at fault.
        """
        losses = [float(loss) for loss in self._losses]
        saved = None
        if not self.losses_finite() or rank == 0:
            saved = self._save(step, rank, losses, grad_norm)
        self._forget()
        self._skipped_in_a_row += 1
        named = f"step {step + 1}: the loss is {losses}, the gradient's norm {grad_norm}"
        where = f"; the batch is in {saved}" if saved else ""
        if self.policy == "stop":
            raise UserError(
                f"{named}{where}. The weights are untouched. Lower training.learning_rate or leave the batch out; "
                "method.nonfinite=skip leaves out such steps"
            )
        if self._skipped_in_a_row >= MOST_SKIPPED:
            raise UserError(f"{named}{where}. {MOST_SKIPPED} steps in a row were left out: it is not the batch")

    def _save(self, step: int, rank: int, losses: Sequence[float], grad_norm: float) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"step-{step + 1}-rank-{rank}.pt"
        torch.save({"losses": losses, "grad_norm": grad_norm, "batches": self._batches}, path)
        return path

    def _forget(self) -> None:
        self._batches.clear()
        self._losses.clear()
