"""What happens beside the steps of any run: metrics written, progress shown, the engine checked."""

from collections.abc import Callable, Mapping
from typing import Any

from transformers import Trainer
from transformers.trainer_callback import TrainerCallback, TrainerControl, TrainerState

from ..distributed import ranks
from ..distributed.engine import check_engine
from ..distributed.launch import launched_ranks
from ..distributed.launch_settings import LaunchSettings
from .run_folder import RunFolder


class EngineCheck(TrainerCallback):
    """UserError before the first step if another engine trains than the settings ask for."""

    def __init__(self, trainer: Trainer, launch: LaunchSettings) -> None:
        self._trainer = trainer
        self._launch = launch

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        check_engine(
            self._trainer.model_wrapped,
            self._launch,
            args.deepspeed,
            world_size=ranks.world_size(),
            launched_ranks=launched_ranks(),
        )


class MetricsLog(TrainerCallback):
    """Writes every log to `metrics.jsonl`, and shows progress; on rank 0.

    Args:
        update: called with (steps done, steps in all, a few words) after each step.
        rows: what an earlier part of the run logged; each new row is added.
        status: those words, from a row of the log; None keeps the ones before.
    """

    def __init__(
        self,
        folder: RunFolder,
        update: Callable[..., None],
        rows: list[dict[str, Any]],
        status: Callable[[Mapping[str, Any]], str | None],
    ) -> None:
        self.folder = folder
        self.rows = rows
        self._update = update
        self._status_of = status
        self._status = ""

    def on_log(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        row = {"step": state.global_step, **(logs or {})}
        self.write(row)
        self._status = self._status_of(row) or self._status

    def write(self, row: dict[str, Any]) -> None:
        if ranks.is_main():
            self.rows.append(row)
            self.folder.append_metrics(row)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._update(state.global_step, state.max_steps, self._status)
