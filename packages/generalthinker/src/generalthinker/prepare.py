"""The parts of a run, loaded and found good before anything is written; for training and for its dry run."""

from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from trl import GRPOConfig

from ._common import LoadedBenchmark, load_evaluations, load_tokenizer
from .config import Settings
from .data import check_evaluation_room, training_data
from .policy import fresh_policy, positions
from .trainer import check_combination


@dataclass(frozen=True)
class Prepared:
    """The parts of a run.

    problems, rows: what is trained on, as problems and as the trainer's rows
    validation: problems held out of them; None without validation
    benchmarks: for before and after
    """

    tokenizer: PreTrainedTokenizerBase
    policy: Any
    problems: LoadedBenchmark
    rows: Dataset
    validation: LoadedBenchmark | None
    benchmarks: list[LoadedBenchmark]


def prepare(settings: Settings, arguments: GRPOConfig, *, seed: int, ranks: int) -> Prepared:
    """Loads the parts of a run of `ranks` processes and checks that they fit together.

    Raises:
        UserError: settings, data or model that cannot be used.
    """
    tokenizer = load_tokenizer(settings.model.name_or_path, revision=settings.model.revision)
    policy = fresh_policy(settings, seed).to(arguments.device)
    max_positions = positions(policy.config)
    problems, validation, rows = training_data(settings, tokenizer, seed=seed, max_positions=max_positions)
    check_combination(arguments, settings.method, len(rows), ranks=ranks)
    evaluation = settings.evaluation
    evaluates = evaluation.at_start or evaluation.at_end
    benchmarks = load_evaluations(settings.data, evaluation) if evaluates else []
    for benchmark in [*benchmarks, *([validation] if validation is not None else [])]:
        check_evaluation_room(
            benchmark.problems,
            tokenizer,
            template=settings.method.prompt_template,
            chat_template=settings.model.chat_template,
            max_new_tokens=settings.evaluation.max_new_tokens,
            max_positions=max_positions,
        )
    return Prepared(tokenizer, policy, problems, rows, validation, benchmarks)
