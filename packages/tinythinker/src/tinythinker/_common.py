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
from thinker_common.cli.printable import printable as printable
from thinker_common.cli.recipes import recipes_app as recipes_app
from thinker_common.cli.results_folder import Earlier as Earlier
from thinker_common.cli.results_folder import is_results_folder as is_results_folder
from thinker_common.cli.results_folder import read_earlier as read_earlier
from thinker_common.cli.train import add_train as add_train
from thinker_common.cli.train import read_config as read_config
from thinker_common.errors import DataError as DataError
from thinker_common.errors import SettingsError as SettingsError
from thinker_common.errors import UserError as UserError
from thinker_common.training import recipes as recipes
from thinker_common.training.run_folder import RunFolder as RunFolder
from thinker_common.training.run_folder import new_output as new_output
from thinker_common.training.run_folder import releasing_folders as releasing_folders

# Exported name -> module of the base, and the name in it; without one, the module itself.
_LAZY = {
    "AnswerScorer": "likelihood.scorer:AnswerScorer",
    "BestWeights": "training.best:BestWeights",
    "CHUNK_TOKENS": "likelihood.logprobs:CHUNK_TOKENS",
    "Comparison": "evaluation.comparison:Comparison",
    "Curves": "evaluation.report:Curves",
    "EngineCheck": "training.callbacks:EngineCheck",
    "EpochBatches": "training.batches:EpochBatches",
    "EpochLoader": "training.batches:EpochLoader",
    "EvaluationResult": "evaluation.results:EvaluationResult",
    "FILLER": "training.batches:FILLER",
    "Generation": "evaluation.generate:Generation",
    "GenerationsFile": "evaluation.generations:GenerationsFile",
    "Generator": "evaluation.generate:Generator",
    "Line": "benchmarks.jsonl:Line",
    "Head": "likelihood.head:Head",
    "LaunchSettings": "distributed.launch_settings:LaunchSettings",
    "LoadedBenchmark": "benchmarks.problem:LoadedBenchmark",
    "MetricsLog": "training.callbacks:MetricsLog",
    "MicroBatches": "training.batches:MicroBatches",
    "PhaseCallback": "distributed.callback:PhaseCallback",
    "Problem": "benchmarks.problem:Problem",
    "RunIdentity": "training.resume:RunIdentity",
    "ScoringItem": "likelihood.scorer:ScoringItem",
    "SupervisedTrainer": "training.supervised:SupervisedTrainer",
    "Table": "evaluation.report:Table",
    "Texts": "evaluation.report:Texts",
    "add_lora": "models.adapters:add_lora",
    "all_rows": "evaluation.shares:all_rows",
    "benchmark_module": "benchmarks:benchmark_module",
    "boundary": "likelihood.boundary",
    "causal_inputs": "likelihood.logprobs:causal_inputs",
    "chat": "models.chat",
    "check_arguments": "training.settings:check_arguments",
    "check_comparable": "evaluation.comparison:check_comparable",
    "check_saving": "training.dependable:check_saving",
    "choose_together": "training.dependable:choose_together",
    "compare": "evaluation.comparison:compare",
    "compare_suite": "evaluation.suite:compare_suite",
    "count_parameters": "models.quantization:count_parameters",
    "data_fingerprint": "training.resume:data_fingerprint",
    "decoder_states": "likelihood.encoder_decoder:decoder_states",
    "encode_prompts": "likelihood.encoder_decoder:encode_prompts",
    "engine_arguments": "training.engine_arguments",
    "export_trained": "training.export:export_trained",
    "flat_settings": "training.resume:flat_settings",
    "gathered": "distributed.gathered:gathered",
    "in_step": "distributed.in_step:in_step",
    "in_one_call": "likelihood.head:in_one_call",
    "join": "distributed.join:join",
    "launched_ranks": "distributed.launch:launched_ranks",
    "load_benchmark": "benchmarks:load_benchmark",
    "load_config": "models.load:load_config",
    "is_adapter": "models.load:is_adapter",
    "load_policy": "models.load:load_policy",
    "load_settings": "training.settings:load_settings",
    "load_tokenizer": "models.load:load_tokenizer",
    "log_softmax": "likelihood.logprobs:log_softmax",
    "memory": "distributed.memory",
    "model_fingerprint": "evaluation.evaluate:model_fingerprint",
    "naming_what_to_lower": "distributed.out_of_memory:naming_what_to_lower",
    "parse_lines": "benchmarks.jsonl:parse_lines",
    "parse_yaml": "training.plain_yaml:parse_yaml",
    "percent": "evaluation.table:percent",
    "predicting_states": "likelihood.logprobs:predicting_states",
    "policy_on": "distributed.sharded:policy_on",
    "process_group": "distributed.process_group:process_group",
    "progress_bar": "evaluation.progress:progress_bar",
    "ranks": "distributed.ranks",
    "read_bytes": "benchmarks.jsonl:read_bytes",
    "read_generations": "evaluation.generations:read_generations",
    "sections": "training.sections",
    "sentence": "evaluation.table:sentence",
    "suite_sentences": "evaluation.table:suite_sentences",
    "summarise": "evaluation.results:summarise",
    "to_yaml": "training.settings:to_yaml",
    "train_adapter": "models.adapters:train_adapter",
    "trains_in_bfloat16": "training.engine_arguments:trains_in_bfloat16",
    "weights_dtype": "training.engine_arguments:weights_dtype",
    "write_atomic": "training.run_folder:write_atomic",
    "write_report": "evaluation.report:write_report",
}

if TYPE_CHECKING:
    from thinker_common.benchmarks import benchmark_module as benchmark_module
    from thinker_common.benchmarks import load_benchmark as load_benchmark
    from thinker_common.benchmarks.jsonl import Line as Line
    from thinker_common.benchmarks.jsonl import parse_lines as parse_lines
    from thinker_common.benchmarks.jsonl import read_bytes as read_bytes
    from thinker_common.benchmarks.problem import LoadedBenchmark as LoadedBenchmark
    from thinker_common.benchmarks.problem import Problem as Problem
    from thinker_common.distributed import memory as memory
    from thinker_common.distributed import ranks as ranks
    from thinker_common.distributed.callback import PhaseCallback as PhaseCallback
    from thinker_common.distributed.gathered import gathered as gathered
    from thinker_common.distributed.in_step import in_step as in_step
    from thinker_common.distributed.join import join as join
    from thinker_common.distributed.launch import launched_ranks as launched_ranks
    from thinker_common.distributed.launch_settings import LaunchSettings as LaunchSettings
    from thinker_common.distributed.out_of_memory import naming_what_to_lower as naming_what_to_lower
    from thinker_common.distributed.process_group import process_group as process_group
    from thinker_common.distributed.sharded import policy_on as policy_on
    from thinker_common.evaluation.comparison import Comparison as Comparison
    from thinker_common.evaluation.comparison import check_comparable as check_comparable
    from thinker_common.evaluation.comparison import compare as compare
    from thinker_common.evaluation.evaluate import model_fingerprint as model_fingerprint
    from thinker_common.evaluation.generate import Generation as Generation
    from thinker_common.evaluation.generate import Generator as Generator
    from thinker_common.evaluation.generations import GenerationsFile as GenerationsFile
    from thinker_common.evaluation.generations import read_generations as read_generations
    from thinker_common.evaluation.progress import progress_bar as progress_bar
    from thinker_common.evaluation.report import Curves as Curves
    from thinker_common.evaluation.report import Table as Table
    from thinker_common.evaluation.report import Texts as Texts
    from thinker_common.evaluation.report import write_report as write_report
    from thinker_common.evaluation.results import EvaluationResult as EvaluationResult
    from thinker_common.evaluation.results import summarise as summarise
    from thinker_common.evaluation.shares import all_rows as all_rows
    from thinker_common.evaluation.suite import compare_suite as compare_suite
    from thinker_common.evaluation.table import percent as percent
    from thinker_common.evaluation.table import sentence as sentence
    from thinker_common.evaluation.table import suite_sentences as suite_sentences
    from thinker_common.likelihood import boundary as boundary
    from thinker_common.likelihood.encoder_decoder import decoder_states as decoder_states
    from thinker_common.likelihood.encoder_decoder import encode_prompts as encode_prompts
    from thinker_common.likelihood.head import Head as Head
    from thinker_common.likelihood.head import in_one_call as in_one_call
    from thinker_common.likelihood.logprobs import CHUNK_TOKENS as CHUNK_TOKENS
    from thinker_common.likelihood.logprobs import causal_inputs as causal_inputs
    from thinker_common.likelihood.logprobs import log_softmax as log_softmax
    from thinker_common.likelihood.logprobs import predicting_states as predicting_states
    from thinker_common.likelihood.scorer import AnswerScorer as AnswerScorer
    from thinker_common.likelihood.scorer import ScoringItem as ScoringItem
    from thinker_common.models import chat as chat
    from thinker_common.models.adapters import add_lora as add_lora
    from thinker_common.models.adapters import train_adapter as train_adapter
    from thinker_common.models.load import is_adapter as is_adapter
    from thinker_common.models.load import load_config as load_config
    from thinker_common.models.load import load_policy as load_policy
    from thinker_common.models.load import load_tokenizer as load_tokenizer
    from thinker_common.models.quantization import count_parameters as count_parameters
    from thinker_common.training import engine_arguments as engine_arguments
    from thinker_common.training import sections as sections
    from thinker_common.training.batches import FILLER as FILLER
    from thinker_common.training.batches import EpochBatches as EpochBatches
    from thinker_common.training.batches import EpochLoader as EpochLoader
    from thinker_common.training.batches import MicroBatches as MicroBatches
    from thinker_common.training.best import BestWeights as BestWeights
    from thinker_common.training.callbacks import EngineCheck as EngineCheck
    from thinker_common.training.callbacks import MetricsLog as MetricsLog
    from thinker_common.training.dependable import check_saving as check_saving
    from thinker_common.training.dependable import choose_together as choose_together
    from thinker_common.training.engine_arguments import trains_in_bfloat16 as trains_in_bfloat16
    from thinker_common.training.engine_arguments import weights_dtype as weights_dtype
    from thinker_common.training.export import export_trained as export_trained
    from thinker_common.training.plain_yaml import parse_yaml as parse_yaml
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
