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
    "Generation": "evaluation.generate:Generation",
    "OnSampled": "evaluation.generate:OnSampled",
    "Problem": "benchmarks.problem:Problem",
    "causal_head": "likelihood.logprobs:causal_head",
    "chat": "models.chat",
    "check_context": "evaluation.generate:check_context",
    "check_decoding": "evaluation.generate:check_decoding",
    "check_samples": "evaluation.generate:check_samples",
    "evaluation_mode": "likelihood.logprobs:evaluation_mode",
    "generation": "evaluation.generate:generation",
    "load_policy": "models.load:load_policy",
    "load_tokenizer": "models.load:load_tokenizer",
    "log_softmax": "likelihood.logprobs:log_softmax",
    "merge_and_export": "models.adapters:merge_and_export",
    "sampling_processors": "evaluation.sampling:sampling_processors",
    "sections": "training.sections",
    "stream_seed": "evaluation.sampling:stream_seed",
    "token_budget_batches": "likelihood.batching:token_budget_batches",
}

if TYPE_CHECKING:
    from thinker_common.benchmarks.problem import Problem as Problem
    from thinker_common.evaluation.generate import Generation as Generation
    from thinker_common.evaluation.generate import OnSampled as OnSampled
    from thinker_common.evaluation.generate import check_context as check_context
    from thinker_common.evaluation.generate import check_decoding as check_decoding
    from thinker_common.evaluation.generate import check_samples as check_samples
    from thinker_common.evaluation.generate import generation as generation
    from thinker_common.evaluation.sampling import sampling_processors as sampling_processors
    from thinker_common.evaluation.sampling import stream_seed as stream_seed
    from thinker_common.likelihood.batching import token_budget_batches as token_budget_batches
    from thinker_common.likelihood.logprobs import CHUNK_TOKENS as CHUNK_TOKENS
    from thinker_common.likelihood.logprobs import causal_head as causal_head
    from thinker_common.likelihood.logprobs import evaluation_mode as evaluation_mode
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
