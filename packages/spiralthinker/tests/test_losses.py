"""The trainer's terms against values and gradients that are computed by hand."""

import copy

import latent_models as lm
import pytest
import torch
from torch.nn.functional import smooth_l1_loss
from transformers import TrainingArguments
from transformers.trainer_callback import PrinterCallback

from spiralthinker.annotation import Annotation, explicit
from spiralthinker.columns import lay_out
from spiralthinker.config import MethodSettings
from spiralthinker.trainer import SpiralThinkerTrainer
from thinker_common.training.sections import LoraSettings


def trainer_of(model, folder, method, *, steps=1, accumulation=1):
    trainer = SpiralThinkerTrainer(
        model,
        TrainingArguments(
            output_dir=str(folder), max_steps=steps, per_device_train_batch_size=4 // accumulation, logging_steps=1,
            gradient_accumulation_steps=accumulation, learning_rate=3e-3, lr_scheduler_type="constant",
            report_to="none", disable_tqdm=True, use_cpu=True, save_strategy="no",
        ),
        lm.rows(model, trains_teacher=method.trains_teacher),
        method,
        stage="implicit",
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    return trainer


def layers_at(model, ids, places):
    """Every layer's states at these places, (L, U, D), by transformers alone."""
    with torch.no_grad():
        hidden = model.base(torch.tensor([ids]), output_hidden_states=True).hidden_states[1:]
    return torch.stack([layer[0, places] for layer in hidden])


def by_hand(model):
    """align^(0): `<eol>` of the implicit version as it stands, `<eot>` of the explicit one."""
    annotation, students, teachers = model.settings.annotation, [], []
    for problem in lm.problems():
        example = annotation.example(model.tokenizer, problem)
        blocks = annotation.blocks(example)
        if blocks:
            eols = [block.bol + annotation.latents + 1 for block in blocks]
            students.append(layers_at(model, annotation.implicit(example, model.markers).input_ids, eols))
            teachers.append(layers_at(model, explicit(example, model.markers).input_ids, [b.eot for b in blocks]))
    student, teacher = torch.cat(students, dim=1), torch.cat(teachers, dim=1)
    total = 0.0
    for own, goal in zip(student, teacher, strict=True):
        total += smooth_l1_loss(own, goal).item() / goal.std(correction=0).item()
    return total / len(teacher)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_alignment_without_iterations_in_a_training(accumulation, tmp_path):
    """The paper's "alignment only": K = 0, where align^(0) has weight 1."""
    model = lm.latent_model(iterations=0, latents=2)
    expected = by_hand(model)
    method = MethodSettings(latents=2, iterations=0, align_weight=20.0)
    trainer = trainer_of(model, tmp_path, method, steps=12, accumulation=accumulation)
    before = copy.deepcopy(model.parts.adapter.state_dict())
    trainer.train()
    logged = [row for row in trainer.state.log_history if "alignment" in row]
    assert logged[0]["alignment"] == pytest.approx(expected, rel=1e-4)
    for row in logged:
        assert row["loss"] == pytest.approx(row["cross_entropy"] + 20 * row["alignment"], rel=1e-4)
    assert logged[-1]["alignment"] < 0.8 * logged[0]["alignment"], "it is trained on"
    for name, tensor in model.parts.adapter.state_dict().items():
        assert torch.equal(tensor, before[name]), "without iterations nothing goes through the adapter"


@pytest.mark.parametrize("family", lm.FAMILIES)
@pytest.mark.parametrize("lora", [None, LoraSettings(r=2, alpha=4.0)], ids=["full", "lora"])
def test_accumulation_changes_no_loss_of_any_family(family, lora, tmp_path):
    """With one forward pass a step the teacher goes on from the student's prefix, with two it reads by itself."""
    histories = []
    for accumulation in (1, 2):
        model = lm.latent_model(family, lora=lora, latents=2)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):  # GPT-2's
                module.p = 0.0
        trainer = trainer_of(
            model, tmp_path, MethodSettings(latents=2, iterations=2), steps=4, accumulation=accumulation
        )
        trainer.train()
        histories.append([row for row in trainer.state.log_history if "alignment" in row])
    for whole, parts in zip(*histories, strict=True):
        for name in ("loss", "cross_entropy", "alignment"):
            assert parts[name] == pytest.approx(whole[name], rel=1e-3), f"step {whole['step']}, {name}"
    assert histories[0][-1]["loss"] < histories[0][0]["loss"]


def test_codis_alignment_trains_the_student_alone(tmp_path):
    """Its teacher is read with gradient, for the cross-entropy on the explicit version."""
    model = lm.latent_model(schedule="autoregressive", iterations=0, latents=3)
    annotation = Annotation(latents=3, placement="front")
    model.settings = type(model.settings)(annotation=annotation, iterations=0, schedule="autoregressive")
    method = MethodSettings(name="codi", latents=3)
    trainer = trainer_of(model, tmp_path, method)
    batch = lay_out(lm.rows(model, trains_teacher=True), latents=3, pad_token_id=0)
    batch["counts"] = torch.tensor(1.0)
    sums = trainer.loss_sums(model.base, batch)

    def gradients(term):
        found = torch.autograd.grad(term, list(model.base.parameters()), retain_graph=True, allow_unused=True)
        return [gradient for gradient in found if gradient is not None]

    found = gradients(sums["latent_steps"])
    iterated, _ = model(batch)
    with torch.no_grad():
        teacher, _ = model.teacher_states(batch)
    student = iterated.eol_KLBCD[0][:, batch["has_block"]]
    by_hand = sum(
        smooth_l1_loss(own, goal, reduction="none").mean(-1).sum() / goal.std(correction=0)
        for own, goal in zip(student, teacher, strict=True)
    ) / len(teacher)
    assert sums["latent_steps"].item() == pytest.approx(by_hand.item(), rel=1e-4)
    expected = gradients(by_hand)
    assert len(found) == len(expected)
    for gradient, other in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, other, atol=1e-4 * other.abs().max().item() + 1e-7, rtol=1e-3)
    assert any(gradient.any() for gradient in gradients(sums["explicit_tokens"]))
