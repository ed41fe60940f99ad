"""Tokens behind their contexts: the same values and gradients as alone, what they share read once, little padding."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from thinker_common.likelihood.continuations import (
    Continuation,
    continuation_logprobs,
    masked_logprobs,
    measured,
)
from thinker_common.likelihood.logprobs import token_logprobs
from thinker_common.likelihood.prefix_tree import can_branch

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


def everywhere(wanted_BK: Tensor, ids_BT: Tensor) -> Tensor:
    return torch.nn.functional.pad(wanted_BK, (ids_BT.shape[1] - wanted_BK.shape[1], 0))


def with_one_prompt(ids_BT: Tensor, mask_BT: Tensor, rows: list[int]) -> None:
    """These rows get the prompt of the first of them."""
    width = 40
    for row in rows[1:]:
        ids_BT[row, :width], mask_BT[row, :width] = ids_BT[rows[0], :width], mask_BT[rows[0], :width]


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("one_pass", [False, True])
@pytest.mark.parametrize("alike", [[], [1, 4, 6]])
def test_values_and_gradients_are_those_of_one_padded_pass(name: str, one_pass: bool, alike: list[int]) -> None:
    model, keep = tiny_model(name).eval(), 60
    ids_BT, mask_BT, wanted_BK = batch(keep)
    with_one_prompt(ids_BT, mask_BT, alike)
    weights_BK = torch.randn(8, keep, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    found = []
    for shared in (True, False):
        model.zero_grad()
        if shared:
            logprobs, entropies = masked_logprobs(
                model,
                ids_BT,
                mask_BT,
                everywhere(wanted_BK, ids_BT),
                entropy_grad=True,
                temperature=0.7,
                one_pass=one_pass,
            )
            assert not logprobs[:, :-keep].any()
            logprobs, entropies = logprobs[:, -keep:], entropies[:, -keep:]
        else:
            logprobs, entropies = token_logprobs(
                model, ids_BT, mask_BT, keep=keep, with_entropy=True, entropy_grad=True, temperature=0.7
            )
            logprobs, entropies = logprobs * wanted_BK, entropies * wanted_BK
        ((logprobs + 0.3 * entropies) * weights_BK).sum().backward()
        gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
        found.append((logprobs.detach(), entropies.detach(), gradient))
    # Llama's norms are float32 in any model, and sum the gradients of what is shared before they round.
    of_gradients = 1e-6 if name == "llama" and alike else 1e-10
    for ours, theirs, tolerance in zip(*found, (1e-10, 1e-10, of_gradients), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    assert found[0][0][~wanted_BK].abs().max() == 0


def read_by(model: Any, work: Any) -> int:
    """Positions, padding included, that the decoder reads while `work()` runs."""
    can_branch(model)
    token_logprobs(model, torch.tensor([[1, 2]]), torch.ones(1, 2, dtype=torch.long))  # verifies the head
    read: list[int] = []
    hook = model.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    work()
    hook.remove()
    return sum(read)


def test_little_padding_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    from thinker_common.likelihood import batching

    monkeypatch.setattr(batching, "SMALL_BATCH", 1)
    model, keep = tiny_model("llama").eval(), 60
    ids_BT, mask_BT, wanted_BK = batch(keep)
    wanted_BT = everywhere(wanted_BK, ids_BT)
    read = read_by(model, lambda: masked_logprobs(model, ids_BT, mask_BT, wanted_BT))
    # Up to the last wanted token of a row, which itself predicts nothing.
    needed = sum(
        int(mask[: columns[-1]].sum())
        for mask, row in zip(mask_BT, wanted_BT, strict=True)
        if (columns := row.nonzero().flatten().tolist())
    )
    assert needed <= read <= needed / 0.9
    assert read < 0.6 * ids_BT.numel()


def test_a_prompt_is_read_once_for_all_its_responses() -> None:
    model = tiny_model("llama").eval()
    prompt = list(range(1, 41))
    responses = [[50 + (row + column) % 9 for column in range(8)] for row in range(6)]
    asked = [Continuation(prompt, response) for response in responses]
    read = read_by(model, lambda: continuation_logprobs(model, asked))
    assert read == 40 + 6 * 7
    alone = [continuation_logprobs(model, [one])[0] for one in asked]
    torch.testing.assert_close(continuation_logprobs(model, asked), alone, rtol=0, atol=1e-10)


def test_each_continuation_has_its_temperature() -> None:
    """Also where the same position predicts tokens of both."""
    model = tiny_model("llama").eval()
    asked = [Continuation([1, 2, 3], [7, 8], temperature=0.5), Continuation([1, 2, 3], [7, 9]), Continuation([4], [1])]
    with torch.no_grad():
        [found] = measured(model, asked, max_tokens_per_batch=64, with_entropy=True)
    values = dict(zip(found.indices, found.logprobs_S.split(found.lengths), strict=True))
    entropies = dict(zip(found.indices, found.entropies_S.split(found.lengths), strict=True))
    for index, one in enumerate(asked):
        row = torch.tensor([[*one.context_ids, *one.ids]])
        with torch.no_grad():
            logits = model(input_ids=row).logits[0, len(one.context_ids) - 1 : -1] / one.temperature
        logprobs = logits.log_softmax(-1)
        torch.testing.assert_close(values[index], logprobs[torch.arange(len(one.ids)), torch.tensor(one.ids)])
        torch.testing.assert_close(entropies[index], -(logprobs.exp() * logprobs).sum(-1))


def test_nothing_wanted_still_has_a_graph() -> None:
    model, keep = tiny_model("llama"), 60
    ids_BT, mask_BT, _ = batch(keep)
    logprobs, entropies = masked_logprobs(model, ids_BT, mask_BT, torch.zeros_like(ids_BT, dtype=torch.bool))
    assert logprobs.shape == entropies.shape == ids_BT.shape
    assert not logprobs.any() and not entropies.any()
    logprobs.sum().backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in model.parameters())
