"""What the three methods stand on: exact answer likelihoods, models, benchmarks, evaluation, settings and command line.

The names below are loaded on first use, so that importing the package costs nothing and imports no torch.
"""

from importlib import import_module
from typing import Any

from ._version import __version__

_HOME = {
    "AnswerScore": ".likelihood.scorer",
    "AnswerScorer": ".likelihood.scorer",
    "ScoringItem": ".likelihood.scorer",
    "load_policy": ".models.load",
    "load_tokenizer": ".models.load",
    "Problem": ".benchmarks.problem",
    "load_benchmark": ".benchmarks",
    "evaluate": ".evaluation.evaluate",
    "load_settings": ".training.settings",
    "RunFolder": ".training.run_folder",
    "UserError": ".errors",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name], __package__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
