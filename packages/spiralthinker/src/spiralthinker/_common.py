"""All that this package takes from thinker_common; the only module that names it.

What needs torch or a data library is loaded on first use, so that `--help` answers at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from thinker_common.cli import options as options
from thinker_common.cli.app import new_app as new_app
from thinker_common.cli.app import run as run
from thinker_common.cli.doctor import add_doctor as add_doctor
from thinker_common.errors import DataError as DataError
from thinker_common.errors import SettingsError as SettingsError
from thinker_common.errors import UserError as UserError
from thinker_common.training import recipes as recipes
from thinker_common.training.run_folder import RunFolder as RunFolder
from thinker_common.training.run_folder import new_output as new_output

# Exported name -> module of the base, and the name in it; without one, the module itself.
_LAZY = {
    "CHUNK_TOKENS": "likelihood.logprobs:CHUNK_TOKENS",
    "Problem": "benchmarks.problem:Problem",
    "causal_head": "likelihood.logprobs:causal_head",
    "chat": "models.chat",
    "load_policy": "models.load:load_policy",
    "load_tokenizer": "models.load:load_tokenizer",
    "log_softmax": "likelihood.logprobs:log_softmax",
    "merge_and_export": "models.adapters:merge_and_export",
    "sections": "training.sections",
}

if TYPE_CHECKING:
    from thinker_common.benchmarks.problem import Problem as Problem
    from thinker_common.likelihood.logprobs import CHUNK_TOKENS as CHUNK_TOKENS
    from thinker_common.likelihood.logprobs import causal_head as causal_head
    from thinker_common.likelihood.logprobs import log_softmax as log_softmax
    from thinker_common.models import chat as chat
    from thinker_common.models.adapters import merge_and_export as merge_and_export
    from thinker_common.models.load import load_policy as load_policy
    from thinker_common.models.load import load_tokenizer as load_tokenizer
    from thinker_common.training import sections as sections


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _LAZY[name].partition(":")
    loaded = import_module(f"thinker_common.{module}")
    return getattr(loaded, attribute) if attribute else loaded
