"""Log-probabilities of targets: what the model's own forward gives, whatever they are batched with; the two losses."""

import math

import pytest
import torch
from tiny_students import KINDS, student, target_rows

from tinythinker.reflection import preference_loss, preference_sums
from tinythinker.targets import collate, target_logprobs
from tinythinker.trainer import without_dropout


def batch_of(taught, rows, **changes):
    return collate(
        [row["prompt_ids"] for row in rows],
        [row["target_ids"] for row in rows],
        range(len(rows)),
        pad_id=taught.tokenizer.pad_token_id,
        decoder_start=taught.decoder_start,
        **changes,
    )


def own_nll(taught, row):
    """The sum that the model's own loss gives for one row alone."""
    prompt, target = row["prompt_ids"], row["target_ids"]
    with torch.no_grad():
        if taught.encoder_decoder:
            output = taught.model(input_ids=torch.tensor([prompt]), labels=torch.tensor([target]))
        else:
            labels = [-100] * len(prompt) + target
            output = taught.model(input_ids=torch.tensor([prompt + target]), labels=torch.tensor([labels]))
    return output.loss.double() * len(target)


@pytest.mark.parametrize("kind", KINDS)
def test_a_padded_batch_is_its_rows_one_by_one(kind):
    taught = student(kind)
    rows = target_rows(taught)
    batch = batch_of(taught, rows)
    logprobs_BT = target_logprobs(taught.model, batch)
    assert batch["target_mask"].sum(-1).tolist() == [len(row["target_ids"]) for row in rows]
    assert len({len(row["target_ids"]) for row in rows}) == len({len(row["prompt_ids"]) for row in rows}) == len(rows)
    for i, row in enumerate(rows):
        alone = batch_of(taught, [row])
        expected = target_logprobs(taught.model, alone)[alone["target_mask"]]
        torch.testing.assert_close(logprobs_BT[i][batch["target_mask"][i]], expected, atol=1e-5, rtol=0)
        assert float(-expected.detach().double().sum()) == pytest.approx(float(own_nll(taught, row)), abs=1e-3)
    assert not logprobs_BT[~batch["target_mask"]].any()


@pytest.mark.parametrize("kind", KINDS)
def test_padding_is_never_a_target(kind):
    """Beside a long row a short one has padding, and its NLL is the same; with padding among the targets it is not."""
    taught = student(kind)
    rows = target_rows(taught)
    short = min(rows, key=lambda row: len(row["target_ids"]))
    batch = batch_of(taught, rows)
    nll = -target_logprobs(taught.model, batch).sum()
    assert float(nll) == pytest.approx(sum(float(own_nll(taught, row)) for row in rows), rel=1e-5)
    if kind == "t5":
        padded = {**batch, "target_mask": torch.ones_like(batch["target_mask"])}
        with_padding = -target_logprobs(taught.model, padded).sum()
        assert float(with_padding) > float(nll) + 1, "the number that training on padding gives is another one"
    for pad_id in (0, 5):  # what padding is made of is of no consequence
        batch = collate(
            [row["prompt_ids"] for row in rows],
            [row["target_ids"] for row in rows],
            range(len(rows)),
            pad_id=pad_id,
            decoder_start=taught.decoder_start,
        )
        found = -target_logprobs(taught.model, batch)[rows.index(short)].sum()
        assert float(found) == pytest.approx(float(own_nll(taught, short)), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_targets_that_share_a_prompt(kind):
    taught = student(kind)
    rows = target_rows(taught)
    prompts = [row["prompt_ids"] for row in rows]
    targets = [row["target_ids"] for row in rows]
    shared = collate(prompts[:1], targets, [0, 0, 0], pad_id=0, decoder_start=taught.decoder_start)
    apart = batch_of(taught, [{"prompt_ids": prompts[0], "target_ids": target} for target in targets])
    first, second = (target_logprobs(taught.model, one).sum(-1) for one in (shared, apart))
    torch.testing.assert_close(first, second, atol=1e-4, rtol=0)


def losses(taught):
    """The two losses of the rows, as functions of the weights."""
    rows = target_rows(taught)
    plain = batch_of(taught, rows)
    pairs = collate(
        [row["prompt_ids"] for row in rows],
        [row["target_ids"] for row in rows] + [row["target_ids"][::-1] for row in rows],
        [0, 1, 2, 0, 1, 2],
        pad_id=0,
        decoder_start=taught.decoder_start,
    )
    reference_P = torch.tensor([-30.0, -20.0, -25.0], dtype=torch.float64)

    def cross_entropy():
        return -target_logprobs(taught.model, plain).sum() / plain["target_mask"].sum()

    def preference():
        chosen, rejected = target_logprobs(taught.model, pairs).chunk(2)
        chosen_mask, rejected_mask = pairs["target_mask"].chunk(2)
        sums = preference_sums(chosen, chosen_mask, rejected, rejected_mask, reference_P, reference_P - 0.5, beta=0.05)
        return preference_loss(sums, alpha=0.5, pairs=3, chosen_tokens=int(chosen_mask.sum()))

    return {"cross-entropy": cross_entropy, "preference": preference}


def norm_in_float64(self, hidden_states):
    return (
        self.weight * hidden_states * torch.rsqrt(hidden_states.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["cross-entropy", "preference"])
def test_gradients_are_finite_differences(kind, name, monkeypatch):
    # transformers' own norms go through float32, whose rounding is larger than the differences.
    for norm in (
        "transformers.models.llama.modeling_llama.LlamaRMSNorm",
        "transformers.models.t5.modeling_t5.T5LayerNorm",
    ):
        monkeypatch.setattr(f"{norm}.forward", norm_in_float64)
    taught = student(kind)
    taught.model.double()
    loss = losses(taught)[name]
    loss().backward()
    torch.manual_seed(1)
    checked = 0
    for parameter_name, parameter in taught.model.named_parameters():
        if parameter.grad is None or checked >= 12:
            continue
        direction = torch.randn_like(parameter)
        direction /= direction.norm()
        expected = float((parameter.grad * direction).sum())
        step = 1e-5
        with torch.no_grad():
            parameter += step * direction
            above = float(loss())
            parameter -= 2 * step * direction
            below = float(loss())
            parameter += step * direction
        assert (above - below) / (2 * step) == pytest.approx(expected, rel=1e-5, abs=1e-9), parameter_name
        checked += 1
    assert checked == 12
    assert any(p.grad is not None and p.grad.abs().max() > 1e-4 for p in taught.model.parameters())


@pytest.mark.parametrize(("kind", "rate"), [("t5", "dropout_rate"), ("causal", "attention_dropout")])
def test_phase_2_has_no_dropout(kind, rate):
    taught = student(kind, **{rate: 0.3})
    batch = batch_of(taught, target_rows(taught))
    taught.model.train()
    torch.manual_seed(0)
    assert not torch.equal(*(target_logprobs(taught.model, batch) for _ in range(2))), "it has some to begin with"
    without_dropout(taught.model)
    first, second = (target_logprobs(taught.model, batch) for _ in range(2))
    assert torch.equal(first, second)
    torch.testing.assert_close(first, target_logprobs(taught.model.eval(), batch))
    assert math.isfinite(float(first.sum()))
