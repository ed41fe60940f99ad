"""The loss and its gradient are those of TRL's DPOTrainer (`sigmoid` and `sft`) on one batch of the embedded model."""

import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from tinythinker._common import load_policy, load_tokenizer
from tinythinker.reflection import preference_loss, preference_sums

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


def test_loss_and_gradient_equal_trls(tmp_path):
    torch.manual_seed(0)
    policy, reference = load_policy("embedded").double(), load_policy("embedded").double()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
    trainer = DPOTrainer(
        policy,
        ref_model=reference,
        args=DPOConfig(
            str(tmp_path), loss_type=["sigmoid", "sft"], loss_weights=[1.0, ALPHA], beta=BETA, report_to="none",
            per_device_train_batch_size=3, use_cpu=True, bf16=False, activation_checkpointing=False, disable_dropout=True,
        ),
        train_dataset=Dataset.from_list(ROWS),
        processing_class=load_tokenizer("embedded"),
    )  # fmt: skip
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
