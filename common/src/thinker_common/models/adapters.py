"""Low-rank adapters (LoRA, through PEFT): adding them, and exporting a trained policy.

It is exported as an ordinary model folder, the adapter merged in; on a quantized base as the adapter alone.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from peft import LoraConfig, PeftModel, TaskType, get_peft_model, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..errors import SettingsError, UserError
from .load import lasting_name
from .quantization import NOT_MERGED, is_quantized, write_base_quantization


class LoraOptions(Protocol):
    """What `add_lora` reads of the settings' section `lora`."""

    r: int
    alpha: float
    dropout: float
    target_modules: list[str] | str


def add_lora(model: PreTrainedModel | PeftModel, lora: LoraOptions, *, revision: str | None = None) -> PeftModel:
    """The model with a fresh adapter, which changes nothing yet and alone is trainable. `model` itself is changed.

    revision: of the model, which a folder that holds the adapter alone has to name

    Raises:
        SettingsError: a model that has an adapter already; target modules that the model does not have, or that share
            their weights with another module: merged, the adapter of one would change the other as well.
    """
    if isinstance(model, PeftModel):
        if is_quantized(model):
            raise SettingsError(
                "lora: the model has an adapter already, on quantized weights, which takes no second one: train from "
                "its base"
            )
        raise SettingsError(
            "lora: the model has an adapter already; merge it first (`thinker export`), or leave lora out"
        )
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # PEFT divides it by r, any number does
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        task_type=TaskType.SEQ_2_SEQ_LM if model.config.is_encoder_decoder else TaskType.CAUSAL_LM,
    )
    name = f"lora.target_modules = {lora.target_modules!r}"
    try:
        adapted = get_peft_model(model, config, revision=revision)
    except ValueError as error:
        raise SettingsError(f"{name}: {error}") from error
    assert isinstance(adapted, PeftModel)
    embeddings = (model.get_input_embeddings(), model.get_output_embeddings())
    if model.config.get_text_config().tie_word_embeddings and any(isinstance(e, BaseTunerLayer) for e in embeddings):
        raise SettingsError(f"{name}: the model's embeddings and head share their weights; leave them out")
    return adapted


def train_adapter(model: PeftModel) -> PeftModel:
    """The model with the adapter that it was loaded with, trainable again: itself."""
    model.set_adapter(model.active_adapter)
    return model


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """Name -> copy on the CPU of every parameter that training changes; of tied ones the first."""
    return {
        name: parameter.detach().to("cpu", copy=True)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def load_trained_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Puts what `trained_weights` gave back into a model of the same structure."""
    unknown = model.load_state_dict(weights, strict=False).unexpected_keys
    assert not unknown, f"weights of another model: {unknown[:3]}"


def merge_and_export(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path
) -> PreTrainedModel:
    """Write model and tokenizer as a Hugging Face folder (safetensors) that loads without PEFT.

    Adapters are merged into the weights of `model` itself, which has none afterwards: use what is returned. The folder
    appears whole or not at all.

    Raises:
        UserError: the folder exists and is not empty, the adapter's weights are not numbers (training diverged), or
            those of its base are quantized.
        OSError: the disk is full or cannot be written.
    """
    folder = Path(folder)
    _check_free(folder)
    merged = _merged(model, folder)
    with _whole(folder) as partial:
        merged.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
    return merged


def export_adapter(model: PeftModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> PeftModel:
    """Write a folder with the adapter alone and the tokenizer, which `load_policy` puts on the same base.

    `model` itself is returned, as it is loaded from there: without the frozen copies of adapters that TRL adds.

    Raises: as `merge_and_export`.
    """
    folder = Path(folder)
    _check_free(folder)
    [name] = model.active_adapters
    weights = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    if not all(bool(weight.isfinite().all()) for weight in weights.values()):
        raise UserError(f"{folder}: the adapter cannot be exported: NaNs detected in its weights")
    config = model.peft_config[name]
    config.base_model_name_or_path = lasting_name(config.base_model_name_or_path or model.name_or_path)
    for other in [other for other in model.peft_config if other != name]:
        model.delete_adapter(other)
    with _whole(folder) as partial:
        model.save_pretrained(str(partial), selected_adapters=[name], save_embedding_layers=False)
        write_base_quantization(model, partial)
        tokenizer.save_pretrained(partial)
    return model


def _check_free(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder}: this folder is not empty; remove it or export to another")


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A folder to write into, which is `folder` afterwards: that appears whole or not at all."""
    partial = folder.with_name(f".{folder.name}.{uuid4().hex}")
    try:
        yield partial
        os.replace(partial, folder)
    except SafetensorError as error:
        # safetensors has an exception of its own for every failed write.
        if os.strerror(errno.ENOSPC) in str(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _merged(model: PreTrainedModel | PeftModel, folder: Path) -> PreTrainedModel:
    if not isinstance(model, PeftModel):
        return model
    if is_quantized(model):
        raise UserError(f"{folder}: {NOT_MERGED}")
    try:
        merged = model.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise UserError(f"{folder}: the adapter cannot be merged: {error}") from error
    assert isinstance(merged, PreTrainedModel)
    return merged
