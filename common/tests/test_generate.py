"""Generation in batches: the same responses whatever the batching, and only our own settings decide."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from thinker_common.errors import SettingsError, UserError
from thinker_common.evaluation.generate import Generator

VOCABULARY = 40
PAD, EOS, OTHER_EOS = 0, 1, 2
CONTEXT = 64


@pytest.fixture(scope="module")
def tokenizer():
    words = {"<pad>": PAD, "<eos>": EOS, "<end>": OTHER_EOS, **{f"w{i}": i for i in range(3, VOCABULARY)}}
    backend = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>")


def make_llama(eos=EOS):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        pad_token_id=PAD,
        eos_token_id=eos,
        bos_token_id=None,
        initializer_range=0.6,  # far from uniform, so that greedy choices are clear
    )
    return LlamaForCausalLM(config)


def make_gpt2():
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=CONTEXT,
        bos_token_id=EOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
        initializer_range=0.6,
    )
    model = GPT2LMHeadModel(config)
    torch.nn.init.normal_(model.transformer.wpe.weight, std=2.0)  # positions matter, a shift of them shows
    return model


def make_prompts(count=12):
    rng = torch.Generator().manual_seed(1)
    return [
        torch.randint(3, VOCABULARY, (int(torch.randint(1, 12, (1,), generator=rng)),), generator=rng).tolist()
        for _ in range(count)
    ]


@torch.no_grad()
def brute_force(model, prompt, max_new_tokens, eos):
    """Argmax, one token at a time, no cache, no padding, no batch."""
    ids, new = list(prompt), []
    for _ in range(max_new_tokens):
        token = int(model(torch.tensor([ids])).logits[0, -1].argmax())
        if token in eos:
            return tuple(new), False
        ids.append(token)
        new.append(token)
    return tuple(new), True


@pytest.mark.parametrize("make", [make_llama, make_gpt2])
def test_greedy_equals_brute_force_whatever_the_batch(make, tokenizer):
    model, prompts = make().eval(), make_prompts(30)
    expected = [brute_force(model, prompt, 16, {EOS}) for prompt in prompts]
    for budget in (1, 60, 150, 10_000):  # one row a batch ... all rows in one
        generator = Generator(model, tokenizer, max_new_tokens=16, max_tokens_per_batch=budget)
        got = generator.generate(prompts)
        assert [(one.token_ids, one.truncated) for one in got] == expected, budget
    assert {truncated for _, truncated in expected} == {True, False}, "the test needs both endings"


def test_generation_ends_at_every_end_token_of_model_folder_and_tokenizer(tokenizer):
    model, prompts = make_llama(eos=[OTHER_EOS, 7]).eval(), make_prompts(30)
    model.generation_config.eos_token_id = [OTHER_EOS, 7]
    generator = Generator(model, tokenizer, max_new_tokens=24)
    assert generator.eos_ids == {EOS, OTHER_EOS, 7}
    got = generator.generate(prompts)
    assert [(one.token_ids, one.truncated) for one in got] == [
        brute_force(model, prompt, 24, {EOS, OTHER_EOS, 7}) for prompt in prompts
    ]
    assert not any({EOS, OTHER_EOS, 7} & set(one.token_ids) for one in got)


def test_an_end_token_in_the_last_place_is_not_a_truncation(tokenizer):
    model, prompts = make_llama().eval(), make_prompts(30)
    ended = next(p for p in prompts if not brute_force(model, p, 30, {EOS})[1] and brute_force(model, p, 30, {EOS})[0])
    length = len(brute_force(model, ended, 30, {EOS})[0])
    (exactly,) = Generator(model, tokenizer, max_new_tokens=length + 1).generate([ended])
    (one_less,) = Generator(model, tokenizer, max_new_tokens=length).generate([ended])
    assert (exactly.truncated, one_less.truncated) == (False, True)
    assert exactly.token_ids == one_less.token_ids


def test_text_is_that_of_the_tokens(tokenizer):
    (one,) = Generator(make_llama().eval(), tokenizer, max_new_tokens=8).generate([[5, 6]])
    assert one.text.split() == [f"w{token}" for token in one.token_ids]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_folders_own_sampling_defaults_do_not_leak_in(tokenizer, temperature):
    plain, shipped = make_llama().eval(), make_llama().eval()
    own = GenerationConfig(
        do_sample=True,
        temperature=0.2,
        top_k=2,
        top_p=0.3,
        min_p=0.2,
        repetition_penalty=3.0,
        no_repeat_ngram_size=1,
        suppress_tokens=list(range(3, 20)),
        max_length=5,
        eos_token_id=EOS,
    )
    shipped.generation_config = own
    settings = {"max_new_tokens": 12, "temperature": temperature, "seed": 3}
    prompts = make_prompts()
    assert Generator(shipped, tokenizer, **settings).generate(prompts) == Generator(
        plain, tokenizer, **settings
    ).generate(prompts)
    assert (
        shipped.generation_config is own and own.repetition_penalty == 3.0
    )  # and the folder's config is left as it was


def test_sampling_follows_its_seed_and_leaves_the_callers_stream_alone(tokenizer):
    model, prompts = make_llama().eval(), make_prompts()

    def sample(seed):
        return [
            one.token_ids
            for one in Generator(model, tokenizer, max_new_tokens=12, temperature=1.0, seed=seed).generate(prompts)
        ]

    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    first = sample(0)
    assert torch.equal(torch.rand(3), expected)
    assert sample(0) == first
    assert sample(1) != first


def test_sampled_tokens_have_the_models_distribution(tokenizer):
    """Temperature 2, the whole vocabulary: token frequencies against the softmax; top-k 50 by default would show."""
    model = make_llama().eval()
    with torch.no_grad():
        expected_V = torch.softmax(model(torch.tensor([[5, 9]])).logits[0, -1] / 2.0, -1)
    generator = Generator(model, tokenizer, max_new_tokens=1, temperature=2.0, max_tokens_per_batch=3 * 4000)
    (got,) = generator.sample([[5, 9]], 4000)
    first = [one.token_ids[0] if one.token_ids else None for one in got]
    for token in range(3, VOCABULARY):
        share = first.count(token) / len(first)
        spread = (expected_V[token] * (1 - expected_V[token]) / len(first)).sqrt()
        assert abs(share - expected_V[token]) < 5 * spread + 1e-3, token


def test_each_batch_is_reported_once_and_within_its_budget(tokenizer):
    model, prompts = make_llama().eval(), make_prompts(20)
    seen = {}

    def on_batch(indices, generations):
        assert len(indices) == len(generations)
        assert len(indices) == 1 or len(indices) * (max(len(prompts[i]) for i in indices) + 8) <= 64
        for index, generation in zip(indices, generations, strict=True):
            assert index not in seen
            seen[index] = generation

    got = Generator(model, tokenizer, max_new_tokens=8, max_tokens_per_batch=64).generate(prompts, on_batch=on_batch)
    assert [seen[index] for index in range(len(prompts))] == got


def test_a_model_in_training_mode_is_used_without_dropout_and_goes_back(tokenizer):
    model = make_gpt2().train()  # GPT-2 has dropout of 0.1
    got = Generator(model, tokenizer, max_new_tokens=8).generate(make_prompts())
    assert model.training
    assert got == Generator(model.eval(), tokenizer, max_new_tokens=8).generate(make_prompts())


def test_adapters_generate_and_the_base_keeps_its_generation_config(tokenizer):
    peft = pytest.importorskip("peft")
    base = make_llama()
    own = base.generation_config
    model = peft.get_peft_model(base, peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    prompts = make_prompts()
    got = Generator(model, tokenizer, max_new_tokens=8).generate(prompts)
    assert base.generation_config is own
    model.eval()
    assert [(one.token_ids, one.truncated) for one in got] == [brute_force(model, p, 8, {EOS}) for p in prompts]


def test_a_prompt_without_room_for_a_response_says_what_would_fit(tokenizer):
    model = make_llama().eval()
    with pytest.raises(
        UserError, match=r"60 tokens; with max_new_tokens = 8 .* context of 64 tokens: set it to at most 4"
    ):
        Generator(model, tokenizer, max_new_tokens=8).generate([[5] * 60, [6]])
    with pytest.raises(UserError, match=r"70 tokens.*leave out such prompts"):
        Generator(model, tokenizer, max_new_tokens=8).generate([[5] * 70])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens = 0: must be at least 1"),
        ({"temperature": -1.0}, "temperature = -1.0: must be 0"),
        ({"top_p": 0.0}, "top_p = 0.0: must be above 0"),
        ({"top_k": -1}, "top_k = -1: must be 0"),
        ({"max_tokens_per_batch": 0}, "max_tokens_per_batch = 0: must be at least 1"),
    ],
)
def test_impossible_settings(tokenizer, setting, message):
    with pytest.raises(SettingsError, match=message):
        Generator(make_llama(), tokenizer, **{"max_new_tokens": 4, **setting})


def test_no_prompts_give_no_responses(tokenizer):
    assert Generator(make_llama(), tokenizer, max_new_tokens=4).generate([]) == []
