"""Tells the worker which optimiser step a trainer of transformers is at."""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from . import phases


class PhaseCallback(TrainerCallback):
    """Names the phases of `Trainer.train`. Rollouts, saving and evaluation name their own inside of a step."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        phases.begin("first batch", patient=True)  # what DeepSpeed compiles when it is first used

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        phases.begin(f"step {state.global_step + 1}")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        phases.begin("after training", patient=True)
