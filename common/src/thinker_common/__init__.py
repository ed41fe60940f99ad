"""What the three methods stand on: exact answer likelihoods, models, benchmarks, evaluation, settings and command line.

The names below are loaded on first use, so that importing the package costs nothing and imports no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__ as __version__
from .errors import UserError as UserError

if TYPE_CHECKING:
    from .benchmarks import load_benchmark as load_benchmark
    from .benchmarks.problem import Problem as Problem
    from .evaluation.evaluate import evaluate as evaluate
    from .likelihood.scorer import AnswerScore as AnswerScore
    from .likelihood.scorer import AnswerScorer as AnswerScorer
    from .likelihood.scorer import ScoringItem as ScoringItem
    from .models.load import load_policy as load_policy
    from .models.load import load_tokenizer as load_tokenizer

_LAZY = {
    "AnswerScore": ".likelihood.scorer",
    "AnswerScorer": ".likelihood.scorer",
    "Problem": ".benchmarks.problem",
    "ScoringItem": ".likelihood.scorer",
    "evaluate": ".evaluation.evaluate",
    "load_benchmark": ".benchmarks",
    "load_policy": ".models.load",
    "load_tokenizer": ".models.load",
}

__all__ = ["UserError", "__version__", *_LAZY]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name], __package__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
