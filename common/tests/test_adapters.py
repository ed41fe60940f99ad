"""Adapters start as the identity, train alone, and merge into an ordinary folder that gives the same numbers."""

import errno
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from peft import PeftModel, PeftModelForSeq2SeqLM
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, T5Config, T5ForConditionalGeneration

from thinker_common.errors import SettingsError, UserError
from thinker_common.models.adapters import add_lora, merge_and_export
from thinker_common.models.load import load_policy, load_tokenizer

IDS = torch.tensor([[3, 1, 4, 1, 5]])


@dataclass
class Lora:
    r: int = 2
    alpha: float = 4.0
    dropout: float = 0.0
    target_modules: list[str] | str = "all-linear"


def make_model(tie_word_embeddings: bool = True) -> PreTrainedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=400, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, head_dim=4,
        tie_word_embeddings=tie_word_embeddings,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config).eval()


def trained(model: PeftModel) -> PeftModel:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.5)
    return model.eval()


def test_a_fresh_adapter_changes_nothing_and_trains_alone():
    model = make_model()
    expected = model(IDS).logits
    adapted = add_lora(model, Lora()).eval()
    assert torch.equal(adapted(IDS).logits, expected)
    names = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert names and all("lora_" in name for name in names)
    targets = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")  # all seven, not the head
    assert len(names) == 2 * len(targets) and all(any(target in name for name in names) for target in targets)
    assert adapted.peft_config["default"].r == 2 and adapted.peft_config["default"].lora_alpha == 4.0


@pytest.mark.parametrize("target_modules", ["all-linear", ["q_proj", "lm_head"]])
def test_export_gives_the_same_numbers_without_peft(tmp_path, tokenizers, target_modules):
    adapted = trained(add_lora(make_model(tie_word_embeddings=False), Lora(target_modules=target_modules)))
    expected = adapted(IDS).logits
    merged = merge_and_export(adapted, tokenizers["gpt2"], tmp_path / "model")
    assert not isinstance(merged, PeftModel)
    torch.testing.assert_close(merged(IDS).logits, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(load_policy(tmp_path / "model")(IDS).logits, expected, atol=1e-5, rtol=1e-5)
    assert load_tokenizer(tmp_path / "model").get_vocab() == tokenizers["gpt2"].get_vocab()
    assert not any("adapter" in path.name for path in (tmp_path / "model").iterdir())
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_export_of_a_model_without_adapter(tmp_path, tokenizers):
    model = make_model()
    assert merge_and_export(model, tokenizers["gpt2"], tmp_path / "model") is model
    assert torch.equal(load_policy(tmp_path / "model")(IDS).logits, model(IDS).logits)


def test_targets_that_do_not_exist():
    with pytest.raises(SettingsError, match=r"lora.target_modules = \['query'\]: Target modules .* not found"):
        add_lora(make_model(), Lora(target_modules=["query"]))


def test_one_adapter_at_a_time():
    with pytest.raises(SettingsError, match="lora: the model has an adapter already; merge it first"):
        add_lora(add_lora(make_model(), Lora()), Lora())


def test_an_encoder_decoder_model_takes_an_adapter():
    config = T5Config(
        vocab_size=40, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, decoder_start_token_id=0,
        tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(config).eval()
    expected = model(IDS, decoder_input_ids=IDS).logits
    adapted = add_lora(model, Lora(target_modules=["q", "v"]))
    assert isinstance(adapted, PeftModelForSeq2SeqLM)
    torch.testing.assert_close(adapted.eval()(IDS, decoder_input_ids=IDS).logits, expected)
    assert not torch.equal(trained(adapted)(IDS, decoder_input_ids=IDS).logits, expected)


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
@pytest.mark.filterwarnings("ignore:Model with `tie_word_embeddings=True`")
def test_tied_embeddings_take_no_adapter(target):
    with pytest.raises(SettingsError, match="embeddings and head share their weights; leave them out"):
        add_lora(make_model(), Lora(target_modules=["q_proj", target]))


def test_a_folder_in_use_is_left_alone(tmp_path, tokenizers):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"model: this folder is not empty"):
        merge_and_export(make_model(), tokenizers["gpt2"], tmp_path / "model")
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["notes.txt"]


def test_a_diverged_adapter_is_not_exported(tmp_path, tokenizers):
    adapted = trained(add_lora(make_model(), Lora()))
    with torch.no_grad():
        next(parameter for parameter in adapted.parameters() if parameter.requires_grad).fill_(torch.nan)
    with pytest.raises(UserError, match="the adapter cannot be merged: NaNs detected"):
        merge_and_export(adapted, tokenizers["gpt2"], tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@dataclass
class FullDisk:
    """A save that fails as it does when the disk fills up: something is written, then safetensors gives up."""

    folders: list[Path] = field(default_factory=list)

    def save(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"part")
        self.folders.append(folder)
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def test_a_full_disk_leaves_nothing_behind(tmp_path, tokenizers, monkeypatch):
    model, disk = make_model(), FullDisk()
    monkeypatch.setattr(model, "save_pretrained", disk.save)
    with pytest.raises(OSError, match="No space left on device") as caught:
        merge_and_export(model, tokenizers["gpt2"], tmp_path / "model")
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(tmp_path / "model")
    assert disk.folders and list(tmp_path.iterdir()) == []
