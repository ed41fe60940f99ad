"""What the settings say about engine and precision: DeepSpeed's configuration, bfloat16, the type of the weights."""

from collections.abc import Mapping
from typing import Any

import torch

from ..distributed.deepspeed_config import RunValues, deepspeed_config
from ..distributed.join import use_cpu
from ..distributed.launch_settings import LaunchSettings
from ..errors import SettingsError
from ..models.load import load_config
from .sections import ModelSettings


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
        SettingsError: see `deepspeed_config`; UserError: a model that cannot be found.
    """
    if not launch.uses_deepspeed:
        return None
    fields: dict[str, Any] = config_class.__dataclass_fields__  # type: ignore[attr-defined]
    values: dict[str, Any] = {name: field.default for name, field in fields.items()} | dict(arguments)
    config = load_config(model.name_or_path, revision=model.revision).get_text_config()
    return deepspeed_config(
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
            cpu=use_cpu(launch),
        ),
    )


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
