"""From settings to the arguments that transformers, DeepSpeed and torch take."""

import math
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from ._common import SettingsError, check_arguments, check_saving, engine_arguments, launched_ranks
from .config import MANAGED_ARGUMENTS, AcquisitionSettings, ReflectionSettings, Settings

Phase = AcquisitionSettings | ReflectionSettings


def training_arguments(settings: Settings, phase: Phase, checkpoints: Path, *, seed: int) -> TrainingArguments:
    """transformers' configuration of one phase, or of one iteration of phase 2.

    seed: of its order

    Raises:
        SettingsError: an unknown argument, a value of the wrong type, or a combination that transformers refuses.
    """
    checked = checked_arguments(settings, phase, ranks=launched_ranks())
    arguments = engine_arguments.training_arguments(
        TrainingArguments, settings.launch, settings.model, {**checked, "seed": seed}, output=checkpoints
    )
    check_saving(arguments)
    return arguments


def checked_arguments(settings: Settings, phase: Phase, *, ranks: int) -> dict[str, Any]:
    """The arguments of transformers that the settings name, with the phase's own and how its batch is spread."""
    checked = check_arguments(settings.training, TrainingArguments, managed=MANAGED_ARGUMENTS)
    most = checked["per_device_train_batch_size"]
    if most < 1:
        raise SettingsError(f"training.per_device_train_batch_size = {most}: expected a number of at least 1")
    micro_batch, accumulation = spread(phase.batch_size, most, ranks=ranks)
    return {
        **checked,
        "per_device_train_batch_size": micro_batch,
        "gradient_accumulation_steps": accumulation,
        "learning_rate": phase.learning_rate,
        "lr_scheduler_type": phase.lr_scheduler_type,
        "warmup_steps": phase.warmup_share,  # below 1: a share of the run
        "num_train_epochs": phase.num_train_epochs,
        "max_steps": phase.max_steps or -1,
    }


def spread(batch_size: int, most: int, *, ranks: int) -> tuple[int, int]:
    """(rows of a forward pass, passes of a step) of each rank, for an optimiser batch of `batch_size` rows.

    most: rows of a forward pass, at most

    Raises:
        SettingsError: the rows cannot be dealt out evenly.
    """
    if batch_size % ranks:
        raise SettingsError(f"batch_size = {batch_size} rows cannot be dealt to {ranks} ranks: expected a multiple")
    own = batch_size // ranks
    accumulation = next(passes for passes in range(1, own + 1) if own % passes == 0 and own // passes <= most)
    return own // accumulation, accumulation


def run_deepspeed(settings: Settings, phase: Phase, *, ranks: int) -> dict[str, Any] | None:
    """DeepSpeed's configuration of a phase on `ranks` processes; None without DeepSpeed."""
    checked = checked_arguments(settings, phase, ranks=ranks)
    return engine_arguments.deepspeed_settings(settings.launch, settings.model, TrainingArguments, checked, ranks=ranks)


def planned_steps(phase: Phase, batches: int) -> int:
    """Optimiser steps of a phase whose epoch has so many batches."""
    return phase.max_steps or math.ceil(phase.num_train_epochs * batches)
