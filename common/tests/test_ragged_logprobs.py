"""Log-probabilities of rows of very different lengths: the same values and gradients, with little padding read."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from thinker_common.likelihood.logprobs import ragged_token_logprobs, token_logprobs

VOCABULARY = 61


def tiny_model(name: str) -> Any:
    torch.manual_seed(0)
    if name == "gpt2":
        return GPT2LMHeadModel(
            GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=256)
        ).double()
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2,
        )
    ).double()  # fmt: skip


def batch(keep: int) -> tuple[Tensor, Tensor, Tensor]:
    """Prompts padded on the left, responses on the right; about a third of the response tokens are wanted."""
    generator = torch.Generator().manual_seed(1)
    prompts, responses = [3, 40, 12, 7, 38, 22, 5, 9], [60, 2, 30, 55, 4, 18, 1, 44]
    width = max(prompts)
    ids_BT = torch.randint(1, VOCABULARY, (8, width + keep), generator=generator)
    columns = torch.arange(width + keep)
    mask_BT = torch.stack(
        [(columns >= width - p) & (columns < width + r) for p, r in zip(prompts, responses, strict=True)]
    )
    wanted_BK = (torch.rand(8, keep, generator=generator) < 0.35) & mask_BT[:, width:]
    return ids_BT, mask_BT.long(), wanted_BK


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_values_and_gradients_are_those_of_one_padded_pass(name: str) -> None:
    model, keep = tiny_model(name).eval(), 60
    ids_BT, mask_BT, wanted_BK = batch(keep)
    weights_BK = torch.randn(8, keep, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    found = []
    for ragged in (True, False):
        model.zero_grad()
        if ragged:
            logprobs, entropies = ragged_token_logprobs(
                model,
                ids_BT,
                mask_BT,
                keep=keep,
                wanted_BK=wanted_BK,
                max_padding=0.1,
                entropy_grad=True,
                temperature=0.7,
            )
        else:
            logprobs, entropies = token_logprobs(
                model, ids_BT, mask_BT, keep=keep, with_entropy=True, entropy_grad=True, temperature=0.7
            )
            logprobs, entropies = logprobs * wanted_BK, entropies * wanted_BK
        ((logprobs + 0.3 * entropies) * weights_BK).sum().backward()
        gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
        found.append((logprobs.detach(), entropies.detach(), gradient))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    assert found[0][0][~wanted_BK].abs().max() == 0


def test_little_padding_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    from thinker_common.likelihood import batching

    monkeypatch.setattr(batching, "SMALL_BATCH", 1)
    model, keep = tiny_model("llama").eval(), 60
    ids_BT, mask_BT, wanted_BK = batch(keep)
    read = []
    decoder = model.get_decoder()
    decoder.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    token_logprobs(model, ids_BT, mask_BT)
    read.clear()
    with torch.no_grad():
        ragged_token_logprobs(model, ids_BT, mask_BT, keep=keep, wanted_BK=wanted_BK, max_padding=0.1)
    assert int(mask_BT.sum()) <= sum(read) <= int(mask_BT.sum()) / 0.9
    assert sum(read) < 0.6 * ids_BT.numel()


def test_nothing_wanted_still_has_a_graph() -> None:
    model, keep = tiny_model("llama"), 60
    ids_BT, mask_BT, wanted_BK = batch(keep)
    logprobs, entropies = ragged_token_logprobs(
        model, ids_BT, mask_BT, keep=keep, wanted_BK=torch.zeros_like(wanted_BK), max_padding=0.1
    )
    assert not logprobs.any() and not entropies.any()
    logprobs.sum().backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in model.parameters())
