"""From settings to the arguments that TRL and torch take."""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers.integrations import get_reporting_integration_callbacks
from trl import GRPOConfig

from ._common import (
    RunFolder,
    SettingsError,
    check_arguments,
    deepspeed_settings,
    in_rank,
    trains_in_bfloat16,
    use_cpu,
)
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
    try:
        for callback in get_reporting_integration_callbacks(checked["report_to"]):
            callback()  # asks whether its library is installed
    except (ValueError, RuntimeError, ImportError) as error:
        raise SettingsError(f"training.report_to = {checked['report_to']!r}: {error}") from error
    generation = settings.generation
    try:
        return GRPOConfig(
            output_dir=str(RunFolder(output).checkpoints),
            use_cpu=use_cpu(settings.launch),
            # Outside a rank (a dry run) transformers would compare it with one process.
            deepspeed=run_deepspeed(settings, checked, ranks=world_size()) if in_rank() else None,
            max_completion_length=generation.max_new_tokens,
            temperature=generation.temperature,
            top_p=generation.top_p,
            top_k=generation.top_k,
            **{
                "bf16": trains_in_bfloat16(settings.model),
                "disable_tqdm": True,
                "dataloader_pin_memory": torch.cuda.is_available(),
                **checked,
            },
        )
    except ValueError as error:
        raise SettingsError(f"training: {error}") from error


def run_deepspeed(settings: Settings, checked: Mapping[str, Any], *, ranks: int) -> dict[str, Any] | None:
    """DeepSpeed's configuration of a run of `ranks` processes, None without; `checked`: GRPOConfig's arguments."""
    return deepspeed_settings(settings.launch, settings.model, GRPOConfig, checked, ranks=ranks)


def world_size() -> int:
    """The ranks that a launcher started, this one among them."""
    return int(os.environ.get("WORLD_SIZE", "1"))


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
