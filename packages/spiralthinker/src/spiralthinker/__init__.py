"""SpiralThinker (arXiv 2511.08983): latent reasoning with iterated, step-aligned latent tokens.

The names below are loaded on first use, so that importing the package imports no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__ as __version__

if TYPE_CHECKING:
    from .annotation import Annotation as Annotation
    from .config import Settings as Settings
    from .generation import LatentGenerator as LatentGenerator
    from .model import LatentSettings as LatentSettings
    from .model import SpiralThinkerModel as SpiralThinkerModel
    from .trainer import SpiralThinkerTrainer as SpiralThinkerTrainer

_LAZY = {
    "Annotation": ".annotation",
    "LatentGenerator": ".generation",
    "LatentSettings": ".model",
    "Settings": ".config",
    "SpiralThinkerModel": ".model",
    "SpiralThinkerTrainer": ".trainer",
}

__all__ = ["__version__", *_LAZY]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name], __package__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
