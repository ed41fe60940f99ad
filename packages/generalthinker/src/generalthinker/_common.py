"""All that this package takes from thinker_common; the only module that names it.

The modules at the end need torch or a data library and are loaded on first use: `--help` answers at once.
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

_MODULES = {
    "adapters": "thinker_common.models.adapters",
    "benchmarks": "thinker_common.benchmarks",
    "boundary": "thinker_common.likelihood.boundary",
    "chat": "thinker_common.models.chat",
    "evaluate": "thinker_common.evaluation.evaluate",
    "generate": "thinker_common.evaluation.generate",
    "load": "thinker_common.models.load",
    "logprobs": "thinker_common.likelihood.logprobs",
    "report": "thinker_common.evaluation.report",
    "run_folder": "thinker_common.training.run_folder",
    "scorer": "thinker_common.likelihood.scorer",
    "sections": "thinker_common.training.sections",
    "settings": "thinker_common.training.settings",
    "statistics": "thinker_common.evaluation.statistics",
    "user_file": "thinker_common.benchmarks.user_file",
}

if TYPE_CHECKING:
    from thinker_common import benchmarks as benchmarks
    from thinker_common.benchmarks import user_file as user_file
    from thinker_common.evaluation import evaluate as evaluate
    from thinker_common.evaluation import generate as generate
    from thinker_common.evaluation import report as report
    from thinker_common.evaluation import statistics as statistics
    from thinker_common.likelihood import boundary as boundary
    from thinker_common.likelihood import logprobs as logprobs
    from thinker_common.likelihood import scorer as scorer
    from thinker_common.models import adapters as adapters
    from thinker_common.models import chat as chat
    from thinker_common.models import load as load
    from thinker_common.training import run_folder as run_folder
    from thinker_common.training import sections as sections
    from thinker_common.training import settings as settings


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(_MODULES[name])
