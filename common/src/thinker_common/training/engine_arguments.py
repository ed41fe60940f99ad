"""What the settings say about engine and precision: DeepSpeed's configuration, bfloat16, the type of the weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks

from ..distributed.deepspeed_config import RunValues, deepspeed_config, stage_of
from ..distributed.join import use_cpu
from ..distributed.launch import in_rank, launched_ranks
from ..distributed.launch_settings import LaunchSettings
from ..errors import SettingsError
from ..models.load import load_config
from .sections import ModelSettings

Arguments = TypeVar("Arguments", bound=TrainingArguments)


def training_arguments(
    config_class: type[Arguments],
    launch: LaunchSettings,
    model: ModelSettings,
    arguments: Mapping[str, Any],
    *,
    output: Path,
    **managed: Any,
) -> Arguments:
    """The configuration that transformers or TRL trains with.

    Args:
        config_class: TrainingArguments, or a class derived from it.
        arguments: those that the settings name, checked.
        output: where checkpoints go.
        managed: further ones, which settings of another name decide.

    Raises:
        SettingsError: a combination that the class refuses, a library to report to that is not installed.
    """
    try:
        for callback in get_reporting_integration_callbacks(arguments["report_to"]):
            callback()  # asks whether its library is installed
    except (ValueError, RuntimeError, ImportError) as error:
        raise SettingsError(f"training.report_to = {arguments['report_to']!r}: {error}") from error
    deepspeed = None
    if in_rank():  # outside of one (a dry run) transformers would compare the batch sizes with one process
        deepspeed = deepspeed_settings(launch, model, config_class, arguments, ranks=launched_ranks())
    try:
        return config_class(
            output_dir=str(output),
            use_cpu=use_cpu(),
            deepspeed=deepspeed,
            **managed,
            **{
                "bf16": trains_in_bfloat16(model),
                "disable_tqdm": True,
                "dataloader_pin_memory": torch.cuda.is_available(),
                **arguments,
            },
        )
    except ValueError as error:
        raise SettingsError(f"training: {error}") from error


def deepspeed_settings(
    launch: LaunchSettings,
    model: ModelSettings,
    config_class: type,
    arguments: Mapping[str, Any],
    *,
    ranks: int,
) -> dict[str, Any] | None:
    """DeepSpeed's configuration of a run, its "auto" values filled; None without DeepSpeed.

    Args:
        config_class: TrainingArguments, or the class derived from it that the run uses; for its defaults.
        arguments: those that the settings name.
        ranks: of the run.

    Raises:
        SettingsError: see `deepspeed_config`; ZeRO-3 for quantized weights. UserError: a model that cannot be found.
    """
    if not launch.uses_deepspeed:
        return None
    fields: dict[str, Any] = config_class.__dataclass_fields__  # type: ignore[attr-defined]
    values: dict[str, Any] = {name: field.default for name, field in fields.items()} | dict(arguments)
    config = load_config(model.name_or_path, revision=model.revision).get_text_config()
    filled = deepspeed_config(
        launch,
        RunValues(
            micro_batch=values["per_device_train_batch_size"],
            accumulation=values["gradient_accumulation_steps"],
            world_size=ranks,
            max_grad_norm=values["max_grad_norm"],
            bf16=trains_in_bfloat16(model),
            learning_rate=values["learning_rate"],
            betas=(values["adam_beta1"], values["adam_beta2"]),
            eps=values["adam_epsilon"],
            weight_decay=values["weight_decay"],
            hidden_size=config.hidden_size,
            cpu=use_cpu(),
        ),
    )
    if model.quantization != "none" and filled is not None and stage_of(filled) == 3:
        raise SettingsError(
            f"model.quantization = {model.quantization!r}: ZeRO-3 divides weights between the ranks, and not those of "
            "4 bits: use --zero 2, or none (only the adapter has gradients and an optimiser)"
        )
    return filled


def trains_in_bfloat16(model: ModelSettings) -> bool:
    """Whether autocast computes in bfloat16: where the settings allow it and the device has it."""
    wanted = model.dtype in ("auto", "bfloat16")
    return wanted and torch.cuda.is_available() and torch.cuda.is_bf16_supported()


def weights_dtype(model: ModelSettings) -> str:
    """Weights that are trained stay in float32, since an update of 1e-6 vanishes in bfloat16; LoRA's base need not.

    What is computed in bfloat16 then, autocast decides (`trains_in_bfloat16`).
    """
    if model.dtype == "float16":
        raise SettingsError("model.dtype = 'float16': expected auto, float32 or bfloat16 (float16 needs loss scaling)")
    return model.dtype if model.lora is not None else "float32"
