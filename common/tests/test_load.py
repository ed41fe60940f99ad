"""Loading models and tokenizers: what loads, and what each broken folder or id is told."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, BertConfig, LlamaConfig, T5Config, T5ForConditionalGeneration

from thinker_common.errors import SettingsError, UserError
from thinker_common.models.load import load_policy, load_tokenizer

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


def only_an_adapter(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")


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


def encoder_decoder(folder: Path) -> None:
    T5ForConditionalGeneration(T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)).save_pretrained(folder)


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
        (only_an_adapter, "holds an adapter, not a model"),
        (pickled_weights, "pickle files, which can run code and are not loaded"),
        (missing_shard, "1 of 2 weight files are missing: model-00002-of-00002.safetensors"),
        (broken_index, "not an index of weights"),
        (custom_code, "cannot be loaded: .*custom code"),
        (encoder_decoder, "cannot be loaded: Unrecognized configuration class"),
        (encoder, "weights are missing"),
    ],
)
def test_broken_folders(folder, damage, message):
    damage(folder)
    with pytest.raises(UserError, match=message) as caught:
        load_policy(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


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
    with pytest.raises(UserError, match=r"owner/none: cannot be loaded: .*hf download owner/none --local-dir FOLDER"):
        load("owner/none")
    with pytest.raises(SettingsError, match=r"revision = 'main': the folder .* has no revisions"):
        load(folder, revision="main")


def test_unknown_dtype(saved_model):
    with pytest.raises(SettingsError, match="dtype = 'fp8': must be auto, float32, bfloat16, float16"):
        load_policy(saved_model, dtype="fp8")
