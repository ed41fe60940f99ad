"""The term that is not in the paper: what is written to the latents spells the step that they stand for."""

import latent_models as lm
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import TrainingArguments

from spiralthinker.config import MethodSettings
from spiralthinker.trainer import SpiralThinkerTrainer
from thinker_common.errors import SettingsError

DOUBLE = torch.float64
WEIGHT = 0.5


def trainer_of(model, folder, **method):
    arguments = TrainingArguments(output_dir=str(folder), report_to="none", use_cpu=True)
    settings = MethodSettings(iterations=model.settings.iterations, alignment=False, **method)
    rows = lm.rows(model, spelled=True)
    return SpiralThinkerTrainer(model, arguments, rows, settings, stage="implicit")


def recorded(model, batch):
    """The states that g reads, (N, D) for each iteration of each latent step of each row, by watching it."""
    read = []
    refine = model.refine
    model.refine = lambda states_BND: read.append(states_BND) or refine(states_BND)
    iterated, _ = model(batch)
    del model.refine
    return iterated, read


@pytest.mark.parametrize("schedule", ["sequential", "simultaneous"])
@pytest.mark.parametrize("shift", [0, 1])
def test_what_is_written_is_what_the_adapter_reads(schedule, shift):
    model = lm.latent_model(schedule=schedule, shift=shift, iterations=3, latents=2, dtype=DOUBLE)
    iterated, read = recorded(model, lm.batch(model))
    iterations, blocks = iterated.written_KRBND.shape[:2]
    assert (iterations, blocks) == (3, 2)
    for call, states_BND in enumerate(read):
        step, k = (call // 3, call % 3) if schedule == "sequential" else (call % 2, call // 2)
        torch.testing.assert_close(iterated.written_KRBND[k, step], states_BND, atol=0, rtol=0)


@pytest.mark.parametrize("shift", [0, 1])
def test_by_hand(shift, tmp_path):
    """With one iteration it is the cross-entropy of a plain pass at the latents, or one to the left, on step tokens."""
    model = lm.latent_model(iterations=1, latents=3, shift=shift)
    trainer = trainer_of(model, tmp_path, spell_weight=WEIGHT)
    batch = {**trainer.collate(lm.rows(model, spelled=True)), "counts": torch.ones(1)}
    sums = trainer.loss_sums(model.base, batch)
    expected, tokens = 0.0, 0
    for row in lm.rows(model, spelled=True)[:3]:  # the last one has no step
        ids = torch.tensor(row["input_ids"])
        step_ids = torch.tensor(row["step_ids"][0])
        logits = model.base(ids[None]).logits[0, row["bols"][0] + 1 - shift :][: len(step_ids)]
        expected += cross_entropy(logits, step_ids, reduction="sum").item()
        tokens += len(step_ids)
    first = {**batch, "step_ids": batch["step_ids"].clone()}
    first["step_ids"][:, 1:] = -100  # behind an earlier latent step a pass is no longer plain
    assert trainer.count_units(first)["step_tokens"] == tokens == 2 + 3 + 3, "a step of two, and of longer ones the end"
    assert trainer.loss_sums(model.base, first)["step_tokens"].item() == pytest.approx(WEIGHT * expected, rel=1e-5)
    assert sums["step_tokens"] > trainer.loss_sums(model.base, first)["step_tokens"]
    assert sums["target_tokens"].item() == pytest.approx(trainer_of(model, tmp_path).loss_sums(model.base, batch)[
        "target_tokens"
    ].item()), "the other terms stay as they are"  # fmt: skip


def test_gradients_against_finite_differences(tmp_path):
    model = lm.latent_model("gpt2", iterations=2, latents=2, dtype=DOUBLE)
    trainer = trainer_of(model, tmp_path, spell_weight=WEIGHT)
    batch = {**trainer.collate(lm.rows(model, spelled=True)), "counts": torch.ones(1)}

    def loss():
        return trainer.loss_sums(model.base, batch)["step_tokens"]

    loss().backward()
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        direction = torch.randn_like(parameter)
        slope, step = (parameter.grad * direction).sum().item(), 1e-6
        with torch.no_grad():
            parameter += step * direction
            above = loss().item()
            parameter -= 2 * step * direction
            below = loss().item()
            parameter += step * direction
        assert slope == pytest.approx((above - below) / (2 * step), rel=1e-4, abs=1e-6), name


def test_what_has_no_latents_to_spell_with():
    assert MethodSettings(spell_weight=1.0).spells
    assert not MethodSettings().spells, "the paper has no such term"
    for other in ({"iterations": 0}, {"name": "codi"}, {"name": "pause"}):
        assert not MethodSettings(spell_weight=1.0, **other).spells
    with pytest.raises(SettingsError, match=r"spell_weight = -1.0: expected a number of at least 0"):
        MethodSettings(spell_weight=-1.0)
