"""TinyThinker (arXiv 2412.08024): distilled reasoning. The package holds its command line; the method is not in it yet."""

from ._version import __version__

__all__ = ["__version__"]
