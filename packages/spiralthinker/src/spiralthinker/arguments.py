"""From settings to the arguments that transformers, DeepSpeed and torch take."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from ._common import SettingsError, check_arguments, engine_arguments
from .config import LEAST_ARGUMENTS, MANAGED_ARGUMENTS, Settings
from .trainer import Stage


def training_arguments(settings: Settings, checkpoints: Path, stage: Stage) -> TrainingArguments:
    """transformers' configuration of one stage.

    Raises:
        SettingsError: an unknown argument, a value of the wrong type, or a combination that transformers refuses.
    """
    return engine_arguments.training_arguments(
        TrainingArguments, settings.launch, settings.model, checked_arguments(settings, stage), output=checkpoints
    )


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


def run_deepspeed(settings: Settings, checked: Mapping[str, Any], *, ranks: int) -> dict[str, Any] | None:
    """DeepSpeed's configuration of a stage on `ranks` processes; None without DeepSpeed."""
    return engine_arguments.deepspeed_settings(settings.launch, settings.model, TrainingArguments, checked, ranks=ranks)


def planned_steps(arguments: TrainingArguments, rows: int, *, ranks: int) -> int:
    """Optimiser steps of a stage on this many examples."""
    if arguments.max_steps > 0:
        return arguments.max_steps
    batch = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps * ranks
    return math.ceil(arguments.num_train_epochs * math.ceil(rows / batch))
