"""The loss and its gradient are those of TRL's DPOTrainer (`sigmoid` and `sft`) on one batch of the embedded model."""

import torch
from datasets import Dataset
from transformers import TrainingArguments
from trl import DPOConfig, DPOTrainer

from tinythinker._common import load_policy, load_tokenizer
from tinythinker.reflection import preference_loss, preference_sums
from tinythinker.student import Form, Student
from tinythinker.trainer import PreferenceTrainer, with_reference

ROWS = [
    {"prompt": "What is 2 + 3?", "chosen": " It is 5.", "rejected": " It is 7, or so."},
    {"prompt": "Which creature eats moss?\nRecall:", "chosen": " A glim eats moss and sleeps.", "rejected": " No."},
    {"prompt": "Is it?", "chosen": " yes", "rejected": " no"},
]
ALPHA, BETA = 0.5, 0.5


def logprobs(model, batch):
    """log p of each token but the first, of chosen and rejected rows, and which of them are the continuation's."""
    logits_BTV = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    logprobs_BT = logits_BTV.log_softmax(-1).gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1)
    return [*logprobs_BT.chunk(2), *batch["completion_mask"][:, 1:].bool().chunk(2)]


def trl_trainer(folder, policy, reference):
    return DPOTrainer(
        policy,
        ref_model=reference,
        args=DPOConfig(
            str(folder), loss_type=["sigmoid", "sft"], loss_weights=[1.0, ALPHA], beta=BETA, report_to="none",
            per_device_train_batch_size=3, use_cpu=True, bf16=False, activation_checkpointing=False, disable_dropout=True,
        ),
        train_dataset=Dataset.from_list(ROWS),
        processing_class=load_tokenizer("embedded"),
    )  # fmt: skip


def test_loss_and_gradient_equal_trls(tmp_path):
    torch.manual_seed(0)
    policy, reference = load_policy("embedded").double(), load_policy("embedded").double()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
    trainer = trl_trainer(tmp_path, policy, reference)
    batch = next(iter(trainer.get_train_dataloader()))
    theirs = trainer.compute_loss(trainer.model, batch)
    theirs.backward()
    their_gradients = {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}
    policy.zero_grad()

    chosen, rejected, chosen_mask, rejected_mask = logprobs(policy, batch)
    with torch.no_grad():
        ref_chosen, ref_rejected, *_ = logprobs(reference, batch)
    sums = preference_sums(
        chosen,
        chosen_mask,
        rejected,
        rejected_mask,
        torch.where(chosen_mask, ref_chosen, 0).sum(-1),
        torch.where(rejected_mask, ref_rejected, 0).sum(-1),
        beta=BETA,
    )
    ours = preference_loss(sums, alpha=ALPHA, pairs=len(ROWS), chosen_tokens=int(chosen_mask.sum()))
    ours.backward()
    assert sums.margins_P.abs().min() > 1e-3  # the pairs are told apart, so that the loss depends on both models
    # TRL takes the log-softmax in float32.
    torch.testing.assert_close(ours, theirs.to(ours.dtype), rtol=1e-6, atol=1e-6)
    for name, parameter in policy.named_parameters():
        difference = (parameter.grad - their_gradients[name]).norm() / their_gradients[name].norm()
        assert difference < 1e-5, name


def test_the_trainers_own_loss_and_gradient_equal_trls(tmp_path):
    """The same pairs as token ids through `PreferenceTrainer`: its collation, its scores of the reference, its loss."""
    torch.manual_seed(0)
    policy, reference = load_policy("embedded").double(), load_policy("embedded").double()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
    tokenizer = load_tokenizer("embedded")
    theirs_trainer = trl_trainer(tmp_path / "theirs", policy, reference)
    batch = next(iter(theirs_trainer.get_train_dataloader()))
    theirs = theirs_trainer.compute_loss(theirs_trainer.model, batch)
    theirs.backward()
    their_gradients = {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}
    policy.zero_grad()

    rows = []
    for chosen, rejected in zip(range(len(ROWS)), range(len(ROWS), 2 * len(ROWS)), strict=True):
        ids, real, mask = (batch[name] for name in ("input_ids", "attention_mask", "completion_mask"))
        prompt = ids[chosen][real[chosen].bool() & ~mask[chosen].bool()].tolist()
        assert prompt == ids[rejected][real[rejected].bool() & ~mask[rejected].bool()].tolist()
        sides = [ids[side][mask[side].bool()].tolist() for side in (chosen, rejected)]
        rows.append({"prompt_ids": prompt, "chosen_ids": sides[0], "rejected_ids": sides[1]})
    assert len({len(row["chosen_ids"]) for row in rows}) > 1, "some are padded"

    form = Form(chat_template="none")
    scored = with_reference(Student(reference, tokenizer, form), rows, max_tokens_per_batch=4096)
    arguments = TrainingArguments(
        str(tmp_path / "ours"), per_device_train_batch_size=3, use_cpu=True, bf16=False, report_to="none"
    )
    trainer = PreferenceTrainer(Student(policy, tokenizer, form), arguments, scored, beta=BETA, alpha=ALPHA)
    batches, units = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), 1, arguments.device)
    assert {name: int(count) for name, count in units.items()} == {
        "pairs": len(ROWS), "chosen_tokens": sum(len(row["chosen_ids"]) for row in rows)
    }  # fmt: skip
    ours = trainer.compute_loss(trainer.model, batches[0], num_items_in_batch=units)
    ours.backward()
    # Scores of the reference and TRL's log-softmax are in float32.
    torch.testing.assert_close(ours.double(), theirs.double(), rtol=1e-5, atol=1e-5)
    for name, parameter in policy.named_parameters():
        difference = (parameter.grad - their_gradients[name]).norm() / their_gradients[name].norm()
        assert difference < 1e-4, name
