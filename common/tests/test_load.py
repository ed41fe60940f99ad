"""Loading models and tokenizers: what loads, and what each broken folder or id is told."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BertConfig, LlamaConfig, T5Config, T5ForConditionalGeneration

from thinker_common.errors import SettingsError, UserError
from thinker_common.models.load import load_config, load_policy, load_tokenizer

CONFIG = LlamaConfig(
    vocab_size=400, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, head_dim=4
)


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory, tokenizers) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    AutoModelForCausalLM.from_config(CONFIG).save_pretrained(folder)
    tokenizers["gpt2"].save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved_model, tmp_path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(saved_model, tmp_path / "model"))


def test_loads_what_was_saved(saved_model):
    model, tokenizer = load_policy(saved_model), load_tokenizer(saved_model)
    assert not model.training
    assert model.dtype == (torch.float32 if not torch.cuda.is_available() else model.dtype)
    assert tokenizer.padding_side == "left" and tokenizer.pad_token == "<pad>"
    ids = torch.tensor([tokenizer("so it is")["input_ids"]])
    expected = AutoModelForCausalLM.from_pretrained(saved_model)(ids).logits
    torch.testing.assert_close(model(ids).logits, expected)


def test_dtype_and_attention_as_asked(saved_model):
    model = load_policy(saved_model, dtype="bfloat16", attn_implementation="eager")
    assert model.dtype == torch.bfloat16
    assert model.config._attn_implementation == "eager"


def test_tokenizer_without_padding_token_uses_end_of_sequence(folder):
    tokenizer = load_tokenizer(folder)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    with pytest.warns(UserWarning, match="no padding token; its end-of-sequence token <eos> is used"):
        tokenizer = load_tokenizer(folder)
    assert tokenizer.pad_token == "<eos>"
    tokenizer.pad_token = tokenizer.eos_token = None
    tokenizer.save_pretrained(folder)
    with pytest.raises(UserError, match="neither a padding nor an end-of-sequence token"):
        load_tokenizer(folder)


def truncate_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-40])


def remove_a_weight(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))


def wrong_shapes(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 16}))


def settings_of_an_adapter(**settings: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / "config.json").unlink()
        (folder / "adapter_config.json").write_text(json.dumps(settings))

    return damage


def adapter_without_base(folder: Path) -> None:
    settings_of_an_adapter(base_model_name_or_path="./nowhere", peft_type="LORA")(folder)
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")


def pickled_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(AutoModelForCausalLM.from_config(CONFIG).state_dict(), folder / "pytorch_model.bin")


def missing_shard(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))


def broken_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text('{"weight_map": []}')


def custom_code(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text("raise SystemExit('code of the model folder was run')")


def encoder(folder: Path) -> None:
    BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1).save_pretrained(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "no config.json in this folder"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"no weights in this folder \(no model.safetensors\)"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be loaded: .*not a valid JSON file"),
        (truncate_weights, "cannot be loaded: .*file not fully covered"),
        (remove_a_weight, "9 weights are missing, the first is model.layers.1.input_layernorm.weight"),
        (wrong_shapes, r"mlp.down_proj.weight has shape \[8, 8\], config.json asks for \[8, 16\]"),
        (settings_of_an_adapter(base_model_name_or_path="embedded"), "this adapter has no adapter_model.safetensors"),
        (adapter_without_base, "the base model of this adapter: ./nowhere: there is no such folder"),
        (pickled_weights, "pickle files, which can run code and are not loaded"),
        (missing_shard, "1 of 2 weight files are missing: model-00002-of-00002.safetensors"),
        (broken_index, "not an index of weights"),
        (custom_code, "cannot be loaded: .*custom code"),
        (encoder, "weights are missing"),
    ],
)
def test_broken_folders(folder, damage, message):
    damage(folder)
    with pytest.raises(UserError, match=message) as caught:
        load_policy(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("tied", [True, False])
def test_encoder_decoder_models_load_as_such(tmp_path, tied):
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=40, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, decoder_start_token_id=0,
        tie_word_embeddings=tied,
    )  # fmt: skip
    saved = T5ForConditionalGeneration(config).eval()
    saved.save_pretrained(tmp_path)
    model = load_policy(tmp_path)
    ids = torch.tensor([[3, 1, 4]])
    assert isinstance(model, T5ForConditionalGeneration) and not model.training
    assert torch.equal(model(ids, decoder_input_ids=ids).logits, saved(ids, decoder_input_ids=ids).logits)


@pytest.fixture
def adapter(saved_model, tmp_path) -> tuple[Path, torch.Tensor]:
    """A folder that holds a trained adapter of the saved model and nothing else, and the logits with it."""
    model = get_peft_model(
        load_policy(saved_model), LoraConfig(r=2, target_modules=["q_proj", "lm_head"], init_lora_weights=False)
    )
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter", model.eval()(torch.tensor([[3, 1, 4]])).logits


def test_a_folder_with_an_adapter_loads_with_its_base_model(adapter, saved_model):
    folder, expected = adapter
    model = load_policy(folder)
    assert isinstance(model, PeftModel) and not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(model(torch.tensor([[3, 1, 4]])).logits, expected)
    assert load_tokenizer(folder).get_vocab() == load_tokenizer(saved_model).get_vocab()


def test_the_configuration_of_an_adapter_is_its_base_models(adapter, saved_model):
    folder, _ = adapter
    assert load_config(folder).to_dict() == load_config(saved_model).to_dict()
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "./nowhere"}')
    with pytest.raises(
        UserError, match=r"adapter: the base model of this adapter: \./nowhere: there is no such folder"
    ):
        load_config(folder)


def test_an_adapter_of_another_model_or_with_weights_missing(adapter):
    folder, _ = adapter
    weights = load_file(folder / "adapter_model.safetensors")
    first = min(name for name in weights if "lora_A" in name)
    save_file({name: value for name, value in weights.items() if name != first}, folder / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"adapter: cannot be loaded: .*missing adapter keys.*lora_A"):
        load_policy(folder)
    save_file(
        {name: torch.cat([value, value]) for name, value in weights.items()}, folder / "adapter_model.safetensors"
    )
    with pytest.raises(UserError, match=r"adapter: cannot be loaded: .*(size mismatch|state_dict)"):
        load_policy(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("{", "not the configuration of an adapter"),
        ("[]", "not the configuration of an adapter"),
        ("{}", "not the configuration of an adapter"),
        (
            '{"base_model_name_or_path": ""}',
            "names no base_model_name_or_path; put the base model's folder or id there",
        ),
    ],
)
def test_settings_of_an_adapter_that_name_no_base(adapter, settings, message):
    folder, _ = adapter
    (folder / "adapter_config.json").write_text(settings)
    for load in (load_policy, load_tokenizer):
        with pytest.raises(UserError, match=message) as caught:
            load(folder)
        assert str(folder) in str(caught.value)


def test_folder_without_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="no tokenizer in this folder") as caught:
        load_tokenizer(folder)
    assert str(folder) in str(caught.value)


def test_broken_tokenizer(folder):
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="cannot be loaded: "):
        load_tokenizer(folder)


@pytest.mark.parametrize("load", [load_policy, load_tokenizer])
def test_ids_and_paths_that_lead_nowhere(load, folder, monkeypatch):
    with pytest.raises(UserError, match=r"\./nowhere: there is no such folder"):
        load("./nowhere")
    with pytest.raises(UserError, match=r"a/b/c: there is no such folder"):
        load("a/b/c")
    with pytest.raises(UserError, match=r"config.json: this is a file; give the folder"):
        load(folder / "config.json")
    run = folder.parent / "run"
    shutil.copytree(folder, run / "model")
    with pytest.raises(UserError, match=r"the folder of a run; its model is .*model$"):
        load(run)
    with pytest.raises(
        UserError, match=r"owner/none: no folder of this name, .*hf download owner/none --local-dir FOLDER"
    ):
        load("owner/none")
    with pytest.raises(SettingsError, match=r"revision = 'main': the folder .* has no revisions"):
        load(folder, revision="main")


def test_unknown_dtype(saved_model):
    with pytest.raises(SettingsError, match="dtype = 'fp8': must be auto, float32, bfloat16, float16"):
        load_policy(saved_model, dtype="fp8")
