"""What is logged of a rollout, every number by hand."""

from math import isnan, nan

import pytest
import torch

from generalthinker.metrics import credit_statistics, rollout_statistics, sampling_statistics


def of_rollout(
    *, min_group_std: float, rewards: tuple[float, ...] = (-1.0, -4.0, nan, 2.0, 2.0, 2.0)
) -> dict[str, float]:
    """Two groups of three: one with a response that has no reward, one whose rewards are all equal."""
    return rollout_statistics(
        rewards_W=torch.tensor(rewards),
        answer_logprobs_W=torch.tensor([-1.0, -5.0, nan, -3.0, nan, nan]),
        well_formed_W=torch.tensor([True, True, False, True, False, False]),
        boxed_W=torch.tensor([True, True, False, True, True, False]),
        truncated_W=torch.tensor([False, False, True, False, False, False]),
        advantages_W=torch.tensor([0.7, -0.7, 0.0, 0.0, 0.0, 0.0]),
        group_std=torch.tensor([2.0, 0.5]),
        min_group_std=min_group_std,
    )


def test_a_rollout() -> None:
    assert of_rollout(min_group_std=1.0) == pytest.approx(
        {
            "reward": 1 / 5,
            "reward_std": (28.8 / 4) ** 0.5,  # squared deviations 1.44, 17.64 and three times 3.24
            "answer_logprob": -3.0,
            "well_formed_rate": 3 / 6,
            "boxed_rate": 4 / 6,
            "truncation_rate": 1 / 6,
            "groups_under_min_std": 1 / 2,
            "groups_without_signal": 1 / 2,
        }
    )


def test_a_group_at_the_bound_is_not_under_it() -> None:
    assert [of_rollout(min_group_std=bound)["groups_under_min_std"] for bound in (0.0, 0.5, 0.51, 2.01)] == [
        0.0, 0.0, 0.5, 1.0,
    ]  # fmt: skip


def test_what_has_no_mean_is_no_number() -> None:
    nothing = of_rollout(min_group_std=0.0, rewards=(nan,) * 6)
    assert isnan(nothing["reward"]) and isnan(nothing["reward_std"])
    one = of_rollout(min_group_std=0.0, rewards=(nan, -3.0, *[nan] * 4))
    assert one["reward"] == -3.0 and isnan(one["reward_std"])


def test_the_credit_of_a_rollout() -> None:
    found = credit_statistics(
        s_N=torch.tensor([1.0, 2.0, 3.0, -2.0, 1.0]),
        weights_N=torch.tensor([-1.0, 0.5, 0.0, 0.25, -0.75]),
        clipped_N=torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0]),
        flipped_N=torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0]),
    )
    assert found == pytest.approx(
        {
            "credit/log_ratio_mean": 1.0,
            "credit/log_ratio_std": 3.5**0.5,  # squared deviations 0, 1, 4, 9, 0
            "credit/clip_ratio": 1 / 5,
            "credit/sign_flip_ratio": 2 / 5,
            # of 0, 0.25, 0.5, 0.75, 1, which stand a quarter of the way apart
            "credit/weight_abs_p50": 0.50,
            "credit/weight_abs_p90": 0.90,
            "credit/weight_abs_p99": 0.99,
        }
    )


def test_the_credit_of_one_token_and_of_none() -> None:
    one = torch.ones(1)
    assert credit_statistics(one, one, one, one)["credit/log_ratio_std"] == 0.0
    nothing = torch.zeros(0)
    assert credit_statistics(nothing, nothing, nothing, nothing) == {}


def test_another_engine_that_sampled() -> None:
    found = sampling_statistics(torch.tensor([0.1, -0.5, nan]), torch.tensor([0.5, 1.0, 1.5, 3.0]))
    assert found == pytest.approx(
        {
            "sampling/sampling_logp_difference/mean": 0.3,
            "sampling/sampling_logp_difference/max": 0.5,
            "sampling/importance_sampling_ratio/min": 0.5,
            "sampling/importance_sampling_ratio/mean": 1.5,
            "sampling/importance_sampling_ratio/max": 3.0,
        }
    )
    assert sampling_statistics(torch.zeros(0), torch.zeros(0)) == {}
