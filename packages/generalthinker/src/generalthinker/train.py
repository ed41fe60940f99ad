"""One training run: settings to policy, evaluation before and after, and the folder that holds it all."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_callback import PrinterCallback
from trl import GRPOConfig

from ._common import (
    Comparison,
    EvaluationResult,
    RunFolder,
    TokenHeat,
    add_lora,
    load_policy,
    load_tokenizer,
    merge_and_export,
    progress_bar,
    sentence,
    terminal_table,
    to_yaml,
)
from .arguments import planned_steps, training_arguments, weights_dtype
from .callbacks import MetricsCallback, ValidationCallback
from .config import Settings
from .data import check_evaluation_room, check_room, graded_problems, hold_out, load_problems, training_rows
from .evaluations import compare_before_after, evaluate_all, load_evaluations
from .inspect import token_texts
from .report import write_run_report
from .trainer import GeneralThinkerTrainer, check_combination


def train(settings: Settings, output: Path, *, seed: int, dry_run: bool, console: Console) -> dict[str, Any]:
    """Trains as the settings say and returns what `results.json` holds.

    Nothing is written before the settings, the model and the data have been found good; `dry_run` stops there.

    Raises:
        UserError: settings, data, model or folder that cannot be used.
    """
    settings.training["seed"] = seed
    arguments = training_arguments(settings, output)
    if not dry_run:
        RunFolder(output).check_free()
    tokenizer = load_tokenizer(settings.model.name_or_path, revision=settings.model.revision)
    policy = load_policy(
        settings.model.name_or_path, revision=settings.model.revision, dtype=weights_dtype(settings)
    ).to(arguments.device)
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
    check_combination(arguments, settings.method, len(rows))
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
    if settings.model.lora is not None:
        torch.manual_seed(seed)  # the adapter begins with random weights
        policy = add_lora(policy, settings.model.lora)
    if dry_run:
        _print_plan(settings, arguments, policy, len(rows), problems.source, output, console)
        return {}

    folder = RunFolder.create(output)
    folder.write_config(to_yaml(settings))
    folder.write_environment()
    began = time.perf_counter()
    evaluations: dict[str, dict[str, EvaluationResult]] = {}
    if settings.evaluation.at_start:
        evaluations["before"] = evaluate_all(policy, tokenizer, benchmarks, settings, folder, "before")

    with progress_bar("training") as update:
        metrics = MetricsCallback(folder, update)
        trainer = GeneralThinkerTrainer(
            model=policy,
            args=arguments,
            method=settings.method,
            train_dataset=rows,
            processing_class=tokenizer,
            problems=graded_problems(problems.problems, rows),
            chat_template=settings.model.chat_template,
            callbacks=[metrics],
        )
        trainer.remove_callback(PrinterCallback)
        if validation is not None:
            trainer.add_callback(ValidationCallback(trainer, tokenizer, validation, settings, metrics))
        training_began = time.perf_counter()
        trainer.train()
        training_seconds = time.perf_counter() - training_began
    policy = merge_and_export(trainer.accelerator.unwrap_model(trainer.model), tokenizer, folder.model)
    if settings.evaluation.at_end:
        evaluations["after"] = evaluate_all(policy, tokenizer, benchmarks, settings, folder, "after")

    paired = compare_before_after(evaluations)
    results = {
        "seed": seed,
        "steps": trainer.state.global_step,
        "training_problems": len(rows),
        "training_source": problems.source,
        "seconds": round(time.perf_counter() - began, 1),
        "training_seconds": round(training_seconds, 1),
        "evaluations": {
            when: {name: result.to_dict() for name, result in by_name.items()} for when, by_name in evaluations.items()
        },
        "paired": {name: comparison.to_dict() for name, comparison in paired.items()},
    }
    folder.write_results(results)
    write_run_report(folder, settings, results, metrics.rows, evaluations, _shown_credit(trainer, tokenizer))
    _print_results(evaluations, paired, folder, console)
    return results


SHOWN_CREDITS = 3


def _shown_credit(trainer: GeneralThinkerTrainer, tokenizer: PreTrainedTokenizerBase) -> list[TokenHeat]:
    """The token credit of the newest rollout, as the report draws it: responses that have one first."""
    rollout = sorted(trainer.last_credit, key=lambda shown: not any(shown[1]))
    note = (
        "blue: the policy that has seen the answer finds the token likelier than the reference policy; red: less likely"
    )
    return [
        TokenHeat(
            title=f"Token credit in the last rollout, response {number} of {len(rollout)}",
            tokens=token_texts(tokenizer, ids),
            values=weights[: len(ids)],
            note=note,
            limit=1.0,
        )
        for number, (ids, weights) in enumerate(rollout[:SHOWN_CREDITS], start=1)
    ]


def _print_plan(
    settings: Settings,
    arguments: GRPOConfig,
    policy: PreTrainedModel,
    rows: int,
    source: str,
    output: Path,
    console: Console,
) -> None:
    """What a run would do, for `--dry-run`."""
    prompts = arguments.generation_batch_size // arguments.num_generations
    steps = planned_steps(arguments, rows)
    console.print(to_yaml(settings), highlight=False, markup=False)
    parameters = sum(p.numel() for p in policy.parameters())
    console.print(f"model: {settings.model.name_or_path}, {parameters / 1e6:.1f} M parameters", highlight=False)
    console.print(f"data: {rows} problems from {source}", highlight=False)
    console.print(
        f"steps: {steps}, each on {arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps} "
        f"responses; a rollout has {prompts} prompts of {arguments.num_generations} responses",
        highlight=False,
    )
    console.print(f"output: {output} (not made: dry run)", highlight=False)


def _print_results(
    evaluations: Mapping[str, Mapping[str, EvaluationResult]],
    paired: Mapping[str, Comparison],
    folder: RunFolder,
    console: Console,
) -> None:
    rows = [(result, when) for when, by_name in evaluations.items() for result in by_name.values()]
    if rows:
        console.print(terminal_table(rows))
    for name, comparison in paired.items():
        console.print(f"{name}, after - before: {sentence(comparison)}", highlight=False, soft_wrap=True)
    console.print(f"run folder: {folder.path}", highlight=False, soft_wrap=True)
    console.print(f"report: {folder.report}", highlight=False, soft_wrap=True)
