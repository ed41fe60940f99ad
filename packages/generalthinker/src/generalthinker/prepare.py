"""The parts of a run, loaded and found good before anything is written; for training and for its dry run."""

from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from trl import GRPOConfig

from ._common import (
    LoadedBenchmark,
    UserError,
    add_lora,
    hold_out,
    load_policy,
    load_problems,
    load_tokenizer,
    weights_dtype,
)
from .config import Settings
from .data import check_evaluation_room, check_room, training_rows
from .evaluations import load_evaluations
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
    problems = load_problems(settings.data)
    validation = None
    if settings.evaluation.every_steps is not None:
        problems, validation = hold_out(problems, settings.evaluation.validation_limit, seed=settings.data.seed)
    rows = training_rows(problems.problems, settings.method, seed=seed)
    max_positions = getattr(policy.config.get_text_config(), "max_position_embeddings", None)
    check_room(
        rows,
        tokenizer,
        chat_template=settings.model.chat_template,
        max_new_tokens=settings.generation.max_new_tokens,
        max_positions=max_positions,
    )
    check_combination(arguments, settings.method, len(rows), ranks=ranks)
    benchmarks = load_evaluations(settings)
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


def fresh_policy(settings: Settings, seed: int) -> Any:
    """The policy before training, with its adapter if it gets one."""
    policy = causal_policy(
        settings.model.name_or_path, revision=settings.model.revision, dtype=weights_dtype(settings.model)
    )
    if settings.model.lora is None:
        return policy
    torch.manual_seed(seed)  # the adapter begins with random weights
    return add_lora(policy, settings.model.lora)


def causal_policy(name_or_path: str, **how: Any) -> Any:
    """`load_policy`, and a UserError for an encoder-decoder model."""
    policy = load_policy(name_or_path, **how)
    if policy.config.is_encoder_decoder:
        raise UserError(f"{name_or_path}: an encoder-decoder model; GeneralThinker needs a causal language model")
    return policy
