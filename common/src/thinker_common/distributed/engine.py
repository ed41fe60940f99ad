"""Says which engine trains, and refuses to train with another than was asked for.

The libraries underneath fall back silently: with ACCELERATE_USE_CPU=true DeepSpeed is left out (ZeRO-2 trains as DDP,
ZeRO-3 fails far from the cause), and a process group that is not there makes a run of its own out of every rank.
`check_environment` stops those before anything is loaded, `check_engine` looks at what is about to train.
"""

import os
from typing import Any

from ..errors import UserError
from .deepspeed_config import stage_of
from .launch_settings import LaunchSettings

_TRUE = {"1", "true", "yes", "on", "y", "t"}


def check_environment(settings: LaunchSettings, *, use_cpu: bool) -> None:
    """UserError for a variable or an argument with which the libraries would train differently from the settings.

    Args:
        settings: what was asked for.
        use_cpu: the `use_cpu` of the training arguments.
    """
    import torch

    gpu = torch.cuda.is_available()
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() in _TRUE and settings.uses_deepspeed:
        raise UserError(
            "ACCELERATE_USE_CPU is set: accelerate would leave DeepSpeed out without a word. Unset it; on a machine "
            "without GPUs DeepSpeed trains on the CPU by itself"
        )
    for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_MEGATRON_LM"):
        if os.environ.get(name, "").lower() in _TRUE:
            raise UserError(f"{name} is set: it would replace the engine that the settings ask for. Unset it")
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() in _TRUE and not settings.uses_deepspeed:
        raise UserError(
            "ACCELERATE_USE_DEEPSPEED is set, and the settings ask for no ZeRO stage: unset it, or say --zero N"
        )
    accelerator = os.environ.get("DS_ACCELERATOR")
    if settings.uses_deepspeed and accelerator is not None and (accelerator == "cpu") == gpu:
        there = "has a GPU" if gpu else "has no GPU"
        raise UserError(f"DS_ACCELERATOR={accelerator}, and this machine {there}: unset it")
    if settings.uses_deepspeed and not gpu and not use_cpu:
        raise UserError(
            "training.use_cpu = false on a machine without GPUs: DeepSpeed's collectives fail there. Leave it out"
        )
    if settings.uses_deepspeed and gpu and use_cpu:
        raise UserError(
            "training.use_cpu = true with DeepSpeed on a machine with GPUs: hide them with CUDA_VISIBLE_DEVICES="
        )
    if settings.uses_deepspeed:
        _check_deepspeed_loads()
    if settings.uses_deepspeed and "RANK" not in os.environ:
        raise UserError("DeepSpeed needs a launcher, also for one process: start the run through `train`")


def _check_deepspeed_loads() -> None:
    try:
        import deepspeed  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"DeepSpeed does not load ({error}): python -m pip install deepspeed, or leave launch.zero out"
        ) from error


def expected_engine(settings: LaunchSettings, config: dict[str, Any] | None, world_size: int) -> str:
    """The engine the settings ask for: `DeepSpeedEngine, ZeRO-2`, `DistributedDataParallel` or `one process`."""
    if config is not None:
        return f"DeepSpeedEngine, ZeRO-{stage_of(config)}"
    assert not settings.uses_deepspeed, "a run with DeepSpeed has a configuration"
    return "DistributedDataParallel" if world_size > 1 else "one process"


def engine_of(wrapped: Any) -> str:
    """The same words for a model as the trainer has wrapped it (`trainer.model_wrapped`)."""
    import torch

    if isinstance(wrapped, torch.nn.parallel.DistributedDataParallel):
        return "DistributedDataParallel"
    if isinstance(wrapped, torch.nn.DataParallel):
        return "DataParallel"
    if any(cls.__module__.startswith("deepspeed.") for cls in type(wrapped).__mro__):
        return f"DeepSpeedEngine, ZeRO-{wrapped.zero_optimization_stage()}"
    return "one process"


def check_engine(
    wrapped: Any, settings: LaunchSettings, config: dict[str, Any] | None, *, world_size: int, launched_ranks: int
) -> str:
    """Compares the engine that is about to train with the one asked for; returns it in words.

    Args:
        wrapped: the model as the trainer wraps it for training.
        settings: what was asked for.
        config: the DeepSpeed configuration, None without.
        world_size: ranks in the process group (1 without one).
        launched_ranks: ranks that the launcher started (WORLD_SIZE, 1 without).

    Raises:
        UserError: another engine, another ZeRO stage, or ranks that do not know of each other.
    """
    if world_size != launched_ranks:
        raise UserError(
            f"{launched_ranks} ranks were started and {world_size} found each other: every one would train alone. "
            "Is RANK or WORLD_SIZE changed, or torch.distributed shut down?"
        )
    expected, found = expected_engine(settings, config, world_size), engine_of(wrapped)
    if found != expected:
        raise UserError(
            f"the settings ask for {expected}, and {found} is about to train: unset ACCELERATE_* variables, and leave "
            "training.deepspeed, training.fsdp and training.use_cpu out"
        )
    return found
