"""Log-probabilities of a rollout's tokens, without gradient, under any of the policies that a rule compares."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ._common import Continuation, continuation_logprobs
from .rollout import Rollout

# B responses of a rollout, T response tokens (padded on the right)


def response_logprobs(
    model: Any, rollout: Rollout, wanted_BT: Tensor, *, temperature: float, max_tokens_per_batch: int
) -> Tensor:
    """Log-probabilities (B, T) of the wanted tokens in nats, 0 elsewhere; a prompt is read once for its responses.

    Args:
        wanted_BT: bool, true on tokens with which a response begins.
        temperature: that the responses were sampled at, by which the logits are divided.
    """
    asked = wanted_continuations(rollout, wanted_BT, temperature)
    return in_rows(continuation_logprobs(model, asked, max_tokens_per_batch=max_tokens_per_batch), wanted_BT)


def wanted_continuations(rollout: Rollout, wanted_BT: Tensor, temperature: float) -> list[Continuation]:
    """The wanted tokens of each response that has some; what stands behind them is not read."""
    lengths = wanted_BT.sum(dim=1).tolist()
    return [
        Continuation(prompt, response[:length], temperature=temperature)
        for prompt, response, length in zip(rollout.prompts, rollout.responses, lengths, strict=True)
        if length
    ]


def in_rows(values: Sequence[Tensor], wanted_BT: Tensor) -> Tensor:
    """The values of these continuations at their places (B, T), 0 elsewhere."""
    if not values:
        return torch.zeros(wanted_BT.shape)
    values_N = torch.cat(list(values))
    return values_N.new_zeros(wanted_BT.shape).masked_scatter(wanted_BT.to(values_N.device), values_N)
