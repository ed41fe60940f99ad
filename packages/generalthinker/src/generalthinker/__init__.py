"""GeneralThinker (arXiv 2605.27934): verifier-free reinforcement learning of reasoning.

The names below are loaded on first use, so that importing the package imports no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__ as __version__

if TYPE_CHECKING:
    from .config import MethodSettings as MethodSettings
    from .config import Settings as Settings
    from .trainer import GeneralThinkerTrainer as GeneralThinkerTrainer

_LAZY = {"GeneralThinkerTrainer": ".trainer", "MethodSettings": ".config", "Settings": ".config"}

__all__ = ["__version__", *_LAZY]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name], __package__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
