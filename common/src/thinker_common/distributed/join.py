"""How a rank becomes one of its run: the environment checked, the process group started, DeepSpeed told of it."""

from typing import Any

from . import engine
from .launch_settings import LaunchSettings


def use_cpu() -> bool:
    """The `use_cpu` of the training arguments: without a GPU of CUDA the CPU trains.

    Ranks and DeepSpeed need it said (see `engine`); one process on a Mac would go to MPS, which has no float64.
    """
    import torch

    return not torch.cuda.is_available()


def join(settings: LaunchSettings, arguments: Any) -> None:
    """Starts the process group that `arguments` (transformers' TrainingArguments) ask for; alone, nothing.

    To be called before a model is loaded: ZeRO-3 shards it while it is.

    Raises:
        UserError: an environment in which the libraries would train with another engine than asked for.
    """
    engine.check_environment(settings, use_cpu=arguments.use_cpu)
    _ = arguments.device  # transformers starts the group when it is first asked
    if settings.uses_deepspeed:
        import deepspeed

        # With use_cpu transformers starts torch's group only.
        deepspeed.init_distributed(
            dist_backend="gloo" if arguments.use_cpu else None, auto_mpi_discovery=False, verbose=False
        )
