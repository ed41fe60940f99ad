"""Generation in batches: the same responses whatever the batching, and only our own settings decide."""

import math
import random
from collections import Counter

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    Gemma2Config,
    Gemma2ForCausalLM,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from thinker_common.errors import SettingsError, UserError
from thinker_common.evaluation.generate import Backend, Generator
from thinker_common.evaluation.in_flight import CACHE
from thinker_common.evaluation.prefill import shared_prefill
from thinker_common.likelihood.prefix_tree import can_branch

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


SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "pad_token_id": PAD,
    "eos_token_id": EOS,
    "bos_token_id": None,
    "initializer_range": 0.6,
}


def make_mistral():
    """A window of 6 in every layer: shorter than most rows."""
    torch.manual_seed(0)
    return MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=6))


def make_gemma2():
    """Every other layer with a window, logits with a soft cap."""
    torch.manual_seed(0)
    return Gemma2ForCausalLM(Gemma2Config(**SHAPE, head_dim=8, sliding_window=6))


def make_mamba():
    torch.manual_seed(0)
    config = MambaConfig(
        vocab_size=VOCABULARY, hidden_size=32, state_size=8, num_hidden_layers=2, eos_token_id=EOS, pad_token_id=PAD
    )
    model = MambaForCausalLM(config)
    torch.nn.init.normal_(model.backbone.embeddings.weight, std=2.0)
    return model


def make_t5():
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=VOCABULARY,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        pad_token_id=PAD,
        eos_token_id=EOS,
        decoder_start_token_id=PAD,
        initializer_factor=4.0,
        tie_word_embeddings=False,
    )
    return T5ForConditionalGeneration(config)


def make_bart():
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=VOCABULARY,
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_position_embeddings=CONTEXT,
        pad_token_id=PAD,
        bos_token_id=3,
        eos_token_id=EOS,
        decoder_start_token_id=EOS,
        forced_eos_token_id=None,
        init_std=0.6,
    )
    return BartForConditionalGeneration(config)


def make_prompts(count=12):
    rng = torch.Generator().manual_seed(1)
    return [
        torch.randint(3, VOCABULARY, (int(torch.randint(1, 12, (1,), generator=rng)),), generator=rng).tolist()
        for _ in range(count)
    ]


@torch.no_grad()
def brute_force(model, prompt, max_new_tokens, eos):
    """Argmax, one token at a time, no cache, no padding, no batch."""
    new = []
    for _ in range(max_new_tokens):
        if model.config.is_encoder_decoder:
            start = [model.config.decoder_start_token_id, *new]
            logits_BTV = model(input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([start])).logits
        else:
            logits_BTV = model(torch.tensor([[*prompt, *new]]), use_cache=False).logits
        token = int(logits_BTV[0, -1].argmax())
        if token in eos:
            return tuple(new), False
        new.append(token)
    return tuple(new), True


def spied(model):
    """Notes (rows, columns, rows that begin) of every call of `generate`."""
    calls, own = [], model.generate

    def generate(**inputs):
        cache = inputs.get(CACHE)
        begin = cache is None or cache.get_seq_length() == 0
        calls.append((*inputs["input_ids"].shape, begin))
        return own(**inputs)

    model.generate = generate
    return calls


@pytest.mark.parametrize("make", [make_llama, make_gpt2, make_mistral, make_gemma2, make_mamba, make_t5, make_bart])
def test_greedy_equals_brute_force_whatever_the_batch(make, tokenizer, monkeypatch):
    monkeypatch.setattr("thinker_common.evaluation.generate.SEGMENT_TOKENS", 5)
    model, prompts = make().eval(), make_prompts(24)
    endless = [brute_force(model, prompt, 20, {EOS})[0] for prompt in prompts]
    assert len(set(endless)) > 6, "different responses"
    # The token that ends about half of the responses, for some to end early and some not at all.
    in_how_many = Counter(token for tokens in endless for token in set(tokens))
    end = min(in_how_many, key=lambda token: (abs(in_how_many[token] - 12), token))
    model.generation_config.eos_token_id = [EOS, end]
    expected = [
        (tokens[: tokens.index(end)], False) if end in tokens else (tokens, len(tokens) == 20) for tokens in endless
    ]
    assert {truncated for _, truncated in expected} == {True, False}
    for budget in (1, 90, 200, 10_000):  # one row at a time ... all rows at once
        generator = Generator(model, tokenizer, max_new_tokens=20, max_tokens_per_batch=budget)
        got = generator.generate(prompts)
        assert [(one.token_ids, one.truncated) for one in got] == expected, budget


def test_a_finished_row_makes_room_at_once(tokenizer, monkeypatch):
    """Row-tokens computed, against batches that run until their longest response has ended."""
    monkeypatch.setattr("thinker_common.evaluation.generate.SEGMENT_TOKENS", 4)
    model, prompts = make_llama().eval(), make_prompts(30)
    lengths = [len(brute_force(model, prompt, 40, {EOS})[0]) for prompt in prompts]
    assert min(lengths) < 10 and max(lengths) == 40, "ragged"
    calls = spied(model)
    Generator(model, tokenizer, max_new_tokens=40, max_tokens_per_batch=4 * 52).generate(prompts)
    in_flight = [rows for rows, _, begin in calls if not begin]
    assert max(in_flight) >= 4
    assert all(rows * columns <= 4 * 52 for rows, columns, _ in calls)
    # A row waits for the end of its segment, and the last ones have nothing to be filled up with.
    in_batches = sum(40 * min(4, len(prompts) - first) for first in range(0, len(prompts), 4))
    assert 4 * sum(in_flight) < sum(lengths) + 4 * len(prompts) + 4 < in_batches


def columns_read(model):
    """Notes (rows, columns) of every pass through the decoder."""
    shapes = []
    model.model.register_forward_hook(lambda module, given, output: shapes.append(output.last_hidden_state.shape[:2]))
    return shapes


def test_samples_and_equal_prompts_share_the_pass_over_the_prompt(tokenizer):
    model, prompts = make_llama().eval(), [[*range(3, 12 + n)] for n in range(5)]
    prompts = [prompt[::-1] for prompt in prompts]  # nothing in common
    shapes = columns_read(model)
    Generator(model, tokenizer, max_new_tokens=8, temperature=1.0).sample(prompts * 2, 3)
    probe, prefill, first, *_ = shapes
    assert (probe, prefill, first) == ((1, 1), (5, 13), (30, 1))


def branching_prompts():
    """Four of each of three beginnings, which begin alike themselves; and one that is only the beginning of others."""
    common, rng = [3, 4, 5, 6, 7, 8, 9, 10, 11, 12], random.Random(2)
    beginnings = [[*common, *rng.choices(range(3, VOCABULARY), k=8)] for _ in range(3)]
    ends = [rng.choices(range(3, VOCABULARY), k=rng.randint(1, 4)) for _ in range(12)]
    prompts = [[*beginnings[index % 3], *end] for index, end in enumerate(ends)]
    return [*prompts, beginnings[0]]


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_what_prompts_begin_with_is_read_once(tokenizer, implementation):
    model, prompts = make_llama().eval(), branching_prompts()
    model.set_attn_implementation(implementation)
    expected = [brute_force(model, prompt, 20, {EOS}) for prompt in prompts]
    assert can_branch(model)
    shapes = columns_read(model)
    got = Generator(model, tokenizer, max_new_tokens=20).generate(prompts)
    assert [(one.token_ids, one.truncated) for one in got] == expected
    _, prefill, first, *_ = shapes
    apart = sum(len(prompt) - 1 for prompt in prompts)
    distinct = len({tuple(prompt[:length]) for prompt in prompts for length in range(1, len(prompt))})
    assert math.prod(prefill) == distinct < apart / 3
    assert first == (13, 1)


def test_prompts_that_begin_alike_enter_together(tokenizer):
    """Also where a batch takes few of them, and their lengths are not quite the same."""
    model, prompts = make_llama().eval(), branching_prompts()
    shapes = columns_read(model)
    rng = random.Random(3)
    rng.shuffle(prompts)
    expected = [brute_force(model, prompt, 4, {EOS}) for prompt in prompts]
    shapes.clear()
    got = Generator(model, tokenizer, max_new_tokens=4, max_tokens_per_batch=120).generate(prompts)
    assert [(one.token_ids, one.truncated) for one in got] == expected
    read = sum(rows * columns for rows, columns in shapes if columns > 1)
    assert read < 0.7 * sum(map(len, prompts))


def test_a_packed_row_has_no_more_columns_than_the_model_has_positions(tokenizer):
    model, prompts = make_llama().eval(), branching_prompts()
    longest = max(map(len, prompts))
    model.config.max_position_embeddings = longest + 4
    expected = [brute_force(model, prompt, 4, {EOS}) for prompt in prompts]
    assert can_branch(model)
    shapes = columns_read(model)
    got = Generator(model, tokenizer, max_new_tokens=4).generate(prompts)
    assert [(one.token_ids, one.truncated) for one in got] == expected
    rows, columns = shapes[1]
    assert 1 < rows < len(prompts) and longest <= columns <= longest + 4


def test_kept_scores_of_attention_do_not_grow_much(tokenizer):
    """200 prompts of 6 columns have 7,200 scores; in one row, of 241 columns, they have 58,081."""
    model, beginning = make_llama().eval(), [*range(3, 7)]
    few, many = ([[*beginning, n % 37 + 3, n // 37 + 3, 5] for n in range(count)] for count in (8, 200))
    model.set_attn_implementation("eager")
    model.config.hidden_size = 10_000  # of a model to which wide rows are cheap
    assert shared_prefill(model, few) is not None
    assert shared_prefill(model, many) is None


def test_a_decoder_that_fails_with_such_a_mask_reads_prompts_as_ever(tokenizer, recwarn):
    model, prompts = make_llama().eval(), branching_prompts()
    expected = [brute_force(model, prompt, 4, {EOS}) for prompt in prompts]
    own = model.model.forward

    def forward(*args, attention_mask=None, **rest):
        assert attention_mask is None or attention_mask.dim() == 2
        return own(*args, attention_mask=attention_mask, **rest)

    model.model.forward = forward
    got = Generator(model, tokenizer, max_new_tokens=4).generate(prompts)
    assert [(one.token_ids, one.truncated) for one in got] == expected
    assert not [warning for warning in recwarn if "prefixes" in str(warning.message)]


def test_ranks_that_take_turns_in_a_model_read_prompts_as_ever(tokenizer, monkeypatch):
    model, prompts = make_llama().eval(), branching_prompts()
    assert shared_prefill(model, prompts) is not None
    monkeypatch.setattr("thinker_common.evaluation.prefill.is_sharded", lambda model: True)
    assert shared_prefill(model, prompts) is None


def test_a_prompt_beyond_the_window_is_read_by_itself(tokenizer):
    model, prompts = make_mistral().eval(), branching_prompts()
    window = model.config.sliding_window
    assert window < len(prompts[0])
    expected = [brute_force(model, prompt, 20, {EOS}) for prompt in prompts]
    shapes = columns_read(model)
    got = Generator(model, tokenizer, max_new_tokens=20).generate(prompts)
    assert [(one.token_ids, one.truncated) for one in got] == expected
    assert shapes[1] == (13, max(map(len, prompts)))


def test_of_an_encoder_decoder_model_finished_rows_leave(tokenizer):
    """Row-tokens computed, against batches that run until their longest response has ended."""
    model, prompts = make_t5().eval(), make_prompts(24)
    endless = [brute_force(model, prompt, 40, {EOS})[0] for prompt in prompts]
    in_how_many = Counter(token for tokens in endless for token in set(tokens))
    end = min(in_how_many, key=lambda token: (abs(in_how_many[token] - 18), token))
    model.generation_config.eos_token_id = [EOS, end]
    lengths = [tokens.index(end) + 1 if end in tokens else len(tokens) for tokens in endless]
    assert max(lengths) == 40 and sum(length < 20 for length in lengths) >= 12, "ragged"
    rows = []
    model.decoder.register_forward_hook(lambda module, given, output: rows.append(len(output.last_hidden_state)))
    Generator(model, tokenizer, max_new_tokens=40).generate(prompts)
    assert sum(lengths) <= sum(rows) < 0.8 * 40 * len(prompts)


def test_equal_prompts_share_what_a_decoder_makes_of_them(tokenizer):
    model, prompts = make_t5().eval(), make_prompts(5)
    encoded, keys = [], []
    model.encoder.register_forward_hook(lambda module, given, output: encoded.append(len(output.last_hidden_state)))
    attention = model.decoder.block[0].layer[1].EncDecAttention
    attention.k.register_forward_hook(lambda module, given, output: keys.append(len(output)))
    Generator(model, tokenizer, max_new_tokens=8, temperature=1.0).sample(prompts * 2, 3)
    assert encoded == keys == [5]


def test_rows_that_cannot_leave_wait_for_the_longest(tokenizer, monkeypatch):
    model, prompts = make_t5().eval(), make_prompts(12)
    expected = [brute_force(model, prompt, 20, {EOS}) for prompt in prompts]
    monkeypatch.setattr("thinker_common.evaluation.generate.empty_decoder_cache", lambda begun: None)
    for budget in (90, 10_000):
        got = Generator(model, tokenizer, max_new_tokens=20, max_tokens_per_batch=budget).generate(prompts)
        assert [(one.token_ids, one.truncated) for one in got] == expected, budget


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


@pytest.mark.parametrize(("make", "temperature"), [(make_llama, 1.0), (make_t5, 40.0)])
def test_sampled_tokens_follow_from_seed_key_and_number_alone(make, temperature, tokenizer):
    model, prompts = make().eval(), make_prompts(16)
    keys = [f"problem/{index}" for index in range(16)]
    settings = {"max_new_tokens": 24, "temperature": temperature, "top_p": 0.95, "seed": 5}
    whole = Generator(model, tokenizer, **settings).sample(prompts, 3, keys=keys)
    expected = {(key, n): one for key, samples in zip(keys, whole, strict=True) for n, one in enumerate(samples)}
    assert len({one.token_ids for one in expected.values()}) > 30

    for chosen, samples, budget in (
        (range(16), 3, 80),  # a row or two at a time
        (range(15, -1, -1), 3, 300),  # the other way round
        ([2, 9, 11], 3, 8192),  # without the others
        ([7], 1, 8192),  # alone
        ([*range(16), 3, 3, 8], 2, 500),  # some more often
    ):
        generator = Generator(model, tokenizer, **settings, max_tokens_per_batch=budget)
        got = generator.sample([prompts[i] for i in chosen], samples, keys=[keys[i] for i in chosen])
        assert got == [[expected[keys[i], n] for n in range(samples)] for i in chosen], (chosen, budget)


def test_a_key_decides_and_without_one_the_prompt_does(tokenizer):
    generator = Generator(make_llama().eval(), tokenizer, max_new_tokens=24, temperature=1.0)
    one, same = generator.sample([[5, 6], [5, 6]], 2)
    other, again = generator.sample([[5, 6], [5, 6]], 2, keys=["a", "b"])
    assert one == same
    assert len({response.token_ids for response in (*one, *other, *again)}) == 6
    assert generator.generate([[5, 6]], keys=["b"]) == again[:1]


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (6, 1.0), (0, 0.7)])
def test_sampled_responses_have_the_models_distribution(tokenizer, top_k, top_p):
    """Chi-square of pairs of tokens, the second one drawn from a cache that the samples shared and a row of its own."""
    model, draws = make_llama().eval(), 6000
    generator = Generator(
        model, tokenizer, max_new_tokens=2, temperature=1.5, top_k=top_k, top_p=top_p, max_tokens_per_batch=10**6
    )
    (got,) = generator.sample([[5, 9, 12]], draws)

    def next_token(prefix):
        with torch.no_grad():
            p_V = torch.softmax(model(torch.tensor([[5, 9, 12, *prefix]])).logits[0, -1].double() / 1.5, -1)
        order = p_V.argsort(descending=True)
        if top_k:
            p_V[order[top_k:]] = 0
        p_V[order[1:][p_V[order].cumsum(0)[:-1] >= top_p]] = 0
        return (p_V / p_V.sum()).tolist()

    expected = {}
    for first, p in enumerate(next_token([])):
        if first == EOS:
            expected[()] = p
        elif p > 0:
            seconds = next_token([first])
            expected[(first,)] = p * seconds[EOS]
            expected |= {(first, second): p * q for second, q in enumerate(seconds) if second != EOS}
    counts = Counter(one.token_ids for one in got)
    assert all(expected[tokens] > 0 for tokens in counts)
    likely = {tokens: p * draws for tokens, p in expected.items() if p * draws >= 5}
    rest = draws - sum(likely.values())
    statistic = sum((counts[tokens] - mean) ** 2 / mean for tokens, mean in likely.items())
    statistic += (draws - sum(counts[tokens] for tokens in likely) - rest) ** 2 / max(rest, 1)
    assert len(likely) > 6
    assert statistic < len(likely) + 4 * math.sqrt(2 * len(likely))


def test_every_prompt_is_reported_once_with_all_its_samples(tokenizer):
    model, prompts = make_llama().eval(), make_prompts(20)
    calls, seen = spied(model), {}

    def on_batch(indices, responses):
        assert len(indices) == len(responses) > 0
        assert not seen.keys() & set(indices)
        seen.update(zip(indices, responses, strict=True))

    generator: Backend = Generator(model, tokenizer, max_new_tokens=8, temperature=1.0, max_tokens_per_batch=64)
    got = generator.sample(prompts, 3, on_batch=on_batch)
    assert [seen[index] for index in range(len(prompts))] == got
    assert all(len(responses) == 3 for responses in got)
    assert all(rows == 1 or rows * columns <= 64 for rows, columns, _ in calls)


def test_responses_are_reported_as_they_finish(tokenizer):
    seen = {}
    generator = Generator(make_llama().eval(), tokenizer, max_new_tokens=40, max_tokens_per_batch=150)
    got = generator.generate(
        make_prompts(20), on_batch=lambda indices, some: seen.update(zip(indices, some, strict=True))
    )
    assert [seen[index] for index in range(20)] == got


def test_a_model_in_training_mode_is_used_without_dropout_and_goes_back(tokenizer):
    model = make_gpt2().train()  # GPT-2 has dropout of 0.1
    got = Generator(model, tokenizer, max_new_tokens=8).generate(make_prompts())
    assert model.training
    assert got == Generator(model.eval(), tokenizer, max_new_tokens=8).generate(make_prompts())


@pytest.mark.parametrize(("make", "target"), [(make_llama, "q_proj"), (make_t5, "q")])
def test_adapters_generate_and_the_base_keeps_its_generation_config(make, target, tokenizer):
    peft = pytest.importorskip("peft")
    base = make()
    own = base.generation_config
    model = peft.get_peft_model(base, peft.LoraConfig(target_modules=[target], init_lora_weights=False))
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


def test_an_encoder_decoder_model_has_a_limit_on_each_side(tokenizer):
    generator = Generator(make_bart().eval(), tokenizer, max_new_tokens=40)
    assert generator.context is None
    generator.check_lengths([[5] * CONTEXT])
    with pytest.raises(UserError, match=r"65 tokens; the model's encoder takes 64: leave out such prompts"):
        generator.generate([[5] * 65])
    with pytest.raises(UserError, match=r"max_new_tokens = 64 .* decoder takes: set it to at most 63"):
        Generator(make_bart().eval(), tokenizer, max_new_tokens=64).generate([[5]])
    (longest,) = Generator(make_bart().eval(), tokenizer, max_new_tokens=63).generate([[5] * 64])
    assert len(longest.token_ids) <= 63
    Generator(make_t5().eval(), tokenizer, max_new_tokens=2000).check_lengths([[5] * 3000])  # T5 has no limit


def test_a_decoder_without_a_beginning_is_an_error(tokenizer):
    model = make_t5()
    model.config.decoder_start_token_id = model.generation_config.decoder_start_token_id = None
    with pytest.raises(UserError, match=r"set decoder_start_token_id in its generation_config\.json"):
        Generator(model, tokenizer, max_new_tokens=4)


def test_running_out_of_memory_names_what_to_lower(tokenizer):
    model = make_llama().eval()
    own = model.generate

    def generate(**inputs):
        if len(inputs["input_ids"]) > 3:
            torch.empty(1 << 50)  # more than any host has
        return own(**inputs)

    model.generate = generate
    with pytest.raises(UserError, match=r"out of memory .* lower max_tokens_per_batch \(now 8192\) .* max_new_tokens"):
        Generator(model, tokenizer, max_new_tokens=4).generate(make_prompts(5))
    assert len(Generator(model, tokenizer, max_new_tokens=4, max_tokens_per_batch=20).generate(make_prompts(5))) == 5


@pytest.mark.parametrize(("samples", "message"), [(0, "samples = 0: must be"), (2, "samples = 2: greedy responses")])
def test_impossible_numbers_of_samples(tokenizer, samples, message):
    with pytest.raises(SettingsError, match=message):
        Generator(make_llama(), tokenizer, max_new_tokens=4).sample([[5]], samples)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens = 0: must be at least 1"),
        ({"temperature": -1.0}, "temperature = -1.0: must be 0"),
        ({"temperature": float("nan")}, "temperature = nan: must be 0"),
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
