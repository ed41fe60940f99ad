"""Iterations and alignment against forty lines of plain torch, and against finite differences."""

import latent_models as lm
import pytest
import torch
from torch.nn.functional import cross_entropy

from spiralthinker.alignment import alignment, deviation, iteration_weights, moments
from spiralthinker.annotation import explicit
from spiralthinker.columns import with_rounds
from spiralthinker.iteration import LatentAdapter
from spiralthinker.model import LatentSettings
from thinker_common.errors import SettingsError

DOUBLE = torch.float64
# Llama's and Qwen2's own normalisation computes in float32, whatever the weights are in.
TOLERANCE = {"gpt2": 1e-9, "llama": 2e-5, "llama-tied": 2e-5, "qwen2": 2e-5}


def brute_force(model, row, *, iterations, latents, schedule, shift=0):
    """One row, whole sequences only: (cross-entropy summed over targets, every layer's <eol> states (K, L, blocks, D))."""
    ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])
    decoder, embeddings = model.base.get_decoder(), model.base.get_input_embeddings()

    def states_of(embeds):
        return decoder(inputs_embeds=embeds, output_hidden_states=True, use_cache=False).hidden_states

    def refined(embeds, states, bols):
        embeds = embeds.clone()
        for bol in bols:
            source = states[-1][:, bol + 1 - shift : bol + 1 - shift + latents]
            hidden = torch.nn.functional.silu(source @ model.parts.adapter.inner.weight.T)
            changed = source + hidden @ model.parts.adapter.outer.weight.T
            unit = changed / (changed.square().mean(-1, keepdim=True) + 1e-6).sqrt()
            embeds[:, bol + 1 : bol + 1 + latents] = (
                unit * model.parts.adapter.norm.weight * model.parts.adapter.target_rms
            )
        return embeds

    embeds = embeddings(ids)
    groups = [row["bols"]] if schedule == "simultaneous" else [[bol] for bol in row["bols"]]
    eols = [[] for _ in range(iterations + 1)]
    for group in groups:
        for k in range(iterations + 1):
            states = states_of(embeds)
            eols[k] += [torch.stack([layer[0, bol + latents + 1] for layer in states[1:]]) for bol in group]
            if k < iterations:
                embeds = refined(embeds, states, group)
    head = model.base.get_output_embeddings()
    logits = head(states_of(embeds)[-1])[0]
    nll = cross_entropy(logits[:-1], labels[1:], ignore_index=-100, reduction="sum")
    return nll, torch.stack([torch.stack(each, dim=1) for each in eols])


@pytest.mark.parametrize("family", lm.FAMILIES)
@pytest.mark.parametrize("schedule", ["sequential", "simultaneous"])
@pytest.mark.parametrize("shift", [0, 1])
def test_equals_whole_passes_in_values_and_gradients(family, schedule, shift):
    model = lm.latent_model(family, schedule=schedule, shift=shift, iterations=3, latents=2, dtype=DOUBLE)
    batch = lm.batch(model)
    iterated, _ = model(batch)
    nll = model.nll(iterated.readings[-1], batch)
    eols = iterated.eol_KLBCD[:, :, batch["has_block"]]
    (nll + eols.square().sum()).backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()

    expected_nll, expected_eols = torch.zeros((), dtype=DOUBLE), []
    for row in lm.rows(model):
        options = {"iterations": 3, "latents": 2, "schedule": schedule, "shift": shift}
        row_nll, row_eols = brute_force(model, row, **options) if row["bols"] else (_plain_nll(model, row), None)
        expected_nll = expected_nll + row_nll
        if row_eols is not None:
            expected_eols.append(row_eols)
    (expected_nll + sum(eols.square().sum() for eols in expected_eols)).backward()
    tolerance = TOLERANCE[family]
    assert nll.item() == pytest.approx(expected_nll.item(), rel=tolerance)
    torch.testing.assert_close(eols, torch.cat(expected_eols, dim=2), atol=tolerance, rtol=0)
    for name, parameter in model.named_parameters():
        largest = parameter.grad.abs().max().item()
        assert largest > 0, f"{name}: a gradient that is nought would agree with everything"
        difference = (gradients[name] - parameter.grad).abs().max().item()
        assert difference < tolerance * largest, name


def _plain_nll(model, row):
    ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])
    return cross_entropy(model.base(ids).logits[0, :-1], labels[1:], ignore_index=-100, reduction="sum")


def test_the_schedules_agree_on_one_latent_step_and_differ_on_two():
    one, two = lm.problems()[2:3], lm.problems()[:1]
    models = [lm.latent_model(schedule=schedule, dtype=DOUBLE) for schedule in ("sequential", "simultaneous")]
    for some, equal in ((one, True), (two, False)):
        nlls = []
        for model in models:
            batch = lm.batch(model, some)
            nlls.append(model.nll(model(batch)[0].readings[-1], batch).item())
        assert (abs(nlls[0] - nlls[1]) < 1e-4) == equal


@pytest.mark.parametrize("schedule", ["sequential", "simultaneous"])
def test_rows_are_as_if_alone_and_empty_rounds_change_nothing(schedule):
    """Padding stands in the middle and at the end here; a row alone has none."""
    model = lm.latent_model(schedule=schedule)
    batch = lm.batch(model)
    together = model.nll(model(batch)[0].readings[-1], batch).item()
    alone = 0.0
    for problem in lm.problems():
        single = lm.batch(model, [problem])
        alone += model.nll(model(single)[0].readings[-1], single).item()
    assert together == pytest.approx(alone, abs=1e-4)
    wider = with_rounds(batch, 4, latents=5, pad_token_id=0)
    iterated, _ = model(wider)
    assert model.nll(iterated.readings[-1], wider).item() == pytest.approx(together, abs=1e-4)
    answer_only = with_rounds(lm.batch(model, lm.problems()[3:]), 1, latents=5, pad_token_id=0)
    loss = model.nll(model(answer_only)[0].readings[-1], answer_only)
    loss.backward()
    gradient = model.parts.adapter.outer.weight.grad
    assert gradient is not None and not gradient.any(), "DDP wants every parameter used, and nothing may come of it"


def test_k_zero_is_plain_fine_tuning_with_pause_tokens():
    """Without iterations `<latent>` is an ordinary token: transformers' own loss on the implicit version."""
    model = lm.latent_model(iterations=0)
    batch = lm.batch(model)
    iterated, passes = model(batch)
    nll = model.nll(iterated.readings[0], batch)
    nll.backward()
    ours = {name: p.grad.clone() for name, p in model.base.named_parameters() if p.grad is not None}
    model.zero_grad()
    expected = torch.zeros(())
    for row in lm.rows(model):
        targets = sum(label != -100 for label in row["labels"])
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
        expected = expected + model.base(input_ids=ids, labels=labels).loss * targets
    expected.backward()
    assert nll.item() == pytest.approx(expected.item(), abs=1e-4)
    assert passes == sum(len(row["input_ids"]) for row in lm.rows(model)), "one reading"
    assert len(ours) == len(list(model.causal.parameters())) - 3, "all but the adapter"
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, model.base.get_parameter(name).grad, atol=2e-5, rtol=1e-4)


def test_token_passes():
    latents, iterations = 3, 4
    rows = lm.rows(lm.latent_model(latents=latents))
    total = sum(len(row["input_ids"]) for row in rows)
    blocks = sum(len(row["bols"]) for row in rows)
    sequential = lm.latent_model(latents=latents, iterations=iterations)
    assert sequential(lm.batch(sequential))[1] == total + iterations * blocks * (latents + 1)
    simultaneous = lm.latent_model(latents=latents, iterations=iterations, schedule="simultaneous")
    spans = sum(row["bols"][-1] + latents + 1 - row["bols"][0] for row in rows if row["bols"])
    assert simultaneous(lm.batch(simultaneous))[1] == total + iterations * spans
    batch = lm.batch(sequential)
    prefix = sequential(batch)[0].prefix
    shared = sum(row["bols"][0] if row["bols"] else row["prompt_length"] for row in rows)
    reused, whole = sequential.teacher_states(batch, prefix), sequential.teacher_states(batch)
    assert reused[1] == sum(len(row["explicit_ids"]) for row in rows)
    assert whole[1] == reused[1] + shared
    torch.testing.assert_close(reused[0], whole[0], atol=1e-5, rtol=0)


def test_the_teacher_reads_the_explicit_version():
    model = lm.latent_model(dtype=DOUBLE)
    batch = lm.batch(model)
    states, _ = model.teacher_states(batch, model(batch)[0].prefix)
    expected = []
    for problem in lm.problems():
        example = model.settings.annotation.example(model.tokenizer, problem)
        ids = torch.tensor([explicit(example, model.markers).input_ids])
        layers = model.base(ids, output_hidden_states=True).hidden_states[1:]
        blocks = model.settings.annotation.blocks(example)
        expected += [torch.stack([layer[0, block.eot] for layer in layers]) for block in blocks]
    torch.testing.assert_close(states, torch.stack(expected, dim=1), atol=1e-5, rtol=0)
    assert not states.requires_grad


@pytest.mark.parametrize("schedule", ["sequential", "simultaneous"])
@pytest.mark.parametrize("checkpointed", [False, True], ids=["kept", "recomputed"])
def test_gradients_against_finite_differences(schedule, checkpointed):
    """Of cross-entropy and alignment together, through K iterations; the teacher held fixed."""
    model = lm.latent_model("gpt2", schedule=schedule, iterations=2, latents=2, dtype=DOUBLE)
    model.checkpoint_segments = checkpointed
    batch = lm.batch(model)
    teacher, _ = model.teacher_states(batch)
    sigma = deviation(moments(teacher))

    def loss():
        iterated, _ = model(batch)
        student = iterated.eol_KLBCD[1:, :, batch["has_block"]]
        weights = iteration_weights(2, 1.0)
        return model.nll(iterated.readings[-1], batch) + alignment(student, teacher, sigma, weights).sum()

    loss().backward()
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        direction = torch.randn_like(parameter)
        slope = (parameter.grad * direction).sum().item()
        step = 1e-6
        with torch.no_grad():
            parameter += step * direction
            above = loss().item()
            parameter -= 2 * step * direction
            below = loss().item()
            parameter += step * direction
        assert slope == pytest.approx((above - below) / (2 * step), rel=1e-4, abs=1e-6), name


def test_gradients_stop_between_iterations_on_request():
    model = lm.latent_model(dtype=DOUBLE)
    batch = lm.batch(model)
    values = []
    for through in (True, False):
        model.zero_grad()
        nll = model.nll(model(batch, through_iterations=through)[0].readings[-1], batch)
        nll.backward()
        values.append((nll.item(), model.parts.adapter.inner.weight.grad.clone()))
    assert values[0][0] == values[1][0]
    assert not torch.allclose(values[0][1], values[1][1])


def test_every_reading():
    model = lm.latent_model(schedule="simultaneous", iterations=2, dtype=DOUBLE)
    batch = lm.batch(model)
    readings = model(batch, every_reading=True)[0].readings
    assert len(readings) == 3
    for k, reading in enumerate(readings):
        other = lm.latent_model(schedule="simultaneous", iterations=k, dtype=DOUBLE)
        expected = other.nll(other(batch)[0].readings[-1], batch).item()
        assert model.nll(reading, batch).item() == pytest.approx(expected, abs=1e-4), f"reading {k} is that of K = {k}"


def test_the_adapter_begins_as_the_normalisation_alone():
    adapter = LatentAdapter(8, 5, target_rms=0.3)
    states = torch.randn(2, 3, 8)
    torch.testing.assert_close(adapter(states), states / states.square().mean(-1, keepdim=True).add(1e-6).sqrt() * 0.3)
    adapter(states).sum().backward()
    assert adapter.outer.weight.grad.any()


def test_alignment_by_hand():
    assert iteration_weights(0, 1.0).tolist() == [1.0]
    weights = iteration_weights(3, 1.0)
    assert weights.tolist() == pytest.approx([0.09003, 0.24473, 0.66524], abs=1e-5)
    assert iteration_weights(2, 0.0).tolist() == [0.5, 0.5]
    teacher = torch.tensor([[[0.0, 2.0]], [[1.0, 5.0]]])  # L = 2, U = 1, D = 2
    sigma = deviation(moments(teacher))
    assert sigma.tolist() == [[1.0], [2.0]], "the population's"
    student = teacher + torch.tensor([0.5, 3.0])  # Huber: 0.125 and 2.5, so 1.3125 a layer
    value = alignment(student[None], teacher, sigma, iteration_weights(1, 1.0))
    assert value.tolist() == pytest.approx([(1.3125 / 1 + 1.3125 / 2) / 2])
    value = alignment(student[None], teacher, sigma, iteration_weights(1, 1.0), distance="l1")
    assert value.tolist() == pytest.approx([(1.75 / 1 + 1.75 / 2) / 2])
    halves = moments(teacher[:, :, :1]) + moments(teacher[:, :, 1:])
    torch.testing.assert_close(deviation(halves), sigma)
    assert deviation(moments(torch.zeros(1, 0, 4))).tolist() == [[1.0]]


def test_alignment_by_features_by_hand():
    teacher = torch.tensor([[[0.0, 2.0], [4.0, 2.0]]])  # L = 1, U = 2, D = 2: mean 2, squares 6, so sigma^2 is 2
    sigma = deviation(moments(teacher, "feature"))
    least = 0.01 * 2.0**0.5
    assert sigma.tolist() == [[2.0, pytest.approx(least)]], "a feature that never changes is no measure"
    student = teacher + torch.tensor([3.0, 0.0])  # Huber: 2.5 and nothing
    value = alignment(student[None], teacher, sigma, iteration_weights(1, 1.0))
    assert value.tolist() == pytest.approx([2.5 / 2.0 / 2] * 2)
    value = alignment(teacher[None] + 0.5, teacher, sigma, iteration_weights(1, 1.0))
    assert value.tolist() == pytest.approx([(0.125 / 2.0 + 0.125 / least) / 2] * 2)
    parts = moments(teacher[:, :1], "feature") + moments(teacher[:, 1:], "feature")
    torch.testing.assert_close(deviation(parts), sigma)
    assert deviation(moments(torch.zeros(1, 0, 2), "feature")).tolist() == [[1.0, 1.0]]


def test_impossible_settings():
    for wrong, message in (
        ({"iterations": -1}, "iterations = -1: expected at least 0"),
        ({"schedule": "parallel"}, "schedule = 'parallel': expected one of sequential, simultaneous, autoregressive"),
        ({"shift": 2}, "shift = 2: expected 0 or 1"),
        ({"adapter_width": 0}, "adapter_width = 0: expected at least 1"),
    ):
        with pytest.raises(SettingsError, match=message):
            LatentSettings(**wrong)
