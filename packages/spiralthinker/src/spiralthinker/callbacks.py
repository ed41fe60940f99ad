"""What happens beside the steps of a stage: metrics written, progress shown, validation, the engine checked."""

import os
from collections.abc import Callable, Mapping
from typing import Any

from transformers.trainer_callback import TrainerCallback, TrainerControl, TrainerState

from ._common import BestWeights, EvaluationResult, LoadedBenchmark, RunFolder, check_engine, gathered, ranks
from .config import Settings
from .evaluations import evaluate_one
from .trainer import SpiralThinkerTrainer


class EngineCheck(TrainerCallback):
    """UserError before the first step if another engine trains than the settings ask for."""

    def __init__(self, trainer: SpiralThinkerTrainer, settings: Settings) -> None:
        self._trainer = trainer
        self._launch = settings.launch

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        check_engine(
            self._trainer.model_wrapped,
            self._launch,
            args.deepspeed,
            world_size=ranks.world_size(),
            launched_ranks=int(os.environ.get("WORLD_SIZE", "1")),
        )


class MetricsCallback(TrainerCallback):
    """Writes every log to `metrics.jsonl`, and shows progress; on rank 0."""

    def __init__(self, folder: RunFolder, update: Callable[..., None], rows: list[dict[str, Any]]) -> None:
        self.folder = folder
        self.rows = rows
        self._update = update
        self._status = ""

    def on_log(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.write({"step": state.global_step, **(logs or {})})
        if logs is not None and "cross_entropy" in logs:
            aligned = f", alignment {logs['alignment']:.3f}" if "alignment" in logs else ""
            self._status = f"cross-entropy {logs['cross_entropy']:.3f}{aligned}"

    def write(self, row: dict[str, Any]) -> None:
        if ranks.is_main():
            self.rows.append(row)
            self.folder.append_metrics(row)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._update(state.global_step, state.max_steps, self._status)


class ValidationCallback(TrainerCallback):
    """Greedy accuracy on problems held out of the training data, while a stage trains."""

    def __init__(
        self,
        trainer: SpiralThinkerTrainer,
        benchmark: LoadedBenchmark,
        settings: Settings,
        metrics: MetricsCallback,
        best: BestWeights,
    ) -> None:
        self._trainer = trainer
        self._benchmark = benchmark
        self._settings = settings
        self._log = metrics
        self._best = best

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        every = self._settings.evaluation.every_steps
        if every is None or state.global_step % every:
            return
        with gathered(self._trainer.model_wrapped) as base:
            step = state.global_step
            result = evaluate_one(self._trainer.spiral, self._benchmark, self._settings).result
            ranks.on_main(lambda: self._keep(base, step, result), "keep the validation")

    def _keep(self, base: Any, step: int, result: EvaluationResult) -> None:
        self._best.offer(base, step, result.accuracy)
        self._log.write(
            {
                "step": step,
                "validation/accuracy": result.accuracy,
                "validation/standard_error": result.standard_error,
                "validation/boxed_rate": result.boxed_rate,
                "validation/tokens": result.mean_tokens,
            }
        )
