"""Rewards and group advantages, against the equations by hand."""

import pytest
import torch

from generalthinker.rewards import (
    Reward,
    advantages_of,
    group_advantages,
    leave_one_out_advantages,
    probability_gain,
    reward_responses,
)

GOOD = [-1.0, -2.0, -3.0, -6.0]


def rewards(values: list[float], well_formed: list[bool], malformed: str, group: int = 4) -> list[float]:
    return reward_responses(
        torch.tensor(values), torch.tensor(well_formed), group, malformed=malformed, floor=-30.0, margin=1.0
    ).tolist()


def test_well_formed_rewards_are_the_log_likelihoods() -> None:
    for malformed in ("floor", "below_worst", "exclude"):
        assert rewards(GOOD, [True] * 4, malformed) == GOOD


def test_malformed_rewards() -> None:
    flags = [True, False, True, True]
    assert rewards(GOOD, flags, "floor") == [-1.0, -30.0, -3.0, -6.0]
    assert rewards(GOOD, flags, "below_worst") == [-1.0, -7.0, -3.0, -6.0]
    excluded = rewards(GOOD, flags, "exclude")
    assert excluded[1] != excluded[1]  # NaN
    assert [excluded[0], *excluded[2:]] == [-1.0, -3.0, -6.0]


def test_malformed_beats_an_honest_long_answer_only_under_floor() -> None:
    values, flags = [-45.0, 0.0, -50.0, -40.0], [True, False, True, True]
    assert rewards(values, flags, "floor")[1] > max(-45.0, -50.0, -40.0)
    assert rewards(values, flags, "below_worst")[1] < -50.0


def test_groups_are_apart_and_a_group_without_a_well_formed_response_falls_back_to_the_floor() -> None:
    values, flags = [-1.0, -9.0, 0.0, 0.0], [True, False, False, False]
    assert rewards(values, flags, "below_worst", group=2) == [-1.0, -2.0, -30.0, -30.0]


def test_advantages_by_hand() -> None:
    advantages, std = group_advantages(torch.tensor([1.0, 2.0, 3.0, 5.0, 5.0, 5.0]), 3, min_group_std=0.0)
    torch.testing.assert_close(std, torch.tensor([1.0, 0.0]))
    expected = torch.tensor([-1.0, 0.0, 1.0, 0.0, 0.0, 0.0]) / (1.0 + 1e-4)
    torch.testing.assert_close(advantages, expected)


def test_an_excluded_response_counts_in_neither_mean_nor_deviation() -> None:
    advantages, std = group_advantages(torch.tensor([1.0, torch.nan, 3.0, 2.0]), 4, min_group_std=0.0)
    alone, alone_std = group_advantages(torch.tensor([1.0, 3.0, 2.0]), 3, min_group_std=0.0)
    assert advantages[1] == 0
    torch.testing.assert_close(advantages[[0, 2, 3]], alone)
    torch.testing.assert_close(std, alone_std)


@pytest.mark.parametrize("values", [[torch.nan] * 3, [2.0, torch.nan, torch.nan]])
def test_fewer_than_two_rewards_give_no_advantage(values: list[float]) -> None:
    advantages, _ = group_advantages(torch.tensor(values), 3, min_group_std=0.0)
    assert advantages.tolist() == [0.0, 0.0, 0.0]


def test_min_group_std_silences_noise() -> None:
    nearly_equal = torch.tensor([-1.0, -1.001, -0.999, -1.0])
    blown_up, std = group_advantages(nearly_equal, 4, min_group_std=0.0)
    assert blown_up.abs().max() > 1
    silenced, _ = group_advantages(nearly_equal, 4, min_group_std=float(std[0]) * 1.01)
    assert silenced.tolist() == [0.0] * 4
    kept, _ = group_advantages(nearly_equal, 4, min_group_std=float(std[0]) * 0.99)
    torch.testing.assert_close(kept, blown_up)


def test_one_malformed_response_dominates_a_good_group_under_floor_only() -> None:
    values, flags = torch.tensor([-1.0, -2.0, -1.5, 0.0]), torch.tensor([True, True, True, False])
    spread = {}
    for malformed in ("floor", "below_worst"):
        r = reward_responses(values, flags, 4, malformed=malformed, floor=-30.0, margin=1.0)
        advantages, _ = group_advantages(r, 4, min_group_std=0.0)
        spread[malformed] = (advantages[0] - advantages[1]).item()
    assert spread["floor"] < 0.1 < 0.5 < spread["below_worst"]


def test_leave_one_out_baseline_by_hand() -> None:
    advantages = leave_one_out_advantages(torch.tensor([0.1, 0.4, 0.7, 0.9, 0.9, 0.9]), 3)
    expected = [0.1 - 0.55, 0.4 - 0.4, 0.7 - 0.25, 0.0, 0.0, 0.0]
    torch.testing.assert_close(advantages, torch.tensor(expected))


def test_leave_one_out_is_the_centred_reward_times_g_over_g_minus_one() -> None:
    rewards_B = torch.rand(12, generator=torch.Generator().manual_seed(0))
    centred = rewards_B.view(-1, 4) - rewards_B.view(-1, 4).mean(1, keepdim=True)
    torch.testing.assert_close(leave_one_out_advantages(rewards_B, 4), (centred * 4 / 3).view(-1))


def test_leave_one_out_without_excluded_responses() -> None:
    advantages = leave_one_out_advantages(torch.tensor([0.2, torch.nan, 0.8, torch.nan, 0.5, torch.nan]), 3)
    torch.testing.assert_close(advantages, torch.tensor([-0.6, 0.0, 0.6, 0.0, 0.0, 0.0]))


def test_probability_gain_is_floored_at_zero() -> None:
    gain = probability_gain(torch.tensor([0.9, 0.2]), torch.tensor([0.3, 0.5]))
    torch.testing.assert_close(gain, torch.tensor([0.6, 0.0]))


@pytest.mark.parametrize("reward", ["likelihood", "probability"])
def test_a_quiet_group_gets_no_advantage_whatever_the_baseline(reward: Reward) -> None:
    rewards = torch.tensor([0.50, 0.51, 0.52, 0.53, 0.1, 0.9, 0.2, 0.8])
    advantages, std = advantages_of(rewards, 4, reward=reward, min_group_std=0.1)
    assert std[0] < 0.1 < std[1]
    assert not advantages[:4].any() and advantages[4:].all()
    unsilenced, _ = advantages_of(rewards, 4, reward=reward, min_group_std=0.0)
    assert unsilenced[:4].any() and unsilenced[4:].tolist() == advantages[4:].tolist()
    if reward == "probability":
        assert advantages[5].item() == pytest.approx(0.9 - (0.1 + 0.2 + 0.8) / 3)
