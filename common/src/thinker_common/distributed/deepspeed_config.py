"""DeepSpeed's configuration: a preset or the user's own JSON, its "auto" values filled from the run's settings.

The presets are the files in `presets/`. They leave the optimiser to `training.optim`, also with offload, where it works
on the host's memory: one that DeepSpeed makes itself decays norms and biases as well, which transformers' leaves alone.
"""

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..errors import SettingsError
from .launch_settings import LaunchSettings

# What DeepSpeed 0.19 reads at the top level. Its own check of names begins one level below.
_TOP_LEVEL = (
    "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps",
    "managed_gradient_accumulation", "steps_per_print", "dump_state", "disable_python_gc", "disable_allgather",
    "communication_data_type", "seq_parallel_communication_data_type", "sequence_parallel_size",
    "prescale_gradients", "gradient_predivide_factor", "gradient_allreduce_op", "zero_optimization",
    "activation_checkpointing", "comms_logger", "tensorboard", "wandb", "csv_monitor", "comet", "gradient_clipping",
    "fp16", "bf16", "bfloat16", "torch_autocast", "optimizer", "scheduler", "zero_allow_untested_optimizer",
    "zero_force_ds_cpu_optimizer", "flops_profiler", "wall_clock_breakdown", "memory_breakdown", "autotuning",
    "use_data_before_expert_parallelism", "hybrid_engine", "pipeline", "data_efficiency", "curriculum_learning",
    "checkpoint", "data_types", "aio", "dataloader_drop_last", "log_level", "datastates_ckpt", "weight_quantization",
    "compile", "timers", "tensor_parallel", "expert_parallel", "elasticity", "compression_training",
    "vocabulary_size", "nebula",
)  # fmt: skip


@dataclass(frozen=True)
class RunValues:
    """What the "auto" values of a configuration stand for."""

    micro_batch: int  # training.per_device_train_batch_size
    accumulation: int  # training.gradient_accumulation_steps
    world_size: int
    max_grad_norm: float
    bf16: bool
    learning_rate: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    hidden_size: int
    cpu: bool  # the ranks have no GPU

    def by_key(self) -> dict[str, tuple[Any, str]]:
        """DeepSpeed's dotted key -> (value, the setting it comes from)."""
        width = self.hidden_size
        return {
            "train_micro_batch_size_per_gpu": (self.micro_batch, "training.per_device_train_batch_size"),
            "gradient_accumulation_steps": (self.accumulation, "training.gradient_accumulation_steps"),
            "train_batch_size": (
                self.micro_batch * self.accumulation * self.world_size,
                "training.per_device_train_batch_size * gradient_accumulation_steps * ranks",
            ),
            "gradient_clipping": (self.max_grad_norm, "training.max_grad_norm"),
            "bf16.enabled": (self.bf16, "model.dtype"),
            "bfloat16.enabled": (self.bf16, "model.dtype"),
            "fp16.enabled": (False, "model.dtype, which is never float16 here"),
            "optimizer.params.lr": (self.learning_rate, "training.learning_rate"),
            "optimizer.params.betas": (list(self.betas), "training.adam_beta1 and adam_beta2"),
            "optimizer.params.eps": (self.eps, "training.adam_epsilon"),
            "optimizer.params.weight_decay": (self.weight_decay, "training.weight_decay"),
            # From here on DeepSpeed's matter: filled where "auto" stands, otherwise the file's own.
            "optimizer.params.torch_adam": (self.cpu, ""),
            "zero_optimization.overlap_comm": (not self.cpu, ""),
            "zero_optimization.offload_optimizer.pin_memory": (not self.cpu, ""),
            "zero_optimization.offload_param.pin_memory": (not self.cpu, ""),
            # As transformers fills them.
            "zero_optimization.reduce_bucket_size": (width * width, ""),
            "zero_optimization.stage3_prefetch_bucket_size": (int(0.9 * width * width), ""),
            "zero_optimization.stage3_param_persistence_threshold": (10 * width, ""),
        }


def deepspeed_config(settings: LaunchSettings, values: RunValues) -> dict[str, Any] | None:
    """The configuration a run trains with, without any "auto"; None where it trains without DeepSpeed.

    Raises:
        SettingsError: a file of the user's that cannot be read, has an unknown key or a value that DeepSpeed refuses,
            or contradicts the run's settings.
    """
    if settings.deepspeed_config is not None:
        source = settings.deepspeed_config
        config = read_config(source)
        check_names(config, source)
    elif settings.zero is not None:
        source, config = f"preset zero{settings.zero}", preset(settings.zero, offload=settings.offload)
    else:
        return None
    filled = fill(config, values, source)
    if settings.deepspeed_config is not None:
        _check_zero_section(filled, source)
    return filled


def preset(zero: int, *, offload: bool) -> dict[str, Any]:
    """The shipped configuration for a ZeRO stage, with its "auto" values."""
    return _shipped(f"zero{zero}{'_offload' if offload else ''}.json")


def evaluation_config(*, offload: bool, dtype: str, cpu: bool) -> dict[str, Any]:
    """The shipped configuration of ZeRO-3 without training, filled. dtype: of the weights, such as bfloat16."""
    config = _shipped(f"evaluate_zero3{'_offload' if offload else ''}.json")
    config["bf16"]["enabled"] = dtype == "bfloat16"
    config["fp16"]["enabled"] = dtype == "float16"
    if offload:
        config["zero_optimization"]["offload_param"]["pin_memory"] = not cpu
    return config


def _shipped(name: str) -> dict[str, Any]:
    return json.loads(files(__package__).joinpath("presets", name).read_text(encoding="utf-8"))


def read_config(path: str) -> dict[str, Any]:
    """A DeepSpeed JSON file. SettingsError if it cannot be read, is not a JSON object, or gives a key twice."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise SettingsError(f"{path}: the key {twice!r} is given twice")
        return dict(pairs)

    try:
        config = json.loads(Path(path).read_text(encoding="utf-8"), object_pairs_hook=unique)
    except OSError as error:
        raise SettingsError(f"launch.deepspeed_config {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: not UTF-8 text (byte {error.start})") from error
    except json.JSONDecodeError as error:
        raise SettingsError(
            f"{path}, line {error.lineno}, column {error.colno}: not valid JSON: {error.msg}"
        ) from error
    if not isinstance(config, dict):
        raise SettingsError(f"{path}: a DeepSpeed configuration is a JSON object, got {type(config).__name__}")
    return config


def stage_of(config: Mapping[str, Any]) -> int:
    """The ZeRO stage of a configuration; 0 if it has no such section, as DeepSpeed takes it."""
    section = config.get("zero_optimization", {})
    return int(section.get("stage", 0)) if isinstance(section, dict) else 0


def fill(config: Mapping[str, Any], values: RunValues, source: str) -> dict[str, Any]:
    """A copy with every "auto" replaced. SettingsError: an "auto" for an unknown key, a value against a setting."""
    filled = json.loads(json.dumps(config))
    known = values.by_key()
    for section, key, dotted in _leaves(filled):
        if dotted not in known:
            if section[key] == "auto":
                raise SettingsError(f'{source}: {dotted} = "auto": no setting of a run says this; write a value')
            continue
        value, setting = known[dotted]
        if section[key] == "auto":
            section[key] = value
        elif setting and section[key] != value:
            raise SettingsError(
                f"{source}: {dotted} = {json.dumps(section[key])}, but {setting} gives {json.dumps(value)}: "
                'write "auto" there, or make the two equal'
            )
    if "scheduler" in filled:
        raise SettingsError(
            f"{source}: scheduler: the schedule is training.lr_scheduler_type and training.warmup_steps; leave it out"
        )
    return filled


def _leaves(section: dict[str, Any], prefix: str = "") -> Iterator[tuple[dict[str, Any], str, str]]:
    """(section that holds it, key, dotted key) of every value that is not a section itself."""
    for key, value in section.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield section, key, f"{prefix}{key}"


# ------------------------------------------------------------------------------------------------------ names and types


def check_names(config: Mapping[str, Any], source: str) -> None:
    """SettingsError with the nearest name for a key that DeepSpeed would ignore or refuse.

    The sections ZeRO, offload, bf16 and fp16 are checked against DeepSpeed's own models (which imports it); what is in
    other sections DeepSpeed checks itself, or not at all.
    """
    from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from deepspeed.runtime.zero.offload_config import (
        DeepSpeedZeroOffloadOptimizerConfig,
        DeepSpeedZeroOffloadParamConfig,
    )

    _check_keys(config, _TOP_LEVEL, "", source)
    models = {
        "zero_optimization": DeepSpeedZeroConfig,
        "zero_optimization.offload_optimizer": DeepSpeedZeroOffloadOptimizerConfig,
        "zero_optimization.offload_param": DeepSpeedZeroOffloadParamConfig,
        "bf16": DeepSpeedBF16Config,
        "fp16": DeepSpeedFP16Config,
    }
    for dotted, model in models.items():
        section: Any = config
        for part in dotted.split("."):
            section = {} if section is None else section.get(part, {})
            if not isinstance(section, dict | None):
                raise SettingsError(f"{source}: {dotted} = {json.dumps(section)}: expected a JSON object")
        names = {name for field, info in model.model_fields.items() for name in (field, info.alias) if name}
        _check_keys(section or {}, names, f"{dotted}.", source)


def _check_keys(section: Mapping[str, Any], known: Iterable[str], prefix: str, source: str) -> None:
    for key in section:
        if key not in known:
            close = difflib.get_close_matches(key, list(known), n=1)
            advice = f"; did you mean {prefix + close[0]!r}?" if close else ""
            raise SettingsError(f"{source}: unknown DeepSpeed key {prefix + key!r}{advice}")


def _check_zero_section(config: Mapping[str, Any], source: str) -> None:
    """SettingsError with DeepSpeed's words for a value of the ZeRO section that it would refuse."""
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from pydantic import ValidationError

    try:
        DeepSpeedZeroConfig(**config.get("zero_optimization", {}))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, ("zero_optimization", *first["loc"])))
        raise SettingsError(f"{source}: {name} = {json.dumps(first['input'], default=str)}: {first['msg']}") from error
