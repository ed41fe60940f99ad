"""Loading a policy and its tokenizer: a Hugging Face id, a local folder, or the embedded model.

A folder may hold a LoRA adapter alone, as PEFT saves it. Then its base model is loaded, which the adapter's
configuration names, quantized as it was when the adapter was trained, and the adapter is put on it, unmerged.

What cannot be loaded is an error that names the folder or id, what is wrong with it and what to do. Weights come from
safetensors files only, and code from a model's folder is not run: both are untrusted input.
"""

from __future__ import annotations

import errno
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import cached_file

from ..errors import SettingsError, UserError
from .quantization import Quantization, four_bits, keep_gradients, read_base_quantization

if TYPE_CHECKING:
    from peft import PeftModel

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# One of these is in every folder that has a tokenizer.
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")


def load_tokenizer(name_or_path: str | Path, *, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, padding on the left, with a padding token (end of sequence if it has none of its own).

    That of the base model for an adapter that was saved without one.

    Raises:
        UserError: no such folder, a folder without a tokenizer, an id that cannot be reached.
    """
    source = _source(name_or_path, revision)
    if source.is_folder and not any((Path(source.name) / file).is_file() for file in _TOKENIZER_FILES):
        if _is_adapter(Path(source.name)):
            base, base_revision = adapter_base(Path(source.name))
            return load_tokenizer(base, revision=base_revision)
        raise UserError(
            f"{source.name}: no tokenizer in this folder (none of {', '.join(_TOKENIZER_FILES)}); "
            "save it there with tokenizer.save_pretrained(folder)"
        )
    with _loading(source):
        # Said explicitly: left open, transformers would ask at the terminal whether to run a model's own code.
        tokenizer = AutoTokenizer.from_pretrained(
            source.name, revision=revision, padding_side="left", trust_remote_code=False
        )
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise UserError(f"{source.name}: the tokenizer has neither a padding nor an end-of-sequence token")
        warnings.warn(
            f"{source.name}: the tokenizer has no padding token; its end-of-sequence token {tokenizer.eos_token} is "
            "used, so that only the attention mask tells the two apart",
            stacklevel=2,
        )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_config(name_or_path: str | Path, *, revision: str | None = None) -> PreTrainedConfig:
    """The configuration of a model, without its weights; of an adapter it is that of its base model.

    Raises:
        UserError: no such folder, a folder without configuration, an id that cannot be reached.
    """
    source = _source(name_or_path, revision)
    if source.is_folder and _is_adapter(Path(source.name)):
        base, revision = adapter_base(Path(source.name))
        with _as_base_of(Path(source.name)):
            return load_config(base, revision=revision)
    if source.is_folder and not (Path(source.name) / "config.json").is_file():
        raise UserError(f"{source.name}: no config.json in this folder, so it is not a Hugging Face model")
    with _loading(source):
        return AutoConfig.from_pretrained(source.name, revision=revision, trust_remote_code=False)


def model_file(name_or_path: str | Path, file: str, *, revision: str | None = None) -> Path | None:
    """A file that a method keeps beside a model, in its folder or on the hub; None where there is none within reach.

    Raises:
        UserError: no such folder, or the folder of a run.
        SettingsError: a revision of a folder.
    """
    source = _source(name_or_path, revision)
    if source.is_folder:
        path = Path(source.name) / file
        return path if path.is_file() else None
    try:
        found = cached_file(source.name, file, revision=revision)
    except OSError:
        return None
    return None if found is None else Path(found)


def load_policy(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    quantization: Quantization = "none",
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
) -> PreTrainedModel | PeftModel:
    """A causal or encoder-decoder language model in evaluation mode, on the CPU; the caller moves it.

    A quantized one is on the GPU, if there is one: it is quantized there, in seconds instead of many minutes.

    Args:
        name_or_path: "embedded" or "embedded@<version>", a local folder, or an id on the Hugging Face hub.
        dtype: auto is bfloat16 on a GPU that computes in it, else float32.
        quantization: of the linear layers, the output head left out; for the base of an adapter its folder says it.
        attn_implementation: as in transformers; default the model's own.
        trust_remote_code: run Python code that comes with the model.

    Raises:
        UserError: no such folder, a folder without configuration or weights or with damaged ones, an id that cannot be
            reached, a model that generates no text, an adapter whose base model is one of these; bitsandbytes is
            missing.
        SettingsError: an unknown dtype; quantization of weights that are quantized in another way, or under an adapter
            that was trained without.
    """
    dtype = resolved_dtype(dtype)
    source = _source(name_or_path, revision)
    if source.is_folder and _is_adapter(Path(source.name)):
        return _load_adapted(
            Path(source.name),
            quantization=quantization,
            dtype=dtype,
            attn_implementation=attn_implementation,
            trust_remote_code=trust_remote_code,
        )
    if source.is_folder:
        _check_weights(Path(source.name))
    with _loading(source):
        config = AutoConfig.from_pretrained(source.name, revision=revision, trust_remote_code=trust_remote_code)
    own = getattr(config, "quantization_config", None)  # of weights that are quantized in their files
    if quantization != "none" and own is not None and not own.get("load_in_4bit"):
        raise SettingsError(f"{source.name}: its weights are quantized already: leave model.quantization out")
    quantized = {"quantization_config": four_bits(_DTYPES[dtype])} if quantization != "none" and own is None else {}
    with _loading(source):
        family = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        loaded: Any = family.from_pretrained(
            source.name,
            revision=revision,
            dtype=_DTYPES[dtype],
            attn_implementation=attn_implementation,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **quantized,
        )
    model, info = loaded
    keep_gradients(model)
    # Left alone, transformers fills weights that are missing or of another shape with random numbers.
    for name, saved, expected in sorted(info["mismatched_keys"]):
        raise UserError(f"{source.name}: {name} has shape {list(saved)}, config.json asks for {list(expected)}")
    for name in sorted(info["missing_keys"]):
        raise UserError(f"{source.name}: {len(info['missing_keys'])} weights are missing, the first is {name}")
    return model


def _load_adapted(folder: Path, *, quantization: Quantization, **options: Any) -> PeftModel:
    """The adapter of a folder on its base model. `options`: as `load_policy`, for the base."""
    from peft import PeftModel

    if not (folder / "adapter_model.safetensors").is_file():
        raise UserError(
            f"{folder}: this adapter has no adapter_model.safetensors (pickle files can run code and are not loaded); "
            "save it with model.save_pretrained(folder)"
        )
    base, revision = adapter_base(folder)
    trained_on = read_base_quantization(folder)
    if quantization not in ("none", trained_on):
        raise SettingsError(f"{folder}: this adapter was trained on weights that are not quantized: leave it so")
    with _as_base_of(folder):
        model = load_policy(base, revision=revision, quantization=trained_on, **options)
    assert isinstance(model, PreTrainedModel)
    with _loading(_Source(str(folder), is_folder=True)), warnings.catch_warnings():
        # Of weights that the file does not hold PEFT only warns, and leaves them untrained.
        warnings.filterwarnings("error", message=".*missing adapter keys", category=UserWarning)
        try:
            adapted = PeftModel.from_pretrained(model, str(folder), is_trainable=False)
        except UserWarning as warning:
            raise ValueError(str(warning)) from warning
    adapted.peft_config["default"].base_model_name_or_path = model.name_or_path  # where it was found this time
    return adapted.eval()


def resolved_dtype(dtype: str) -> str:
    """What `auto` means on this machine; any other name as it is. SettingsError for an unknown one."""
    if dtype == "auto":
        return "bfloat16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "float32"
    if dtype not in _DTYPES:
        raise SettingsError(f"dtype = {dtype!r}: must be auto, {', '.join(_DTYPES)}")
    return dtype


def is_adapter(name_or_path: str | Path) -> bool:
    """Whether this is a folder that holds an adapter alone."""
    return _is_adapter(Path(name_or_path).expanduser())


def adapter_base(folder: Path) -> tuple[str, str | None]:
    """The model that an adapter's configuration names as its base, and its revision. UserError if it names none."""
    file = folder / "adapter_config.json"
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
        name, revision = settings["base_model_name_or_path"], settings.get("revision")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{file}: not the configuration of an adapter ({error!r})") from error
    if not name:
        raise UserError(f"{file}: names no base_model_name_or_path; put the base model's folder or id there")
    return name, revision


def lasting_name(name_or_path: str) -> str:
    """The name of a loaded model that still holds from another folder, and of the embedded one on another machine."""
    from .embedded import VERSIONS, embedded_path

    for name in (f"embedded@{version}" for version in VERSIONS):
        if Path(name_or_path) == embedded_path(name):
            return name
    path = Path(name_or_path).expanduser()
    return str(path.resolve()) if path.is_dir() else name_or_path


@contextmanager
def _as_base_of(adapter: Path) -> Iterator[None]:
    """Errors say that they are the base model's."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{adapter}: the base model of this adapter: {error}") from error


@dataclass(frozen=True)
class _Source:
    name: str  # what from_pretrained takes
    is_folder: bool


def _source(name_or_path: str | Path, revision: str | None) -> _Source:
    name = str(name_or_path)
    if name == "embedded" or name.startswith("embedded@"):
        from .embedded import embedded_path

        if revision is not None:
            raise SettingsError(f"revision = {revision!r}: {name} has none; its versions are named embedded@N")
        return _Source(str(embedded_path(name)), is_folder=True)
    path = Path(name).expanduser()
    if path.is_dir():
        if revision is not None:
            raise SettingsError(f"revision = {revision!r}: the folder {name} has no revisions, only a hub id has")
        if not (path / "config.json").is_file() and (path / "model" / "config.json").is_file():
            raise UserError(f"{name}: the folder of a run; its model is {Path(name) / 'model'}")
        return _Source(str(path), is_folder=True)
    if path.exists():
        raise UserError(f"{name}: this is a file; give the folder that holds config.json and the weights")
    # An id on the hub is `name` or `owner/name`.
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise UserError(f"{name}: there is no such folder")
    return _Source(name, is_folder=False)


def _is_adapter(folder: Path) -> bool:
    return (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file()


def _check_weights(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no config.json in this folder, so it is not a Hugging Face model")
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise UserError(f"{index}: not an index of weights ({error!r})") from error
        missing = sorted(shard for shard in shards if not (folder / shard).is_file())
        if missing:
            raise UserError(f"{folder}: {len(missing)} of {len(shards)} weight files are missing: {', '.join(missing)}")
    elif not (folder / "model.safetensors").is_file():
        if any(folder.glob("*.bin")) or any(folder.glob("*.pt*")):
            raise UserError(
                f"{folder}: the weights are in pickle files, which can run code and are not loaded; "
                "save the model as safetensors: model.save_pretrained(folder)"
            )
        raise UserError(f"{folder}: no weights in this folder (no model.safetensors)")


@contextmanager
def _loading(source: _Source) -> Iterator[None]:
    """Turn what transformers raises for a model that cannot be loaded into a UserError."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        advice = ""
        if not source.is_folder:
            if isinstance(error.__cause__, LocalEntryNotFoundError):
                raise UserError(
                    f"{source.name}: no folder of this name, and the Hugging Face hub cannot be reached; give a "
                    f"folder, or fetch it where there is a connection: hf download {source.name} --local-dir FOLDER"
                ) from error
            advice = "; check the id, and log in if the model is gated (hf auth login)"
        raise UserError(f"{source.name}: cannot be loaded: {reason}{advice}") from error
