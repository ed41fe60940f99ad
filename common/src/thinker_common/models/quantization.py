"""Base weights of four bits each (bitsandbytes), under an adapter that alone is trained: QLoRA (arXiv 2305.14314).

Such an adapter is not merged: its sum with a rounded weight, rounded again, answers otherwise than what was trained.
What is exported is the adapter itself, and beside it a file that says how its base was quantized. Loaded without that,
it would stand on other weights than those it was trained on.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import BitsAndBytesConfig
from transformers.utils import is_bitsandbytes_available

from ..errors import UserError

Quantization = Literal["none", "4bit"]
BASE_FILE = "base_quantization.json"
NOT_MERGED = (
    "its adapter was trained on quantized weights, and merged into them, which rounds their sum again, it would give "
    "other answers"
)


def four_bits(dtype: torch.dtype) -> BitsAndBytesConfig:
    """NF4 with quantized scales, computed with in `dtype`. UserError where bitsandbytes is missing or too old."""
    reason = "too old, or not there"
    try:
        import bitsandbytes  # noqa: F401  # broken installations are there, and cannot be imported
    except (ImportError, OSError) as error:
        reason = str(error)
    else:
        if is_bitsandbytes_available():
            return BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=dtype,
            )
    raise UserError(
        f"weights of 4 bits need bitsandbytes, which cannot be used ({reason}): "
        'pip install "thinker-common[quantization]"'
    )


def keep_gradients(model: torch.nn.Module) -> None:
    """Leaves out bitsandbytes' inference kernel for CPUs with AVX512-BF16.

    A layer's first pass in evaluation mode would repack its weight for that kernel, for good. It computes in bfloat16
    whatever was asked for, and has no backward pass: what trains behind an evaluation, or a rollout, would get
    gradients without the share that comes through the base's layers, and no error.
    """
    module: Any
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def is_quantized(model: torch.nn.Module) -> bool:
    """Whether weights of the model, or of the base under its adapter, are quantized, by us or in their own files."""
    return bool(getattr(model, "is_quantized", False))


def write_base_quantization(model: Any, folder: Path) -> None:
    """Says in an adapter's folder how its base was quantized when it was loaded; nothing where it was not."""
    if getattr(model, "is_loaded_in_4bit", False):
        (folder / BASE_FILE).write_text(json.dumps({"quantization": "4bit"}) + "\n", encoding="utf-8")


def read_base_quantization(folder: Path) -> Quantization:
    """How the base of a folder's adapter is to be quantized. UserError for a file that is none of ours."""
    path = folder / BASE_FILE
    if not path.is_file():
        return "none"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["quantization"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: does not say how the adapter's base was quantized ({error!r})") from error
    if found != "4bit":
        raise UserError(f"{path}: quantization = {found!r}: this version knows 4bit")
    return "4bit"


@dataclass(frozen=True)
class ParameterCounts:
    """Numbers of a model, however they are stored; those of four bits are `quantized`."""

    total: int
    trainable: int
    quantized: int


def count_parameters(model: torch.nn.Module) -> ParameterCounts:
    """What a model holds. Two weights of four bits share a byte, which torch counts as one."""
    total = trainable = quantized = 0
    for parameter in model.parameters():
        state: Any = getattr(parameter, "quant_state", None)
        count = parameter.numel() if state is None else prod(state.shape)
        total += count
        trainable += count if parameter.requires_grad else 0
        quantized += 0 if state is None else count
    return ParameterCounts(total, trainable, quantized)
