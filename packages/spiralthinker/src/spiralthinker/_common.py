"""All that this package takes from thinker_common; the only module that names it.

What needs torch or a data library is loaded on first use, so that `--help` answers at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from thinker_common.cli import launch as launch
from thinker_common.cli import options as options
from thinker_common.cli.app import new_app as new_app
from thinker_common.cli.app import run as run
from thinker_common.cli.chosen import Chosen as Chosen
from thinker_common.cli.chosen import chosen as chosen
from thinker_common.cli.doctor import add_doctor as add_doctor
from thinker_common.cli.printable import printable as printable
from thinker_common.cli.recipes import recipes_app as recipes_app
from thinker_common.cli.results_folder import Earlier as Earlier
from thinker_common.cli.results_folder import benchmarks_of as benchmarks_of
from thinker_common.cli.results_folder import read_earlier as read_earlier
from thinker_common.cli.results_folder import rows_file as rows_file
from thinker_common.cli.train import add_train as add_train
from thinker_common.cli.train import read_recipe as read_recipe
from thinker_common.errors import DataError as DataError
from thinker_common.errors import SettingsError as SettingsError
from thinker_common.errors import UserError as UserError
from thinker_common.training import recipes as recipes
from thinker_common.training.run_folder import RunFolder as RunFolder
from thinker_common.training.run_folder import new_output as new_output
from thinker_common.training.run_folder import releasing_folders as releasing_folders

# Exported name -> module of the base, and the name in it; without one, the module itself.
_LAZY = {
    "BestWeights": "training.best:BestWeights",
    "CACHE": "evaluation.in_flight:CACHE",
    "CHUNK_TOKENS": "likelihood.logprobs:CHUNK_TOKENS",
    "COLUMNS": "evaluation.table:COLUMNS",
    "Comparison": "evaluation.comparison:Comparison",
    "Curves": "evaluation.report:Curves",
    "EngineCheck": "training.callbacks:EngineCheck",
    "EvaluationResult": "evaluation.evaluate:EvaluationResult",
    "Generation": "evaluation.generate:Generation",
    "LaunchSettings": "distributed.launch_settings:LaunchSettings",
    "LoadedBenchmark": "benchmarks.problem:LoadedBenchmark",
    "MetricsLog": "training.callbacks:MetricsLog",
    "OnSampled": "evaluation.generate:OnSampled",
    "PhaseCallback": "distributed.callback:PhaseCallback",
    "Problem": "benchmarks.problem:Problem",
    "RunIdentity": "training.resume:RunIdentity",
    "SupervisedTrainer": "training.supervised:SupervisedTrainer",
    "Table": "evaluation.report:Table",
    "Texts": "evaluation.report:Texts",
    "call_through": "likelihood.forward:call_through",
    "causal_head": "likelihood.logprobs:causal_head",
    "cells": "evaluation.table:cells",
    "chat": "models.chat",
    "check_arguments": "training.settings:check_arguments",
    "check_context": "evaluation.generate:check_context",
    "check_decoding": "evaluation.generate:check_decoding",
    "check_samples": "evaluation.generate:check_samples",
    "choose_together": "training.dependable:choose_together",
    "compare": "evaluation.comparison:compare",
    "data_fingerprint": "training.resume:data_fingerprint",
    "engine_arguments": "training.engine_arguments",
    "evaluate": "evaluation.evaluate:evaluate",
    "evaluation_mode": "likelihood.logprobs:evaluation_mode",
    "flat_settings": "training.resume:flat_settings",
    "gathered": "distributed.gathered:gathered",
    "grade": "evaluation.grading:grade",
    "generation": "evaluation.generate:generation",
    "hold_out": "training.problems:hold_out",
    "join": "distributed.join:join",
    "load_policy": "models.load:load_policy",
    "load_benchmark": "benchmarks:load_benchmark",
    "load_evaluations": "training.problems:load_evaluations",
    "load_problems": "training.problems:load_problems",
    "load_settings": "training.settings:load_settings",
    "load_tokenizer": "models.load:load_tokenizer",
    "model_file": "models.load:model_file",
    "load_trained_weights": "models.adapters:load_trained_weights",
    "log_softmax": "likelihood.logprobs:log_softmax",
    "memory": "distributed.memory",
    "merge_and_export": "models.adapters:merge_and_export",
    "model_fingerprint": "evaluation.evaluate:model_fingerprint",
    "naming_what_to_lower": "distributed.out_of_memory:naming_what_to_lower",
    "parse_yaml": "training.plain_yaml:parse_yaml",
    "policy_on": "distributed.sharded:policy_on",
    "process_group": "distributed.process_group:process_group",
    "progress_bar": "evaluation.progress:progress_bar",
    "ranks": "distributed.ranks",
    "sampling_processors": "evaluation.sampling:sampling_processors",
    "sections": "training.sections",
    "sentence": "evaluation.table:sentence",
    "stream_seed": "evaluation.sampling:stream_seed",
    "terminal_table": "evaluation.table:terminal_table",
    "to_yaml": "training.settings:to_yaml",
    "token_budget_batches": "likelihood.batching:token_budget_batches",
    "trains_in_bfloat16": "training.engine_arguments:trains_in_bfloat16",
    "trained_weights": "models.adapters:trained_weights",
    "weights_dtype": "training.engine_arguments:weights_dtype",
    "write_atomic": "training.run_folder:write_atomic",
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
    from thinker_common.distributed.launch_settings import LaunchSettings as LaunchSettings
    from thinker_common.distributed.out_of_memory import naming_what_to_lower as naming_what_to_lower
    from thinker_common.distributed.process_group import process_group as process_group
    from thinker_common.distributed.sharded import policy_on as policy_on
    from thinker_common.evaluation.comparison import Comparison as Comparison
    from thinker_common.evaluation.comparison import compare as compare
    from thinker_common.evaluation.evaluate import EvaluationResult as EvaluationResult
    from thinker_common.evaluation.evaluate import evaluate as evaluate
    from thinker_common.evaluation.evaluate import model_fingerprint as model_fingerprint
    from thinker_common.evaluation.generate import Generation as Generation
    from thinker_common.evaluation.generate import OnSampled as OnSampled
    from thinker_common.evaluation.generate import check_context as check_context
    from thinker_common.evaluation.generate import check_decoding as check_decoding
    from thinker_common.evaluation.generate import check_samples as check_samples
    from thinker_common.evaluation.generate import generation as generation
    from thinker_common.evaluation.grading import grade as grade
    from thinker_common.evaluation.in_flight import CACHE as CACHE
    from thinker_common.evaluation.progress import progress_bar as progress_bar
    from thinker_common.evaluation.report import Curves as Curves
    from thinker_common.evaluation.report import Table as Table
    from thinker_common.evaluation.report import Texts as Texts
    from thinker_common.evaluation.report import write_report as write_report
    from thinker_common.evaluation.sampling import sampling_processors as sampling_processors
    from thinker_common.evaluation.sampling import stream_seed as stream_seed
    from thinker_common.evaluation.table import COLUMNS as COLUMNS
    from thinker_common.evaluation.table import cells as cells
    from thinker_common.evaluation.table import sentence as sentence
    from thinker_common.evaluation.table import terminal_table as terminal_table
    from thinker_common.likelihood.batching import token_budget_batches as token_budget_batches
    from thinker_common.likelihood.forward import call_through as call_through
    from thinker_common.likelihood.logprobs import CHUNK_TOKENS as CHUNK_TOKENS
    from thinker_common.likelihood.logprobs import causal_head as causal_head
    from thinker_common.likelihood.logprobs import evaluation_mode as evaluation_mode
    from thinker_common.likelihood.logprobs import log_softmax as log_softmax
    from thinker_common.models import chat as chat
    from thinker_common.models.adapters import load_trained_weights as load_trained_weights
    from thinker_common.models.adapters import merge_and_export as merge_and_export
    from thinker_common.models.adapters import trained_weights as trained_weights
    from thinker_common.models.load import load_policy as load_policy
    from thinker_common.models.load import load_tokenizer as load_tokenizer
    from thinker_common.models.load import model_file as model_file
    from thinker_common.training import engine_arguments as engine_arguments
    from thinker_common.training import sections as sections
    from thinker_common.training.best import BestWeights as BestWeights
    from thinker_common.training.callbacks import EngineCheck as EngineCheck
    from thinker_common.training.callbacks import MetricsLog as MetricsLog
    from thinker_common.training.dependable import choose_together as choose_together
    from thinker_common.training.engine_arguments import trains_in_bfloat16 as trains_in_bfloat16
    from thinker_common.training.engine_arguments import weights_dtype as weights_dtype
    from thinker_common.training.plain_yaml import parse_yaml as parse_yaml
    from thinker_common.training.problems import hold_out as hold_out
    from thinker_common.training.problems import load_evaluations as load_evaluations
    from thinker_common.training.problems import load_problems as load_problems
    from thinker_common.training.resume import RunIdentity as RunIdentity
    from thinker_common.training.resume import data_fingerprint as data_fingerprint
    from thinker_common.training.resume import flat_settings as flat_settings
    from thinker_common.training.run_folder import write_atomic as write_atomic
    from thinker_common.training.settings import check_arguments as check_arguments
    from thinker_common.training.settings import load_settings as load_settings
    from thinker_common.training.settings import to_yaml as to_yaml
    from thinker_common.training.supervised import SupervisedTrainer as SupervisedTrainer


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _LAZY[name].partition(":")
    loaded = import_module(f"thinker_common.{module}")
    return getattr(loaded, attribute) if attribute else loaded
