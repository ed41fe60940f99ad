"""Token-level credit from the answer-conditioned policy: GeneralThinker, arXiv 2605.27934, section 4.

For every token of the reasoning, how much more likely the policy finds it when the prompt x+ shows the answer than the
base policy finds it without:

    s_t = log pi(y_t | x+, y_<t) - log pi_base(y_t | x, y_<t)                                        (Eq. 7)

`controlled` (the paper's method) turns it into a bounded, centred weight and modulates the response's advantage A:

    d_t = (s_t - mean(s)) / (std(s) + 1e-6)              standardise, per response
    d   = clip(d, -eps_tok, eps_tok); d = d - mean(d)    token clip
    w_t = d_t / max(1, max_t |d_t|)                      direction-preserving scale: |w_t| <= 1, mean(w) = 0
    A_t = A + lambda |A| w_t,   0 <= lambda < 1          (Eq. 14)

so that every token keeps the sign of A and the tokens' mean is A. It is additive in the sign of w: in a response with
A < 0 a token that the answer makes more likely is punished less.

`none` is A_t = A. Responses without a box have no y_R and use A_t = A on all their tokens.

Choices that the paper leaves open: the standard deviation is the population's (over the T reasoning tokens themselves);
d = 0 where a response has fewer than two reasoning tokens or all s_t are equal.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

# B responses, T response tokens. A mask is True on reasoning tokens; values elsewhere neither matter nor survive.

Credit = Literal["none", "controlled"]
EPSILON = 1e-6


class TokenCredit(NamedTuple):
    """advantages_BT, weights_BT: zero outside the mask; clipped_BT: where the token clip changed d."""

    advantages_BT: Tensor
    weights_BT: Tensor
    clipped_BT: Tensor


def masked_mean(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean over each response's masked tokens, (B, 1); 0 where there is none."""
    total = torch.where(mask_BT, values_BT, torch.zeros_like(values_BT)).sum(dim=1, keepdim=True)
    return total / mask_BT.sum(dim=1, keepdim=True).clamp(min=1)


def standardise(s_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """d_t: zero mean and unit deviation over each response's reasoning tokens; 0 where they do not differ."""
    s_BT = torch.where(mask_BT, s_BT, torch.zeros_like(s_BT))
    centred = torch.where(mask_BT, s_BT - masked_mean(s_BT, mask_BT), torch.zeros_like(s_BT))
    std = masked_mean(centred.square(), mask_BT).sqrt()
    # Equal values leave only the rounding of their mean behind, which must not be scaled up to a credit.
    rounding = torch.finfo(s_BT.dtype).eps * 8 * s_BT.abs().amax(dim=1, keepdim=True)
    return torch.where(std > rounding, centred / (std + EPSILON), torch.zeros_like(centred))


def clip_and_centre(d_BT: Tensor, mask_BT: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """The token clip: d within [-bound, bound], then centred again; and where the clip changed a value."""
    clipped = d_BT.clamp(-bound, bound)
    centred = torch.where(mask_BT, clipped - masked_mean(clipped, mask_BT), torch.zeros_like(d_BT))
    return centred, (clipped != d_BT) & mask_BT


def preserve_direction(d_BT: Tensor) -> Tensor:
    """w_t = d_t / max(1, max_t |d_t|): one positive factor a response, so |w_t| <= 1 and order and mean stay."""
    return d_BT / d_BT.abs().amax(dim=1, keepdim=True).clamp(min=1.0)


def modulate(advantages_B: Tensor, weights_BT: Tensor, mask_BT: Tensor, strength: float) -> Tensor:
    """A_t = A + lambda |A| w_t on reasoning tokens, 0 elsewhere."""
    advantages_B1 = advantages_B.unsqueeze(1)
    return torch.where(mask_BT, advantages_B1 + strength * advantages_B1.abs() * weights_BT, 0.0)


def controlled(
    s_BT: Tensor, mask_BT: Tensor, advantages_B: Tensor, *, strength: float, token_clip: float
) -> TokenCredit:
    """The paper's controlled credit.

    Args:
        s_BT: conditioned minus base log-probability of every token, in nats.
        mask_BT: bool, the reasoning tokens of well-formed responses.
        advantages_B: one advantage a response.
        strength: lambda, from 0 to under 1.
        token_clip: eps_tok, in standard deviations, above 0.
    """
    d_BT, clipped_BT = clip_and_centre(standardise(s_BT, mask_BT), mask_BT, token_clip)
    weights_BT = preserve_direction(d_BT)
    return TokenCredit(modulate(advantages_B, weights_BT, mask_BT, strength), weights_BT, clipped_BT)
