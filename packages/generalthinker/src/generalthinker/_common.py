"""All that this package takes from thinker_common; the only module that names it.

What needs torch or a data library is loaded on first use, so that `--help` answers at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from thinker_common.cli import launch as launch
from thinker_common.cli import options as options
from thinker_common.cli.app import new_app as new_app
from thinker_common.cli.app import run as run
from thinker_common.cli.doctor import add_doctor as add_doctor
from thinker_common.cli.evaluate import add_evaluate as add_evaluate
from thinker_common.cli.printable import printable as printable
from thinker_common.cli.recipes import recipes_app as recipes_app
from thinker_common.cli.train import add_train as add_train
from thinker_common.cli.train import read_recipe as read_recipe
from thinker_common.cli.train import recipe_seed as recipe_seed
from thinker_common.errors import DataError as DataError
from thinker_common.errors import SettingsError as SettingsError
from thinker_common.errors import UserError as UserError
from thinker_common.training import recipes as recipes
from thinker_common.training.run_folder import RunFolder as RunFolder
from thinker_common.training.run_folder import releasing_folders as releasing_folders
from thinker_common.training.run_folder import write_atomic as write_atomic

# Exported name -> module of the base, and the name in it; without one, the module itself.
_LAZY = {
    "AnswerScore": "likelihood.scorer:AnswerScore",
    "AnswerScorer": "likelihood.scorer:AnswerScorer",
    "BestWeights": "training.best:BestWeights",
    "BoxSplit": "likelihood.boundary:BoxSplit",
    "COLUMNS": "evaluation.table:COLUMNS",
    "Comparison": "evaluation.comparison:Comparison",
    "Continuation": "likelihood.continuations:Continuation",
    "Curves": "evaluation.report:Curves",
    "DependableMixin": "training.dependable:DependableMixin",
    "EngineCheck": "training.callbacks:EngineCheck",
    "EvaluationResult": "evaluation.evaluate:EvaluationResult",
    "Generation": "evaluation.generate:Generation",
    "Generator": "evaluation.generate:Generator",
    "LoadedBenchmark": "benchmarks.problem:LoadedBenchmark",
    "MetricsLog": "training.callbacks:MetricsLog",
    "PhaseCallback": "distributed.callback:PhaseCallback",
    "Problem": "benchmarks.problem:Problem",
    "RunIdentity": "training.resume:RunIdentity",
    "ScoringItem": "likelihood.scorer:ScoringItem",
    "Table": "evaluation.report:Table",
    "Texts": "evaluation.report:Texts",
    "TokenHeat": "evaluation.report:TokenHeat",
    "add_lora": "models.adapters:add_lora",
    "call_through": "likelihood.forward:call_through",
    "can_branch": "likelihood.prefix_tree:can_branch",
    "cells": "evaluation.table:cells",
    "chat": "models.chat",
    "check_arguments": "training.settings:check_arguments",
    "check_head": "training.dependable:check_head",
    "choose_together": "training.dependable:choose_together",
    "compare": "evaluation.comparison:compare",
    "count_parameters": "models.quantization:count_parameters",
    "continuation_logprobs": "likelihood.continuations:continuation_logprobs",
    "data_fingerprint": "training.resume:data_fingerprint",
    "encode_answer": "likelihood.boundary:encode_answer",
    "encode_mid_text": "likelihood.boundary:encode_mid_text",
    "engine_arguments": "training.engine_arguments",
    "evaluate": "evaluation.evaluate:evaluate",
    "export_trained": "training.export:export_trained",
    "flat_settings": "training.resume:flat_settings",
    "gathered": "distributed.gathered:gathered",
    "grade": "evaluation.grading:grade",
    "hold_out": "training.problems:hold_out",
    "join": "distributed.join:join",
    "load_benchmark": "benchmarks:load_benchmark",
    "load_config": "models.load:load_config",
    "load_policy": "models.load:load_policy",
    "load_evaluations": "training.problems:load_evaluations",
    "load_problems": "training.problems:load_problems",
    "load_settings": "training.settings:load_settings",
    "load_tokenizer": "models.load:load_tokenizer",
    "masked_logprobs": "likelihood.continuations:masked_logprobs",
    "memory": "distributed.memory",
    "naming_what_to_lower": "distributed.out_of_memory:naming_what_to_lower",
    "parse_yaml": "training.plain_yaml:parse_yaml",
    "progress_bar": "evaluation.progress:progress_bar",
    "ranks": "distributed.ranks",
    "sections": "training.sections",
    "sentence": "evaluation.table:sentence",
    "split_response": "likelihood.boundary:split_response",
    "terminal_table": "evaluation.table:terminal_table",
    "to_yaml": "training.settings:to_yaml",
    "trained_weights": "models.adapters:trained_weights",
    "trains_in_bfloat16": "training.engine_arguments:trains_in_bfloat16",
    "weights_dtype": "training.engine_arguments:weights_dtype",
    "write_report": "evaluation.report:write_report",
}

if TYPE_CHECKING:
    from thinker_common.benchmarks import load_benchmark as load_benchmark
    from thinker_common.benchmarks.problem import LoadedBenchmark as LoadedBenchmark
    from thinker_common.benchmarks.problem import Problem as Problem
    from thinker_common.distributed import memory as memory
    from thinker_common.distributed import ranks as ranks
    from thinker_common.distributed.callback import PhaseCallback as PhaseCallback
    from thinker_common.distributed.gathered import gathered as gathered
    from thinker_common.distributed.join import join as join
    from thinker_common.distributed.out_of_memory import naming_what_to_lower as naming_what_to_lower
    from thinker_common.evaluation.comparison import Comparison as Comparison
    from thinker_common.evaluation.comparison import compare as compare
    from thinker_common.evaluation.evaluate import EvaluationResult as EvaluationResult
    from thinker_common.evaluation.evaluate import evaluate as evaluate
    from thinker_common.evaluation.generate import Generation as Generation
    from thinker_common.evaluation.generate import Generator as Generator
    from thinker_common.evaluation.grading import grade as grade
    from thinker_common.evaluation.progress import progress_bar as progress_bar
    from thinker_common.evaluation.report import Curves as Curves
    from thinker_common.evaluation.report import Table as Table
    from thinker_common.evaluation.report import Texts as Texts
    from thinker_common.evaluation.report import TokenHeat as TokenHeat
    from thinker_common.evaluation.report import write_report as write_report
    from thinker_common.evaluation.table import COLUMNS as COLUMNS
    from thinker_common.evaluation.table import cells as cells
    from thinker_common.evaluation.table import sentence as sentence
    from thinker_common.evaluation.table import terminal_table as terminal_table
    from thinker_common.likelihood.boundary import BoxSplit as BoxSplit
    from thinker_common.likelihood.boundary import encode_answer as encode_answer
    from thinker_common.likelihood.boundary import encode_mid_text as encode_mid_text
    from thinker_common.likelihood.boundary import split_response as split_response
    from thinker_common.likelihood.continuations import Continuation as Continuation
    from thinker_common.likelihood.continuations import continuation_logprobs as continuation_logprobs
    from thinker_common.likelihood.continuations import masked_logprobs as masked_logprobs
    from thinker_common.likelihood.forward import call_through as call_through
    from thinker_common.likelihood.prefix_tree import can_branch as can_branch
    from thinker_common.likelihood.scorer import AnswerScore as AnswerScore
    from thinker_common.likelihood.scorer import AnswerScorer as AnswerScorer
    from thinker_common.likelihood.scorer import ScoringItem as ScoringItem
    from thinker_common.models import chat as chat
    from thinker_common.models.adapters import add_lora as add_lora
    from thinker_common.models.adapters import trained_weights as trained_weights
    from thinker_common.models.load import load_config as load_config
    from thinker_common.models.load import load_policy as load_policy
    from thinker_common.models.load import load_tokenizer as load_tokenizer
    from thinker_common.models.quantization import count_parameters as count_parameters
    from thinker_common.training import engine_arguments as engine_arguments
    from thinker_common.training import sections as sections
    from thinker_common.training.best import BestWeights as BestWeights
    from thinker_common.training.callbacks import EngineCheck as EngineCheck
    from thinker_common.training.callbacks import MetricsLog as MetricsLog
    from thinker_common.training.dependable import DependableMixin as DependableMixin
    from thinker_common.training.dependable import check_head as check_head
    from thinker_common.training.dependable import choose_together as choose_together
    from thinker_common.training.engine_arguments import trains_in_bfloat16 as trains_in_bfloat16
    from thinker_common.training.engine_arguments import weights_dtype as weights_dtype
    from thinker_common.training.export import export_trained as export_trained
    from thinker_common.training.plain_yaml import parse_yaml as parse_yaml
    from thinker_common.training.problems import hold_out as hold_out
    from thinker_common.training.problems import load_evaluations as load_evaluations
    from thinker_common.training.problems import load_problems as load_problems
    from thinker_common.training.resume import RunIdentity as RunIdentity
    from thinker_common.training.resume import data_fingerprint as data_fingerprint
    from thinker_common.training.resume import flat_settings as flat_settings
    from thinker_common.training.settings import check_arguments as check_arguments
    from thinker_common.training.settings import load_settings as load_settings
    from thinker_common.training.settings import to_yaml as to_yaml


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _LAZY[name].partition(":")
    loaded = import_module(f"thinker_common.{module}")
    return getattr(loaded, attribute) if attribute else loaded
