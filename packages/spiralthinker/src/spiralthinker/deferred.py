"""Weight gradients of linear layers once a step, not once a reading.

An iteration reads few tokens, and its backward pass would write, and add up, a gradient as large as the weight for each
of them: with hundreds of tokens or fewer that moves more memory than the products take. Inside `deferred_weights` a
linear layer that reads so few tokens only keeps its inputs and the gradients of its outputs; when the backward pass has
left its last reading, one product over all of them gives the weight's gradient.

    dW = sum over readings (g_r^T x_r)  =  concat(g)^T concat(x)

The weight goes through `_Collect` once a step. Its backward runs behind all uses of the weight, as autograd demands,
and hands the sum on, so that hooks on the parameter (DistributedDataParallel, ZeRO-1 and 2) see one gradient as ever.
Under ZeRO-3, where a weight is whole for a moment only, nothing is deferred. What is computed again in the backward
pass (activation checkpointing) must not be read inside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers.integrations import is_deepspeed_zero3_enabled

# T tokens of a reading, I inputs and O outputs of a layer

Kept = list[tuple[Tensor, Tensor]]  # inputs (T, I) and gradients of outputs (T, O) of each reading


def few_tokens(tokens: int, weight_OI: Tensor) -> bool:
    """Whether inputs and output gradients take less than half of the memory that the weight's gradient does."""
    return 2 * tokens * sum(weight_OI.shape) < weight_OI.numel()


class _Collect(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight_OI: Tensor, kept: Kept) -> Tensor:
        ctx.kept = kept
        ctx.set_materialize_grads(False)
        ctx.like = weight_OI.dtype
        return weight_OI.view_as(weight_OI)

    @staticmethod
    def backward(ctx: Any, gradient_OI: Tensor | None) -> tuple[Tensor | None, None]:
        if not ctx.kept:
            return gradient_OI, None
        inputs_TI, outputs_TO = (torch.cat(tensors) for tensors in zip(*ctx.kept, strict=True))
        ctx.kept.clear()
        collected_OI = (outputs_TO.T @ inputs_TI).to(ctx.like)
        return collected_OI if gradient_OI is None else gradient_OI + collected_OI, None


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight_OI: Tensor, kept: Kept) -> Tensor:
        ctx.save_for_backward(inputs, weight_OI)
        ctx.kept = kept
        return linear(inputs, weight_OI)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        inputs, weight_OI = ctx.saved_tensors
        ctx.kept.append((inputs.flatten(0, -2), gradient.flatten(0, -2)))
        return gradient @ weight_OI, None, None


@contextmanager
def deferred_weights(model: nn.Module, *, few: Callable[[int, Tensor], bool] = few_tokens) -> Iterator[None]:
    """The linear layers defer their weights' gradients while they are read; the backward pass may come later.

    model: a decoder; few: whether so many tokens are few enough for the weight
    """
    layers: list[nn.Linear] = []
    if torch.is_grad_enabled() and not is_deepspeed_zero3_enabled():
        layers = [
            module
            for module in model.modules()
            if type(module) is nn.Linear and module.weight.requires_grad and "forward" not in module.__dict__
        ]
    try:
        for layer in layers:
            layer.__dict__["forward"] = _forward(layer, few)
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


def _forward(layer: nn.Linear, few: Callable[[int, Tensor], bool]) -> Callable[[Tensor], Tensor]:
    kept: Kept = []
    collecting: list[Tensor] = []  # the weight behind `_Collect`, once one is needed

    def forward(inputs: Tensor) -> Tensor:
        weight_OI = layer.weight
        if not (torch.is_grad_enabled() and few(inputs.numel() // inputs.shape[-1], weight_OI)):
            return linear(inputs, weight_OI, layer.bias)
        if not collecting:
            collecting.append(_Collect.apply(weight_OI, kept))
        collected_OI = collecting[0]
        if torch.is_autocast_enabled(inputs.device.type):
            dtype = torch.get_autocast_dtype(inputs.device.type)
            inputs, collected_OI = inputs.to(dtype), collected_OI.to(dtype)
        outputs: Tensor = _Linear.apply(inputs, collected_OI, kept)
        return outputs if layer.bias is None else outputs + layer.bias.to(outputs.dtype)

    return forward
