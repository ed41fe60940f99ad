"""SpiralThinker (arXiv 2511.08983): latent reasoning. The method is not in the package yet."""

from ._version import __version__

__all__ = ["__version__"]
