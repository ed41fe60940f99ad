"""One run: phase 1, the iterations of phase 2, an evaluation behind each, and the folder that holds it all.

    OUTPUT/                settings, results, report, and the model that is exported
    OUTPUT/acquisition/    phase 1: checkpoints while it trains, metrics, evaluation, model
    OUTPUT/iteration-1/    phase 2: besides, the student's chains and the pairs of them
    OUTPUT/iteration-2/    ...

A phase is done when its `phase.json` is there, which is written last. Everything before that goes on where it stopped:
texts of chains are kept as they are finished, pairs follow from the texts, and training resumes from its newest
complete checkpoint. So a run that was killed, at any moment, goes on to the same end by the same command.

On several ranks every rank runs this file from top to bottom; what one does for all stands in `ranks.on_main`.
"""

from __future__ import annotations

import gc
import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.trainer_callback import PrinterCallback

from ._common import (
    BestWeights,
    EngineCheck,
    EvaluationResult,
    MetricsLog,
    PhaseCallback,
    RunFolder,
    RunIdentity,
    choose_together,
    data_fingerprint,
    export_trained,
    flat_settings,
    join,
    parse_yaml,
    progress_bar,
    ranks,
    releasing_folders,
    to_yaml,
    write_atomic,
)
from .arguments import training_arguments
from .callbacks import Validation, autocast, validate, validation_row
from .config import Settings
from .evaluations import evaluate_student, read_figures
from .inference import Sampling
from .prepare import check_room, first_student, load_material, stage_order, student_of, target_rows
from .reflect import reflect
from .report import print_results, write_run_report
from .student import Student, write_form
from .trainer import AcquisitionTrainer, PreferenceTrainer, with_reference

ACQUISITION = "acquisition"
DONE = "phase.json"
BEST = "best.safetensors"


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

    Args:
        resume: auto goes on with the run that `output` holds; never wants a folder without one.
        allow_changes: go on although settings or data are not those of the run.

    Raises:
        UserError: settings, data, model or folder that cannot be used; then nothing is written.
    """
    settings.training["seed"] = seed
    run = Run(settings, output, seed, resume, allow_changes)
    run.begin()
    began = time.perf_counter()
    run.phase(ACQUISITION, run.acquire)
    for iteration in range(1, settings.method.iterations + 1):
        run.phase(f"iteration-{iteration}", lambda folder, t=iteration: run.reflect(folder, t))  # type: ignore[misc]
    ranks.on_main(run.export, "export the student")
    if not ranks.is_main():
        return {}
    results = {
        "seed": seed,
        "training_source": run.material.source,
        "training_questions": len(run.material.questions),
        "training_rows": {stage: len(own) for stage, own in run.material.rows.items()},
        "seconds": round(time.perf_counter() - began, 1),
        "exported": run.best_phase(),
        "tests_trained_on": run.material.tests_trained_on(),
        "phases": run.done,
    }
    folder = RunFolder(output)
    tests = run.test_results()
    folder.write_results(results)
    write_run_report(folder, settings, results, tests, run.metrics())
    print_results(results, tests, folder, console)
    return results


class Run:
    """What the phases share.

    done: name of a phase that is done -> what its `phase.json` says; the same on every rank
    """

    def __init__(self, settings: Settings, output: Path, seed: int, resume: str, allow_changes: bool) -> None:
        self.settings = settings
        self.output = output
        self.seed = seed
        self.resume = resume
        self.allow_changes = allow_changes
        self.done: dict[str, dict[str, Any]] = {}

    def begin(self) -> None:
        """Joins the other ranks, and checks all that can be checked before anything is written."""
        settings, method = self.settings, self.settings.method
        arguments = self._arguments(ACQUISITION, method.acquisition, 0)
        if method.iterations:
            self._arguments("iteration-1", method.reflection, 1)
        join(settings.launch, arguments)
        ranks.on_main(self._check_folder, "check the run folder")
        self.material = load_material(settings)
        unset_hf_deepspeed_config()
        student = first_student(settings, self.seed)
        target_rows(student, self.material)
        check_room(student, self.material, settings)

        def write() -> None:
            folder = RunFolder(self.output)
            if not folder.holds_run():
                RunFolder.create(folder.path)
            folder.hold()
            folder.write_config(to_yaml(settings))
            folder.write_environment()

        ranks.on_main(write, "begin the run folder")

    def _check_folder(self) -> None:
        folder = RunFolder(self.output)
        if self.resume == "never" or not folder.holds_run():
            folder.check_free()
        else:
            folder.check_continues(to_yaml(self.settings), allow_changes=self.allow_changes)

    def phase(self, name: str, work: Callable[[RunFolder], dict[str, Any]]) -> None:
        """Does a phase, unless an earlier part of the run has done it."""
        folder = RunFolder(self.output / name)
        marker = folder.file(DONE)

        def earlier() -> dict[str, Any] | None:
            return json.loads(marker.read_text(encoding="utf-8")) if marker.is_file() else None

        found = ranks.from_main(ranks.on_main(earlier, f"look for {name}"), f"whether {name} is done")
        if found is None:
            ranks.on_main(lambda: folder.path.mkdir(parents=True, exist_ok=True), f"begin {name}")
            found = ranks.from_main(work(folder), f"what {name} found")

            def finish() -> None:
                write_atomic(marker, json.dumps(found, indent=2) + "\n")
                # What the phase was gone on with from: of use until its marker is there, and of none behind that.
                shutil.rmtree(folder.checkpoints, ignore_errors=True)
                folder.file(BEST).unlink(missing_ok=True)

            ranks.on_main(finish, f"finish {name}")
        assert found is not None
        self.done[name] = found
        gc.collect()

    # ------------------------------------------------------------------------------------------------ phase 1

    def acquire(self, folder: RunFolder) -> dict[str, Any]:
        """Phase 1: the rows of the stages, mixed."""
        settings, acquisition = self.settings, self.settings.method.acquisition
        unset_hf_deepspeed_config()  # models are made whole; what DeepSpeed shards, it shards when training begins
        student = first_student(settings, self.seed)
        rows = target_rows(student, self.material)
        arguments = self._arguments(ACQUISITION, acquisition, 0)
        order = stage_order(settings, self.material)
        trainer = AcquisitionTrainer(student, arguments, rows, order, **self._dependably(rows))

        def watch(log: MetricsLog, best: BestWeights) -> None:
            if self.material.validation is not None:
                every = acquisition.steps_between_evaluations(self.material.options)
                validation = Validation(
                    trainer, student, self.material.validation, settings, every=every, log=log, best=best
                )
                trainer.add_callback(validation)

        found = self._train(folder, trainer, student, lambda: first_student(settings, self.seed), watch)
        return {**found, "rows": len(rows)}

    # ------------------------------------------------------------------------------------------------ phase 2

    def reflect(self, folder: RunFolder, iteration: int) -> dict[str, Any]:
        """One iteration of phase 2: chains of the student, pairs, preferences."""
        settings, reflection = self.settings, self.settings.method.reflection
        previous = self.output / (ACQUISITION if iteration == 1 else f"iteration-{iteration - 1}") / "model"
        arguments = self._arguments(folder.path.name, reflection, iteration)
        unset_hf_deepspeed_config()
        student = student_of(previous, settings, self.seed)
        student.model.to(arguments.device)
        began = time.perf_counter()
        with autocast(student, settings), torch.no_grad(), _Progress(folder.path.name) as progress:
            reflected = reflect(
                student,
                self.material.questions,
                self.material.teacher_recalls,
                reflection,
                iteration=iteration,
                seed=self.seed,
                folder=folder.file("chains"),
                progress=progress,
            )
        found = {**reflected.statistics, "sampling_seconds": round(time.perf_counter() - began, 1)}
        if not reflected.pairs:
            if ranks.is_main():
                print(
                    f"{folder.path.name}: no pair of a right and a wrong chain among {found['questions']} questions: "
                    "the student stays as it is. Draw more of them (method.reflection.samples), or at a higher "
                    "temperature",
                    file=sys.stderr,
                )
            ranks.on_main(lambda: _copy_folder(previous, folder.model), "copy the student")
            nothing = {"steps": 0, "exported_step": 0, "training_seconds": 0.0, "resumed_at": None}
            return {**found, **nothing, **self._evaluated(folder, arguments.device)}
        rows = [
            {
                "prompt_ids": student.prompt_ids(pair.prompt()),
                "chosen_ids": student.target_ids(pair.chosen),
                "rejected_ids": student.target_ids(pair.rejected),
            }
            for pair in reflected.pairs
        ]
        reference = student
        if reflection.reference == "acquired" and iteration > 1:
            reference = student_of(self.output / ACQUISITION / "model", settings, self.seed)
            reference.model.to(arguments.device)
        budget = settings.generation.max_tokens_per_batch
        with autocast(student, settings), torch.no_grad():
            scored = with_reference(reference, rows, max_tokens_per_batch=budget)
        del reference
        arguments = self._arguments(folder.path.name, reflection, iteration)  # DeepSpeed is known of again
        trainer = PreferenceTrainer(
            student, arguments, scored, beta=reflection.beta, alpha=reflection.alpha, **self._dependably(rows)
        )
        return {**found, **self._train(folder, trainer, student, lambda: student_of(previous, settings, self.seed))}

    # ------------------------------------------------------------------------------------------------ both

    def _arguments(self, name: str, phase: Any, offset: int) -> Any:
        checkpoints = RunFolder(self.output / name).checkpoints
        return training_arguments(self.settings, phase, checkpoints, seed=self.seed + offset)

    def _dependably(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {
            "identity": RunIdentity(
                settings=flat_settings(parse_yaml(to_yaml(self.settings), "the settings")),
                data={"training": data_fingerprint(rows)},
            ),
            "allow_changes": self.allow_changes,
            "nonfinite": self.settings.method.nonfinite,
        }

    def _train(
        self,
        folder: RunFolder,
        trainer: Any,
        student: Student,
        rebuild: Callable[[], Student],
        watch: Callable[[MetricsLog, BestWeights], None] = lambda log, best: None,
    ) -> dict[str, Any]:
        """Trains, or goes on training, writes the model and evaluates it."""
        settings, name = self.settings, folder.path.name
        point = choose_together(folder.checkpoints, self.resume if self.resume == "never" else "auto")
        began_at = 0 if point.checkpoint is None else point.checkpoint.manifest.step
        history: list[dict[str, Any]] = []
        if ranks.is_main():
            history = folder.forget_metrics(after_step=began_at)
            for notice in point.notices():
                print(notice, file=sys.stderr)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(EngineCheck(trainer, settings.launch))
        trainer.add_callback(PhaseCallback())
        best = BestWeights(folder.file(BEST), history)
        began = time.perf_counter()
        with progress_bar(name) as update:
            log = MetricsLog(folder, update, history, _status)
            trainer.add_callback(log)
            watch(log, best)
            trainer.train(resume_from_checkpoint=None if point.checkpoint is None else point.checkpoint.path)
        seconds = time.perf_counter() - began
        steps = trainer.state.global_step
        keep_best = settings.evaluation.export == "best" and ranks.from_main(best.step, "step to export") > 0
        export_trained(
            trainer.model_wrapped,
            student.tokenizer,
            folder.model,
            best=best if keep_best else None,
            rebuild=lambda: rebuild().model,
        )
        ranks.on_main(lambda: write_form(folder.model, student.form), "describe the student")
        return {
            "steps": steps,
            "exported_step": best.step if keep_best else steps,
            "training_seconds": round(seconds, 1),
            "resumed_at": began_at or None,
            **self._evaluated(folder, trainer.args.device),
        }

    def _evaluated(self, folder: RunFolder, device: torch.device) -> dict[str, Any]:
        """Validation and tests of the student that a phase has written, as it will be loaded again."""
        settings = self.settings
        trained = student_of(
            folder.model, replace(settings, model=replace(settings.model, lora=None, quantization="none")), self.seed
        )
        trained.model.to(device)
        validation = None
        if self.material.validation is not None:
            result = validate(trained, self.material.validation, settings)
            validation = {**validation_row(result), "n": result.n}
        return {"validation": validation, "tests": self._test(trained, folder)}

    def _test(self, student: Student, folder: RunFolder) -> dict[str, Any]:
        evaluation, found = self.settings.evaluation, {}
        for questions in self.material.tests:
            for answering in evaluation.answering:
                with (
                    progress_bar(f"{questions.name}, {answering}") as update,
                    autocast(student, self.settings),
                    torch.no_grad(),
                ):
                    result = evaluate_student(
                        student,
                        questions,
                        answering,
                        samples=evaluation.samples,
                        sampling=Sampling(evaluation.temperature, evaluation.top_k, self.seed),
                        folder=folder.file(f"evaluation/{questions.name}-{answering}"),
                        texts=folder.file(f"evaluation/{questions.name}-texts"),
                        progress=update,
                    )
                found[f"{questions.name}-{answering}"] = result.to_dict()
        return found

    # ------------------------------------------------------------------------------------------------ the end

    def best_phase(self) -> str:
        """The phase whose student is exported: the best by validation and of equals the first, or the last."""
        names = list(self.done)
        accuracy = {
            name: found["validation"]["validation/accuracy"] for name, found in self.done.items() if found["validation"]
        }
        if self.settings.evaluation.export == "last" or len(accuracy) < len(names):
            return names[-1]
        return max(names, key=lambda name: (accuracy[name], -names.index(name)))

    def export(self) -> None:
        """Copies the model of the best phase to the run's; it appears whole or not at all."""
        _copy_folder(self.output / self.best_phase() / "model", RunFolder(self.output).model)

    def test_results(self) -> dict[str, dict[str, EvaluationResult]]:
        """Phase -> "benchmark-answering" -> its figures."""
        return {
            name: {
                f"{questions.name}-{answering}": read_figures(
                    questions, self.output / name / "evaluation" / f"{questions.name}-{answering}", answering
                )
                for questions in self.material.tests
                for answering in self.settings.evaluation.answering
            }
            for name in self.done
        }

    def metrics(self) -> dict[str, list[dict[str, Any]]]:
        """Phase -> the rows of its metrics.jsonl."""
        found = {name: RunFolder(self.output / name).read_metrics() for name in self.done}
        return {name: rows for name, rows in found.items() if rows}  # an iteration without pairs has none


def _copy_folder(source: Path, target: Path) -> None:
    """In the place of what an earlier part of the run left there; the copy appears whole or not at all."""
    partial = target.with_name(f".{target.name}.partial")
    for folder in (target, partial):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, partial)
    partial.rename(target)


class _Progress:
    """A progress bar for each pass, one at a time."""

    def __init__(self, phase: str) -> None:
        self._phase = phase
        self._open: Any = None

    def __call__(self, name: str) -> Callable[..., None]:
        self.__exit__()
        self._open = progress_bar(f"{self._phase}, {name}")
        return self._open.__enter__()

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._open is not None:
            self._open.__exit__(None, None, None)
            self._open = None


def _status(row: Mapping[str, Any]) -> str | None:
    if "loss" not in row:
        return None
    agreement = f", agreement {row['agreement']:.0%}" if "agreement" in row else ""
    return f"loss {row['loss']:.3f}{agreement}"
