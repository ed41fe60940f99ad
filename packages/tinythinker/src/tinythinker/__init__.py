"""TinyThinker (arXiv 2412.08024): distilling reasoning into small models: recall, analyze, summarize, reflect."""

from ._version import __version__

__all__ = ["__version__"]
