"""One training run: settings to policy, evaluation before and after, and the folder that holds it all."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.integrations import get_reporting_integration_callbacks
from transformers.trainer_callback import PrinterCallback, TrainerCallback, TrainerControl, TrainerState
from trl import GRPOConfig

from ._common import (
    Comparison,
    EvaluationResult,
    LoadedBenchmark,
    RunFolder,
    SettingsError,
    TokenHeat,
    add_lora,
    check_arguments,
    compare,
    evaluate,
    load_benchmark,
    load_policy,
    load_tokenizer,
    merge_and_export,
    progress_bar,
    sentence,
    terminal_table,
    to_yaml,
)
from .config import LEAST_ARGUMENTS, LOSS_TYPES, MANAGED_ARGUMENTS, Settings
from .data import check_evaluation_room, check_room, hold_out, load_problems, training_rows
from .report import write_run_report
from .trainer import GeneralThinkerTrainer, check_combination, check_one_process


def train(settings: Settings, output: Path, *, seed: int, dry_run: bool, console: Console) -> dict[str, Any]:
    """Trains as the settings say and returns what `results.json` holds.

    Nothing is written before the settings, the model and the data have been found good; `dry_run` stops there.

    Raises:
        UserError: settings, data, model or folder that cannot be used.
    """
    settings.training["seed"] = seed
    arguments = training_arguments(settings, output)
    check_one_process(arguments)
    if not dry_run:
        RunFolder(output).check_free()
    tokenizer = load_tokenizer(settings.model.name_or_path, revision=settings.model.revision)
    policy = load_policy(
        settings.model.name_or_path, revision=settings.model.revision, dtype=_weights_dtype(settings)
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
    benchmarks = _load_evaluations(settings)
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
        evaluations["before"] = _evaluate_all(policy, tokenizer, benchmarks, settings, folder, "before")

    with progress_bar("training") as update:
        metrics = MetricsCallback(folder, update)
        trainer = GeneralThinkerTrainer(
            model=policy,
            args=arguments,
            method=settings.method,
            train_dataset=rows,
            processing_class=tokenizer,
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
        evaluations["after"] = _evaluate_all(policy, tokenizer, benchmarks, settings, folder, "after")

    paired = _paired(evaluations)
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


def training_arguments(settings: Settings, output: Path) -> GRPOConfig:
    """TRL's configuration of this run.

    Raises:
        SettingsError: an unknown argument, a value of the wrong type, or a combination that TRL refuses.
    """
    checked = check_arguments(settings.training, GRPOConfig, managed=MANAGED_ARGUMENTS)
    for name, least in LEAST_ARGUMENTS.items():
        if checked.get(name) is not None and checked[name] < least:
            raise SettingsError(f"training.{name} = {checked[name]}: expected a number of at least {least}")
    if checked.get("max_steps") == 0:
        raise SettingsError("training.max_steps = 0: expected at least 1, or -1 to train for training.num_train_epochs")
    if checked["loss_type"] not in LOSS_TYPES:
        raise SettingsError(f"training.loss_type = {checked['loss_type']!r}: expected one of {', '.join(LOSS_TYPES)}")
    try:
        for callback in get_reporting_integration_callbacks(checked["report_to"]):
            callback()  # asks whether its library is installed
    except (ValueError, RuntimeError, ImportError) as error:
        raise SettingsError(f"training.report_to = {checked['report_to']!r}: {error}") from error
    generation = settings.generation
    bf16 = _trains_in_bfloat16(settings)
    try:
        return GRPOConfig(
            output_dir=str(RunFolder(output).checkpoints),
            max_completion_length=generation.max_new_tokens,
            temperature=generation.temperature,
            top_p=generation.top_p,
            top_k=generation.top_k,
            **{"bf16": bf16, "disable_tqdm": True, "dataloader_pin_memory": torch.cuda.is_available(), **checked},
        )
    except ValueError as error:
        raise SettingsError(f"training: {error}") from error


def _trains_in_bfloat16(settings: Settings) -> bool:
    wanted = settings.model.dtype in ("auto", "bfloat16")
    return wanted and torch.cuda.is_available() and torch.cuda.is_bf16_supported()


def _weights_dtype(settings: Settings) -> str:
    """Weights that are trained stay in float32, since an update of 1e-6 vanishes in bfloat16; LoRA's base need not.

    What is computed in bfloat16 then, autocast decides (`_trains_in_bfloat16`).
    """
    if settings.model.dtype == "float16":
        raise SettingsError("model.dtype = 'float16': expected auto, float32 or bfloat16 (float16 needs loss scaling)")
    return settings.model.dtype if settings.model.lora is not None else "float32"


SHOWN_CREDITS = 3


class MetricsCallback(TrainerCallback):
    """Writes every log to `metrics.jsonl`, and shows progress."""

    def __init__(self, folder: RunFolder, update: Callable[..., None]) -> None:
        self.folder = folder
        self.rows: list[dict[str, Any]] = []
        self._update = update
        self._status = ""

    def on_log(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        row = {"step": state.global_step, **(logs or {})}
        self.write(row)
        if row.get("reward") is not None:  # null where no response of the window has a reward
            self._status = f"reward {row['reward']:.3f}, boxed {row['boxed_rate']:.0%}"

    def write(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        self.folder.append_metrics(row)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._update(state.global_step, state.max_steps, self._status)


class ValidationCallback(TrainerCallback):
    """Greedy accuracy and answer log-likelihood on problems held out of the training data, while training."""

    def __init__(
        self,
        trainer: GeneralThinkerTrainer,
        tokenizer: PreTrainedTokenizerBase,
        benchmark: LoadedBenchmark,
        settings: Settings,
        metrics: MetricsCallback,
    ) -> None:
        self._trainer = trainer
        self._tokenizer = tokenizer
        self._benchmark = benchmark
        self._settings = settings
        self._log = metrics

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        every = self._settings.evaluation.every_steps
        if every is None or state.global_step % every:
            return
        model = self._trainer.accelerator.unwrap_model(self._trainer.model)
        result = _evaluate(model, self._tokenizer, self._benchmark, self._settings, None, None)
        self._log.write(
            {
                "step": state.global_step,
                "validation/accuracy": result.accuracy,
                "validation/standard_error": result.standard_error,
                "validation/boxed_rate": result.boxed_rate,
                "validation/answer_loglik": result.answer_loglik,
            }
        )


def _load_evaluations(settings: Settings) -> list[LoadedBenchmark]:
    """The benchmarks for before and after."""
    evaluation = settings.evaluation
    if not (evaluation.at_start or evaluation.at_end):
        return []
    return [
        load_benchmark(name, split=evaluation.split, data_dir=settings.data.data_dir, limit=evaluation.limit)
        for name in dict.fromkeys(evaluation.benchmarks)
    ]


def _evaluate_all(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    benchmarks: Sequence[LoadedBenchmark],
    settings: Settings,
    folder: RunFolder,
    when: str,
) -> dict[str, EvaluationResult]:
    """Greedy evaluation on every benchmark; generations in `evaluation/<when>/<benchmark>`."""
    results = {}
    for benchmark in benchmarks:
        output = folder.file(f"evaluation/{when}/{benchmark.name}/generations.jsonl")
        with progress_bar(f"{benchmark.name} {when}") as update:
            results[benchmark.name] = _evaluate(model, tokenizer, benchmark, settings, output, update)
    return results


def _evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    benchmark: LoadedBenchmark,
    settings: Settings,
    output: Path | None,
    update: Callable[..., None] | None,
) -> EvaluationResult:
    # One precision for before, during and after: the trainer's own.
    with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=_trains_in_bfloat16(settings)):
        return evaluate(
            model,
            tokenizer,
            benchmark,
            template=settings.method.prompt_template,
            chat_template=settings.model.chat_template,
            max_new_tokens=settings.evaluation.max_new_tokens,
            max_tokens_per_batch=settings.evaluation.max_tokens_per_batch,
            grader=settings.evaluation.grader,
            output=output,
            progress=update,
        )


def _paired(evaluations: Mapping[str, Mapping[str, EvaluationResult]]) -> dict[str, Comparison]:
    """After against before on the same problems, for each benchmark that was evaluated twice."""
    if set(evaluations) != {"before", "after"}:
        return {}
    return {
        name: compare(evaluations["after"][name].rows, before.rows) for name, before in evaluations["before"].items()
    }


def _shown_credit(trainer: GeneralThinkerTrainer, tokenizer: PreTrainedTokenizerBase) -> list[TokenHeat]:
    """The token credit of the newest rollout's first group, as the report draws it."""
    group = trainer.last_credit[: trainer.num_generations]
    note = (
        "blue: the policy that has seen the answer finds the token likelier than the reference policy; red: less likely"
    )
    return [
        TokenHeat(
            title=f"Token credit in the last rollout, response {number} of {len(group)}",
            tokens=[tokenizer.decode([token]) for token in ids],
            values=weights[: len(ids)],
            note=note,
            limit=1.0,
        )
        for number, (ids, weights) in enumerate(group[:SHOWN_CREDITS], start=1)
    ]


def planned_steps(arguments: GRPOConfig, rows: int) -> int:
    """Optimiser steps of a run on this many problems. A rollout that they do not fill is left out (TRL's sampler)."""
    if arguments.max_steps > 0:
        return arguments.max_steps
    rollouts = rows // (arguments.generation_batch_size // arguments.num_generations)
    batches = rollouts * arguments.steps_per_generation * arguments.num_iterations
    return math.ceil(arguments.num_train_epochs * math.ceil(batches / arguments.gradient_accumulation_steps))


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
