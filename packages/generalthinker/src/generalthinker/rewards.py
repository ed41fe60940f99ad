"""From likelihoods to one advantage a response: GeneralThinker, arXiv 2605.27934, section 3, and its peers.

The reward of a response y to a prompt x is the log-likelihood of the reference answer a* behind the response's own
reasoning y_R, the tokens up to and including `\\boxed{`:

    likelihood        r = log pi(a* | x, y_R) = sum_t log pi(a*_t | x, y_R, a*_<t)                      (Eq. 6)

raw sum, neither exponentiated nor normalised by length, and detached. The other rewards are those it is compared with:

    binary            r = 1 if the response's own answer is right, else 0: plain GRPO with a verifier
    mean_probability  r = max(0, mean_t pi(a*_t | x, y_R, ..) - mean_t pi(a*_t | x, ..))    RLPR, arXiv 2506.18254
    probability       r = pi(a* | x, y_R) = prod_t pi(a*_t | x, y_R, ..)                    VeriFree, arXiv 2505.21493

Within the G responses of one prompt

    A = (r - mean_G) / (std_G + 1e-4)

with the unbiased standard deviation; VeriFree takes A_i = r_i - mean_{j != i} r_j instead, and adds r_i log pi(a* | x,
y_R) to the objective, so that the policy also learns to give a* after its reasoning.

Departures and choices the papers leave open, each a setting:
1. A *malformed* response (truncated, no box, unbalanced braces, empty answer, empty reasoning) has no y_R to score.
   `floor` (default, as the authors' code) gives it a fixed reward, -30. `below_worst` gives it the group's worst
   well-formed reward less a margin, so that it can never beat an honest long answer, and never dominates the group's
   standard deviation. `exclude` leaves it out of the group: it counts in neither mean nor deviation, and its advantage
   is 0. Rewards that are no log-likelihood have a natural floor of their own, 0, in the place of -30.
2. A group whose standard deviation lies under `min_group_std` gets zero advantage, where the division by a tiny
   deviation would blow up noise. The default 0 changes nothing. VeriFree's second term has no advantage and stays.
3. Which tokens end the answer counts for `mean_probability` and `probability` as `closing` says, as for the likelihood.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ._common import AnswerScore

# B responses; the G responses of one prompt stand together

Reward = Literal["likelihood", "binary", "mean_probability", "probability"]
Malformed = Literal["floor", "below_worst", "exclude"]
EPSILON = 1e-4


def answer_values(reward: Reward, scores: Sequence[AnswerScore | None]) -> Tensor:
    """What a reward takes of the scores of the reference answer (B,); 0 where there is none."""
    take: dict[str, Callable[[AnswerScore], float]] = {
        "likelihood": lambda score: score.sum,
        "mean_probability": lambda score: score.mean_probability,
        "probability": lambda score: score.probability,
    }
    return torch.tensor([0.0 if score is None else take[reward](score) for score in scores])


def reward_responses(
    scores_B: Tensor,
    well_formed_B: Tensor,
    group_size: int,
    *,
    malformed: Malformed,
    floor: float,
    margin: float,
) -> Tensor:
    """Rewards (B,): a well-formed response's score, and what `malformed` says of the others.

    Args:
        scores_B: such as log pi(a* | x, y_R); ignored where the response is malformed.
        well_formed_B: bool.
        floor: reward of a malformed response under `floor`, and under `below_worst` in a group of nothing else.
        margin: how far under the worst well-formed response `below_worst` puts it.
    """
    if malformed == "exclude":
        return scores_B.masked_fill(~well_formed_B, torch.nan)
    if malformed == "floor":
        return scores_B.masked_fill(~well_formed_B, floor)
    grouped = scores_B.masked_fill(~well_formed_B, torch.inf).view(-1, group_size)
    worst = grouped.amin(dim=1, keepdim=True)
    substitute = torch.where(worst.isinf(), torch.full_like(worst, floor), worst - margin)
    return torch.where(grouped.isinf(), substitute, grouped).view(-1)


def advantages_of(rewards_B: Tensor, group_size: int, *, reward: Reward, min_group_std: float) -> tuple[Tensor, Tensor]:
    """Advantages (B,) as the method of this reward takes them, and every group's standard deviation (B / group_size,).

    A group with a deviation under `min_group_std` gets none.
    """
    advantages_B, std = group_advantages(rewards_B, group_size, min_group_std=min_group_std)
    if reward == "probability":
        advantages_B = leave_one_out_advantages(rewards_B, group_size)
        advantages_B = advantages_B.masked_fill((std < min_group_std).repeat_interleave(group_size), 0.0)
    return advantages_B, std


def group_advantages(rewards_B: Tensor, group_size: int, *, min_group_std: float) -> tuple[Tensor, Tensor]:
    """Advantages (B,) and the standard deviation of every group (B / group_size,).

    A NaN reward (an excluded response) counts in neither mean nor deviation and gets advantage 0; so does every
    response of a group with fewer than two rewards, or with a deviation under `min_group_std`.
    """
    rewards = rewards_B.view(-1, group_size)
    counted = ~rewards.isnan()
    n = counted.sum(dim=1, keepdim=True)
    filled = rewards.nan_to_num(0.0)
    mean = filled.sum(dim=1, keepdim=True) / n.clamp(min=1)
    deviation = torch.where(counted, filled - mean, torch.zeros_like(filled))
    std = (deviation.square().sum(dim=1, keepdim=True) / (n - 1).clamp(min=1)).sqrt()
    advantages = deviation / (std + EPSILON)
    return torch.where(std < min_group_std, torch.zeros_like(advantages), advantages).view(-1), std.view(-1)


def leave_one_out_advantages(rewards_B: Tensor, group_size: int) -> Tensor:
    """A_i = r_i - mean of the group's other rewards (B,); RLOO's baseline, as VeriFree takes it.

    A NaN reward (an excluded response) counts nowhere and gets advantage 0, as does a reward without others.
    """
    rewards = rewards_B.view(-1, group_size)
    counted = ~rewards.isnan()
    filled = rewards.nan_to_num(0.0)
    others = counted.sum(dim=1, keepdim=True) - 1
    baseline = (filled.sum(dim=1, keepdim=True) - filled) / others.clamp(min=1)
    return torch.where(counted & (others > 0), filled - baseline, torch.zeros_like(filled)).view(-1)


def probability_gain(with_reasoning_B: Tensor, without_B: Tensor) -> Tensor:
    """RLPR's reward (B,): how much the reasoning raises the answer's mean token probability, floored at 0."""
    return (with_reasoning_B - without_B).clamp(min=0.0)
