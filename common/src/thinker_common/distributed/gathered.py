"""All parameters of a model on every rank, for work that the ranks do not share out evenly.

Under ZeRO-3 every forward is a series of collectives: a rank that scores one batch more than the others waits for them
forever. Inside `gathered` the parameters are whole on every rank and nothing is communicated, so that each may do as
many forwards as it has work for. The price is the memory of the unsharded model, as for generation.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers.integrations import is_deepspeed_zero3_enabled

from .engine import engine_of


@contextmanager
def gathered(wrapped: Any) -> Iterator[nn.Module]:
    """The model inside `wrapped`, whole and without hooks; all ranks enter and leave together.

    Args:
        wrapped: a DeepSpeed engine, DistributedDataParallel, or a bare model, which ZeRO-3 may have sharded as it was
            loaded. Without ZeRO-3 there is nothing to do but to unwrap.

    No parameter may be changed inside, and gradients cannot be taken.
    """
    is_bare = engine_of(wrapped) == "one process"
    model = wrapped if is_bare else wrapped.module
    if not is_deepspeed_zero3_enabled():
        yield model
        return
    import deepspeed
    from deepspeed.runtime.zero.utils import is_zero_param

    parameters = [parameter for parameter in model.parameters() if is_zero_param(parameter)]
    with deepspeed.zero.GatheredParameters(parameters), torch.no_grad():
        if is_bare:
            yield model
            return
        with _without_hooks(wrapped, parameters):
            yield model


@contextmanager
def _without_hooks(engine: Any, parameters: list[nn.Parameter]) -> Iterator[None]:
    """The engine's module without the hooks that fetch parameters before, and release them after, each submodule."""
    from deepspeed.runtime.zero.parameter_offload import DeepSpeedZeRoOffload

    optimizer = engine.optimizer  # an engine for inference has the hooks in the place of an optimiser
    offload: Any = optimizer if isinstance(optimizer, DeepSpeedZeRoOffload) else optimizer.parameter_offload
    for parameter in parameters:
        parameter.ds_active_sub_modules.clear()  # type: ignore[attr-defined]
    # This one begins a pass over the whole model; until DeepSpeed knows the order of the modules, the ranks compare
    # there what each has recorded.
    begin_pass = offload.module._forward_pre_hooks[offload.fwd_pre_hook.id]
    for hook in (offload.fwd_pre_hook, *offload.forward_hooks, *offload.backward_hooks):
        hook.remove()
    offload.forward_hooks, offload.backward_hooks = [], []
    try:
        yield
    finally:
        coordinator = offload.param_coordinator
        if not coordinator.is_invalid_trace():
            coordinator._invalidate_trace()  # it recorded an order of modules that this work did not follow
        offload.fwd_pre_hook = offload.module.register_forward_pre_hook(begin_pass)  # the first, as it was
        offload._register_deepspeed_module(offload.module)
