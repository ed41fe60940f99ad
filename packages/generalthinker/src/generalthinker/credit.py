"""Token-level credit from the answer-conditioned policy: GeneralThinker, arXiv 2605.27934, section 4.

For every token of the reasoning, how much more likely the policy finds it when the prompt x+ shows the answer than the
base policy finds it without:

    s_t = log pi(y_t | x+, y_<t) - log pi_base(y_t | x, y_<t)                                        (Eq. 7)

A rule turns it into the advantage A_t of every token of a response whose own advantage is A. With s standardised per
response, d_t = (s_t - mean(s)) / (std(s) + 1e-6):

    none                  A_t = A
    additive              A_t = A + lambda d_t                                     AM, uncontrolled (Eq. 10)
    clipped               the same, after the token clip                           AM + TC
                          d = clip(d, -eps_tok, eps_tok); d = d - mean(d)
    direction_preserving  A_t = A + lambda |A| w_t, w_t = d_t / max(1, max|d|)     AM + DP
    controlled            token clip, then direction preserving                    the paper's method (Eq. 14)
    projection            A_t = A + lambda |A| w_t, w the Euclidean projection     the authors' later code
                          of (s_t - mean(s)) / std of the whole batch
                          onto {sum w = 0, |w_t| <= 1}
    rlsd                  A_t = A [(1 - l) + l clip(exp(sign(A) s_t), 1-e, 1+e)]   RLSD, arXiv 2604.03128

With 0 <= lambda < 1 the direction-preserving ones keep the sign of A at every token and A as the tokens' mean; `rlsd`
keeps the sign. All but `rlsd` are additive in the sign of d: in a response with A < 0 a token that the answer makes
more likely is punished less.

Responses without a box have no y_R and use A_t = A on all their tokens. pi_base is the frozen reference for the paper's
rules, the current policy for `projection` and `rlsd`.

Choices that the sources leave open: the standard deviation is the population's (over the T reasoning tokens
themselves); d = 0 where a response has fewer than two reasoning tokens or all s_t are equal; under the entropy gate
(`high_entropy_tokens`) a rule sees the gated tokens alone, and the others keep A.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

# B responses, T response tokens. A mask is True on reasoning tokens; values elsewhere neither matter nor survive.

Credit = Literal["none", "additive", "clipped", "direction_preserving", "controlled", "projection", "rlsd"]
KEEPS_SIGN = ("direction_preserving", "controlled", "projection", "rlsd")
EPSILON = 1e-6


class TokenCredit(NamedTuple):
    """advantages_BT, weights_BT: zero outside the mask; clipped_BT: where a bound changed a weight."""

    advantages_BT: Tensor
    weights_BT: Tensor
    clipped_BT: Tensor


# ----------------------------------------------------------------------------------------------------------- the rules


def by_rule(
    rule: Credit,
    s_BT: Tensor,
    mask_BT: Tensor,
    advantages_B: Tensor,
    *,
    strength: float,
    token_clip: float,
    batch_std: Tensor | None = None,
    mix: float = 0.0,
    bound: float = 0.0,
) -> TokenCredit:
    """The credit of one rule, each of which takes what it knows of the settings.

    Args:
        batch_std: of `projection`, see there.
        mix, bound: of `rlsd`, see there.
    """
    arguments = (s_BT, mask_BT, advantages_B)
    match rule:
        case "none":
            nothing_BT = torch.zeros_like(s_BT)
            unmodulated_BT = torch.where(mask_BT, advantages_B.unsqueeze(1), nothing_BT)
            return TokenCredit(unmodulated_BT, nothing_BT, torch.zeros_like(mask_BT))
        case "additive":
            return additive(*arguments, strength=strength)
        case "clipped":
            return additive(*arguments, strength=strength, token_clip=token_clip)
        case "direction_preserving":
            return controlled(*arguments, strength=strength, token_clip=None)
        case "controlled":
            return controlled(*arguments, strength=strength, token_clip=token_clip)
        case "projection":
            assert batch_std is not None
            return projection(*arguments, strength=strength, batch_std=batch_std)
        case "rlsd":
            return rlsd(*arguments, mix=mix, bound=bound)


def additive(
    s_BT: Tensor, mask_BT: Tensor, advantages_B: Tensor, *, strength: float, token_clip: float | None = None
) -> TokenCredit:
    """Uncontrolled modulation, A_t = A + lambda d_t; with `token_clip` the ablation with the token clip alone."""
    d_BT, clipped_BT = _evidence(s_BT, mask_BT, token_clip)
    advantages_BT = torch.where(mask_BT, advantages_B.unsqueeze(1) + strength * d_BT, 0.0)
    return TokenCredit(advantages_BT, d_BT, clipped_BT)


def controlled(
    s_BT: Tensor, mask_BT: Tensor, advantages_B: Tensor, *, strength: float, token_clip: float | None
) -> TokenCredit:
    """The paper's controlled credit; without `token_clip` the direction-preserving scale alone.

    Args:
        s_BT: conditioned minus base log-probability of every token, in nats.
        mask_BT: bool, the reasoning tokens of well-formed responses.
        advantages_B: one advantage a response.
        strength: lambda, from 0 to under 1.
        token_clip: eps_tok, in standard deviations, above 0.
    """
    d_BT, clipped_BT = _evidence(s_BT, mask_BT, token_clip)
    weights_BT = preserve_direction(d_BT)
    return TokenCredit(modulate(advantages_B, weights_BT, mask_BT, strength), weights_BT, clipped_BT)


def projection(
    s_BT: Tensor, mask_BT: Tensor, advantages_B: Tensor, *, strength: float, batch_std: Tensor
) -> TokenCredit:
    """The rule of the authors' later code.

    Args:
        batch_std: one deviation for all responses of the rollout, those of other processes included, from
            `squared_deviations`.
    """
    d_BT = centre(s_BT, mask_BT) / (batch_std + EPSILON)
    weights_BT = project(d_BT, mask_BT)
    at_bound_BT = (weights_BT.abs() >= 1 - EPSILON) & mask_BT
    return TokenCredit(modulate(advantages_B, weights_BT, mask_BT, strength), weights_BT, at_bound_BT)


def rlsd(s_BT: Tensor, mask_BT: Tensor, advantages_B: Tensor, *, mix: float, bound: float) -> TokenCredit:
    """RLSD: A_t = A [(1 - l) + l clip(exp(sign(A) s_t), 1 - e, 1 + e)].

    Args:
        mix: l, see `rlsd_mix`.
        bound: e, from 0 to under 1.
    """
    advantages_B1 = advantages_B.unsqueeze(1)
    log_factor_BT = torch.where(mask_BT, advantages_B1.sign() * s_BT, torch.zeros_like(s_BT))
    factor_BT = log_factor_BT.exp().clamp(1 - bound, 1 + bound)
    clipped_BT = mask_BT & (factor_BT != log_factor_BT.exp())
    weights_BT = torch.where(mask_BT, mix * (factor_BT - 1), 0.0)
    return TokenCredit(torch.where(mask_BT, advantages_B1 * (1 + weights_BT), 0.0), weights_BT, clipped_BT)


def rlsd_mix(step: int, *, start: float, steps: int) -> float:
    """l: from `start` at step 0 to 0 at step `steps`, linearly."""
    return start * max(0.0, 1.0 - step / steps)


# ----------------------------------------------------------------------------------------------------------- the steps


def masked_mean(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean over each response's masked tokens, (B, 1); 0 where there is none."""
    total = torch.where(mask_BT, values_BT, torch.zeros_like(values_BT)).sum(dim=1, keepdim=True)
    return total / mask_BT.sum(dim=1, keepdim=True).clamp(min=1)


def centre(s_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """s_t less the mean over its response; 0 outside the mask."""
    return torch.where(mask_BT, s_BT - masked_mean(s_BT, mask_BT), torch.zeros_like(s_BT))


def standardise(s_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """d_t: zero mean and unit deviation over each response's reasoning tokens; 0 where they do not differ."""
    s_BT = torch.where(mask_BT, s_BT, torch.zeros_like(s_BT))
    centred = centre(s_BT, mask_BT)
    std = masked_mean(centred.square(), mask_BT).sqrt()
    # Equal values leave only the rounding of their mean behind, which must not be scaled up to a credit.
    rounding = torch.finfo(s_BT.dtype).eps * 8 * s_BT.abs().amax(dim=1, keepdim=True)
    return torch.where(std > rounding, centred / (std + EPSILON), torch.zeros_like(centred))


def clip_and_centre(d_BT: Tensor, mask_BT: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """The token clip: d within [-bound, bound], then centred again; and where the clip changed a value."""
    clipped = d_BT.clamp(-bound, bound)
    return centre(clipped, mask_BT), (clipped != d_BT) & mask_BT


def preserve_direction(d_BT: Tensor) -> Tensor:
    """w_t = d_t / max(1, max_t |d_t|): one positive factor a response, so |w_t| <= 1 and order and mean stay."""
    return d_BT / d_BT.abs().amax(dim=1, keepdim=True).clamp(min=1.0)


def modulate(advantages_B: Tensor, weights_BT: Tensor, mask_BT: Tensor, strength: float) -> Tensor:
    """A_t = A + lambda |A| w_t on reasoning tokens, 0 elsewhere."""
    advantages_B1 = advantages_B.unsqueeze(1)
    return torch.where(mask_BT, advantages_B1 + strength * advantages_B1.abs() * weights_BT, 0.0)


def squared_deviations(s_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """(2,) in float64: the sum of the squared centred values, and how many there are.

    Summed over processes, their quotient is the variance that `projection` divides by.
    """
    return torch.stack([centre(s_BT, mask_BT).double().square().sum(), mask_BT.double().sum()])


def deviation(squares_and_count: Tensor) -> Tensor:
    """The standard deviation from `squared_deviations`, or from their sum over processes."""
    squares, count = squares_and_count
    return (squares / count.clamp(min=1)).sqrt()


def project(d_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Euclidean projection of each row onto {sum w = 0, |w_t| <= 1} over the mask.

    It is w = clip(d - tau, -1, 1) for the tau at which the sum is 0; the sum falls with tau, so tau is bracketed by
    bisection, and then solved for exactly among the tokens that are not at a bound.
    """
    d_BT = torch.where(mask_BT, d_BT, torch.zeros_like(d_BT))

    def clipped(tau_B1: Tensor) -> Tensor:
        return torch.where(mask_BT, (d_BT - tau_B1).clamp(-1, 1), torch.zeros_like(d_BT))

    low_B1 = d_BT.amin(dim=1, keepdim=True) - 1  # every token at +1 or above
    high_B1 = d_BT.amax(dim=1, keepdim=True) + 1
    for _ in range(60):
        middle_B1 = (low_B1 + high_B1) / 2
        above = clipped(middle_B1).sum(dim=1, keepdim=True) > 0
        low_B1, high_B1 = torch.where(above, middle_B1, low_B1), torch.where(above, high_B1, middle_B1)
    tau_B1 = (low_B1 + high_B1) / 2
    free_BT = mask_BT & ((d_BT - tau_B1).abs() < 1)
    n_free = free_BT.sum(dim=1, keepdim=True)
    at_bounds = torch.where(free_BT, torch.zeros_like(d_BT), clipped(tau_B1)).sum(dim=1, keepdim=True)
    exact_B1 = (torch.where(free_BT, d_BT, torch.zeros_like(d_BT)).sum(dim=1, keepdim=True) + at_bounds) / n_free.clamp(
        min=1
    )
    return clipped(torch.where(n_free > 0, exact_B1, tau_B1))


# ----------------------------------------------------------------------------------------------- gate and controls


def high_entropy_tokens(entropies_BT: Tensor, mask_BT: Tensor, threshold: Tensor) -> Tensor:
    """The entropy gate: the tokens of the mask whose entropy, in nats, is at least `threshold`."""
    return mask_BT & (entropies_BT >= threshold)


def shuffle(s_BT: Tensor, mask_BT: Tensor, generator: torch.Generator) -> Tensor:
    """The control that keeps the sizes and loses the places: s permuted at random within each response's mask.

    generator: on the CPU, so that the permutation does not depend on the device.
    """
    shuffled_BT = s_BT.clone()
    for b in range(len(s_BT)):
        values = s_BT[b, mask_BT[b]]
        shuffled_BT[b, mask_BT[b]] = values[torch.randperm(len(values), generator=generator).to(values.device)]
    return shuffled_BT


def reverse(s_BT: Tensor) -> Tensor:
    """The control that turns every credit around."""
    return -s_BT


def _evidence(s_BT: Tensor, mask_BT: Tensor, token_clip: float | None) -> tuple[Tensor, Tensor]:
    """d_t, clipped or not, and where the clip changed it."""
    d_BT = standardise(s_BT, mask_BT)
    if token_clip is None:
        return d_BT, torch.zeros_like(mask_BT)
    return clip_and_centre(d_BT, mask_BT, token_clip)
