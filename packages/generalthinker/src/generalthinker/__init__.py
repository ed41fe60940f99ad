"""GeneralThinker (arXiv 2605.27934): verifier-free reinforcement learning of reasoning."""

from ._version import __version__

__all__ = ["__version__"]
