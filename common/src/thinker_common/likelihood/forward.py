"""A computation on a model, run through the forward of whatever wraps the model.

DistributedDataParallel arms its gradient reduction in its own forward, and a DeepSpeed engine its parameter gathering
(ZeRO-3) and its counters. A loss that calls parts of the bare model - the decoder, then the head in chunks - goes past
both: DDP then trains every rank on its own data and reports nothing. Here the wrapper's forward runs, and in the place
of the model's forward it meets our function. Lightning and TRL do the same under the name "forward redirection".
"""

from collections.abc import Callable
from typing import Any

from torch import nn


def call_through(wrapper: nn.Module, model: nn.Module, function: Callable[..., Any], *args: Any) -> Any:
    """`function(model, *args)`, computed inside `wrapper.forward`.

    Args:
        wrapper: what a trainer calls: DistributedDataParallel, a DeepSpeed engine, or the model itself.
        model: the module inside it. The function may call its forward.
        function: returns a tensor or a dict of tensors, in which DDP looks for the parameters that were used.
    """
    own = model.__dict__.get("forward")  # accelerate puts its autocast there

    def restore() -> None:
        if own is None:
            model.__dict__.pop("forward", None)
        else:
            model.__dict__["forward"] = own

    def redirected(*inputs: Any) -> Any:
        restore()
        return function(model, *inputs)

    model.__dict__["forward"] = redirected
    try:
        return wrapper(*args)
    finally:
        restore()
