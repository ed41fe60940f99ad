"""A model for evaluation whose weights ZeRO-3 divides between the ranks."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import UserError
from ..models.load import is_adapter, load_policy, resolved_dtype
from ..models.quantization import read_base_quantization
from . import ranks
from .deepspeed_config import evaluation_config
from .engine import check_engine, check_environment
from .launch import launched_ranks
from .launch_settings import LaunchSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def policy_on(
    device: torch.device, settings: LaunchSettings, name_or_path: str | Path, *, revision: str | None, dtype: str
) -> Iterator[Any]:
    """The model on every rank: divided between them with `zero = 3` (see `sharded_policy`), otherwise whole on each."""
    if settings.zero is None:
        yield load_policy(name_or_path, revision=revision, dtype=dtype).to(device)  # type: ignore[arg-type]
        return
    with sharded_policy(name_or_path, settings, device, revision=revision, dtype=dtype) as model:
        yield model


@contextmanager
def sharded_policy(
    name_or_path: str | Path, settings: LaunchSettings, device: torch.device, *, revision: str | None, dtype: str
) -> Iterator[PreTrainedModel]:
    """The model in evaluation mode, a part of each weight on each rank; on all ranks together, in a process group.

    Its forward passes belong inside `in_step`. No gradient can be taken.

    Args:
        settings: with `zero = 3`; `offload` keeps the parts in the host's memory.
        device: where the weights are gathered.

    Raises:
        UserError: as `load_policy`; an adapter, which has to be merged first; an environment in which the libraries
            would leave DeepSpeed out.
    """
    from transformers.integrations import HfDeepSpeedConfig
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    cpu = device.type == "cpu"
    check_environment(settings, use_cpu=cpu)
    if is_adapter(name_or_path):
        if read_base_quantization(Path(name_or_path).expanduser()) != "none":
            raise UserError(
                f"{name_or_path}: an adapter on quantized weights, which --zero 3 cannot divide: leave it out"
            )
        raise UserError(f"{name_or_path}: an adapter, which --zero 3 cannot divide: merge it first (thinker export)")
    dtype = resolved_dtype(dtype)
    if cpu and dtype == "float16":
        raise UserError("float16: DeepSpeed does not compute in it on a CPU; choose float32 or bfloat16")
    linear = torch.nn.functional.linear  # which DeepSpeed replaces
    with _deepspeed_on_stderr():
        import deepspeed

        deepspeed.init_distributed(dist_backend="gloo" if cpu else None, auto_mpi_discovery=False, verbose=False)
        config = evaluation_config(offload=settings.offload, dtype=dtype, cpu=cpu)
        zero3 = HfDeepSpeedConfig(config)  # while it lives, transformers divides weights as it loads them
        try:
            model: Any = load_policy(name_or_path, revision=revision, dtype=dtype)
            layers = model._no_split_modules or ()  # names of their classes
            blocks = {type(module) for module in model.modules() if type(module).__name__ in layers}
            if blocks:  # each gathered as one, whatever it calls inside; see `in_step`
                deepspeed.utils.set_z3_leaf_modules(model, list(blocks))
            engine, *_ = deepspeed.initialize(model=model, config=zero3.config)
        except BaseException:
            unset_hf_deepspeed_config()
            raise
    try:
        check_engine(engine, settings, config, world_size=ranks.world_size(), launched_ranks=launched_ranks())
        # Behind a pass over the whole model DeepSpeed compares the order of the modules between the ranks, to fetch
        # ahead in later ones. Ranks do different passes here: each module is gathered when it is called.
        engine.optimizer.param_coordinator.reset_step = lambda: None
        yield engine.module.eval()
    finally:
        unset_hf_deepspeed_config()
        engine.destroy()
        torch.nn.functional.linear = linear


@contextmanager
def _deepspeed_on_stderr() -> Iterator[None]:
    """What DeepSpeed says while it is loaded and starts, and later through its logger: stdout is the verb's."""
    with redirect_stdout(sys.stderr):
        yield
    for handler in logging.getLogger("DeepSpeed").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(sys.stderr)
