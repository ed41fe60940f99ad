"""A model's output head: from the decoder's last hidden states to logits, for any selection of the positions.

What a head does beside its projection stands in the model's configuration, under a name for each family. Whether that
reading is right is verified against the model's own forward (`agrees`), since a family that is not known here may cap
or scale its logits in a way of its own.

Shape legend: B rows, T tokens a row, N positions, D hidden size, V vocabulary size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from .forward import call_through

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


Head = Callable[[Tensor], Tensor]  # from states (..., D) to logits (..., V)
T = TypeVar("T")


@dataclass(frozen=True)
class OutputHead:
    """Projection (with any adapter on it), then scale, then soft cap."""

    projection: nn.Module
    scale: float = 1.0
    soft_cap: float | None = None

    def __call__(self, states_ND: Tensor) -> Tensor:
        return self._finish(self.projection(states_ND))

    def _finish(self, logits_NV: Tensor) -> Tensor:
        if self.scale != 1.0:
            logits_NV = logits_NV * self.scale
        if self.soft_cap is not None:
            logits_NV = torch.tanh(logits_NV / self.soft_cap) * self.soft_cap
        return logits_NV


def in_one_call(head: Head, work: Callable[[Head, Tensor], T], states_ND: Tensor) -> T:
    """`work(head, states_ND)`, in which the head may be applied any number of times, to chunks of the states.

    ZeRO-3 gathers a module's weight when its forward is called, and again when the backward pass comes to its output:
    all ranks have to call it equally often, and each time the whole weight travels. So the work runs inside one call of
    the projection, whose forward it applies directly. What it returns is a tensor or a tuple of tensors.
    """
    if not isinstance(head, OutputHead):
        return work(head, states_ND)

    def within(projection: nn.Module, states_ND: Tensor) -> T:
        return work(lambda states_CD: head._finish(projection.forward(states_CD)), states_ND)

    return call_through(head.projection, head.projection, within, states_ND)


def described_head(model: PreTrainedModel | PeftModel) -> OutputHead | None:
    """The head as the model's configuration describes it; None if the model has no module that projects to logits."""
    projection = model.get_output_embeddings()
    if projection is None:
        return None
    config = model.config.get_text_config()
    scale = getattr(config, "logit_scale", None) or 1.0  # Cohere
    scale /= getattr(config, "logits_scaling", None) or 1.0  # Granite
    scale *= getattr(config, "lm_head_multiplier", None) or 1.0  # Falcon-H1
    if getattr(config, "scale_decoder_outputs", False):  # T5 with tied embeddings; v1.1 has a head of its own
        scale *= config.d_model**-0.5
    return OutputHead(projection, scale, getattr(config, "final_logit_softcapping", None))  # soft cap: Gemma


def agrees(head: OutputHead, states: Callable[[], Tensor | None], own_logits: Callable[[], Tensor]) -> bool:
    """Whether `head(states())` are the logits that the model's own forward gives for the same tokens.

    False also if there are no states: the decoder of some models is the whole model.

    The projection's output is amplified on both sides, by what brings its standard deviation in the model's own forward
    to 30: the logits of an untrained model are so small that a soft cap would not show, and it would after training.
    """
    factors: list[Tensor] = []

    def amplify(_module: nn.Module, _args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if not factors:
            factors.append(30 / output.float().std())
        return output * factors[0]

    hook = head.projection.register_forward_hook(amplify)
    try:
        expected_BTV = own_logits()
        states_BTD = states()
        if states_BTD is None:
            return False
        logits_BTV = head(states_BTD)
    finally:
        hook.remove()
    if logits_BTV.shape != expected_BTV.shape:
        return False
    # Both are the same products but for the order of the scales, so they differ by rounding alone.
    tolerance = max(1e-4, 2.5 * torch.finfo(logits_BTV.dtype).eps)
    difference = (logits_BTV.float() - expected_BTV.float()).abs().max()
    return bool(difference < tolerance * expected_BTV.float().abs().max())
