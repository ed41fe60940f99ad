"""Base weights of 4 bits: they compute what their rounded values say, train an adapter, and are found again with it."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import bitsandbytes
import pytest
import torch
from peft import PeftModel
from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments

from thinker_common.cli.app import run
from thinker_common.cli.main import app
from thinker_common.cli.vllm_engine import vllm_arguments
from thinker_common.distributed import memory
from thinker_common.distributed.launch_settings import LaunchSettings
from thinker_common.distributed.sharded import sharded_policy
from thinker_common.errors import SettingsError, UserError
from thinker_common.likelihood.scorer import AnswerScorer, ScoringItem
from thinker_common.models.adapters import add_lora, export_adapter, merge_and_export, train_adapter
from thinker_common.models.load import load_config, load_policy, load_tokenizer
from thinker_common.models.quantization import (
    BASE_FILE,
    count_parameters,
    is_quantized,
    read_base_quantization,
)
from thinker_common.training.engine_arguments import deepspeed_settings
from thinker_common.training.sections import LoraSettings, ModelSettings
from thinker_common.training.settings import load_settings

IDS = torch.arange(5, 45).view(2, 20)
LORA = LoraSettings(r=2, alpha=4.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizers) -> Path:
    """A small Llama, not quantized, of sizes that bitsandbytes' kernels of every processor take."""
    place = tmp_path_factory.mktemp("models") / "base"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=448, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        tie_word_embeddings=False,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(place)
    tokenizers["gpt2"].save_pretrained(place)
    return place


def trained(model: PeftModel) -> PeftModel:
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.1)
    return model.eval()


def quantized_with_adapter(folder: Path) -> PeftModel:
    return trained(add_lora(load_policy(folder, dtype="float32", quantization="4bit"), LORA))


@pytest.fixture
def exported(folder, tmp_path) -> tuple[Path, PeftModel]:
    """The folder of a trained adapter on quantized weights, and the model in memory."""
    model = quantized_with_adapter(folder)
    assert export_adapter(model, load_tokenizer(folder), tmp_path / "adapter") is model
    return tmp_path / "adapter", model


def gradients(model: PeftModel) -> dict[str, torch.Tensor]:
    model.train().zero_grad()
    model(IDS, labels=IDS).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def answer_scores(model, tokenizer) -> list[float]:
    scorer = AnswerScorer(model, tokenizer, closing="none")
    items = [ScoringItem([7, 8, 9], [10, 11], answer) for answer in (" 5", "12", "words")]
    return [score.sum for score in scorer.score(items)]


def test_linear_layers_are_quantized_and_the_rest_is_not(folder):
    model = load_policy(folder, dtype="float32", quantization="4bit")
    layers = [m for m in model.modules() if isinstance(m, bitsandbytes.nn.Linear4bit)]
    assert len(layers) == 2 * 7 and not model.training and is_quantized(model)
    for layer in layers:
        state = layer.weight.quant_state
        assert (state.quant_type, state.nested, layer.compute_dtype) == ("nf4", True, torch.float32)
    assert type(model.get_output_embeddings()) is torch.nn.Linear and model.dtype == torch.float32
    plain = load_policy(folder, dtype="float32")
    assert not is_quantized(plain)
    assert 1e-4 < (model(IDS).logits - plain(IDS).logits).abs().max() < 1


def test_it_computes_and_trains_as_its_rounded_weights_do_before_and_behind_an_evaluation(folder):
    """bitsandbytes has a kernel for some processors that repacks weights in the first evaluation: no backward pass."""
    quantized, plain = quantized_with_adapter(folder), load_policy(folder, dtype="float32")
    for name, layer in quantized.get_base_model().named_modules():
        if isinstance(layer, bitsandbytes.nn.Linear4bit):
            rounded = bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
            plain.get_submodule(name.removesuffix(".base_layer")).weight.data = rounded.float()
    expected = gradients(trained(add_lora(plain, LORA)))
    for when in ("before", "behind"):
        found = gradients(quantized)
        assert found.keys() == expected.keys() and len(found) == 2 * 2 * 7
        for name in found:
            torch.testing.assert_close(found[name], expected[name], atol=1e-6, rtol=1e-4, msg=f"{when}: {name}")
        with torch.no_grad():
            torch.testing.assert_close(quantized.eval()(IDS).logits, plain.eval()(IDS).logits, atol=1e-5, rtol=1e-5)


def test_an_exported_adapter_is_found_on_the_same_base(exported, folder):
    place, model = exported
    loaded, tokenizer = load_policy(place, dtype="float32"), load_tokenizer(place)
    assert isinstance(loaded, PeftModel) and is_quantized(loaded) and not loaded.training
    assert answer_scores(loaded, tokenizer) == pytest.approx(answer_scores(model, tokenizer), abs=1e-5)
    assert json.loads((place / BASE_FILE).read_text()) == {"quantization": "4bit"}
    assert not (place / "config.json").exists() and load_config(place).hidden_size == 64
    assert json.loads((place / "adapter_config.json").read_text())["base_model_name_or_path"] == str(folder)
    # What that file is for: on weights that are not quantized the same adapter answers otherwise.
    (place / BASE_FILE).unlink()
    assert answer_scores(load_policy(place, dtype="float32"), tokenizer) != pytest.approx(
        answer_scores(model, tokenizer), abs=1e-3
    )


def test_the_embedded_base_keeps_its_name(tmp_path):
    model = quantized_with_adapter(Path("embedded"))
    export_adapter(model, load_tokenizer("embedded"), tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == (
        "embedded@1"
    )
    assert torch.equal(load_policy(tmp_path / "adapter", dtype="float32")(IDS).logits, model(IDS).logits)


def test_a_loaded_adapter_is_trained_further(exported):
    place, model = exported
    loaded = load_policy(place, dtype="float32")
    assert not any(p.requires_grad for p in loaded.parameters())
    assert train_adapter(loaded) is loaded
    expected = gradients(model)
    found = gradients(loaded)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_the_revision_of_the_base_is_named(folder):
    adapted = add_lora(load_policy(folder, quantization="4bit"), LORA, revision="abc")
    assert adapted.peft_config["default"].revision == "abc"


@pytest.mark.parametrize("quantization", ["none", "4bit"])
def test_a_model_that_is_quantized_in_its_files(folder, tmp_path, quantization):
    model = load_policy(folder, dtype="float32", quantization="4bit")
    model.save_pretrained(tmp_path / "packed")
    loaded = load_policy(tmp_path / "packed", dtype="float32", quantization=quantization)
    torch.testing.assert_close(loaded(IDS).logits, model(IDS).logits, atol=1e-5, rtol=1e-5)
    assert is_quantized(loaded)


# --- what is refused ------------------------------------------------------------------------------------------------------


def test_it_is_not_merged(exported, tmp_path, capsys):
    place, model = exported
    with pytest.raises(UserError, match="merged: its adapter was trained on quantized weights, and merged into them"):
        merge_and_export(model, load_tokenizer(place), tmp_path / "merged")
    with pytest.raises(SystemExit) as caught:
        run(app, ["export", str(place), str(tmp_path / "merged")])
    assert caught.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"error: {place}: its adapter was trained on quantized weights, and merged into them, which rounds their sum "
        "again, it would give other answers: use this folder as it is, or train without model.quantization"
    )
    assert not (tmp_path / "merged").exists()


def test_it_takes_no_second_adapter(exported):
    with pytest.raises(SettingsError, match="lora: the model has an adapter already, on quantized weights"):
        add_lora(load_policy(exported[0]), LORA)


def test_zero_3_and_vllm_do_not_evaluate_it(exported, monkeypatch):
    place, _ = exported
    monkeypatch.setattr("thinker_common.distributed.sharded.check_environment", lambda *_, **__: None)
    settings = LaunchSettings(gpus=2, zero=3)
    with (
        pytest.raises(UserError, match="an adapter on quantized weights, which --zero 3 cannot divide: leave it out"),
        sharded_policy(place, settings, torch.device("cpu"), revision=None, dtype="float32"),
    ):
        pass
    with pytest.raises(UserError, match="an adapter on quantized weights, which is evaluated without --backend vllm"):
        vllm_arguments(str(place), load_tokenizer(place), revision=None, dtype="auto", seed=0, decoding={})


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_zero_3_does_not_train_it(folder, zero):
    model = ModelSettings(name_or_path=str(folder), lora=LORA, quantization="4bit")

    def configuration():
        return deepspeed_settings(LaunchSettings(gpus=2, zero=zero), model, TrainingArguments, {}, ranks=2)

    if zero < 3:
        assert configuration()["zero_optimization"]["stage"] == zero
        return
    with pytest.raises(SettingsError, match=r"model\.quantization = '4bit': ZeRO-3 divides weights"):
        configuration()


def test_an_adapter_of_plain_weights_stays_on_them(folder, tmp_path):
    add_lora(load_policy(folder), LORA).save_pretrained(tmp_path / "plain")
    with pytest.raises(SettingsError, match="plain: this adapter was trained on weights that are not quantized"):
        load_policy(tmp_path / "plain", quantization="4bit")


def test_weights_that_are_quantized_in_another_way(folder, tmp_path):
    load_policy(folder).save_pretrained(tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    with pytest.raises(SettingsError, match=r"other: its weights are quantized already: leave model\.quantization"):
        load_policy(tmp_path / "other", quantization="4bit")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "does not say how the adapter's base was quantized"),
        ("[]", "does not say how the adapter's base was quantized"),
        ("{}", "does not say how the adapter's base was quantized"),
        ('{"quantization": "2bit"}', "quantization = '2bit': this version knows 4bit"),
    ],
)
def test_a_file_that_does_not_say_how(exported, text, message):
    place, _ = exported
    (place / BASE_FILE).write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        load_policy(place)
    assert str(place / BASE_FILE) in str(caught.value)


def test_without_bitsandbytes(exported, folder, monkeypatch):
    """Also of a version that transformers does not take. Everything else goes without it."""
    place, _ = exported
    advice = r'^weights of 4 bits need bitsandbytes.*: pip install "thinker-common\[quantization\]"$'
    with monkeypatch.context() as patch:
        patch.setattr("thinker_common.models.quantization.is_bitsandbytes_available", lambda: False)
        with pytest.raises(UserError, match=advice):
            load_policy(folder, quantization="4bit")
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=advice):
        load_policy(folder, quantization="4bit")
    with pytest.raises(UserError, match=r"adapter: the base model of this adapter: weights of 4 bits need"):
        load_policy(place)
    assert read_base_quantization(place) == "4bit"
    load_policy(folder)


# --- settings and memory --------------------------------------------------------------------------------------------------


def test_it_is_a_setting_of_the_model():
    @dataclass
    class Settings:
        model: ModelSettings = field(default_factory=ModelSettings)

    def load(*overrides):
        return load_settings(Settings, recipe_text=None, recipe_name="", overrides=overrides).model

    assert load().quantization == "none"
    assert load("model.quantization=4bit", "model.lora.r=8").quantization == "4bit"
    with pytest.raises(SettingsError, match=r"model\.quantization = '4bit': quantized weights are not trained: add an"):
        load("model.quantization=4bit")
    with pytest.raises(SettingsError, match=r"model\.quantization = '8bit': expected one of none, 4bit"):
        load("model.quantization=8bit", "model.lora.r=8")


def test_parameters_are_counted_as_they_are_and_take_the_room_that_they_do(folder):
    plain, quantized = (
        count_parameters(add_lora(load_policy(folder, dtype="float32", quantization=how), LORA))
        for how in ("none", "4bit")
    )
    assert (plain.total, plain.trainable, plain.quantized) == (quantized.total, quantized.trainable, 0)
    linear = 2 * (2 * 64 * 64 + 2 * 64 * 64 + 3 * 64 * 128)
    assert quantized.quantized == linear
    job = memory.Job(micro_batch=1, tokens=8)
    weights = []
    for counts in (plain, quantized):
        shape = memory.ModelShape.of(
            load_config(folder), parameters=counts.total, trainable=counts.trainable, quantized=counts.quantized
        )
        [part] = [part for part in memory.estimate(shape, job).parts if part.name == "weights"]
        weights.append(part.bytes)
    assert weights[0] - weights[1] == pytest.approx(linear * (4 - 0.516))
