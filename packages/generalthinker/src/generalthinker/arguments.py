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
    RunValues,
    SettingsError,
    check_arguments,
    deepspeed_config,
    in_rank,
    load_config,
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
    bf16 = trains_in_bfloat16(settings)
    try:
        return GRPOConfig(
            output_dir=str(RunFolder(output).checkpoints),
            use_cpu=use_cpu(settings.launch),
            # Outside a rank (a dry run) transformers would compare it with one process.
            deepspeed=deepspeed_settings(settings, checked, ranks=world_size()) if in_rank() else None,
            max_completion_length=generation.max_new_tokens,
            temperature=generation.temperature,
            top_p=generation.top_p,
            top_k=generation.top_k,
            **{"bf16": bf16, "disable_tqdm": True, "dataloader_pin_memory": torch.cuda.is_available(), **checked},
        )
    except ValueError as error:
        raise SettingsError(f"training: {error}") from error


def deepspeed_settings(settings: Settings, checked: Mapping[str, Any], *, ranks: int) -> dict[str, Any] | None:
    """DeepSpeed's configuration, its "auto" values filled; None without DeepSpeed.

    Args:
        checked: the arguments of GRPOConfig that the settings name.
        ranks: of the run.
    """
    if not settings.launch.uses_deepspeed:
        return None
    values = {name: field.default for name, field in GRPOConfig.__dataclass_fields__.items()} | dict(checked)
    config = load_config(settings.model.name_or_path, revision=settings.model.revision).get_text_config()
    return deepspeed_config(
        settings.launch,
        RunValues(
            micro_batch=values["per_device_train_batch_size"],
            accumulation=values["gradient_accumulation_steps"],
            world_size=ranks,
            max_grad_norm=values["max_grad_norm"],
            bf16=trains_in_bfloat16(settings),
            learning_rate=values["learning_rate"],
            betas=(values["adam_beta1"], values["adam_beta2"]),
            eps=values["adam_epsilon"],
            weight_decay=values["weight_decay"],
            hidden_size=config.hidden_size,
            cpu=use_cpu(settings.launch),
        ),
    )


def trains_in_bfloat16(settings: Settings) -> bool:
    wanted = settings.model.dtype in ("auto", "bfloat16")
    return wanted and torch.cuda.is_available() and torch.cuda.is_bf16_supported()


def weights_dtype(settings: Settings) -> str:
    """Weights that are trained stay in float32, since an update of 1e-6 vanishes in bfloat16; LoRA's base need not.

    What is computed in bfloat16 then, autocast decides (`trains_in_bfloat16`).
    """
    if settings.model.dtype == "float16":
        raise SettingsError("model.dtype = 'float16': expected auto, float32 or bfloat16 (float16 needs loss scaling)")
    return settings.model.dtype if settings.model.lora is not None else "float32"


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
