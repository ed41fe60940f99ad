"""All that this package takes from thinker_common; the only module that names it.

What needs torch or a data library is loaded on first use, so that `--help` answers at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from thinker_common.cli import options as options
from thinker_common.cli.app import new_app as new_app
from thinker_common.cli.app import run as run
from thinker_common.cli.doctor import add_doctor as add_doctor
from thinker_common.cli.recipes import recipes_app as recipes_app
from thinker_common.errors import DataError as DataError
from thinker_common.errors import SettingsError as SettingsError
from thinker_common.errors import UserError as UserError
from thinker_common.training import recipes as recipes

# Exported name -> module of the base, and the name in it; without one, the module itself.
_LAZY = {
    "AnswerScorer": "likelihood.scorer:AnswerScorer",
    "BoxSplit": "likelihood.boundary:BoxSplit",
    "LoadedBenchmark": "benchmarks.problem:LoadedBenchmark",
    "Problem": "benchmarks.problem:Problem",
    "RunFolder": "training.run_folder:RunFolder",
    "ScoringItem": "likelihood.scorer:ScoringItem",
    "chat": "models.chat",
    "encode_answer": "likelihood.boundary:encode_answer",
    "load_benchmark": "benchmarks:load_benchmark",
    "load_jsonl": "benchmarks.user_file:load_jsonl",
    "load_settings": "training.settings:load_settings",
    "sample": "benchmarks:sample",
    "sections": "training.sections",
    "split_response": "likelihood.boundary:split_response",
    "token_logprobs": "likelihood.logprobs:token_logprobs",
}

if TYPE_CHECKING:
    from thinker_common.likelihood.scorer import AnswerScorer as AnswerScorer
    from thinker_common.likelihood.scorer import ScoringItem as ScoringItem

    from thinker_common.benchmarks import load_benchmark as load_benchmark
    from thinker_common.benchmarks import sample as sample
    from thinker_common.benchmarks.problem import LoadedBenchmark as LoadedBenchmark
    from thinker_common.benchmarks.problem import Problem as Problem
    from thinker_common.benchmarks.user_file import load_jsonl as load_jsonl
    from thinker_common.likelihood.boundary import BoxSplit as BoxSplit
    from thinker_common.likelihood.boundary import encode_answer as encode_answer
    from thinker_common.likelihood.boundary import split_response as split_response
    from thinker_common.likelihood.logprobs import token_logprobs as token_logprobs
    from thinker_common.models import chat as chat
    from thinker_common.training import sections as sections
    from thinker_common.training.run_folder import RunFolder as RunFolder
    from thinker_common.training.settings import load_settings as load_settings


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _LAZY[name].partition(":")
    loaded = import_module(f"thinker_common.{module}")
    return getattr(loaded, attribute) if attribute else loaded
