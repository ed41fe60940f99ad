"""Progressive alignment: a latent step should come to mean what the text step meant. SpiralThinker, arXiv 2511.08983.

    align^(k) = (1/L) sum_l | h_eol^(l,k) - h_eot^(l) |_1 / sigma^(l)
    v = softmax(alpha * [1..K]);   loss = CE + lambda * sum_k v_k align^(k)

    h_eol^(l,k)   state of layer l at the `<eol>` of a latent step when the model reads iteration k
    h_eot^(l)     the teacher's state of layer l at the `<eot>` of the text step it stands for, in the explicit version
    l             the L layers without the embeddings; the last one is what the output head reads, after the final norm

The later an iteration, the more it counts. With K = 0 there is align^(0), with weight 1.

Departures from the paper, or choices where its account (as published in digests) says nothing; all are settings but 2:
 1. | . |_1 is SmoothL1 (Huber, beta 1) by default, or plain L1; the mean over the features.
 2. sigma^(l) is one number: the population's standard deviation of all the teacher's selected states at that layer,
    over the latent steps of the optimiser's whole batch and over the features. It is a constant in the gradient.
 3. The teacher is the live model without gradient, or the frozen model at the end of stage 1; its states are constants.
 4. alpha = 1, lambda = 1 (CODI and PCCoT weigh such a term by 20).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import l1_loss, smooth_l1_loss

# K iterations, L layers, U latent steps of a batch, D hidden size

Distance = Literal["smooth_l1", "l1"]
SMALLEST_DEVIATION = 1e-6  # of states that do not differ at all


def iteration_weights(iterations: int, alpha: float) -> Tensor:
    """v, (K,): softmax(alpha * [1..K]); for K = 0 the one weight of align^(0)."""
    if iterations == 0:
        return torch.ones(1)
    return torch.softmax(alpha * torch.arange(1, iterations + 1, dtype=torch.float32), dim=0)


def alignment(
    student_KLUD: Tensor,
    teacher_LUD: Tensor,
    sigma_L: Tensor,
    weights_K: Tensor,
    *,
    distance: Distance = "smooth_l1",
) -> Tensor:
    """sum_k v_k align^(k) of each latent step, (U,).

    Args:
        student_KLUD: h_eol of the iterations 1..K (of reading 0 alone, for K = 0).
        teacher_LUD: h_eot.
        sigma_L: see `deviation`.
        weights_K: v.
    """
    rule = smooth_l1_loss if distance == "smooth_l1" else l1_loss
    student_KLUD = student_KLUD.to(torch.promote_types(student_KLUD.dtype, torch.float32))
    target_KLUD = teacher_LUD.detach().to(student_KLUD).expand_as(student_KLUD)
    distances_KLU = rule(student_KLUD, target_KLUD, reduction="none").mean(-1) / sigma_L.to(student_KLUD)[:, None]
    return torch.einsum("k,klu->u", weights_K.to(student_KLUD), distances_KLU) / len(sigma_L)


def moments(teacher_LUD: Tensor) -> Tensor:
    """(L, 3) in float64: how many values, their sum, their sum of squares. Added up over a batch, they give sigma."""
    values = teacher_LUD.detach().double().flatten(1)
    count = torch.full((len(values),), values.shape[1], dtype=torch.float64, device=values.device)
    return torch.stack([count, values.sum(1), values.square().sum(1)], dim=1)


def deviation(moments_L3: Tensor) -> Tensor:
    """sigma^(l), (L,) in float64, from added-up `moments`; 1 where there are no values."""
    count_L, sum_L, squares_L = moments_L3.unbind(1)
    number_L = count_L.clamp(min=1)
    variance_L = (squares_L / number_L - (sum_L / number_L).square()).clamp(min=0)
    return torch.where(count_L > 0, variance_L.sqrt().clamp(min=SMALLEST_DEVIATION), 1.0)
