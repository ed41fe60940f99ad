"""All that this package takes from thinker_common; the only module that names it.

What needs torch or a data library is loaded on first use, so that `--help` answers at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from thinker_common.cli import options as options
from thinker_common.cli.app import new_app as new_app
from thinker_common.cli.app import run as run
from thinker_common.cli.doctor import add_doctor as add_doctor
from thinker_common.cli.printable import printable as printable
from thinker_common.errors import DataError as DataError
from thinker_common.errors import SettingsError as SettingsError
from thinker_common.errors import UserError as UserError

# Exported name -> module of the base, and the name in it; without one, the module itself.
_LAZY = {
    "FILLER": "training.batches:FILLER",
    "Generation": "evaluation.generate:Generation",
    "GenerationsFile": "evaluation.generations:GenerationsFile",
    "Generator": "evaluation.generate:Generator",
    "Line": "benchmarks.jsonl:Line",
    "Problem": "benchmarks.problem:Problem",
    "benchmark_module": "benchmarks:benchmark_module",
    "boundary": "likelihood.boundary",
    "chat": "models.chat",
    "load_benchmark": "benchmarks:load_benchmark",
    "load_config": "models.load:load_config",
    "load_policy": "models.load:load_policy",
    "load_settings": "training.settings:load_settings",
    "load_tokenizer": "models.load:load_tokenizer",
    "parse_lines": "benchmarks.jsonl:parse_lines",
    "progress_bar": "evaluation.progress:progress_bar",
    "read_bytes": "benchmarks.jsonl:read_bytes",
    "read_generations": "evaluation.generations:read_generations",
    "write_atomic": "training.run_folder:write_atomic",
}

if TYPE_CHECKING:
    from thinker_common.benchmarks import benchmark_module as benchmark_module
    from thinker_common.benchmarks import load_benchmark as load_benchmark
    from thinker_common.benchmarks.jsonl import Line as Line
    from thinker_common.benchmarks.jsonl import parse_lines as parse_lines
    from thinker_common.benchmarks.jsonl import read_bytes as read_bytes
    from thinker_common.benchmarks.problem import Problem as Problem
    from thinker_common.evaluation.generate import Generation as Generation
    from thinker_common.evaluation.generate import Generator as Generator
    from thinker_common.evaluation.generations import GenerationsFile as GenerationsFile
    from thinker_common.evaluation.generations import read_generations as read_generations
    from thinker_common.evaluation.progress import progress_bar as progress_bar
    from thinker_common.likelihood import boundary as boundary
    from thinker_common.models import chat as chat
    from thinker_common.models.load import load_config as load_config
    from thinker_common.models.load import load_policy as load_policy
    from thinker_common.models.load import load_tokenizer as load_tokenizer
    from thinker_common.training.batches import FILLER as FILLER
    from thinker_common.training.run_folder import write_atomic as write_atomic
    from thinker_common.training.settings import load_settings as load_settings


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _LAZY[name].partition(":")
    loaded = import_module(f"thinker_common.{module}")
    return getattr(loaded, attribute) if attribute else loaded
