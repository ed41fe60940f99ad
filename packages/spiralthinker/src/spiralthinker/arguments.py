"""From settings to the arguments that transformers, DeepSpeed and torch take."""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks

from ._common import RunValues, SettingsError, check_arguments, deepspeed_config, in_rank, load_config, use_cpu
from .config import LEAST_ARGUMENTS, MANAGED_ARGUMENTS, Settings
from .trainer import Stage


def training_arguments(settings: Settings, checkpoints: Path, stage: Stage) -> TrainingArguments:
    """transformers' configuration of one stage.

    Raises:
        SettingsError: an unknown argument, a value of the wrong type, or a combination that transformers refuses.
    """
    checked = checked_arguments(settings, stage)
    try:
        for callback in get_reporting_integration_callbacks(checked["report_to"]):
            callback()  # asks whether its library is installed
    except (ValueError, RuntimeError, ImportError) as error:
        raise SettingsError(f"training.report_to = {checked['report_to']!r}: {error}") from error
    try:
        return TrainingArguments(
            output_dir=str(checkpoints),
            use_cpu=use_cpu(settings.launch),
            # Outside a rank (a dry run) transformers would compare it with one process.
            deepspeed=deepspeed_settings(settings, checked, ranks=world_size()) if in_rank() else None,
            **{
                "bf16": trains_in_bfloat16(settings),
                "disable_tqdm": True,
                "dataloader_pin_memory": torch.cuda.is_available(),
                **checked,
            },
        )
    except ValueError as error:
        raise SettingsError(f"training: {error}") from error


def checked_arguments(settings: Settings, stage: Stage) -> dict[str, Any]:
    """The arguments of transformers that the settings name for this stage."""
    checked = check_arguments(settings.training, TrainingArguments, managed=MANAGED_ARGUMENTS)
    sections = [("training", checked)]
    if stage == "explicit":
        own = check_arguments(settings.stage1, TrainingArguments, section="stage1", managed=MANAGED_ARGUMENTS)
        checked = {**checked, **own}
        sections.append(("stage1", own))
    for section, arguments in sections:
        for name, least in LEAST_ARGUMENTS.items():
            if arguments.get(name) is not None and arguments[name] < least:
                raise SettingsError(f"{section}.{name} = {arguments[name]}: expected a number of at least {least}")
        steps = arguments.get("max_steps", -1)
        if steps == 0 or steps < -1:
            raise SettingsError(
                f"{section}.max_steps = {steps}: expected at least 1, or -1 to train for num_train_epochs"
            )
    return checked


def deepspeed_settings(settings: Settings, checked: Mapping[str, Any], *, ranks: int) -> dict[str, Any] | None:
    """DeepSpeed's configuration, its "auto" values filled; None without DeepSpeed."""
    if not settings.launch.uses_deepspeed:
        return None
    fields = TrainingArguments.__dataclass_fields__
    values: dict[str, Any] = {name: field.default for name, field in fields.items()} | dict(checked)
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
    """Trained weights stay in float32, LoRA's base need not; what is computed in bfloat16, autocast decides."""
    if settings.model.dtype == "float16":
        raise SettingsError("model.dtype = 'float16': expected auto, float32 or bfloat16 (float16 needs loss scaling)")
    return settings.model.dtype if settings.model.lora is not None else "float32"


def world_size() -> int:
    """The ranks that a launcher started, this one among them."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def planned_steps(arguments: TrainingArguments, rows: int, *, ranks: int) -> int:
    """Optimiser steps of a stage on this many examples."""
    if arguments.max_steps > 0:
        return arguments.max_steps
    batch = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps * ranks
    return math.ceil(arguments.num_train_epochs * math.ceil(rows / batch))
