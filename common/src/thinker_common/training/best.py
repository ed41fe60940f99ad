"""The weights with the best validation score, kept beside the checkpoints until the run's model is exported."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..models.adapters import trained_weights
from . import durable


class BestWeights:
    """Keeps the trained weights of the step whose score is highest; of equal scores, of the first.

    Args:
        path: the file that holds them.
        history: what was logged before, for a run that goes on: `{"step": ..., metric: ...}`.
        metric: the name of the score in it.
    """

    def __init__(self, path: Path, history: Sequence[Mapping[str, Any]], metric: str = "validation/accuracy") -> None:
        self.path = path
        self.step = 0
        self.score = float("-inf")
        for row in history:
            if row.get(metric) is not None:
                self._note(row["step"], row[metric])
        if self.step and _step_in(path) != self.step:  # of a step that is forgotten, or of a file that is gone
            self.step, self.score = 0, float("-inf")

    def offer(self, model: nn.Module, step: int, score: float) -> bool:
        """Saves the weights if the score is the best so far; whether it was. On rank 0, with whole parameters."""
        if not self._note(step, score):
            return False
        partial = self.path.with_name(f".{self.path.name}.{uuid4().hex}")
        try:
            save_file(trained_weights(model), partial, metadata={"step": str(step)})
            durable.sync_file(partial)
            os.replace(partial, self.path)
        finally:
            partial.unlink(missing_ok=True)
        return True

    def load(self) -> dict[str, Tensor]:
        """Name -> weight, as `trained_weights` names them."""
        return load_file(self.path)

    def _note(self, step: int, score: float) -> bool:
        if not score > self.score:
            return False
        self.step, self.score = step, score
        return True


def _step_in(path: Path) -> int | None:
    """The step whose weights a file has; None for a file that is not there or says none."""
    try:
        with safe_open(path, "pt") as file:
            return int((file.metadata() or {})["step"])
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
