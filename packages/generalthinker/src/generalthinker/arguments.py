"""From settings to the arguments that TRL and torch take."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trl import GRPOConfig

from ._common import RunFolder, SettingsError, check_arguments, engine_arguments
from .config import LEAST_ARGUMENTS, LOSS_TYPES, MANAGED_ARGUMENTS, Settings


def training_arguments(settings: Settings, output: Path) -> GRPOConfig:
    """TRL's configuration of this run.

    Raises:
        SettingsError: an unknown argument, a value of the wrong type, or a combination that TRL refuses.
    """
    checked = check_arguments(settings.training, GRPOConfig, managed=MANAGED_ARGUMENTS)
    for name, least in LEAST_ARGUMENTS.items():
        if checked.get(name) is not None and checked[name] < least:
            raise SettingsError(f"training.{name} = {checked[name]}: expected a number of at least {least}")
    if checked.get("max_steps") == 0:
        raise SettingsError("training.max_steps = 0: expected at least 1, or -1 to train for training.num_train_epochs")
    if checked["loss_type"] not in LOSS_TYPES:
        raise SettingsError(f"training.loss_type = {checked['loss_type']!r}: expected one of {', '.join(LOSS_TYPES)}")
    generation = settings.generation
    return engine_arguments.training_arguments(
        GRPOConfig,
        settings.launch,
        settings.model,
        checked,
        output=RunFolder(output).checkpoints,
        max_completion_length=generation.max_new_tokens,
        temperature=generation.temperature,
        top_p=generation.top_p,
        top_k=generation.top_k,
    )


def run_deepspeed(settings: Settings, checked: Mapping[str, Any], *, ranks: int) -> dict[str, Any] | None:
    """DeepSpeed's configuration of a run of `ranks` processes, None without; `checked`: GRPOConfig's arguments."""
    return engine_arguments.deepspeed_settings(settings.launch, settings.model, GRPOConfig, checked, ranks=ranks)


def rollout_responses(arguments: GRPOConfig, *, ranks: int) -> int:
    """Responses of one rollout of all ranks."""
    return arguments.per_device_train_batch_size * arguments.steps_per_generation * ranks


def planned_steps(arguments: GRPOConfig, rows: int, *, ranks: int = 1) -> int:
    """Optimiser steps of a run on this many problems. A rollout that they do not fill is left out (TRL's sampler)."""
    if arguments.max_steps > 0:
        return arguments.max_steps
    rollouts = rows // (rollout_responses(arguments, ranks=ranks) // arguments.num_generations)
    batches = rollouts * arguments.steps_per_generation * arguments.num_iterations
    return math.ceil(arguments.num_train_epochs * math.ceil(batches / arguments.gradient_accumulation_steps))


def samples_itself(arguments: GRPOConfig) -> bool:
    """Whether the trainer samples its rollouts; TRL does with an engine, and what the base's generator cannot do."""
    return not (
        arguments.use_vllm
        or arguments.use_transformers_continuous_batching
        or arguments.cache_implementation is not None
        or arguments.min_p is not None
        or arguments.repetition_penalty != 1.0
        or arguments.generation_kwargs
    )
