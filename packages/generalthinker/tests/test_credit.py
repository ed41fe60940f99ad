"""Token credit: every rule's equation by hand, and the properties that make it safe to train with."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from generalthinker import credit
from generalthinker.credit import TokenCredit, clip_and_centre, controlled, preserve_direction, standardise

STRENGTHS = st.floats(0, 0.99)
CLIPS = st.floats(0.1, 5)
ADVANTAGES = st.floats(-10, 10)


@st.composite
def responses(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(s_BT, mask_BT, advantages_B) in float64: masks of any form, values of any size."""
    rows, width = draw(st.integers(1, 4)), draw(st.integers(1, 9))
    values = st.lists(st.floats(-50, 50), min_size=width, max_size=width)
    flags = st.lists(st.booleans(), min_size=width, max_size=width)
    s_BT = torch.tensor(draw(st.lists(values, min_size=rows, max_size=rows)), dtype=torch.float64)
    mask_BT = torch.tensor(draw(st.lists(flags, min_size=rows, max_size=rows)))
    advantages_B = torch.tensor(draw(st.lists(ADVANTAGES, min_size=rows, max_size=rows)), dtype=torch.float64)
    return s_BT, mask_BT, advantages_B


def test_equations_by_hand() -> None:
    # s = (3, 0, 0, 1), mean 1, population deviation sqrt(1.5)
    s_BT = torch.tensor([[3.0, 0.0, 0.0, 1.0, 99.0]], dtype=torch.float64)
    mask_BT = torch.tensor([[True, True, True, True, False]])
    deviation = 1.5**0.5
    d = [2 / deviation, -1 / deviation, -1 / deviation, 0.0]
    torch.testing.assert_close(
        standardise(s_BT, mask_BT)[0, :4], torch.tensor(d, dtype=torch.float64), rtol=1e-5, atol=0
    )
    clipped = [1.0, d[1], d[2], 0.0]
    centred = [value - sum(clipped) / 4 for value in clipped]
    largest = max(1.0, *map(abs, centred))
    expected = [-2.0 + 0.1 * 2.0 * value / largest for value in centred]
    got = controlled(s_BT, mask_BT, torch.tensor([-2.0], dtype=torch.float64), strength=0.1, token_clip=1.0)
    torch.testing.assert_close(got.advantages_BT[0, :4], torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=0)
    assert got.advantages_BT[0, 4] == 0
    assert got.clipped_BT.tolist() == [[True, False, False, False, False]]


def test_no_credit_where_tokens_do_not_differ() -> None:
    s_BT = torch.tensor([[0.1, 0.1, 0.1], [7.0, -3.0, 1.0], [5.0, 2.0, 0.0]])
    mask_BT = torch.tensor([[True, True, True], [False, True, False], [False, False, False]])
    got = controlled(s_BT, mask_BT, torch.tensor([1.5, -2.0, 3.0]), strength=0.5, token_clip=2.0)
    assert (got.weights_BT == 0).all()
    assert got.advantages_BT.tolist() == [[1.5, 1.5, 1.5], [0.0, -2.0, 0.0], [0.0, 0.0, 0.0]]


def test_a_response_does_not_depend_on_the_others() -> None:
    torch.manual_seed(0)
    s_BT, mask_BT, advantages_B = torch.randn(6, 11), torch.rand(6, 11) < 0.7, torch.randn(6)
    together = controlled(s_BT, mask_BT, advantages_B, strength=0.3, token_clip=1.5).advantages_BT
    for row in range(6):
        alone = controlled(
            s_BT[row : row + 1], mask_BT[row : row + 1], advantages_B[row : row + 1], strength=0.3, token_clip=1.5
        )
        torch.testing.assert_close(alone.advantages_BT[0], together[row])


def test_compatible_tokens_gain_whatever_the_sign_of_the_advantage() -> None:
    s_BT = torch.tensor([[2.0, -1.0, 0.0]]).expand(2, 3)
    mask_BT = torch.ones_like(s_BT, dtype=torch.bool)
    advantages = controlled(s_BT, mask_BT, torch.tensor([1.0, -1.0]), strength=0.5, token_clip=2.0).advantages_BT
    assert advantages[0, 0] > 1 > advantages[0, 1] > 0
    assert 0 > advantages[1, 0] > -1 > advantages[1, 1]


def test_the_steps_alone() -> None:
    mask_BT = torch.ones(1, 4, dtype=torch.bool)
    centred, clipped = clip_and_centre(torch.tensor([[4.0, -1.0, -1.0, -2.0]]), mask_BT, 2.0)
    assert centred.tolist() == [[2.5, -0.5, -0.5, -1.5]]
    assert clipped.tolist() == [[True, False, False, False]]
    torch.testing.assert_close(preserve_direction(centred), torch.tensor([[1.0, -0.2, -0.2, -0.6]]))
    assert preserve_direction(torch.tensor([[0.5, -0.5]])).tolist() == [[0.5, -0.5]]


# --------------------------------------------------------------------------------------------------- every rule

RULES = ("additive", "clipped", "direction_preserving", "controlled", "projection", "rlsd")
BOUNDED = ("direction_preserving", "controlled", "projection")


def apply(
    rule: str, s_BT: torch.Tensor, mask_BT: torch.Tensor, advantages_B: torch.Tensor, strength: float, clip: float
) -> TokenCredit:
    arguments = (s_BT, mask_BT, advantages_B)
    match rule:
        case "additive":
            return credit.additive(*arguments, strength=strength)
        case "clipped":
            return credit.additive(*arguments, strength=strength, token_clip=clip)
        case "direction_preserving":
            return credit.controlled(*arguments, strength=strength, token_clip=None)
        case "controlled":
            return credit.controlled(*arguments, strength=strength, token_clip=clip)
        case "projection":
            squares, count = credit.squared_deviations(s_BT, mask_BT)
            return credit.projection(*arguments, strength=strength, batch_std=(squares / count.clamp(min=1)).sqrt())
    return credit.rlsd(*arguments, mix=strength, bound=0.2)


S = torch.tensor([[3.0, 0.0, 0.0, 1.0, 99.0]], dtype=torch.float64)
MASK = torch.tensor([[True, True, True, True, False]])
D = [2 / 1.5**0.5, -1 / 1.5**0.5, -1 / 1.5**0.5, 0.0]  # mean 1, population deviation sqrt(1.5)


@pytest.mark.parametrize("advantage", [2.0, -2.0])
def test_uncontrolled_modulation_by_hand(advantage: float) -> None:
    got = apply("additive", S, MASK, torch.tensor([advantage], dtype=torch.float64), 0.5, 1.0)
    assert got.advantages_BT[0].tolist() == pytest.approx([*(advantage + 0.5 * d for d in D), 0.0], rel=1e-5)
    clipped = [1.0, D[1], D[2], 0.0]
    centred = [value - sum(clipped) / 4 for value in clipped]
    got = apply("clipped", S, MASK, torch.tensor([advantage], dtype=torch.float64), 0.5, 1.0)
    assert got.advantages_BT[0].tolist() == pytest.approx([*(advantage + 0.5 * c for c in centred), 0.0], rel=1e-5)
    got = apply("direction_preserving", S, MASK, torch.tensor([advantage], dtype=torch.float64), 0.5, 1.0)
    scaled = [d / max(map(abs, D)) for d in D]
    assert got.advantages_BT[0].tolist() == pytest.approx([*(advantage + 0.5 * 2.0 * w for w in scaled), 0.0], rel=1e-5)


def test_uncontrolled_modulation_flips_signs_and_the_control_does_not() -> None:
    advantages_B = torch.tensor([0.3], dtype=torch.float64)
    assert (apply("additive", S, MASK, advantages_B, 0.5, 2.0).advantages_BT < 0).any()
    assert (apply("controlled", S, MASK, advantages_B, 0.5, 2.0).advantages_BT[MASK] > 0).all()


@pytest.mark.parametrize("advantage", [1.5, -1.5])
def test_rlsd_by_hand(advantage: float) -> None:
    s_BT = torch.tensor([[0.1, -0.1, 5.0, -5.0]], dtype=torch.float64)
    got = credit.rlsd(
        s_BT, torch.ones(1, 4, dtype=torch.bool), torch.tensor([advantage], dtype=torch.float64), mix=0.4, bound=0.2
    )
    sign = math.copysign(1, advantage)
    factors = [min(max(math.exp(sign * s), 0.8), 1.2) for s in (0.1, -0.1, 5.0, -5.0)]
    assert got.advantages_BT[0].tolist() == pytest.approx([advantage * (0.6 + 0.4 * f) for f in factors])
    assert got.clipped_BT.tolist() == [[False, False, True, True]]


def test_rlsd_fades_out() -> None:
    mixes = [credit.rlsd_mix(step, start=0.5, steps=50) for step in (0, 25, 50, 80)]
    assert mixes == [0.5, 0.25, 0.0, 0.0]


@given(responses())
@settings(max_examples=200, deadline=None)
def test_projection_is_the_nearest_feasible_point(drawn: tuple) -> None:
    s_BT, mask_BT, _ = drawn
    d_BT = credit.centre(s_BT, mask_BT)
    w_BT = credit.project(d_BT, mask_BT)
    assert (w_BT.sum(1).abs() <= 1e-9).all()
    assert (w_BT.abs() <= 1).all()
    assert (w_BT[~mask_BT] == 0).all()
    # The conditions of Karush, Kuhn and Tucker: free tokens lie at one distance from d, tokens at a bound beyond it.
    for b in range(len(d_BT)):
        gap = (d_BT - w_BT)[b, mask_BT[b]]
        w = w_BT[b, mask_BT[b]]
        free = w.abs() < 1 - 1e-9
        if free.any():
            tau = gap[free].mean()
            assert (gap[free] - tau).abs().max() <= 1e-8
            assert (gap[w >= 1 - 1e-9] >= tau - 1e-8).all()
            assert (gap[w <= -1 + 1e-9] <= tau + 1e-8).all()


def test_projection_leaves_what_is_feasible_alone() -> None:
    d_BT = torch.tensor([[0.5, -0.25, -0.25, 7.0]])
    mask_BT = torch.tensor([[True, True, True, False]])
    torch.testing.assert_close(credit.project(d_BT, mask_BT), torch.tensor([[0.5, -0.25, -0.25, 0.0]]))


@pytest.mark.parametrize("rule", RULES)
@given(drawn=responses(), strength=STRENGTHS, clip=CLIPS)
@settings(max_examples=60, deadline=None)
def test_sign_mean_and_bounds(rule: str, drawn: tuple, strength: float, clip: float) -> None:
    s_BT, mask_BT, advantages_B = drawn
    got = apply(rule, s_BT, mask_BT, advantages_B, strength, clip)
    assert (got.advantages_BT[~mask_BT] == 0).all()
    assert (got.weights_BT[~mask_BT] == 0).all()
    assert not (got.clipped_BT & ~mask_BT).any()
    expanded_BT = advantages_B.unsqueeze(1).expand_as(s_BT)
    if rule in credit.KEEPS_SIGN:
        assert (got.advantages_BT[mask_BT].sign() == expanded_BT[mask_BT].sign()).all()
    if rule in BOUNDED:
        assert ((got.advantages_BT - expanded_BT)[mask_BT].abs() <= strength * expanded_BT[mask_BT].abs() + 1e-12).all()
    if rule != "rlsd":
        mean = credit.masked_mean(got.advantages_BT, mask_BT).squeeze(1)
        some = mask_BT.any(1)
        assert ((mean - advantages_B)[some].abs() <= 1e-8).all()
    if rule == "rlsd":
        assert (
            (got.advantages_BT - expanded_BT)[mask_BT].abs() <= 0.2 * strength * expanded_BT[mask_BT].abs() + 1e-12
        ).all()


@pytest.mark.parametrize("rule", RULES)
@given(drawn=responses(), strength=STRENGTHS, clip=CLIPS, rng=st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_permutation_and_padding(rule: str, drawn: tuple, strength: float, clip: float, rng) -> None:
    s_BT, mask_BT, advantages_B = drawn
    expected = apply(rule, s_BT, mask_BT, advantages_B, strength, clip).advantages_BT
    order = list(range(s_BT.shape[1]))
    rng.shuffle(order)
    permuted = apply(rule, s_BT[:, order], mask_BT[:, order], advantages_B, strength, clip).advantages_BT
    torch.testing.assert_close(permuted, expected[:, order], rtol=1e-7, atol=1e-7)
    padding = torch.full((len(s_BT), 2), torch.nan, dtype=s_BT.dtype)
    padded = apply(
        rule,
        torch.cat([padding, s_BT], dim=1),
        torch.cat([torch.zeros_like(padding, dtype=torch.bool), mask_BT], dim=1),
        advantages_B,
        strength,
        clip,
    ).advantages_BT
    torch.testing.assert_close(padded[:, 2:], expected, rtol=1e-7, atol=1e-7)
    assert (padded[:, :2] == 0).all()


@pytest.mark.parametrize("rule", RULES)
@given(drawn=responses(), strength=STRENGTHS, clip=CLIPS, cut=st.integers(0, 4))
@settings(max_examples=60, deadline=None)
def test_two_ranks_equal_one(rule: str, drawn: tuple, strength: float, clip: float, cut: int) -> None:
    """The projection's one deviation is the sum of the ranks' squares over the sum of their counts; nothing else is shared."""
    s_BT, mask_BT, advantages_B = drawn
    together = apply(rule, s_BT, mask_BT, advantages_B, strength, clip).advantages_BT
    shares = [share for share in (slice(0, cut), slice(cut, None)) if len(s_BT[share])]
    squares, count = sum(credit.squared_deviations(s_BT[share], mask_BT[share]) for share in shares)
    std = (squares / count.clamp(min=1)).sqrt()
    parts = []
    for share in shares:
        own = (s_BT[share], mask_BT[share], advantages_B[share])
        if rule == "projection":
            parts.append(credit.projection(*own, strength=strength, batch_std=std))
        else:
            parts.append(apply(rule, *own, strength, clip))
    torch.testing.assert_close(torch.cat([part.advantages_BT for part in parts]), together, rtol=1e-9, atol=1e-9)


@given(drawn=responses(), seed=st.integers(0, 100))
@settings(max_examples=60, deadline=None)
def test_shuffle_keeps_the_sizes(drawn: tuple, seed: int) -> None:
    s_BT, mask_BT, _ = drawn
    shuffled = credit.shuffle(s_BT, mask_BT, torch.Generator().manual_seed(seed))
    again = credit.shuffle(s_BT, mask_BT, torch.Generator().manual_seed(seed))
    assert torch.equal(shuffled, again)
    assert torch.equal(shuffled[~mask_BT], s_BT[~mask_BT])
    for b in range(len(s_BT)):
        assert torch.equal(shuffled[b, mask_BT[b]].sort().values, s_BT[b, mask_BT[b]].sort().values)


@pytest.mark.parametrize("rule", ["additive", "clipped", "direction_preserving", "controlled", "projection"])
@given(drawn=responses(), strength=STRENGTHS, clip=CLIPS)
@settings(max_examples=40, deadline=None)
def test_reversed_evidence_is_reversed_credit(rule: str, drawn: tuple, strength: float, clip: float) -> None:
    s_BT, mask_BT, advantages_B = drawn
    forward = apply(rule, s_BT, mask_BT, advantages_B, strength, clip).weights_BT
    backward = apply(rule, credit.reverse(s_BT), mask_BT, advantages_B, strength, clip).weights_BT
    torch.testing.assert_close(backward, -forward, rtol=1e-7, atol=1e-9)


def test_entropy_gate() -> None:
    entropies_BT = torch.tensor([[0.1, 2.0, 3.0, 9.0]])
    mask_BT = torch.tensor([[True, True, True, False]])
    gated = credit.high_entropy_tokens(entropies_BT, mask_BT, torch.tensor(2.0))
    assert gated.tolist() == [[False, True, True, False]]
    got = credit.controlled(
        torch.tensor([[5.0, 1.0, -1.0, 0.0]]), gated, torch.tensor([1.0]), strength=0.5, token_clip=2.0
    )
    torch.testing.assert_close(got.weights_BT, torch.tensor([[0.0, 1.0, -1.0, 0.0]]), rtol=1e-5, atol=0)
    assert got.advantages_BT[0, 0] == 0, "the trainer keeps the response's own advantage there"
