"""Progressive alignment: a latent step should come to mean what the text step meant. SpiralThinker, arXiv 2511.08983.

    align^(k) = (1/L) sum_l | h_eol^(l,k) - h_eot^(l) |_1 / sigma^(l)
    v = softmax(alpha * [1..K]);   loss = CE + lambda * sum_k v_k align^(k)

    h_eol^(l,k)   state of layer l at the `<eol>` of a latent step when the model reads iteration k
    h_eot^(l)     the teacher's state of layer l at the `<eot>` of the text step it stands for, in the explicit version
    l             the L layers without the embeddings; the last one is what the output head reads, after the final norm

The later an iteration, the more it counts. With K = 0 there is align^(0), with weight 1.

Departures from the paper, or choices where its account (as published in digests) says nothing; all but 5, and the
dropout of 3, are settings:
 1. | . |_1 is SmoothL1 (Huber, beta 1) by default, or plain L1; the mean over the features.
 2. sigma^(l) is one number (`layer`): the population's standard deviation of all the teacher's selected states at that
    layer, over the latent steps of the optimiser's whole batch and over the features; or one for each feature
    (`feature`), which does not count how features differ from each other, and is at least a hundredth of the layer's.
    It is a constant in the gradient.
 3. The teacher is the live model without gradient, or the frozen model at the end of stage 1; its states are constants.
    The live one reads as the student does, with dropout where that has it: they share the prompt's keys and values.
 4. alpha = 1, lambda = 1 (CODI and PCCoT weigh such a term by 20).
 5. The term is averaged over all latent steps of the batch: a problem with more of them counts more.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import l1_loss, smooth_l1_loss

# K iterations, L layers, U latent steps of a batch, D hidden size

Distance = Literal["smooth_l1", "l1"]
Sigma = Literal["layer", "feature"]
SMALLEST_DEVIATION = 1e-6  # of states that do not differ at all
LEAST_SHARE = 0.01  # of a feature's sigma in its layer's


def iteration_weights(iterations: int, alpha: float) -> Tensor:
    """v, (K,): softmax(alpha * [1..K]); for K = 0 the one weight of align^(0)."""
    if iterations == 0:
        return torch.ones(1)
    return torch.softmax(alpha * torch.arange(1, iterations + 1, dtype=torch.float32), dim=0)


def alignment(
    student_KLUD: Tensor,
    teacher_LUD: Tensor,
    sigma_LD: Tensor,
    weights_K: Tensor,
    *,
    distance: Distance = "smooth_l1",
) -> Tensor:
    """sum_k v_k align^(k) of each latent step, (U,).

    Args:
        student_KLUD: h_eol of the iterations 1..K (of reading 0 alone, for K = 0).
        teacher_LUD: h_eot.
        sigma_LD: see `deviation`.
        weights_K: v.
    """
    rule = smooth_l1_loss if distance == "smooth_l1" else l1_loss
    student_KLUD = student_KLUD.to(torch.promote_types(student_KLUD.dtype, torch.float32))
    target_KLUD = teacher_LUD.detach().to(student_KLUD).expand_as(student_KLUD)
    distances_KLUD = rule(student_KLUD, target_KLUD, reduction="none")
    distances_KLU = (distances_KLUD / sigma_LD.to(student_KLUD)[:, None]).mean(-1)
    return torch.einsum("k,klu->u", weights_K.to(student_KLUD), distances_KLU) / len(sigma_LD)


def moments(teacher_LUD: Tensor, of: Sigma = "layer") -> Tensor:
    """(L, D, 3) in float64: how many values, their sum, their sum of squares. Added up over a batch, they give sigma.

    D is 1 for one sigma a layer.
    """
    values = teacher_LUD.detach().double()
    values_LDU = values.flatten(1)[:, None] if of == "layer" else values.transpose(1, 2)
    count_LD = values.new_full(values_LDU.shape[:2], values_LDU.shape[2])
    return torch.stack([count_LD, values_LDU.sum(-1), values_LDU.square().sum(-1)], dim=-1)


def deviation(moments_LD3: Tensor) -> Tensor:
    """sigma^(l), (L, D) in float64, from added-up `moments`; 1 where there are no values."""
    sigma_LD = _deviation(moments_LD3)
    if sigma_LD.shape[1] > 1:  # the deviation of a feature that hardly changes, or of a single step, is no measure
        sigma_LD = sigma_LD.clamp(min=LEAST_SHARE * _deviation(moments_LD3.sum(1, keepdim=True)))
    return sigma_LD


def _deviation(moments_LD3: Tensor) -> Tensor:
    count_LD, sum_LD, squares_LD = moments_LD3.unbind(-1)
    number_LD = count_LD.clamp(min=1)
    variance_LD = (squares_LD / number_LD - (sum_LD / number_LD).square()).clamp(min=0)
    return torch.where(count_LD > 0, variance_LD.sqrt().clamp(min=SMALLEST_DEVIATION), 1.0)
