"""The trainers on one batch: the NLL of phase 2 over real tokens, and what bfloat16 changes."""

import math
from typing import Any

import pytest
import torch
from tiny_students import KINDS, student, target_rows
from transformers import TrainingArguments
from transformers.trainer_callback import PrinterCallback

from tinythinker.trainer import AcquisitionTrainer, PreferenceTrainer, StageOrder

ALPHA, BETA = 0.5, 0.1


def arguments(folder: Any, **changes: Any) -> TrainingArguments:
    return TrainingArguments(
        str(folder), per_device_train_batch_size=3, use_cpu=True, report_to="none", save_strategy="no", max_steps=3,
        logging_steps=1, learning_rate=1e-3, **{"bf16": False, **changes},
    )  # fmt: skip


def pair_rows(taught: Any) -> list[dict[str, Any]]:
    """Chosen sides of different lengths, so that all but the longest are padded."""
    rows = target_rows(taught)
    assert len({len(row["target_ids"]) for row in rows}) == len(rows)
    return [
        {"prompt_ids": row["prompt_ids"], "chosen_ids": row["target_ids"], "rejected_ids": other["target_ids"],
         "reference": [-20.0, -25.0]}
        for row, other in zip(rows, [*rows[1:], rows[0]], strict=True)
    ]  # fmt: skip


def preference_trainer(taught: Any, folder: Any, *, alpha: float = ALPHA, **changes: Any) -> PreferenceTrainer:
    rows: Any = pair_rows(taught)
    return PreferenceTrainer(taught, arguments(folder, **changes), rows, beta=BETA, alpha=alpha)


def first_loss(trainer: Any) -> torch.Tensor:
    """The loss of the first batch, in the way of the trainer itself."""
    batches, units = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), 1, trainer.args.device)
    loss: torch.Tensor = trainer.compute_loss(trainer.model.train(), batches[0], num_items_in_batch=units)
    return loss


@pytest.mark.parametrize("kind", KINDS)
def test_the_nll_of_phase_2_is_a_mean_over_real_tokens_of_the_chosen_texts(kind, tmp_path):
    """The authors' code has padding among its targets for T5; a text alone has no padding."""
    taught = student(kind)
    rows = pair_rows(taught)
    with_nll, without = (first_loss(preference_trainer(taught, tmp_path, alpha=alpha)) for alpha in (1.0, 0.0))
    nll, tokens, padded = 0.0, 0, 0.0
    longest = max(len(row["chosen_ids"]) for row in rows)
    for row in rows:
        prompt, chosen = row["prompt_ids"], row["chosen_ids"]
        filled = chosen + [taught.tokenizer.pad_token_id] * (longest - len(chosen))
        with torch.no_grad():
            for target in (chosen, filled):
                if kind == "t5":
                    output = taught.model(input_ids=torch.tensor([prompt]), labels=torch.tensor([target]))
                else:
                    labels = torch.tensor([[-100] * len(prompt) + target])
                    output = taught.model(input_ids=torch.tensor([prompt + target]), labels=labels)
                if target is chosen:
                    nll += float(output.loss) * len(chosen)
                    tokens += len(chosen)
                if target is filled:
                    padded += float(output.loss) * longest
    assert float((with_nll - without).detach()) == pytest.approx(nll / tokens, rel=1e-4)
    assert abs(padded / (3 * longest) - nll / tokens) > 0.05, "training on padding would be seen"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("phase", ["acquisition", "preference"])
def test_in_bfloat16_products_are_rounded_and_weights_and_losses_are_not(kind, phase, tmp_path):
    losses, kinds_of_products, kinds_of_losses = {}, {}, {}
    for bf16 in (False, True):
        taught = student(kind)
        products: set[torch.dtype] = set()
        for module in taught.model.modules():
            if isinstance(module, torch.nn.Linear) and module is not taught.model.get_output_embeddings():
                module.register_forward_hook(lambda *call, own=products: own.add(call[2].dtype))
        if phase == "preference":
            trainer: Any = preference_trainer(taught, tmp_path, bf16=bf16)
        else:
            rows: Any = target_rows(taught)
            order = StageOrder(["recall"], [len(rows)], "single", [1])
            trainer = AcquisitionTrainer(taught, arguments(tmp_path, bf16=bf16), rows, order)
        losses[bf16] = first_loss(trainer).detach()
        kinds_of_products[bf16], kinds_of_losses[bf16] = products, losses[bf16].dtype
        before = {name: parameter.detach().clone() for name, parameter in taught.model.named_parameters()}
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        found = [row["loss"] for row in trainer.state.log_history if "loss" in row]
        assert len(found) == 3 and all(map(math.isfinite, found)) and found[2] < found[0]
        assert all(p.dtype == torch.float32 for p in taught.model.parameters())
        assert any(not torch.equal(before[name], p) for name, p in taught.model.named_parameters())
    assert kinds_of_products[False] == {torch.float32} and torch.bfloat16 in kinds_of_products[True]
    assert set(kinds_of_losses.values()) == {torch.float32}
    assert losses[True] != losses[False]
    assert float(losses[True]) == pytest.approx(float(losses[False]), rel=0.02)
