"""One training run: settings to policy, evaluation before and after, and the folder that holds it all.

On several ranks every rank runs this file from top to bottom; what one does for all (write) stands in
`ranks.on_main`, behind which the others wait.
"""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import PreTrainedTokenizerBase
from transformers.trainer_callback import PrinterCallback

from ._common import (
    BestWeights,
    Comparison,
    EngineCheck,
    EvaluationResult,
    MetricsLog,
    PhaseCallback,
    RunFolder,
    RunIdentity,
    TokenHeat,
    choose_together,
    data_fingerprint,
    export_trained,
    flat_settings,
    gathered,
    join,
    load_policy,
    parse_yaml,
    progress_bar,
    ranks,
    releasing_folders,
    sentence,
    terminal_table,
    to_yaml,
)
from .arguments import training_arguments
from .callbacks import ValidationCallback, status
from .config import Settings
from .data import graded_problems
from .evaluations import compare_before_after, evaluate_all
from .inspect.tokens import token_texts
from .inspect.words import sides
from .policy import fresh_policy
from .prepare import prepare
from .report import write_run_report
from .trainer import GeneralThinkerTrainer


@releasing_folders()
def train(
    settings: Settings,
    output: Path,
    *,
    seed: int,
    console: Console,
    resume: str = "auto",
    allow_changes: bool = False,
) -> dict[str, Any]:
    """Trains as the settings say and returns what `results.json` holds (on rank 0, and nothing on the others).

    Nothing is written before the settings, the model and the data have been found good.

    Args:
        resume: auto goes on with the run that `output` holds; never wants a folder without one; or a checkpoint.
        allow_changes: go on although settings or data are not those of the checkpoint.

    Raises:
        UserError: settings, data, model or folder that cannot be used.
    """
    settings.training["seed"] = seed
    arguments = training_arguments(settings, output)
    join(settings.launch, arguments)
    folder = RunFolder(output)
    ranks.on_main(lambda: _check_folder(folder, settings, resume, allow_changes), "check the run folder")
    run = prepare(settings, arguments, seed=seed, ranks=arguments.world_size)
    policy, tokenizer, rows = run.policy, run.tokenizer, run.rows

    point = choose_together(folder.checkpoints, resume)
    began_at = 0 if point.checkpoint is None else point.checkpoint.manifest.step

    def begin() -> list[dict[str, Any]]:
        _begin(folder, settings)
        for notice in point.notices():
            print(notice, file=sys.stderr)
        return folder.forget_metrics(after_step=began_at)

    history = ranks.on_main(begin, "begin the run folder") or []
    began = time.perf_counter()
    evaluations: dict[str, dict[str, EvaluationResult]] = {}

    def evaluate_now(wrapped: Any, when: str) -> None:
        with gathered(wrapped) as model:
            evaluations[when] = evaluate_all(model, tokenizer, run.benchmarks, settings, folder, when)

    trainer = GeneralThinkerTrainer(
        model=policy,
        args=arguments,
        method=settings.method,
        train_dataset=rows,
        processing_class=tokenizer,
        problems=graded_problems(run.problems.problems, rows),
        chat_template=settings.model.chat_template,
        generation_tokens=settings.generation.max_tokens_per_batch,
        identity=RunIdentity(
            settings=flat_settings(parse_yaml(to_yaml(settings), "the settings")),
            data={"training": data_fingerprint(rows)},
        ),
        allow_changes=allow_changes,
        nonfinite=settings.method.nonfinite,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(EngineCheck(trainer, settings.launch))
    trainer.add_callback(PhaseCallback())
    if settings.evaluation.at_start:
        evaluate_now(trainer.model, "before")
    best = BestWeights(folder.file("best.safetensors"), history)
    training_began = time.perf_counter()
    with progress_bar("training") as update:
        metrics = MetricsLog(folder, update, history, status)
        trainer.add_callback(metrics)
        if run.validation is not None:
            trainer.add_callback(ValidationCallback(trainer, tokenizer, run.validation, settings, metrics, best))
        trainer.train(resume_from_checkpoint=None if point.checkpoint is None else point.checkpoint.path)
    training_seconds = time.perf_counter() - training_began
    keep_best = settings.evaluation.export == "best" and ranks.from_main(best.step, "step to export") > 0
    exported = export_trained(
        trainer.model_wrapped,
        tokenizer,
        folder.model,
        best=best if keep_best else None,
        rebuild=lambda: fresh_policy(settings, seed),
    )
    if settings.evaluation.at_end:
        # Rank 0 has the model that was written; the others read it, in the precision that it has there.
        dtype = ranks.from_main("" if exported is None else str(exported.dtype).removeprefix("torch."), "precision")
        trained = load_policy(folder.model, dtype=dtype) if exported is None else exported
        evaluate_now(trained.to(arguments.device), "after")
    if not ranks.is_main():
        return {}

    paired = compare_before_after(evaluations)
    results = {
        "seed": seed,
        "steps": trainer.state.global_step,
        "exported_step": best.step if keep_best else trainer.state.global_step,
        "training_problems": len(rows),
        "training_source": run.problems.source,
        "seconds": round(time.perf_counter() - began, 1),
        "training_seconds": round(training_seconds, 1),
        "resumed_at": began_at or None,
        "evaluations": {
            when: {name: result.to_dict() for name, result in by_name.items()} for when, by_name in evaluations.items()
        },
        "paired": {name: comparison.to_dict() for name, comparison in paired.items()},
    }
    folder.write_results(results)
    write_run_report(folder, settings, results, history, evaluations, _shown_credit(trainer, tokenizer))
    chosen = ", the best by validation" if keep_best else ""
    exported_model = f"{folder.model}, the weights of step {results['exported_step']}{chosen}"
    _print_results(evaluations, paired, exported_model, folder, console)
    return results


def _check_folder(folder: RunFolder, settings: Settings, resume: str, allow_changes: bool) -> None:
    """UserError unless the run can be begun, or gone on with, in this folder. Makes nothing."""
    if resume == "never" or not folder.holds_run():
        folder.check_free()
    else:
        folder.check_continues(to_yaml(settings), allow_changes=allow_changes)


def _begin(folder: RunFolder, settings: Settings) -> None:
    if not folder.holds_run():
        RunFolder.create(folder.path)
    folder.hold()
    folder.write_config(to_yaml(settings))
    folder.write_environment()


SHOWN_CREDITS = 3


def _shown_credit(trainer: GeneralThinkerTrainer, tokenizer: PreTrainedTokenizerBase) -> list[TokenHeat]:
    """The token credit of the newest rollout, as the report draws it: responses that have one first."""
    rollout = sorted(trainer.last_credit, key=lambda shown: not any(shown[1]))
    note = "blue: {}; red: {}".format(*sides(trainer.method))
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


def _print_results(
    evaluations: Mapping[str, Mapping[str, EvaluationResult]],
    paired: Mapping[str, Comparison],
    exported_model: str,
    folder: RunFolder,
    console: Console,
) -> None:
    rows = [(result, when) for when, by_name in evaluations.items() for result in by_name.values()]
    if rows:
        console.print(terminal_table(rows))
    for name, comparison in paired.items():
        console.print(f"{name}, after - before: {sentence(comparison)}", highlight=False, soft_wrap=True)
    for name, place in (("model", exported_model), ("run folder", folder.path), ("report", folder.report)):
        console.print(f"{name}: {place}", highlight=False, soft_wrap=True)
