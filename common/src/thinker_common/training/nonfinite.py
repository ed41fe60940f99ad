"""What happens when a loss or a gradient is not a finite number: stop, or leave the step out. Never train on it."""

import math
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

    def losses(self) -> list[float]:
        """Of this rank, in this step so far."""
        return [float(loss) for loss in self._losses]

    def passed(self) -> None:
        """The step is sound."""
        self._skipped_in_a_row = 0
        self._forget()

    def save_batches(self, step: int, rank: int, losses_of_ranks: Sequence[Sequence[float]], grad_norm: float) -> None:
        """A rank whose losses are not finite saves its batches; all do where the losses are and the gradient is not."""
        bad = _not_finite(losses_of_ranks)
        if rank in bad or not bad:
            self._folder.mkdir(parents=True, exist_ok=True)
            content = {"losses": losses_of_ranks[rank], "grad_norm": grad_norm, "batches": self._batches}
            torch.save(content, self._folder / f"step-{step}-rank-{rank}.pt")

    def failed(self, step: int, losses_of_ranks: Sequence[Sequence[float]], grad_norm: float) -> None:
        """The step is not sound. UserError, unless it is to be left out; every rank calls this with the same."""
        self._forget()
        self._skipped_in_a_row += 1
        bad = _not_finite(losses_of_ranks)
        named = "; ".join(f"the loss of rank {number} is {losses_of_ranks[number]}" for number in bad)
        problem = f"step {step}: {named or f'the norm of the gradient is {grad_norm}'}; the batch is in {self._folder}"
        if self.policy == "stop":
            raise UserError(
                f"{problem}. The weights are those before the step. Leave the batch out, lower training.learning_rate, "
                "or set nonfinite = skip, which leaves out such steps"
            )
        if self._skipped_in_a_row >= MOST_SKIPPED:
            raise UserError(f"{problem}. {MOST_SKIPPED} steps in a row were left out: it is not the batch")

    def _forget(self) -> None:
        self._batches.clear()
        self._losses.clear()


def leave_out_not_finite(optimizer: torch.optim.Optimizer) -> None:
    """Makes the optimiser pass over a gradient that is not finite, and say so in `overflow`, where DeepSpeed looks.

    The optimisers of ZeRO-1 to 3 do this themselves; ZeRO-0 in float32 leaves the step to torch's.
    """
    optimizer.overflow = False  # type: ignore[attr-defined]

    def before_step(optimizer: Any, *_: Any) -> None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        optimizer.overflow = not bool(torch.nn.utils.get_total_norm(gradients).isfinite())
        if optimizer.overflow:
            for parameter in parameters:
                parameter.grad = None

    optimizer.register_step_pre_hook(before_step)


def finite(numbers: Sequence[float]) -> bool:
    return all(math.isfinite(number) for number in numbers)


def _not_finite(losses_of_ranks: Sequence[Sequence[float]]) -> list[int]:
    return [number for number, losses in enumerate(losses_of_ranks) if not finite(losses)]
