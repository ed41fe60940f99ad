"""Models: loading a policy and its tokenizer, prompts for them, adapters, and the embedded model.

- `load`: `load_policy`, `load_tokenizer`
- `chat`: from a question to the token ids of a prompt
- `adapters`: LoRA; merging and exporting
- `quantization`: base weights of 4 bits under an adapter
- `embedded`: the small model that ships with the package
"""

from importlib import import_module
from typing import Any

_HOME = {
    "CONDITIONED_TEMPLATE": "chat",
    "INSTRUCTION": "chat",
    "PROMPT_TEMPLATE": "chat",
    "add_lora": "adapters",
    "fill": "chat",
    "load_policy": "load",
    "load_tokenizer": "load",
    "merge_and_export": "adapters",
    "render_prompt": "chat",
    "render_prompts": "chat",
}
__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
