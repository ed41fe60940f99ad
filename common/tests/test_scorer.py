r"""Answer scores against one-row full-logits forwards, over batchings, closings and a trained policy's whole answers."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from thinker_common.likelihood.boundary import encode_answer, split_response
from thinker_common.likelihood.scorer import AnswerScorer, ScoringItem

PROMPT = "the answer"
FIRST_CHARACTERS = ["\\", "-", "(", "$", '"', "[", "7", "x", " "]


@pytest.fixture(scope="module")
def tokenizer(tokenizers):
    return tokenizers["gpt2"]


@pytest.fixture(scope="module")
def model(tokenizer) -> PreTrainedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer) + 7, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, max_position_embeddings=64, initializer_range=0.5,
    )  # fmt: skip
    return LlamaForCausalLM(config).double().eval()


def ids_of(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@torch.no_grad()
def next_token_logprobs(model: PreTrainedModel, ids: list[int]) -> Tensor:
    """Log-probabilities of what follows the ids, from one unpadded row and its full logits."""
    return model(input_ids=torch.tensor([ids])).logits[0, -1].double().log_softmax(-1)


def brute_force(model, context: list[int], answer: list[int]) -> list[float]:
    return [next_token_logprobs(model, context + answer[:i])[token].item() for i, token in enumerate(answer)]


def test_equals_one_row_forwards(model, tokenizer):
    context = ids_of(tokenizer, PROMPT) + ids_of(tokenizer, r" is \boxed")
    answer = ids_of(tokenizer, "{-5}")
    item = ScoringItem(PROMPT, r" is \boxed", "-5", suffix="}", opening="{")
    [score] = AnswerScorer(model, tokenizer, closing="token").score([item])
    assert list(score.token_ids) == answer
    expected = brute_force(model, context, answer)
    assert score.token_logprobs == pytest.approx(expected, abs=1e-10)
    assert score.sum == pytest.approx(sum(expected))
    assert score.mean == pytest.approx(sum(expected) / 3)
    assert score.probability == pytest.approx(math.prod(map(math.exp, expected)))
    assert score.mean_probability == pytest.approx(sum(map(math.exp, expected)) / 3)
    assert score.perplexity == pytest.approx(math.exp(-sum(expected) / 3))


def test_closing_is_the_mass_of_all_tokens_that_begin_with_it(model, tokenizer):
    context = ids_of(tokenizer, PROMPT) + ids_of(tokenizer, r"\boxed{")
    scores = {
        closing: AnswerScorer(model, tokenizer, closing=closing).score(
            [ScoringItem(PROMPT, r"\boxed{", answer, suffix="}") for answer in ("12", r"\frac{1}{2}")]
        )
        for closing in ("prefix_mass", "token", "none")
    }
    for i, (answer, closing) in enumerate([("12", "}"), (r"\frac{1}{2}", "}}")]):
        tokens = list(encode_answer(tokenizer, answer).ids)
        assert tokenizer.decode([tokens[-1]]) == closing
        before, last = tokens[:-1], tokens[-1]
        beginning = [token for token in range(len(tokenizer)) if tokenizer.decode([token]).startswith(closing)]
        mass = next_token_logprobs(model, context + before)[beginning].exp().sum().log().item()
        exact = brute_force(model, context, tokens)
        assert scores["token"][i].token_logprobs == pytest.approx(exact, abs=1e-10)
        assert scores["prefix_mass"][i].token_logprobs == pytest.approx([*exact[:-1], mass], abs=1e-10)
        assert scores["prefix_mass"][i].token_ids == (*before, last)
        # The brace of \frac{1}{2} is in the closing token, so that this is scored even without a closing.
        assert scores["none"][i].token_logprobs == pytest.approx(exact if closing == "}}" else exact[:-1], abs=1e-10)
    names = [tokenizer.decode([token]) for token in range(len(tokenizer)) if tokenizer.decode([token])[:1] == "}"]
    assert {"}", "}.", "}$", "}}"} <= set(names)


TEXTS = st.text(st.sampled_from("ab 12-"), max_size=12)


@settings(max_examples=25, deadline=None)
@given(
    items=st.lists(st.tuples(TEXTS, TEXTS, TEXTS), min_size=1, max_size=9),
    budget=st.integers(1, 200),
    closing=st.sampled_from(["prefix_mass", "token", "none"]),
)
def test_input_order_and_values_whatever_the_batching(model, tokenizer, items, budget, closing):
    items = [ScoringItem("p" + prompt, reasoning, answer + "5", suffix="}") for prompt, reasoning, answer in items]
    together = AnswerScorer(model, tokenizer, max_tokens_per_batch=budget, closing=closing).score(items)
    alone = [AnswerScorer(model, tokenizer, closing=closing).score([item])[0] for item in items]
    for one, other in zip(together, alone, strict=True):
        assert one.token_ids == other.token_ids
        assert one.token_logprobs == pytest.approx(other.token_logprobs, abs=1e-10)


def test_text_and_ids_are_the_same_item(model, tokenizer):
    text = ScoringItem(PROMPT, " so ", "5", suffix="}")
    ids = ScoringItem(ids_of(tokenizer, PROMPT), ids_of(tokenizer, " so "), ids_of(tokenizer, "5"), suffix="}")
    one, other = AnswerScorer(model, tokenizer).score([text, ids])
    assert one.token_ids == other.token_ids
    assert one.token_logprobs == pytest.approx(other.token_logprobs, abs=1e-10)


def test_batches_keep_the_token_budget_and_only_answers_reach_the_head(model, tokenizer):
    shapes, rows = [], []
    AnswerScorer(model, tokenizer).score([ScoringItem("a", "", "5")])  # the head is verified here, not below
    body = model.model.register_forward_pre_hook(
        lambda _module, _args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    head = model.lm_head.register_forward_pre_hook(lambda _module, args: rows.append(args[0].shape[0]))
    prompts = [("a", 3, "12"), ("b", 20, "5"), ("1", 4, "-5"), ("2", 1, "5")]
    items = [ScoringItem(f"{first} " * n, "", answer, suffix="}") for first, n, answer in prompts]
    scores = AnswerScorer(model, tokenizer, max_tokens_per_batch=24).score(items)
    body.remove()
    head.remove()
    assert all(batch * width <= 24 or batch == 1 for batch, width in shapes)
    assert sum(batch for batch, _ in shapes) == 4 and len(shapes) < 4
    assert sum(rows) == sum(len(score.token_ids) for score in scores)


@pytest.mark.parametrize("sampled", ["5", "-5"])
@pytest.mark.parametrize("first", FIRST_CHARACTERS)
def test_first_character_changes_the_score(model, tokenizer, first, sampled):
    response = ids_of(tokenizer, rf"so it is \boxed{{{sampled}}}")
    split = split_response(tokenizer, response, truncated=False)
    reasoning = response[: split.reasoning_length]
    items = [ScoringItem(PROMPT, reasoning, answer, "}", split.opening) for answer in (f"{first}5", "5")]
    with_first, without = AnswerScorer(model, tokenizer).score(items)
    assert abs(with_first.sum - without.sum) > 0.01


LANGUAGE = [*"0123456789", *(f"-{d}" for d in range(1, 6)), *(f"({d})" for d in range(4)), "$5$", "[1]", r"\frac{1}{2}"]


@pytest.fixture(scope="module")
def trained_policy(tokenizer) -> PreTrainedModel:
    """A policy that writes a box with an answer of the language nearly always, and ends it with `}`, `}.` or `}$`."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, n_positions=32, bos_token_id=0, eos_token_id=1,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    texts = [rf"so \boxed{{{answer}}}{end}" for answer in LANGUAGE for end in ("", ".", "$")]
    rows = [[*ids_of(tokenizer, text), tokenizer.eos_token_id] for text in texts]
    width = max(map(len, rows))
    labels_BT = torch.tensor([row + [-100] * (width - len(row)) for row in rows])
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(150):
        loss = model(input_ids=labels_BT.clamp(min=0), labels=labels_BT).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.double().eval()


def total_probability(policy, tokenizer, reasoning: list[int], opening: str, closing="prefix_mass") -> float:
    items = [ScoringItem([], reasoning, answer, "}", opening) for answer in LANGUAGE]
    return math.fsum(score.probability for score in AnswerScorer(policy, tokenizer, closing=closing).score(items))


def test_all_answers_together_have_at_most_the_probability_one(trained_policy, tokenizer):
    response = ids_of(tokenizer, r"so \boxed{-5}")
    split = split_response(tokenizer, response, truncated=False)
    assert split.opening == "{"
    merged = response[: split.reasoning_length]
    total = total_probability(trained_policy, tokenizer, merged, split.opening)
    assert 0.95 < total <= 1 + 1e-9  # nearly all the policy's mass, and no more

    response = ids_of(tokenizer, r"so \boxed{5}")
    split = split_response(tokenizer, response, truncated=False)
    assert split.opening == ""
    plain = response[: split.reasoning_length]
    assert 0.9 < total_probability(trained_policy, tokenizer, plain, "") <= 1 + 1e-9

    # The one token } alone misses what the policy writes as }. or }$.
    assert total_probability(trained_policy, tokenizer, merged, "{", closing="token") < 0.7
    # A boundary chosen for each answer would count mass twice.
    merging = {
        a for a in LANGUAGE if len(encode_answer(tokenizer, a, opening="{").ids) == len(encode_answer(tokenizer, a).ids)
    }
    items = [
        ScoringItem([], merged if answer in merging else plain, answer, "}", "{" if answer in merging else "")
        for answer in LANGUAGE
    ]
    assert math.fsum(score.probability for score in AnswerScorer(trained_policy, tokenizer).score(items)) > 1.2


def test_no_space_slips_in_between_on_sentencepiece(tokenizers, model):
    tokenizer = tokenizers["llama2"]
    policy = LlamaForCausalLM(LlamaConfig(**(model.config.to_dict() | {"vocab_size": len(tokenizer)})))
    [score] = AnswerScorer(policy, tokenizer, closing="token").score([ScoringItem("so", r" \boxed{", "-5", "}")])
    assert tokenizer.convert_ids_to_tokens(list(score.token_ids)) == ["-5}"]


def test_dropout_is_off_and_the_mode_is_kept(tokenizer):
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, resid_pdrop=0.5)
    policy = GPT2LMHeadModel(config).train()
    scorer, item = AnswerScorer(policy, tokenizer), ScoringItem(PROMPT, "", "5", "}")
    assert scorer.score([item]) == scorer.score([item])
    assert policy.training and policy.transformer.h[0].attn.training


def test_float32_matches_float64(model, tokenizer):
    single = copy.deepcopy(model).float()
    items = [ScoringItem(PROMPT, " is ", answer, "}") for answer in LANGUAGE]
    for one, other in zip(
        AnswerScorer(single, tokenizer).score(items), AnswerScorer(model, tokenizer).score(items), strict=True
    ):
        assert one.token_logprobs == pytest.approx(other.token_logprobs, rel=1e-5)  # of a whole forward in float32


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (ScoringItem(PROMPT, "", ""), "item 1: an empty answer has no tokens to score"),
        (ScoringItem(PROMPT, "", []), "item 1: an empty answer has no tokens to score"),
        (ScoringItem("", "", "5"), "item 1: nothing comes before the answer"),
        (ScoringItem(PROMPT, "", [5], opening="{"), "item 1: an opening is encoded together with the answer"),
        (ScoringItem("a " * 80, "", "5"), "item 1: [0-9]+ tokens are more than the 64 positions of the model"),
    ],
)
def test_items_that_cannot_be_scored_are_named(model, tokenizer, item, message):
    with pytest.raises(ValueError, match=message):
        AnswerScorer(model, tokenizer).score([ScoringItem(PROMPT, "", "5"), item])


def test_impossible_settings(model, tokenizer):
    with pytest.raises(ValueError, match="closing must be prefix_mass, token or none, not 'mass'"):
        AnswerScorer(model, tokenizer, closing="mass")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_tokens_per_batch must be at least 1, not 0"):
        AnswerScorer(model, tokenizer, max_tokens_per_batch=0)


def test_nothing_to_score(model, tokenizer):
    assert AnswerScorer(model, tokenizer).score([]) == []
