"""The model: made, saved, loaded, with LoRA and without; what is refused."""

import json
import warnings

import latent_models as lm
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    MistralConfig,
    MistralForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from spiralthinker.annotation import MARKER_TEXTS
from spiralthinker.model import LatentSettings, SpiralThinkerModel, check_readable
from thinker_common.errors import SettingsError, UserError
from thinker_common.models.load import load_policy, load_tokenizer
from thinker_common.training.sections import LoraSettings

LORA = LoraSettings(r=2, alpha=4.0)


def nll(model, batch=None):
    batch = lm.batch(model) if batch is None else batch
    return model.nll(model(batch)[0].readings[-1], batch)


def train_a_little(model, steps=2):
    """Returns the loss of the trained model."""
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    batch = lm.batch(model)
    for _ in range(steps):
        optimiser.zero_grad()
        nll(model, batch).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    return nll(model, batch).item()


@pytest.mark.parametrize("family", lm.FAMILIES)
@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_save_and_load(tmp_path, family, lora):
    model = lm.latent_model(family, lora=lora, latents=3, shift=1, adapter_width=7)
    batch = lm.batch(model)  # once: the tokenizer of a loaded Qwen2 folder is of Qwen2's own kind, whatever was saved
    before = nll(model).item()
    trained = train_a_little(model)
    assert abs(trained - before) > 0.01
    model.save_pretrained(tmp_path / "model")
    assert nll(model, batch).item() == pytest.approx(trained, abs=1e-4), "goes on as it is, merged"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = SpiralThinkerModel.from_pretrained(tmp_path / "model")
    assert nll(loaded, batch).item() == pytest.approx(trained, abs=1e-4)
    assert loaded.settings == model.settings
    assert loaded.markers == model.markers
    # An ordinary model folder besides: the plain model gives the same logits, and tied weights stayed tied.
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    ids = torch.tensor([[3, 4, *loaded.markers]])
    torch.testing.assert_close(plain(ids).logits, loaded.base(ids).logits)
    tied = plain.get_input_embeddings().weight is plain.get_output_embeddings().weight
    assert tied == (family != "llama")
    assert not any("latent" in name for name, _ in plain.named_parameters())
    load_policy(tmp_path / "model")
    assert load_tokenizer(tmp_path / "model").convert_tokens_to_ids("<latent>") == model.markers.latent
    again = SpiralThinkerModel.from_pretrained(tmp_path / "model", lora=LORA)
    assert nll(again, batch).item() == pytest.approx(trained, abs=1e-4), "a fresh low-rank adapter changes nothing"


@pytest.mark.parametrize("family", lm.FAMILIES)
def test_what_lora_trains(family):
    """The low-rank matrices, the latent adapter and the markers' rows; the rest of the embeddings stays."""
    model = lm.latent_model(family, lora=LORA)
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert not any("original_module" in name for name in trainable)
    assert all("lora_" in name or "latent_parts" in name for name in trainable)
    expected = {"adapter.inner.weight", "adapter.outer.weight", "adapter.norm.weight", "rows.embedding.weight"}
    expected |= {"rows.head.weight"} if family == "llama" else set()
    assert {name.split(".default.", 1)[1] for name in trainable if "latent_parts" in name} == expected
    nll(model).backward()
    for name, parameter in model.named_parameters():
        if "latent_parts" in name and parameter.requires_grad:
            assert parameter.grad.abs().max() > 0, name
    before = model.base.get_input_embeddings().weight.clone()
    train_a_little(model)
    rows = model.parts.rows.embedding.weight.clone()
    assert torch.equal(model.base.get_input_embeddings().weight, before)
    ids = torch.tensor([[3, *model.markers]])
    torch.testing.assert_close(model.embed(ids)[0, 1:], rows)


@pytest.mark.parametrize("family", lm.FAMILIES)
def test_a_fresh_lora_changes_no_logit(family):
    """The rows of embeddings and head that are kept apart are those that the whole matrices have."""
    full, lora = lm.latent_model(family), lm.latent_model(family, lora=LORA)
    assert nll(lora).item() == pytest.approx(nll(full).item(), abs=1e-4)


def test_a_vocabulary_with_room_is_not_made_smaller():
    """Some models have more rows than their tokenizer has tokens."""
    base = lm.base_model()
    base.resize_token_embeddings(100, mean_resizing=False)
    model = SpiralThinkerModel.from_base(base, lm.tokenizer(), LatentSettings())
    assert model.base.get_input_embeddings().weight.shape[0] == 100
    assert max(model.markers) < 100


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("spare", [2, 40])
def test_markers_in_spare_rows_begin_as_added_ones_do(family, spare):
    """Not with what pretraining has left in rows that no token had; other rows stay."""
    base = lm.base_model(family)
    vocabulary = len(lm.WORDS)
    base.resize_token_embeddings(vocabulary + spare, mean_resizing=False)
    matrices = [base.get_input_embeddings().weight] + [base.get_output_embeddings().weight] * (family == "llama")
    with torch.no_grad():
        for weight in matrices:
            weight[:vocabulary] += 3.0
            weight[vocabulary:] = 1e-8
    before = [weight.clone() for weight in matrices]
    model = SpiralThinkerModel.from_base(base, lm.tokenizer(), LatentSettings())
    after = [base.get_input_embeddings().weight, base.get_output_embeddings().weight]
    for old, new in zip(before, after, strict=False):
        rows = new[list(model.markers)]
        assert (rows.mean() - old[:vocabulary].mean()).abs() < 0.2
        assert rows.std(0).mean() > 0.05
        assert torch.equal(new[:vocabulary], old[:vocabulary])
        assert torch.equal(new[vocabulary + 5 :], old[vocabulary + 5 :])


def test_an_adapter_can_begin_at_random():
    def start(**settings):
        return SpiralThinkerModel.from_base(lm.base_model(), lm.tokenizer(), LatentSettings(**settings))

    assert not start().parts.adapter.outer.weight.any()
    assert start(adapter_start="random").parts.adapter.outer.weight.any()
    with pytest.raises(SettingsError, match="adapter_start = 'zero': expected normalisation or random"):
        LatentSettings(adapter_start="zero")


def test_loaded_as_a_transformers_user_would(tmp_path):
    lm.latent_model().save_pretrained(tmp_path / "model")
    for given in ({"dtype": torch.bfloat16}, {"torch_dtype": torch.bfloat16}, {"dtype": "bfloat16"}):
        loaded = SpiralThinkerModel.from_pretrained(tmp_path / "model", **given)
        assert loaded.base.dtype == torch.bfloat16
    for device_map in ("cpu", {"": "cpu"}, torch.device("cpu")):
        assert SpiralThinkerModel.from_pretrained(tmp_path / "model", device_map=device_map).device.type == "cpu"
    eager = SpiralThinkerModel.from_pretrained(tmp_path / "model", device_map="auto", attn_implementation="eager")
    assert eager.base.config._attn_implementation == "eager"
    for device_map in ("balanced", {"model": "cpu", "lm_head": "meta"}):
        with pytest.raises(
            UserError, match="a model with latent steps stays on one device; expected auto, or a device"
        ):
            SpiralThinkerModel.from_pretrained(tmp_path / "model", device_map=device_map)


def test_suppressed_tokens_of_the_base_model_stay_suppressed():
    base = lm.base_model()
    base.generation_config.suppress_tokens = [7]
    model = SpiralThinkerModel.from_base(base, lm.tokenizer(), LatentSettings())
    assert base.generation_config.suppress_tokens == [7, model.markers.latent, model.markers.eol]


def test_target_rms_is_that_of_the_pretrained_embeddings():
    base = lm.base_model()
    expected = base.get_input_embeddings().weight.square().mean().sqrt().item()
    model = SpiralThinkerModel.from_base(base, lm.tokenizer(), LatentSettings())
    assert model.parts.adapter.target_rms.item() == pytest.approx(expected)


def test_another_n_or_k_is_allowed_with_a_warning(tmp_path):
    lm.latent_model(latents=3, iterations=2).save_pretrained(tmp_path / "model")
    with pytest.warns(UserWarning, match="trained with iterations = 2, used with 4"):
        more = SpiralThinkerModel.from_pretrained(tmp_path / "model", iterations=4)
    assert more.settings.iterations == 4
    with pytest.warns(UserWarning, match="trained with latents = 3, used with 1"):
        fewer = SpiralThinkerModel.from_pretrained(tmp_path / "model", latents=1)
    assert fewer.settings.annotation.latents == 1
    with pytest.raises(SettingsError, match="latents = 0"):
        SpiralThinkerModel.from_pretrained(tmp_path / "model", latents=0)


def test_library_checkpointing_is_refused_and_our_own_is_not():
    model = lm.latent_model()
    loss = nll(model)
    loss.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    model.checkpoint_segments = True
    nll(model).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name])
    model.base.activation_checkpointing_enable()
    model.train()
    with pytest.raises(UserError, match="drops the keys and values of a prefix: turn it off"):
        nll(model)
    answers_only = lm.batch(model, lm.problems()[3:])
    nll(model, answers_only).backward()  # nothing is reused there
    model.base.activation_checkpointing_disable()
    nll(model)


def test_models_that_cannot_be_read(tmp_path):
    shape = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    }
    window = MistralForCausalLM(MistralConfig(vocab_size=20, sliding_window=8, **shape))
    with pytest.raises(UserError, match="mistral: not all of its layers attend to everything before"):
        check_readable(window)
    check_readable(MistralForCausalLM(MistralConfig(vocab_size=20, sliding_window=None, **shape)))
    t5 = T5ForConditionalGeneration(T5Config(vocab_size=20, d_model=16, d_ff=16, num_layers=1, num_heads=2, d_kv=8))
    with pytest.raises(UserError, match="t5: an encoder-decoder model"):
        check_readable(t5)
    tokenizer = lm.tokenizer()
    tokenizer.add_tokens([MARKER_TEXTS[3]])
    with pytest.raises(UserError, match="the tokenizer already has <latent>"):
        SpiralThinkerModel.from_base(lm.base_model(), tokenizer, LatentSettings())
    lm.base_model().save_pretrained(tmp_path / "plain")
    with pytest.raises(UserError, match=r"no spiralthinker.json, so this is not a SpiralThinker model"):
        SpiralThinkerModel.from_pretrained(tmp_path / "plain")
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / "model" / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"run: the folder of a run; its model is .*run/model$"):
        SpiralThinkerModel.from_pretrained(tmp_path / "run")
    with pytest.raises(SettingsError, match=r"lora.target_modules = \['nothing'\]"):
        lm.latent_model(lora=LoraSettings(target_modules=["nothing"]))


def test_a_folder_that_is_damaged_or_in_use(tmp_path):
    model = lm.latent_model()
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match="this folder is not empty"):
        model.save_pretrained(tmp_path / "model")
    file = tmp_path / "model" / "spiralthinker.json"
    settings = json.loads(file.read_text())
    for damaged, message in (
        ("{", "not the settings of a SpiralThinker model"),
        ("[]", "not the settings of a SpiralThinker model"),
        (json.dumps({**settings, "format": 99}), "written by another version"),
        (json.dumps({**settings, "depth": 3}), "not the settings of a SpiralThinker model"),
        (json.dumps({**settings, "iterations": -1}), "iterations = -1"),
    ):
        file.write_text(damaged)
        with pytest.raises(UserError, match=message):
            SpiralThinkerModel.from_pretrained(tmp_path / "model")


def test_gpt2_with_few_positions_says_its_context():
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(lm.WORDS), n_embd=16, n_layer=1, n_head=2, n_positions=32))
    assert SpiralThinkerModel.from_base(model, lm.tokenizer(), LatentSettings()).context == 32
