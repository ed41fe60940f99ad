"""SpiralThinker (arXiv 2511.08983): latent reasoning. The package holds its command line; the method is not in it yet."""

from ._version import __version__

__all__ = ["__version__"]
