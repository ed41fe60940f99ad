"""vLLM in the place of Hugging Face `generate`, for the verb `evaluate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

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

    from ..evaluation.evaluate import folder_fingerprint
    from ..evaluation.vllm_backend import VllmBackend
    from ..models.embedded import embedded_path
    from ..models.load import adapter_base, is_adapter

    folder = Path(embedded_path(model) if model.partition("@")[0] == "embedded" else model).expanduser()
    name, adapter = (str(folder) if folder.is_dir() else model), None
    fingerprint = folder_fingerprint(folder) if folder.is_dir() else f"{model}@{revision}"
    if is_adapter(folder):
        adapter = folder
        name, revision = adapter_base(folder)
    engine = {"dtype": dtype, "revision": revision, "tensor_parallel_size": max(1, torch.cuda.device_count())}
    decoding = {name: value for name, value in decoding.items() if name != "samples"}
    backend = VllmBackend(name, tokenizer, seed=seed, adapter=adapter, engine=engine, **decoding)
    return {"backend": backend, "fingerprint": fingerprint, "score_answers": False}
