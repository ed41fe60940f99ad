"""What happens beside the steps of a stage: validation, and what the progress bar says."""

from collections.abc import Mapping
from typing import Any

from transformers.trainer_callback import TrainerCallback, TrainerControl, TrainerState

from ._common import BestWeights, EvaluationResult, LoadedBenchmark, MetricsLog, gathered, ranks
from .config import Settings
from .evaluations import evaluate_one
from .trainer import SpiralThinkerTrainer


def status(row: Mapping[str, Any]) -> str | None:
    """What the progress bar says, of a row of the log."""
    if "cross_entropy" not in row:
        return None
    aligned = f", alignment {row['alignment']:.3f}" if "alignment" in row else ""
    spelled = f", spelling {row['latent_cross_entropy']:.3f}" if "latent_cross_entropy" in row else ""
    return f"cross-entropy {row['cross_entropy']:.3f}{aligned}{spelled}"


class ValidationCallback(TrainerCallback):
    """Greedy accuracy on problems held out of the training data, while a stage trains."""

    def __init__(
        self,
        trainer: SpiralThinkerTrainer,
        benchmark: LoadedBenchmark,
        settings: Settings,
        metrics: MetricsLog,
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
