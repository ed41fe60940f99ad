"""Weight gradients that are collected over the readings: equal to autograd's own, whatever goes through the layers."""

import latent_models as lm
import pytest
import torch

from spiralthinker.deferred import deferred_weights, few_tokens

DOUBLE = torch.float64


def gradients(model, few, *, autocast=False):
    model.base.train()
    for module in model.base.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    batch = lm.batch(model)
    with (
        deferred_weights(model.base.get_decoder(), few=few),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast),
    ):
        iterated, _ = model(batch)
        loss = model.nll(iterated.readings[-1], batch) + iterated.eol_KLBCD.square().mean()
    model.base.zero_grad()
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.base.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", lm.FAMILIES)
@pytest.mark.parametrize("schedule", ["sequential", "simultaneous"])
@pytest.mark.parametrize("some", ["all readings", "small readings"])
def test_equal_to_autograds_own(family, schedule, some):
    model = lm.latent_model(family, schedule=schedule, iterations=3, dtype=DOUBLE)
    limit = 10**6 if some == "all readings" else 4 * 6 + 1  # tokens of four rows: an iteration of one latent step
    found, expected = (gradients(model, few) for few in (lambda tokens, _: tokens < limit, lambda tokens, _: False))
    assert found[0] == pytest.approx(expected[0], abs=1e-9)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-6, rtol=1e-6, msg=name)


def test_under_autocast_the_gradients_are_as_close_as_bfloat16_is():
    model = lm.latent_model(iterations=2)
    (_, found), (_, expected) = (gradients(model, lambda *_, d=d: d, autocast=True) for d in (True, False))
    for name, gradient in expected.items():
        difference = (found[name] - gradient).norm() / gradient.norm().clamp(min=1e-6)
        assert difference < 0.05, name


def test_layers_are_left_as_they_were_also_after_an_error():
    model = lm.latent_model()

    def patched():
        return [name for name, module in model.base.named_modules() if "forward" in module.__dict__]

    def fails():
        with deferred_weights(model.base):
            assert "model.layers.1.mlp.down_proj" in patched()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert patched() == []


def test_few_is_measured_against_the_weight():
    assert few_tokens(100, torch.empty(768, 768))
    assert not few_tokens(200, torch.empty(768, 768))
    assert not few_tokens(24, torch.empty(32, 32))
