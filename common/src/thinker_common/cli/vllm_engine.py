"""vLLM in the place of Hugging Face `generate`, for the verb `evaluate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def vllm_arguments(
    model: str,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    revision: str | None,
    dtype: str,
    seed: int,
    decoding: dict[str, Any],
) -> dict[str, Any]:
    """Arguments of `evaluation.evaluate.evaluate`: a backend on all GPUs, and what identifies its weights.

    model: an id, a folder, "embedded", or a folder with a LoRA adapter, whose base model is then loaded with it

    Answers are not scored: that would take the weights into memory a second time.
    """
    import torch

    from ..evaluation.vllm_backend import VllmBackend
    from ..models.load import adapter_base, is_adapter
    from ..models.quantization import read_base_quantization

    name, adapter = _located(model), None
    fingerprint = _weights(name, revision)
    if is_adapter(name):
        adapter = Path(name)
        if read_base_quantization(adapter) != "none":
            raise UserError(f"{model}: an adapter on quantized weights, which is evaluated without --backend vllm")
        base, revision = adapter_base(adapter)
        name = _located(base)
        fingerprint += f" on {_weights(name, revision)}"
    engine = {"dtype": dtype, "revision": revision, "tensor_parallel_size": max(1, torch.cuda.device_count())}
    decoding = {name: value for name, value in decoding.items() if name != "samples"}
    backend = VllmBackend(name, tokenizer, seed=seed, adapter=adapter, engine=engine, **decoding)
    return {"backend": backend, "fingerprint": fingerprint, "score_answers": False}


def _located(model: str) -> str:
    """An id, or the path of a folder."""
    from ..models.embedded import embedded_path

    folder = Path(embedded_path(model) if model.partition("@")[0] == "embedded" else model).expanduser()
    return str(folder) if folder.is_dir() else model


def _weights(located: str, revision: str | None) -> str:
    from ..evaluation.evaluate import folder_fingerprint

    return folder_fingerprint(located) if Path(located).is_dir() else f"{located}@{revision}"
