"""What a run logs of each rollout (section 6 of the method's description), as plain numbers.

Everything here is over the rollout of all processes: W responses, of which the G of one prompt stand together, and N
reasoning tokens.
"""

from math import nan

import torch
from torch import Tensor

QUANTILES = (50, 90, 99)


def rollout_statistics(
    rewards_W: Tensor,
    answer_logprobs_W: Tensor,
    well_formed_W: Tensor,
    boxed_W: Tensor,
    truncated_W: Tensor,
    advantages_W: Tensor,
    group_std: Tensor,
    *,
    min_group_std: float,
) -> dict[str, float]:
    """Rewards, formats and groups; NaN where there is nothing to average.

    Args:
        rewards_W: NaN where a response has none.
        answer_logprobs_W: log pi(a* | x, y_R) in nats, NaN where a response is malformed.
        group_std: one a group.
    """
    rewards = rewards_W[~rewards_W.isnan()]
    no_signal = (advantages_W.view(len(group_std), -1) == 0).all(1)
    return {
        "reward": rewards.mean().item(),
        "reward_std": rewards.std().item() if len(rewards) > 1 else nan,
        "answer_logprob": answer_logprobs_W.nanmean().item(),
        "well_formed_rate": well_formed_W.float().mean().item(),
        "boxed_rate": boxed_W.float().mean().item(),
        "truncation_rate": truncated_W.float().mean().item(),
        "groups_under_min_std": (group_std < min_group_std).float().mean().item(),
        "groups_without_signal": no_signal.float().mean().item(),
    }


def credit_statistics(s_N: Tensor, weights_N: Tensor, clipped_N: Tensor, flipped_N: Tensor) -> dict[str, float]:
    """The evidence and what the rule made of it.

    Args:
        s_N: log-ratios, in nats; weights_N: the tokens' weights.
        clipped_N: where a bound changed a weight; flipped_N: where a token's advantage has another sign than its
            response's.
    """
    if not len(s_N):
        return {}
    quantiles = weights_N.abs().quantile(torch.tensor(QUANTILES, dtype=weights_N.dtype, device=weights_N.device) / 100)
    return {
        "credit/log_ratio_mean": s_N.mean().item(),
        "credit/log_ratio_std": s_N.std().item() if len(s_N) > 1 else 0.0,
        "credit/clip_ratio": clipped_N.float().mean().item(),
        "credit/sign_flip_ratio": flipped_N.float().mean().item(),
        **{f"credit/weight_abs_p{q}": value for q, value in zip(QUANTILES, quantiles.tolist(), strict=True)},
    }


def sampling_statistics(difference_N: Tensor, ratio_N: Tensor) -> dict[str, float]:
    """How far the engine that sampled is from the policy, under TRL's names.

    Args:
        difference_N: log-probabilities of the policy less the engine's, in nats, of the tokens with a loss.
        ratio_N: the loss's weights, of tokens or responses.
    """
    if not len(ratio_N):
        return {}
    difference_N = difference_N[~difference_N.isnan()].abs()
    return {
        "sampling/sampling_logp_difference/mean": difference_N.mean().item() if len(difference_N) else nan,
        "sampling/sampling_logp_difference/max": difference_N.max().item() if len(difference_N) else nan,
        "sampling/importance_sampling_ratio/min": ratio_N.min().item(),
        "sampling/importance_sampling_ratio/mean": ratio_N.mean().item(),
        "sampling/importance_sampling_ratio/max": ratio_N.max().item(),
    }
