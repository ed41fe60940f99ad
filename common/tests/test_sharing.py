r"""Scores with and without shared prefixes against one-row forwards of the whole model and a written-out softmax.

Items are drawn as token ids from a tree, so that prompts, beginnings of reasonings and beginnings of answers coincide
at every depth; models are tiny, with logits far from uniform.

Most norms of transformers, and Gemma 2's attention, round to float32 even in a float64 model, which turns the last bit
of a sum into 1e-8. Here they are replaced by the same formulas without rounding, so that 1e-10 is a bound on our part.

Shape legend: B rows, T columns.
"""

import copy
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BartConfig,
    BloomConfig,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    T5Config,
)
from transformers.models.gemma2 import modeling_gemma2

from thinker_common.likelihood import continuations
from thinker_common.likelihood.prefix_tree import PackedRow, can_branch, pack, tree_inputs
from thinker_common.likelihood.scorer import AnswerScorer, ScoringItem

VOCAB = 347  # the tokenizer's 341 and some more
ROTARY = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 40,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.5,
}
T5 = {
    "vocab_size": VOCAB,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 24,
    "num_layers": 2,
    "num_heads": 2,
    "initializer_factor": 2.0,
    "decoder_start_token_id": 0,
    "dropout_rate": 0.0,
}
CONFIGS = {
    "llama": LlamaConfig(**ROTARY),
    "qwen2": Qwen2Config(**ROTARY, tie_word_embeddings=True),
    "gpt2": GPT2Config(
        vocab_size=VOCAB, n_embd=16, n_layer=2, n_head=2, n_positions=40, bos_token_id=1, eos_token_id=2,
        initializer_range=0.5, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    ),
    "gemma2": Gemma2Config(**ROTARY, final_logit_softcapping=3.0, attn_logit_softcapping=5.0, sliding_window=14),
    "mistral": MistralConfig(**ROTARY, sliding_window=14),
    "granite": GraniteConfig(**ROTARY, logits_scaling=4.0),
    "cohere": CohereConfig(**ROTARY, logit_scale=0.25),
    "t5": T5Config(**T5, tie_word_embeddings=True),
    "t5-v1.1": T5Config(**T5, tie_word_embeddings=False, feed_forward_proj="gated-gelu"),
    "bart": BartConfig(
        vocab_size=VOCAB, d_model=16, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, max_position_embeddings=40, init_std=0.5,
        dropout=0.0, decoder_start_token_id=2, forced_eos_token_id=None,
    ),
}  # fmt: skip


class ExactNorm(nn.Module):
    """RMSNorm, or LayerNorm without bias (`centred`), in the dtype of its input."""

    def __init__(self, norm: nn.Module, eps: float, offset: float, centred: bool) -> None:
        super().__init__()
        self.weight, self.eps, self.offset, self.centred = norm.weight, eps, offset, centred

    def forward(self, hidden: Tensor) -> Tensor:
        if self.centred:
            hidden = hidden - hidden.mean(-1, keepdim=True)
        return hidden * (hidden.pow(2).mean(-1, keepdim=True) + self.eps).rsqrt() * (self.weight + self.offset)


def make_model(config: PreTrainedConfig) -> PreTrainedModel:
    torch.manual_seed(0)
    family = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = family.from_config(copy.deepcopy(config)).double().eval()
    for parent in list(model.modules()):
        for name, norm in list(parent.named_children()):
            kind = type(norm).__name__
            if kind.endswith("RMSNorm") or kind in ("T5LayerNorm", "CohereLayerNorm"):
                eps = norm.eps if kind == "Gemma2RMSNorm" else norm.variance_epsilon
                setattr(parent, name, ExactNorm(norm, eps, kind == "Gemma2RMSNorm", kind == "CohereLayerNorm"))
    return model


GEMMA2_ATTENTION = modeling_gemma2.eager_attention_forward


def exact_attention(
    module, query, key, value, attention_mask, dropout=0.0, scaling=None, softcap=None, **_
) -> tuple[Tensor, None]:
    """Gemma 2's "eager" attention with its softmax in the dtype of the model."""
    key, value = (x.repeat_interleave(module.num_key_value_groups, dim=1) for x in (key, value))
    scores = torch.tanh(query @ key.transpose(2, 3) * scaling / softcap) * softcap
    if attention_mask is not None:
        scores = scores + attention_mask
    return (scores.softmax(-1) @ value).transpose(1, 2), None


@pytest.fixture(scope="module", autouse=True)
def _exact_gemma2_attention():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modeling_gemma2, "eager_attention_forward", exact_attention)
        yield


@pytest.fixture(scope="module")
def models() -> dict[str, PreTrainedModel]:
    return {name: make_model(config) for name, config in CONFIGS.items()}


@pytest.fixture(scope="module")
def tokenizer(tokenizers):
    return tokenizers["gpt2"]


def brute_force(model: PreTrainedModel, item: ScoringItem) -> Tensor:
    """Log-probabilities of the answer's tokens: one unpadded row through the whole model, and a written-out softmax."""
    prompt, reasoning, answer = list(item.prompt), list(item.reasoning), list(item.answer)
    if model.config.is_encoder_decoder:
        row = [model.config.decoder_start_token_id, *reasoning, *answer]
        logits_TV = model(input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([row])).logits[0].double()
    else:
        row = [*prompt, *reasoning, *answer]
        logits_TV = model(input_ids=torch.tensor([row])).logits[0].double()
    logprobs_TV = logits_TV - logits_TV.exp().sum(-1, keepdim=True).log()
    first = len(row) - len(answer)
    return logprobs_TV[torch.arange(first - 1, len(row) - 1), torch.tensor(answer)]


TOKENS = st.lists(st.integers(3, 6), max_size=4)
BASES = [[3, 4, 5, 6, 3, 3], [3, 4, 5, 6, 3, 4, 5], [9, 9]]
ITEMS = st.lists(
    st.builds(
        lambda base, more, reasoning, answer: ScoringItem(BASES[base] + more, reasoning, answer),
        st.integers(0, 2),
        TOKENS,
        TOKENS,
        st.lists(st.integers(3, 6), min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=10,
)


@pytest.mark.parametrize("name", CONFIGS)
@settings(max_examples=40, deadline=None)
@given(items=ITEMS, budget=st.sampled_from([1, 20, 60, 8192]), data=st.data())
def test_equals_brute_force_whatever_is_shared(models, tokenizer, name, items, budget, data):
    items = data.draw(st.permutations(items))
    scores = AnswerScorer(models[name], tokenizer, max_tokens_per_batch=budget).score(items)
    with torch.no_grad():
        for score, item in zip(scores, items, strict=True):
            assert score.token_ids == tuple(item.answer)
            assert score.token_logprobs == pytest.approx(brute_force(models[name], item).tolist(), abs=1e-10)


GROUPED = [
    ScoringItem(prompt, reasoning, answer)
    for prompt in ([3, 4, 5, 6, 7], [3, 4, 5, 8])
    for reasoning in ([10, 11, 12], [10, 13])
    for answer in ([20, 21, 22], [20, 23], [24])
]


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_scores_are_the_same_with_sharing_off(models, tokenizer, name, monkeypatch):
    shared = AnswerScorer(models[name], tokenizer).score(GROUPED)
    monkeypatch.setattr(continuations, "widest_tree", lambda model: 0)
    for one, other in zip(AnswerScorer(models[name], tokenizer).score(GROUPED), shared, strict=True):
        assert one.token_logprobs == pytest.approx(other.token_logprobs, abs=1e-10)


def rows_read(decoder: nn.Module, score) -> list[tuple[int, int]]:
    """(rows, columns) of each batch that the decoder reads while `score()` runs."""
    shapes: list[tuple[int, int]] = []
    hook = decoder.register_forward_pre_hook(
        lambda _module, _args, inputs: shapes.append(tuple(inputs["input_ids"].shape)), with_kwargs=True
    )
    score()
    hook.remove()
    return shapes


def test_every_shared_token_is_computed_once(models, tokenizer):
    scorer = AnswerScorer(models["llama"], tokenizer)
    scorer.score(GROUPED)  # the model is verified here, not below
    # One row: 3 4 5, then 6 7 and 8, each with 10 11 12 and 13 on a shared 10, and what is read of each answer.
    # 22, 23 and 24 are last tokens, which nothing is predicted from.
    nodes = {
        (*item.prompt, *item.reasoning, *item.answer[:-1])[:end]
        for item in GROUPED
        for end in range(1, len((*item.prompt, *item.reasoning, *item.answer)))
    }
    assert rows_read(models["llama"].model, lambda: scorer.score(GROUPED)) == [(1, len(nodes))]


def test_one_token_options_take_one_row_of_the_prompt(models, tokenizer):
    items = [ScoringItem([3, 4, 5, 6], [], [option]) for option in (10, 11, 12, 13)]
    for name, decoder in (("gpt2", models["gpt2"].transformer), ("t5", models["t5"].decoder)):
        scorer = AnswerScorer(models[name], tokenizer)
        scorer.score(items)
        [(rows, columns)] = rows_read(decoder, lambda scorer=scorer: scorer.score(items))
        assert (rows, columns) == (1, 4 if name == "gpt2" else 1)


def test_the_encoder_reads_each_prompt_once(models, tokenizer):
    model = models["t5"]
    scorer = AnswerScorer(model, tokenizer, max_tokens_per_batch=20)
    scorer.score(GROUPED)
    prompts: list[list[int]] = []
    hook = model.encoder.register_forward_pre_hook(
        lambda _module, _args, inputs: prompts.extend(
            row[mask.bool()].tolist() for row, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
        ),
        with_kwargs=True,
    )
    batches = rows_read(model.decoder, lambda: scorer.score(GROUPED))
    hook.remove()
    assert sorted(prompts) == [[3, 4, 5, 6, 7], [3, 4, 5, 8]]
    assert len(batches) > 1


def test_no_branching_row_is_wider_than_the_window(models, tokenizer):
    model = models["mistral"]
    scorer = AnswerScorer(model, tokenizer)
    scorer.score(GROUPED)
    shapes = rows_read(model.model, lambda: scorer.score(GROUPED))
    assert len(shapes) > 1 or shapes[0][0] > 1
    assert all(columns <= 14 for _, columns in shapes)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "t5", "t5-v1.1", "bart"])
def test_gradient_equals_that_of_one_row_forwards(models, tokenizer, name):
    model = models[name]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    weights = torch.linspace(-1, 2, len(GROUPED), dtype=torch.float64)

    def loss(logprobs: list[Tensor]) -> Tensor:
        return sum(w * torch.exp(0.3 * logprobs_T.sum()) for w, logprobs_T in zip(weights, logprobs, strict=True))

    expected = torch.autograd.grad(loss([brute_force(model, item) for item in GROUPED]), parameters, allow_unused=True)
    logprobs = AnswerScorer(model, tokenizer, max_tokens_per_batch=60).logprobs(GROUPED)
    gradients = torch.autograd.grad(loss(logprobs), parameters, allow_unused=True)
    for gradient, reference in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, reference, atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "t5"])
def test_gradient_equals_finite_differences(models, tokenizer, name):
    """Along a random direction of all weights, the shared ones included, with sets of tokens that close an answer."""
    model = copy.deepcopy(models[name])
    scorer = AnswerScorer(model, tokenizer)
    items = [ScoringItem([3, 4, 5, 6], [10], answer, suffix="}") for answer in ([20, 21], [20, 22, 23], [24])]
    parameters = list(model.parameters())
    torch.manual_seed(1)
    direction = [torch.randn_like(parameter) for parameter in parameters]

    def loss() -> Tensor:
        return torch.cat([(0.3 * logprobs_T).exp() for logprobs_T in scorer.logprobs(items)]).sum()

    gradients = torch.autograd.grad(loss(), parameters, allow_unused=True)
    slope = sum((g * d).sum() for g, d in zip(gradients, direction, strict=True) if g is not None)
    step, values = 1e-6, []
    with torch.no_grad():
        for sign in (1, -2):  # to +step, then to -step
            for parameter, d in zip(parameters, direction, strict=True):
                parameter += sign * step * d
            values.append(loss())
    torch.testing.assert_close(slope, (values[0] - values[1]) / (2 * step), rtol=1e-6, atol=1e-8)


def test_logprobs_are_the_scores_in_the_mode_the_model_is_in(models, tokenizer):
    model = copy.deepcopy(models["gpt2"])
    scorer = AnswerScorer(model, tokenizer)
    scores = scorer.score(GROUPED)
    model.train()  # its dropout probabilities are 0
    for score, logprobs_T in zip(scores, scorer.logprobs(GROUPED), strict=True):
        assert logprobs_T.requires_grad
        assert score.token_logprobs == pytest.approx(logprobs_T.tolist(), abs=1e-10)
    assert model.training
    with torch.no_grad():
        assert not any(logprobs_T.requires_grad for logprobs_T in scorer.logprobs(GROUPED))


def test_scores_of_an_untouched_gemma2_agree_in_float32(tokenizer, monkeypatch):
    monkeypatch.setattr(modeling_gemma2, "eager_attention_forward", GEMMA2_ATTENTION)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS["gemma2"])).eval()
    assert can_branch(model)
    with torch.no_grad():
        for score, item in zip(AnswerScorer(model, tokenizer).score(GROUPED), GROUPED, strict=True):
            assert score.token_logprobs == pytest.approx(brute_force(model, item).tolist(), abs=1e-5)


# ------------------------------------------------------------------------------------------- models that cannot share


def assert_scored_apart(model: PreTrainedModel, tokenizer, message: str) -> None:
    with pytest.warns(UserWarning, match=f"prefixes that items share are computed once for each item: {message}"):
        scores = AnswerScorer(model, tokenizer).score(GROUPED)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is said once
        assert AnswerScorer(model, tokenizer).score(GROUPED) == scores
    with torch.no_grad():
        for score, item in zip(scores, GROUPED, strict=True):
            assert score.token_logprobs == pytest.approx(brute_force(model, item).tolist(), abs=1e-10)


def test_models_without_position_ids_are_scored_apart(tokenizer):
    bloom = make_model(BloomConfig(vocab_size=VOCAB, hidden_size=16, n_layer=1, n_head=2))
    assert_scored_apart(bloom, tokenizer, "bloom models take no position ids")


def test_a_decoder_that_does_not_respect_the_mask_is_noticed(tokenizer, monkeypatch):
    model = make_model(CONFIGS["llama"])
    forward = model.model.forward

    def ignoring(attention_mask=None, input_ids=None, position_ids=None, **inputs):
        if attention_mask is not None and attention_mask.ndim != 2:
            attention_mask = None
        return forward(attention_mask=attention_mask, input_ids=input_ids, position_ids=position_ids, **inputs)

    monkeypatch.setattr(model.model, "forward", ignoring)
    assert_scored_apart(model, tokenizer, "llama models give other numbers when branches share a row")


def test_a_decoder_that_takes_no_such_mask_is_noticed(tokenizer, monkeypatch):
    model = make_model(CONFIGS["llama"])
    forward = model.model.forward

    def refusing(attention_mask=None, input_ids=None, position_ids=None, **inputs):
        if attention_mask is not None and attention_mask.ndim != 2:
            raise ValueError("a mask of two dimensions, please")
        return forward(attention_mask=attention_mask, input_ids=input_ids, position_ids=position_ids, **inputs)

    monkeypatch.setattr(model.model, "forward", refusing)
    assert_scored_apart(model, tokenizer, r"llama models do not take .* \(a mask of two dimensions, please\)")


def test_other_attention_implementations_do_not_share():
    model = make_model(CONFIGS["llama"])
    model.config._attn_implementation = "flash_attention_2"
    with pytest.warns(UserWarning, match="attn_implementation='flash_attention_2' takes no mask of its own; sdpa and"):
        assert not can_branch(model)


def test_nothing_is_said_where_nothing_is_shared(tokenizer):
    bloom = make_model(BloomConfig(vocab_size=VOCAB, hidden_size=16, n_layer=1, n_head=2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        AnswerScorer(bloom, tokenizer).score([ScoringItem([3, 4], [], [5]), ScoringItem([3, 4], [], [6])])


@pytest.mark.filterwarnings("ignore:.*computed once for each item", "ignore:.*its own forward computes")
def test_a_model_whose_own_forward_computes_the_logits_is_scored_apart(tokenizer):
    """Virtual tokens of prompt tuning come into play in the whole model's forward only."""
    base = make_model(CONFIGS["llama"])
    model = get_peft_model(base, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)).double().eval()
    with torch.no_grad():
        for score, item in zip(AnswerScorer(model, tokenizer).score(GROUPED), GROUPED, strict=True):
            row = [*item.prompt, *item.reasoning, *item.answer]
            logprobs_TV = model(input_ids=torch.tensor([row])).logits[0, 3:].log_softmax(-1)
            first = len(row) - len(item.answer)
            expected = logprobs_TV[torch.arange(first - 1, len(row) - 1), torch.tensor(item.answer)]
            assert score.token_logprobs == pytest.approx(expected.tolist(), abs=1e-10)


@pytest.mark.parametrize("name", ["llama", "t5-v1.1"])
def test_adapters_count_also_on_the_head(tokenizer, name):
    targets = {"llama": ["q_proj", "lm_head"], "t5-v1.1": ["q", "lm_head"]}[name]
    model = get_peft_model(make_model(CONFIGS[name]), LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    model = model.double().eval()
    scores = AnswerScorer(model, tokenizer).score(GROUPED)
    with torch.no_grad():
        for score, item in zip(scores, GROUPED, strict=True):
            assert score.token_logprobs == pytest.approx(brute_force(model, item).tolist(), abs=1e-10)
    with model.disable_adapter():
        assert AnswerScorer(model, tokenizer).score(GROUPED)[0].sum != pytest.approx(scores[0].sum, abs=1e-3)


# ---------------------------------------------------------------------------------------------------------- the rows

SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=1, max_size=12)


@given(sequences=SEQUENCES, widest=st.integers(0, 30), span=st.floats(1, 1000))
def test_rows_hold_every_sequence_and_save_what_they_share(sequences, widest, span):
    rows = pack(dict(enumerate(sequences)), widest=widest, attention_span=span)
    paths = {index: (row, path) for row in rows for index, path in row.paths.items()}
    assert paths.keys() == set(range(len(sequences)))
    for index, (row, path) in paths.items():
        assert [row.ids[column] for column in path] == sequences[index]
        assert [row.positions[column] for column in path] == list(range(len(path)))
    for row in rows:
        assert not row.branches or len(row.ids) <= widest
        assert len(row.ids) == len(
            {tuple(sequences[i][:end]) for i in row.paths for end in range(1, len(sequences[i]) + 1)}
        )

    def cost(row: PackedRow) -> float:
        return len(row.ids) + len(row.ids) ** 2 / span

    alone = sum(len(sequence) + len(sequence) ** 2 / span for sequence in sequences)
    assert sum(map(cost, rows)) <= alone + 1e-6


def test_long_branches_stay_apart_where_attention_would_cost_more_than_is_saved():
    sequences = {i: [1, 2, 3] + [10 + i] * 100 for i in range(4)}
    assert len(pack(sequences, widest=1000, attention_span=10)) == 4
    assert len(pack(sequences, widest=1000, attention_span=1e6)) == 1
    assert len(pack(sequences, widest=250, attention_span=1e6)) == 2


@given(sequences=SEQUENCES)
@settings(max_examples=30, deadline=None)
def test_tokens_see_their_ancestors_and_nothing_else(models, sequences):
    rows = pack(dict(enumerate(sequences)), widest=1000)
    inputs = tree_inputs(models["llama"], rows)
    visible_BTT = inputs["attention_mask"][:, 0]
    for b, row in enumerate(rows):
        for path in row.paths.values():
            for depth, column in enumerate(path):
                assert visible_BTT[b, column].nonzero().flatten().tolist() == sorted(path[: depth + 1])
        for column in range(len(row.ids), visible_BTT.shape[1]):
            assert visible_BTT[b, column].nonzero().flatten().tolist() == [column]


# -------------------------------------------------------------------------------------------- encoder-decoder models


def test_the_output_of_an_encoder_decoder_starts_as_the_tokenizer_starts_a_text(models, tokenizers):
    """With a SentencePiece tokenizer the output "5}" is one with a space before it; in the middle of a text it is not."""
    tokenizer = tokenizers["llama2"]
    model = make_model(T5Config(**(T5 | {"vocab_size": len(tokenizer)})))
    scorer = AnswerScorer(model, tokenizer, closing="token")
    alone, after = scorer.score([ScoringItem("so", "", "5", "}"), ScoringItem("so", "the answer is", "5", "}")])
    encode = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]  # noqa: E731
    assert list(alone.token_ids) == encode("5}") and tokenizer.decode(encode("5}")) == "5}"
    assert tokenizer.convert_ids_to_tokens(list(alone.token_ids))[0].startswith("▁")
    assert not tokenizer.convert_ids_to_tokens(list(after.token_ids))[0].startswith("▁")
    ids = ScoringItem(tokenizer("so")["input_ids"], encode("the answer is"), list(after.token_ids))
    with torch.no_grad():
        assert after.token_logprobs == pytest.approx(brute_force(model, ids).tolist(), abs=1e-10)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (ScoringItem([], [3], [4]), "item 1: the prompt is empty, so the encoder has nothing to read"),
        (ScoringItem([3], [4], []), "item 1: an empty answer has no tokens to score"),
        (ScoringItem([3] * 41, [4], [5]), "item 1: 41 tokens are more than the 40 positions of the model"),
        (ScoringItem([3], [4] * 39, [5]), "item 1: 41 tokens are more than the 40 positions of the model"),
    ],
)
def test_items_that_an_encoder_decoder_cannot_score_are_named(models, tokenizer, item, message):
    with pytest.raises(ValueError, match=message):
        AnswerScorer(models["bart"], tokenizer).score([ScoringItem([3], [], [4]), item])


def test_a_model_that_does_not_say_how_its_outputs_start(tokenizer):
    model = make_model(T5Config(**(T5 | {"decoder_start_token_id": None})))
    with pytest.raises(ValueError, match="the model's configuration has no decoder_start_token_id"):
        AnswerScorer(model, tokenizer)
