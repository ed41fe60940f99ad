"""Token credit: the paper's equations by hand, and the properties that make it safe to train with."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from generalthinker.credit import clip_and_centre, controlled, preserve_direction, standardise

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
    credit = controlled(s_BT, mask_BT, torch.tensor([-2.0], dtype=torch.float64), strength=0.1, token_clip=1.0)
    torch.testing.assert_close(
        credit.advantages_BT[0, :4], torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=0
    )
    assert credit.advantages_BT[0, 4] == 0
    assert credit.clipped_BT.tolist() == [[True, False, False, False, False]]


@given(responses(), STRENGTHS, CLIPS)
@settings(max_examples=300, deadline=None)
def test_sign_mean_and_bounds(drawn: tuple, strength: float, token_clip: float) -> None:
    s_BT, mask_BT, advantages_B = drawn
    credit = controlled(s_BT, mask_BT, advantages_B, strength=strength, token_clip=token_clip)
    assert (credit.advantages_BT[~mask_BT] == 0).all()
    assert (credit.weights_BT.abs() <= 1 + 1e-12).all()
    advantages_BT = advantages_B.unsqueeze(1).expand_as(s_BT)
    assert (credit.advantages_BT[mask_BT].sign() == advantages_BT[mask_BT].sign()).all()
    for row in range(len(s_BT)):
        tokens = credit.advantages_BT[row][mask_BT[row]]
        if len(tokens):
            assert abs(tokens.mean() - advantages_B[row]) <= 1e-9
            bound = strength * advantages_B[row].abs() + 1e-12
            assert ((tokens - advantages_B[row]).abs() <= bound).all()


@given(responses(), STRENGTHS, CLIPS, st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_permutation_and_padding(drawn: tuple, strength: float, token_clip: float, rng) -> None:
    s_BT, mask_BT, advantages_B = drawn
    expected = controlled(s_BT, mask_BT, advantages_B, strength=strength, token_clip=token_clip).advantages_BT
    order = list(range(s_BT.shape[1]))
    rng.shuffle(order)
    permuted = controlled(s_BT[:, order], mask_BT[:, order], advantages_B, strength=strength, token_clip=token_clip)
    torch.testing.assert_close(permuted.advantages_BT, expected[:, order], rtol=1e-7, atol=1e-7)
    padding = torch.full((len(s_BT), 3), torch.nan, dtype=s_BT.dtype)
    padded = controlled(
        torch.cat([s_BT, padding], dim=1),
        torch.cat([mask_BT, torch.zeros_like(padding, dtype=torch.bool)], dim=1),
        advantages_B,
        strength=strength,
        token_clip=token_clip,
    )
    torch.testing.assert_close(padded.advantages_BT[:, : s_BT.shape[1]], expected, rtol=1e-9, atol=1e-9)
    assert (padded.advantages_BT[:, s_BT.shape[1] :] == 0).all()


def test_no_credit_where_tokens_do_not_differ() -> None:
    s_BT = torch.tensor([[0.1, 0.1, 0.1], [7.0, -3.0, 1.0], [5.0, 2.0, 0.0]])
    mask_BT = torch.tensor([[True, True, True], [False, True, False], [False, False, False]])
    credit = controlled(s_BT, mask_BT, torch.tensor([1.5, -2.0, 3.0]), strength=0.5, token_clip=2.0)
    assert (credit.weights_BT == 0).all()
    assert credit.advantages_BT.tolist() == [[1.5, 1.5, 1.5], [0.0, -2.0, 0.0], [0.0, 0.0, 0.0]]


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
