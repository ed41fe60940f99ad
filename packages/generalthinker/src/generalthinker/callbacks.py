"""What happens beside the steps of a run: metrics written, progress shown, validation, the engine checked."""

import os
from collections.abc import Callable, Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.trainer_callback import TrainerCallback, TrainerControl, TrainerState

from ._common import BestWeights, LoadedBenchmark, RunFolder, check_engine, gathered, ranks
from .config import Settings
from .evaluations import evaluate_one
from .trainer import GeneralThinkerTrainer


class EngineCheck(TrainerCallback):
    """UserError before the first step if another engine trains than the settings ask for."""

    def __init__(self, trainer: GeneralThinkerTrainer, settings: Settings) -> None:
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
        row = {"step": state.global_step, **(logs or {})}
        self.write(row)
        if row.get("reward") is not None:  # null where no response of the window has a reward
            self._status = f"reward {row['reward']:.3f}, boxed {row['boxed_rate']:.0%}"

    def write(self, row: dict[str, Any]) -> None:
        if ranks.is_main():
            self.rows.append(row)
            self.folder.append_metrics(row)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._update(state.global_step, state.max_steps, self._status)


class ValidationCallback(TrainerCallback):
    """Greedy accuracy and answer log-likelihood on problems held out of the training data, while training."""

    def __init__(
        self,
        trainer: GeneralThinkerTrainer,
        tokenizer: PreTrainedTokenizerBase,
        benchmark: LoadedBenchmark,
        settings: Settings,
        metrics: MetricsCallback,
        best: BestWeights,
    ) -> None:
        self._trainer = trainer
        self._tokenizer = tokenizer
        self._benchmark = benchmark
        self._settings = settings
        self._log = metrics
        self._best = best

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        every = self._settings.evaluation.every_steps
        if every is None or state.global_step % every:
            return
        with gathered(self._trainer.model_wrapped) as model:
            ranks.on_main(lambda: self._validate(model, state.global_step), "validation")

    def _validate(self, model: Any, step: int) -> None:
        result = evaluate_one(model, self._tokenizer, self._benchmark, self._settings, None, None)
        self._best.offer(model, step, result.accuracy)
        self._log.write(
            {
                "step": step,
                "validation/accuracy": result.accuracy,
                "validation/standard_error": result.standard_error,
                "validation/boxed_rate": result.boxed_rate,
                "validation/answer_loglik": result.answer_loglik,
            }
        )
