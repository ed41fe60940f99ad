"""token_logprobs against a brute-force float64 softmax, over architectures, padding, chunks, autograd and adapters.

Shape legend: B rows, T tokens, K kept positions, V vocabulary.
"""

import copy
import dataclasses
import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BloomConfig,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    PreTrainedModel,
    Qwen2Config,
    T5Config,
)

from thinker_common.likelihood import logprobs as module
from thinker_common.likelihood.head import agrees, described_head
from thinker_common.likelihood.logprobs import token_logprobs

VOCAB = 61
ROTARY = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.5,  # logits far from uniform
}
CONFIGS = {
    "gpt2": GPT2Config(
        vocab_size=VOCAB, n_embd=16, n_layer=2, n_head=2, n_positions=40, bos_token_id=1, eos_token_id=2,
        initializer_range=0.5, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    ),
    "llama": LlamaConfig(**ROTARY),
    "qwen2": Qwen2Config(**ROTARY, tie_word_embeddings=True),
    "gemma2": Gemma2Config(**ROTARY, final_logit_softcapping=3.0),
    "granite": GraniteConfig(**ROTARY, logits_scaling=4.0),
    "cohere": CohereConfig(**ROTARY, logit_scale=0.25),
}  # fmt: skip
# Gemma 2's eager attention hides padding behind the smallest number of the dtype and takes the softmax in float32, where
# float64's smallest number is -inf: a padded float64 batch is NaN in the model itself. So padding is tested in float32.
PADDED = {name: (torch.float32, 2e-5) if name == "gemma2" else (torch.float64, 1e-10) for name in CONFIGS}


def make_model(name: str, dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIGS[name]).to(dtype).eval()


@pytest.fixture(scope="module")
def models() -> dict[str, PreTrainedModel]:
    return {name: make_model(name, PADDED[name][0]) for name in CONFIGS}


def brute_force(model: PreTrainedModel, row: list[int], temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Log-probabilities of row[1:] and the entropies behind them: one unpadded row, full logits, written-out softmax."""
    ids_BT = torch.tensor([row])
    logits_TV = model(input_ids=ids_BT).logits[0, :-1].double() / temperature
    logprobs_TV = logits_TV - logits_TV.exp().sum(-1, keepdim=True).log()
    entropies_T = -(logprobs_TV.exp() * logprobs_TV).sum(-1)
    return logprobs_TV[torch.arange(len(row) - 1), torch.tensor(row[1:])], entropies_T


def pad(rows: list[list[int]], left: list[int], width: int) -> tuple[Tensor, Tensor]:
    """ids_BT and mask_BT with `left[i]` pads before row i and pads up to `width` after it."""
    ids_BT = torch.zeros(len(rows), width, dtype=torch.long)
    mask_BT = torch.zeros_like(ids_BT)
    for i, (row, start) in enumerate(zip(rows, left, strict=True)):
        ids_BT[i, start : start + len(row)] = torch.tensor(row)
        mask_BT[i, start : start + len(row)] = 1
    return ids_BT, mask_BT


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@torch.no_grad()
def test_equals_brute_force_softmax(name, dtype, tolerance):
    model = make_model(name, dtype)
    reference = copy.deepcopy(model).double()
    row = [7, 3, 60, 5, 5, 21, 9, 33]
    expected, expected_entropy = brute_force(reference, row)
    logprobs_BK, entropies_BK = token_logprobs(
        model, torch.tensor([row]), torch.ones(1, 8), chunk_tokens=3, with_entropy=True
    )
    assert logprobs_BK.dtype == dtype
    assert module._head_verified[model], "the model's own head is used, not the fallback"
    torch.testing.assert_close(logprobs_BK[0].double(), expected, atol=tolerance, rtol=0)
    torch.testing.assert_close(entropies_BK[0].double(), expected_entropy, atol=tolerance, rtol=0)


@pytest.mark.parametrize("name", CONFIGS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
@torch.no_grad()
def test_independent_of_padding_batch_and_chunks(models, name, data):
    rows = data.draw(st.lists(st.lists(st.integers(1, VOCAB - 1), min_size=2, max_size=9), min_size=1, max_size=4))
    longest = max(map(len, rows))
    width = longest + data.draw(st.integers(0, 6))
    left = [data.draw(st.integers(0, width - len(row))) for row in rows]
    chunk = data.draw(st.integers(1, 40))
    ids_BT, mask_BT = pad(rows, left, width)
    logprobs_BK = token_logprobs(models[name], ids_BT, mask_BT, chunk_tokens=chunk)
    expected_BK = torch.zeros(len(rows), width - 1, dtype=torch.float64)
    for i, (row, start) in enumerate(zip(rows, left, strict=True)):
        expected_BK[i, start : start + len(row) - 1] = brute_force(models[name], row)[0]
    tolerance = PADDED[name][1]
    torch.testing.assert_close(logprobs_BK.double(), expected_BK, atol=tolerance, rtol=0)
    keep = data.draw(st.integers(1, width - 1))
    kept_BK = token_logprobs(models[name], ids_BT, mask_BT, keep=keep, chunk_tokens=chunk)
    torch.testing.assert_close(kept_BK, logprobs_BK[:, -keep:], atol=tolerance, rtol=0)


@torch.no_grad()
def test_left_padding_without_position_ids_would_be_wrong_on_gpt2(models):
    """The trap exists: the model's own forward on a left-padded row is far off, and token_logprobs is not."""
    row = [7, 3, 60, 5, 21]
    ids_BT, mask_BT = pad([row], [20], 25)
    naive = models["gpt2"](input_ids=ids_BT, attention_mask=mask_BT).logits.log_softmax(-1)
    naive_K = naive[0, 20:-1].gather(-1, ids_BT[0, 21:, None]).squeeze(-1)
    expected_K, _ = brute_force(models["gpt2"], row)
    assert (naive_K - expected_K).abs().max() > 0.5
    logprobs_BK = token_logprobs(models["gpt2"], ids_BT, mask_BT, keep=4)
    torch.testing.assert_close(logprobs_BK[0], expected_K, atol=1e-10, rtol=0)


@torch.no_grad()
def test_temperature_divides_the_logits(models):
    row = [7, 3, 60, 5, 21]
    expected_T, expected_entropy_T = brute_force(models["llama"], row, temperature=0.7)
    logprobs_BK, entropies_BK = token_logprobs(
        models["llama"], torch.tensor([row]), torch.ones(1, 5), temperature=0.7, with_entropy=True
    )
    torch.testing.assert_close(logprobs_BK[0], expected_T, atol=1e-10, rtol=0)
    torch.testing.assert_close(entropies_BK[0], expected_entropy_T, atol=1e-10, rtol=0)


def weighted_loss(logprobs_BK: Tensor) -> Tensor:
    """A loss that is not linear in the log-probabilities, as a clipped ratio is not."""
    weights_BK = torch.linspace(-1, 2, logprobs_BK.numel(), dtype=torch.float64).view_as(logprobs_BK)
    return (weights_BK * torch.exp(0.3 * logprobs_BK)).sum()


@pytest.mark.parametrize("name", CONFIGS)
def test_gradient_equals_full_logits_autograd(name):
    dtype, tolerance = PADDED[name]
    model = make_model(name, dtype)
    ids_BT, mask_BT = pad([[7, 3, 60, 5, 21], [4, 4, 9]], [1, 3], 7)
    positions_BT = (mask_BT.cumsum(-1) - 1).clamp(min=0)
    logits_BTV = model(input_ids=ids_BT, attention_mask=mask_BT, position_ids=positions_BT).logits
    full_BK = logits_BTV.log_softmax(-1)[:, :-1].gather(-1, ids_BT[:, 1:, None]).squeeze(-1)
    full_BK = full_BK * (mask_BT[:, 1:] * mask_BT[:, :-1])
    expected = torch.autograd.grad(weighted_loss(full_BK[:, -4:]), list(model.parameters()), allow_unused=True)

    logprobs_BK = token_logprobs(model, ids_BT, mask_BT, keep=4, chunk_tokens=2)
    gradients = torch.autograd.grad(weighted_loss(logprobs_BK), list(model.parameters()), allow_unused=True)
    for gradient, reference in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, reference, atol=tolerance, rtol=1e-4 if dtype == torch.float32 else 1e-8)


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "cohere"])
def test_gradient_equals_finite_differences(name):
    """Along a random direction of all of GPT-2's weights; of the head's only in models whose norms compute in float32."""
    config = copy.deepcopy(CONFIGS[name])
    config.tie_word_embeddings = False
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config).double().eval()
    ids_BT, mask_BT = pad([[7, 3, 60, 5], [4, 9, 2]], [0, 0], 5)
    parameters = list((model if name == "gpt2" else model.lm_head).parameters())
    direction = [torch.randn_like(parameter) for parameter in parameters]

    def loss() -> Tensor:
        logprobs_BK, entropies_BK = token_logprobs(
            model, ids_BT, mask_BT, keep=3, chunk_tokens=2, temperature=1.3, with_entropy=True, entropy_grad=True
        )
        return weighted_loss(logprobs_BK) + 0.1 * entropies_BK.sum()

    gradients = torch.autograd.grad(loss(), parameters)
    slope = sum((g * d).sum() for g, d in zip(gradients, direction, strict=True))
    step, values = 1e-6, []
    with torch.no_grad():
        for sign in (1, -2):  # to +step, then to -step
            for parameter, d in zip(parameters, direction, strict=True):
                parameter += sign * step * d
            values.append(loss())
    torch.testing.assert_close(slope, (values[0] - values[1]) / (2 * step), rtol=1e-6, atol=1e-8)


def test_entropy_carries_a_gradient_only_when_asked(models):
    ids_BT, mask_BT = torch.tensor([[7, 3, 60, 5]]), torch.ones(1, 4)
    _, entropies_BK = token_logprobs(models["llama"], ids_BT, mask_BT, with_entropy=True)
    assert not entropies_BK.requires_grad
    _, entropies_BK = token_logprobs(models["llama"], ids_BT, mask_BT, with_entropy=True, entropy_grad=True)
    assert entropies_BK.requires_grad


@pytest.mark.parametrize("target_modules", [["q_proj", "v_proj"], ["q_proj", "lm_head"]])
def test_lora_adapters_count_also_on_the_head(target_modules):
    base = make_model("llama")
    lora = LoraConfig(r=2, target_modules=target_modules, init_lora_weights=False)
    model = get_peft_model(base, lora).double().eval()
    ids_BT, mask_BT = torch.tensor([[7, 3, 60, 5]]), torch.ones(1, 4)
    logprobs_BK = token_logprobs(model, ids_BT, mask_BT)
    expected_BK = model(input_ids=ids_BT).logits.log_softmax(-1)[:, :-1].gather(-1, ids_BT[:, 1:, None]).squeeze(-1)
    torch.testing.assert_close(logprobs_BK, expected_BK, atol=1e-10, rtol=0)
    logprobs_BK.sum().backward()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert trained and all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in trained)
    with model.disable_adapter(), torch.no_grad():
        assert (token_logprobs(model, ids_BT, mask_BT) - logprobs_BK).abs().max() > 1e-3


class FlippedDecoder(torch.nn.Module):
    """A decoder whose hidden states are not what the model's own forward gives to the head."""

    def __init__(self, decoder: torch.nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, **kwargs):
        output = self.decoder(**kwargs)
        return type(output)(last_hidden_state=output.last_hidden_state.flip(-1))


def test_falls_back_to_the_models_own_forward(monkeypatch):
    """Where the reading of the head disagrees with the model's forward, the forward wins, gradients included."""
    model = make_model("llama")
    monkeypatch.setattr(model, "get_decoder", lambda: FlippedDecoder(model.model))
    ids_BT, mask_BT = torch.tensor([[7, 3, 60, 5]]), torch.ones(1, 4)
    expected_BK = model(input_ids=ids_BT).logits.log_softmax(-1)[:, :-1].gather(-1, ids_BT[:, 1:, None]).squeeze(-1)
    with pytest.warns(UserWarning, match="llama: the model's own logits are not what its configuration says") as caught:
        logprobs_BK = token_logprobs(model, ids_BT, mask_BT, keep=2, chunk_tokens=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is said once
        token_logprobs(model, ids_BT, mask_BT)
    assert "right, but memory grows with tokens times vocabulary" in str(caught[0].message)
    assert not module._head_verified[model]
    torch.testing.assert_close(logprobs_BK, expected_BK[:, -2:], atol=1e-10, rtol=0)
    assert logprobs_BK.requires_grad


@pytest.mark.filterwarnings("ignore:.*its own forward computes them")
def test_falls_back_where_the_decoder_is_the_whole_model(models, monkeypatch):
    model = make_model("llama")
    monkeypatch.setattr(model, "get_decoder", lambda: model)
    ids_BT, mask_BT = torch.tensor([[7, 3, 60, 5]]), torch.ones(1, 4)
    expected_BK = token_logprobs(models["llama"], ids_BT, mask_BT)
    torch.testing.assert_close(token_logprobs(model, ids_BT, mask_BT), expected_BK, atol=1e-10, rtol=0)


def test_untrained_soft_cap_is_noticed():
    """At initialisation the logits are near 0 and a cap of 30 changes nothing; the check must see it all the same."""
    config = copy.deepcopy(CONFIGS["gemma2"])
    config.initializer_range, config.final_logit_softcapping = 0.02, 30.0
    model = AutoModelForCausalLM.from_config(config)
    head = module.causal_head(model)
    assert head is not None and head.soft_cap == 30.0
    ids_BT = torch.tensor([[7, 3, 60, 5]])
    states, own_logits = lambda: model.model(ids_BT).last_hidden_state, lambda: model(ids_BT).logits
    with torch.no_grad():
        assert agrees(head, states, own_logits)
        assert not agrees(dataclasses.replace(head, soft_cap=None), states, own_logits)


@pytest.mark.parametrize("name", ["granite", "cohere", "t5"])
@torch.no_grad()
def test_a_missing_scale_is_noticed(name):
    """T5 scales what it projects, the others what they projected; a bias would show as well."""
    config = CONFIGS.get(name) or T5Config(vocab_size=VOCAB, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2)
    family = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = family.from_config(config).eval()
    ids_BT = torch.tensor([[7, 3, 60, 5]])

    def states() -> Tensor:
        encoded = {"encoder_hidden_states": model.get_encoder()(ids_BT).last_hidden_state} if name == "t5" else {}
        return model.get_decoder()(ids_BT, **encoded).last_hidden_state

    def own_logits() -> Tensor:
        return model(ids_BT, **({"decoder_input_ids": ids_BT} if name == "t5" else {})).logits

    head = described_head(model)
    assert head is not None and head.scale != 1.0
    assert agrees(head, states, own_logits)
    assert not agrees(dataclasses.replace(head, scale=1.0), states, own_logits)
    assert not agrees(dataclasses.replace(head, scale=head.scale * 1.001), states, own_logits)


def test_verification_leaves_the_model_as_it_was():
    model = make_model("gpt2").train()
    model.transformer.h[0].eval()
    hooks = len(model.lm_head._forward_hooks)
    state = torch.get_rng_state()
    module.causal_head(model)
    assert model.training and not model.transformer.h[0].training and not model.transformer.h[0].mlp.training
    assert len(model.lm_head._forward_hooks) == hooks
    assert torch.equal(torch.get_rng_state(), state)


def test_prompt_tuning_is_scored_with_its_virtual_tokens():
    model = get_peft_model(make_model("llama"), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    model = model.double().eval()
    ids_BT, mask_BT = torch.tensor([[7, 3, 60, 5]]), torch.ones(1, 4, dtype=torch.long)
    with pytest.warns(UserWarning, match="its own forward computes them"):
        logprobs_BK = token_logprobs(model, ids_BT, mask_BT)
    with torch.no_grad():
        logits_BTV = model(input_ids=ids_BT, attention_mask=mask_BT).logits[:, 3:]
        expected_BK = logits_BTV.log_softmax(-1)[:, :-1].gather(-1, ids_BT[:, 1:, None]).squeeze(-1)
        torch.testing.assert_close(logprobs_BK, expected_BK, atol=1e-10, rtol=0)


@torch.no_grad()
def test_bfloat16_sums_over_the_vocabulary_in_float32():
    model = make_model("llama", torch.bfloat16)
    ids_BT, mask_BT = torch.tensor([[7, 3, 60, 5]]), torch.ones(1, 4)
    logits_BTV = model(input_ids=ids_BT).logits
    assert logits_BTV.dtype == torch.bfloat16
    expected_BK = logits_BTV.double().log_softmax(-1)[:, :-1].gather(-1, ids_BT[:, 1:, None]).squeeze(-1)
    logprobs_BK = token_logprobs(model, ids_BT, mask_BT)
    assert logprobs_BK.dtype == torch.float32
    torch.testing.assert_close(logprobs_BK.double(), expected_BK, atol=1e-5, rtol=0)


def test_the_head_sees_only_wanted_positions_a_chunk_at_a_time(models, monkeypatch):
    model, widths = models["llama"], []
    module.causal_head(model)
    ids_BT, mask_BT = pad([[7, 3, 60, 5, 21, 8], [4, 9, 2]], [0, 1], 8)
    linear, calls = torch.nn.functional.linear, []

    def spy(states, weight, bias=None):
        if weight is model.lm_head.weight:
            widths.append(states.shape[0])
        return linear(states, weight, bias)

    hook = model.lm_head.register_forward_hook(lambda *_: calls.append(len(widths)))
    monkeypatch.setattr(torch.nn.functional, "linear", spy)
    with torch.no_grad():
        token_logprobs(model, ids_BT, mask_BT, keep=5, chunk_tokens=2)
    hook.remove()
    assert widths == [2, 2]  # of columns 3..7, three hold tokens of the first row and one holds a token of the second
    assert calls == [2], "ZeRO-3 gathers the head in each call of its module: one for all chunks"


def test_models_without_position_ids_refuse_left_padding():
    config = BloomConfig(vocab_size=VOCAB, hidden_size=16, n_layer=1, n_head=2)
    bloom = AutoModelForCausalLM.from_config(config).double().eval()
    row = [7, 3, 60, 5]
    right = pad([row], [0], 6)
    with torch.no_grad():
        torch.testing.assert_close(token_logprobs(bloom, *right)[0, :3], brute_force(bloom, row)[0], atol=1e-10, rtol=0)
    with pytest.raises(ValueError, match=r"bloom models take no position_ids.*pad on the right"):
        token_logprobs(bloom, *pad([row], [2], 6))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keep": 0}, "keep must be between 1 and 3 for rows of 4 tokens, not 0"),
        ({"keep": 4}, "keep must be between 1 and 3 for rows of 4 tokens, not 4"),
        ({"temperature": 0.0}, "temperature must be positive, not 0.0"),
        ({"temperature": math.nan}, "temperature must be positive, not nan"),
    ],
)
def test_impossible_arguments(models, arguments, message):
    with pytest.raises(ValueError, match=message):
        token_logprobs(models["llama"], torch.tensor([[7, 3, 60, 5]]), torch.ones(1, 4), **arguments)
