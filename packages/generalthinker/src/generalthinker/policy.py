"""The policy that a run starts from."""

from typing import Any

import torch

from ._common import UserError, add_lora, load_config, load_policy, weights_dtype
from .config import Settings


def fresh_policy(settings: Settings, seed: int) -> Any:
    """The policy before training, with its adapter if it gets one."""
    policy = causal_policy(
        settings.model.name_or_path,
        revision=settings.model.revision,
        dtype=weights_dtype(settings.model),
        quantization=settings.model.quantization,
    )
    if settings.model.lora is None:
        return policy
    torch.manual_seed(seed)  # the adapter begins with random weights
    return add_lora(policy, settings.model.lora, revision=settings.model.revision)


def causal_policy(name_or_path: str, **how: Any) -> Any:
    """`load_policy`, and a UserError for an encoder-decoder model."""
    check_causal(name_or_path, load_config(name_or_path, revision=how.get("revision")))  # before gigabytes are read
    return load_policy(name_or_path, **how)


def check_causal(name_or_path: str, config: Any) -> None:
    if config.is_encoder_decoder:
        raise UserError(f"{name_or_path}: an encoder-decoder model; GeneralThinker needs a causal language model")


def positions(config: Any) -> int | None:
    """Longest sequence that a model of this configuration reads; None where it has no limit."""
    found: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return found
