"""TinyThinker (arXiv 2412.08024): distilled reasoning. The method is not in the package yet."""

from ._version import __version__

__all__ = ["__version__"]
