"""The noise behind seeded sampling: the right integers, the right distribution, nothing shared between rows."""

import math

import pytest
import torch

from thinker_common.evaluation.sampling import GumbelMax, gumbel_noise, sampling_processors, stream_seed

# SplitMix64's published outputs for the seed 1234567.
SEED = 1234567
OUTPUTS = (
    6457827717110365317,
    3203168211198807973,
    9817491932198370423,
    4593380528125082431,
    16408922859458223821,
)


def test_the_integers_are_those_of_splitmix64():
    expected = [-math.log(-math.log1p(-((output >> 11) | 1) * 2.0**-53)) for output in OUTPUTS]
    got_BV = gumbel_noise(torch.tensor([SEED]), len(OUTPUTS))
    assert got_BV.dtype == torch.float32
    assert got_BV[0].tolist() == pytest.approx(expected, abs=1e-6)


def test_noise_is_standard_gumbel_and_finite():
    words_B = torch.tensor([stream_seed(0, "a", sample) for sample in range(200)])
    noise = gumbel_noise(words_B, 5000).double().flatten()
    assert noise.isfinite().all()
    assert noise.mean().item() == pytest.approx(0.577216, abs=5 * 1.2825 / 1000)
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, abs=0.02)
    # Kolmogorov-Smirnov against exp(-exp(-x)): at 10^6 values 1.95 / 1000 is the 0.1 % point.
    cdf = torch.exp(-torch.exp(-noise.sort().values))
    steps = torch.arange(1, noise.numel() + 1) / noise.numel()
    assert (cdf - steps).abs().max() < 0.00195


def test_rows_positions_and_tokens_are_uncorrelated():
    processor = GumbelMax([stream_seed(0, "a", 0), stream_seed(0, "a", 1), stream_seed(0, "b", 0)], [0, 0, 0])
    zeros_BV = torch.zeros(3, 200_000)
    first_BV, second_BV = processor(None, zeros_BV), processor(None, zeros_BV)
    series = torch.stack([*first_BV, *second_BV, first_BV[0].roll(1), first_BV[0].roll(2)])
    correlations = torch.corrcoef(series) - torch.eye(len(series))
    assert correlations.abs().max() < 5 / math.sqrt(200_000)


def test_a_position_has_its_noise_however_it_is_reached():
    streams = [stream_seed(1, "a", 0), stream_seed(1, "b", 0)]
    zeros_BV = torch.zeros(2, 50)
    walked = GumbelMax(streams, [0, 3])
    for _ in range(5):
        last_BV = walked(None, zeros_BV)
    (jumped_V,) = GumbelMax(streams[1:], [7])(None, zeros_BV[1:])
    assert torch.equal(jumped_V, last_BV[1])


def test_rows_have_their_noise_however_many_at_once(monkeypatch):
    streams, scores_BV = list(range(7)), torch.randn(7, 50)
    whole_BV = GumbelMax(streams, [0] * 7)(None, scores_BV)
    monkeypatch.setattr("thinker_common.evaluation.sampling.NOISE_AT_ONCE", 150)
    assert torch.equal(GumbelMax(streams, [0] * 7)(None, scores_BV), whole_BV)
    assert torch.equal(GumbelMax(streams[5:6], [0])(None, scores_BV[5:6]), whole_BV[5:6])


def test_streams_differ_by_seed_key_and_sample():
    streams = {stream_seed(seed, key, sample) for seed in (0, 1) for key in ("", "0", "a") for sample in range(50)}
    assert len(streams) == 2 * 3 * 50
    assert all(0 <= stream < 2**63 for stream in streams)


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(1.0, 0, 1.0), (0.5, 0, 1.0), (2.0, 7, 1.0), (1.0, 0, 0.8)]
)
def test_frequencies_agree_with_the_softmax(temperature, top_k, top_p):
    """Chi-square over 40,000 draws, the streams of as many samples."""
    draws = 40_000
    logits_V = torch.randn(30, generator=torch.Generator().manual_seed(3)) * 2
    expected_V = torch.softmax(logits_V / temperature, -1)
    order = expected_V.argsort(descending=True)
    if top_k:
        expected_V[order[top_k:]] = 0
    if top_p < 1:
        expected_V[order[1:][expected_V[order].cumsum(0)[:-1] >= top_p]] = 0
    expected_V /= expected_V.sum()
    processors = sampling_processors(
        temperature, top_k, top_p, [stream_seed(0, "a", sample) for sample in range(draws)], [0] * draws
    )
    counts_V = processors(None, logits_V.repeat(draws, 1)).argmax(-1).bincount(minlength=30)
    assert (counts_V[expected_V == 0] == 0).all()
    likely_V = expected_V * draws >= 5
    statistic = ((counts_V - expected_V * draws)[likely_V] ** 2 / (expected_V * draws)[likely_V]).sum()
    freedom = int(likely_V.sum()) - 1
    assert freedom >= 3
    assert statistic < freedom + 4 * math.sqrt(2 * freedom)
