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

from .engine import engine_of


@contextmanager
def gathered(wrapped: Any) -> Iterator[nn.Module]:
    """The model inside `wrapped`, whole and without hooks; all ranks enter and leave together.

    Args:
        wrapped: a DeepSpeed engine, DistributedDataParallel, or a bare model. Only under ZeRO-3 is there work to do.

    No parameter may be changed inside, and gradients cannot be taken.
    """
    engine = engine_of(wrapped)
    if engine != "DeepSpeedEngine, ZeRO-3":
        yield wrapped.module if engine != "one process" else wrapped
        return
    import deepspeed
    from deepspeed.runtime.zero.parameter_offload import DeepSpeedZeRoOffload

    optimizer = wrapped.optimizer  # an engine for inference has the hooks in the place of an optimiser
    offload = optimizer if isinstance(optimizer, DeepSpeedZeRoOffload) else optimizer.parameter_offload
    parameters = list(wrapped.module.parameters())
    with deepspeed.zero.GatheredParameters(parameters), torch.no_grad():
        for parameter in parameters:
            parameter.ds_active_sub_modules.clear()
        for hook in (*offload.forward_hooks, *offload.backward_hooks):
            hook.remove()
        offload.forward_hooks, offload.backward_hooks = [], []
        try:
            yield wrapped.module
        finally:
            coordinator = offload.param_coordinator
            if not coordinator.is_invalid_trace():
                coordinator._invalidate_trace()  # it recorded an order of modules that this work did not follow
            offload._register_deepspeed_module(offload.module)
