"""One run: stage 1, stage 2 or both, evaluation behind each, and the folder that holds it all.

    OUTPUT/            the run: settings, results, report, and the last stage's checkpoints, metrics and model
    OUTPUT/stage1/     where both stages run: checkpoints, metrics and model of the first
    OUTPUT/latent1/    and so on: those of the latent stages of Coconut's curriculum, but for the last

Each stage starts from the model folder that the one before it wrote, adapters merged, so that each alone starts from
the same files as all together. A stage whose `trained.json` is there is not trained again by a run that goes on.

On several ranks every rank runs this file from top to bottom; what one does for all (write) stands in `ranks.on_main`.
"""

import gc
import json
import math
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import TrainingArguments, set_seed
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.trainer_callback import PrinterCallback

from ._common import (
    BestWeights,
    EngineCheck,
    LoadedBenchmark,
    MetricsLog,
    PhaseCallback,
    RunFolder,
    RunIdentity,
    SettingsError,
    UserError,
    choose_together,
    data_fingerprint,
    flat_settings,
    gathered,
    grade,
    hold_out,
    join,
    load_evaluations,
    load_policy,
    load_problems,
    load_tokenizer,
    load_trained_weights,
    parse_yaml,
    progress_bar,
    ranks,
    releasing_folders,
    terminal_table,
    to_yaml,
    trained_weights,
    weights_dtype,
    write_atomic,
)
from .arguments import training_arguments
from .callbacks import ValidationCallback, status
from .columns import Row
from .config import Settings
from .data import TrainingData, latent_steps, training_data
from .evaluations import Measured, evaluate_one
from .model import (
    LatentSettings,
    SpiralThinkerModel,
    is_saved_model,
    read_settings,
    warn_of_other_numbers,
)
from .report import cost_table, write_run_report
from .trainer import SpiralThinkerTrainer, Stage

TRAINED = "trained.json"
LOOKED_AT = 20  # problems of a benchmark, to see whether a grader finds their answers


@dataclass(frozen=True)
class Part:
    """One training of a run.

    name: of its results; shares: among how many parts the steps, or epochs, of its section are divided
    """

    name: str
    stage: Stage
    path: Path
    settings: LatentSettings
    shares: int = 1
    evaluated: bool = True


@dataclass(frozen=True)
class Trained:
    """What a stage's training came to; its file is written once the model is, and says that the stage is trained."""

    steps: int
    exported_step: int
    training_seconds: float
    training_examples: int
    answer_only: int
    latent_steps: int


@dataclass(frozen=True)
class StageResult:
    """What a stage leaves behind beside its model."""

    stage: str
    trained: Trained
    history: list[dict[str, Any]]
    evaluations: dict[str, Measured]

    @property
    def token_passes(self) -> int:
        """Real tokens in one reading, as far as logged."""
        return int(sum(row.get("token_passes", 0) for row in self.history))

    def to_dict(self) -> dict[str, Any]:
        return {
            **asdict(self.trained),
            "token_passes": self.token_passes,
            "evaluations": {name: result.to_dict() for name, result in self.evaluations.items()},
        }


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
        resume: auto goes on with the run that `output` holds; never wants a folder without one; or a checkpoint.
        allow_changes: go on although settings or data are not those of the checkpoint.

    Raises:
        UserError: settings, data, model or folder that cannot be used; then nothing is written.
    """
    settings.training["seed"] = seed
    run = Run(settings, output, seed, resume, allow_changes)
    run.begin()
    began = time.perf_counter()
    results = [run.stage(part, before) for before, part in zip([None, *run.parts], run.parts, strict=False)]
    if not ranks.is_main():
        return {}
    found = {
        "seed": seed,
        "training_source": run.problems.source,
        "seconds": round(time.perf_counter() - began, 1),
        "stages": {result.stage: result.to_dict() for result in results},
    }
    folder = RunFolder(output)
    folder.write_results(found)
    write_run_report(folder, settings, found, results)
    _print_results(results, folder, console)
    return found


class Run:
    """What the stages share."""

    def __init__(self, settings: Settings, output: Path, seed: int, resume: str, allow_changes: bool) -> None:
        self.settings = settings
        self.output = output
        self.seed = seed
        self.resume = resume
        self.allow_changes = allow_changes

        self.parts = parts_of(settings, output)

    def arguments(self, part: Part) -> TrainingArguments:
        arguments = training_arguments(self.settings, RunFolder(part.path).checkpoints, part.stage)
        if part.shares > 1:
            if arguments.max_steps > 0:
                arguments.max_steps = math.ceil(arguments.max_steps / part.shares)
            arguments.num_train_epochs /= part.shares
        return arguments

    def begin(self) -> None:
        """Joins the other ranks, and checks what can be checked before a model is loaded."""
        arguments = [self.arguments(part) for part in self.parts]
        join(self.settings.launch, arguments[0])
        self.device = arguments[0].device
        ranks.on_main(self._check_folder, "check the run folder")
        self.load()

    def load(self) -> None:
        """The data."""
        settings = self.settings
        self.problems = load_problems(settings.data)
        if settings.method.name == "answer_only":
            without = tuple(replace(problem, steps=()) for problem in self.problems.problems)
            self.problems = replace(self.problems, problems=without)
        self.validation: LoadedBenchmark | None = None
        if settings.evaluation.every_steps is not None:
            count, held_seed = settings.evaluation.validation_limit, settings.data.seed
            self.problems, self.validation = hold_out(self.problems, count, seed=held_seed)
        evaluation = settings.evaluation
        self.benchmarks = load_evaluations(settings.data, evaluation) if evaluation.at_end else []
        self._check_answers_are_found()

    def _check_answers_are_found(self) -> None:
        """SettingsError where even right answers, written as the model is taught to, would all be graded as wrong."""
        annotation, grader = self.parts[0].settings.annotation, self.settings.evaluation.grader
        for benchmark in (self.validation, *self.benchmarks):
            if benchmark is None:
                continue
            problems = benchmark.problems[:LOOKED_AT]
            if not any(grade(problem, annotation.answer_text(problem), grader=grader).correct for problem in problems):
                raise SettingsError(
                    f"method.answer_template = {annotation.answer_template!r}: no right answer to {benchmark.name} "
                    f"would be found in what the model is taught to write, {annotation.answer_text(problems[0])!r}; "
                    r"graders look for \boxed{...}, but for evaluation.grader = unboxed"
                )

    def _check_folder(self) -> None:
        if self.resume not in ("auto", "never") and len(self.parts) > 1 and Path(self.resume).is_dir():
            folders = [RunFolder(part.path).checkpoints for part in self.parts]
            if Path(self.resume).resolve().parent not in [folder.resolve() for folder in folders]:
                raise UserError(
                    f"--resume {self.resume}: a run of several stages goes on from a checkpoint of one of them, in "
                    + " or ".join(map(str, folders))
                )
        folder = RunFolder(self.output)
        if self.resume == "never" or not folder.holds_run():
            folder.check_free()
        else:
            folder.check_continues(to_yaml(self.settings), allow_changes=self.allow_changes)

    # ------------------------------------------------------------------------------------------------ models

    # Models are made whole on every rank, since their embeddings are measured and made larger. What DeepSpeed shards,
    # it shards when training begins; until then transformers must not know of it.

    def first_model(self) -> SpiralThinkerModel:
        """What the first stage of the run starts from: a plain model, or one of ours."""
        unset_hf_deepspeed_config()
        name, revision = self.settings.model.name_or_path, self.settings.model.revision
        settings = self.parts[0].settings
        if is_saved_model(name, revision=revision):
            # Against the last part: Coconut's curriculum has other N on its way there.
            wanted = self.parts[-1].settings
            warn_of_other_numbers(
                read_settings(name, revision=revision),
                latents=wanted.annotation.latents,
                iterations=wanted.iterations,
                of=f"{name}: ",
            )
            return self.model_of(name, settings, revision=revision)
        set_seed(self.seed)  # the markers' embeddings and the adapters begin with random weights
        return SpiralThinkerModel.from_base(
            load_policy(name, revision=revision, dtype=weights_dtype(self.settings.model)),
            load_tokenizer(name, revision=revision),
            settings,
            lora=self.settings.model.lora,
        )

    def model_of(
        self, name_or_path: str | Path, settings: LatentSettings, *, revision: str | None = None
    ) -> SpiralThinkerModel:
        """A saved model, with the settings of this run.

        Raises:
            SettingsError: another width of the latent adapter than the model's.
        """
        unset_hf_deepspeed_config()
        set_seed(self.seed)
        model = SpiralThinkerModel.from_pretrained(
            name_or_path,
            revision=revision,
            dtype=weights_dtype(self.settings.model),
            lora=self.settings.model.lora,
        )
        hidden_size = model.causal.config.get_text_config().hidden_size
        width, wanted = model.parts.adapter.width, settings.adapter_width or hidden_size
        if width != wanted:
            raise SettingsError(
                f"method.adapter_width = {settings.adapter_width or 'null'}: the latent adapter of {name_or_path} is "
                f"{width} wide; set it to {'null' if width == hidden_size else width}, or start from a plain model"
            )
        model.settings = settings
        return model

    # ------------------------------------------------------------------------------------------------ a stage

    def start(self, before: Part | None, settings: LatentSettings) -> SpiralThinkerModel:
        return self.first_model() if before is None else self.model_of(before.path / "model", settings)

    def rows(self, model: SpiralThinkerModel, data: TrainingData, stage: Stage) -> list[Row]:
        method = self.settings.method
        return data.rows(
            model, implicit=stage == "implicit", trains_teacher=method.trains_teacher, spelled=method.spells
        )

    def stage(self, part: Part, before: Part | None) -> StageResult:
        """Trains a stage, writes its model and evaluates it; what an earlier call for the run did is not done again.

        before: the stage that it goes on from
        """
        folder = RunFolder(part.path)
        found = ranks.from_main(ranks.on_main(lambda: self._earlier(part), "look for the stage"), "what was trained")
        trained, history = found or self._train(part, before)
        gc.collect()  # the optimiser and its model go before another one comes
        evaluations = self._evaluate(folder) if self.settings.evaluation.at_end and part.evaluated else {}
        return StageResult(part.name, trained, history, evaluations)

    def _earlier(self, part: Part) -> tuple[Trained, list[dict[str, Any]]] | None:
        """What a stage before the last came to, where an earlier call trained it. The last one is gone on with."""
        folder = RunFolder(part.path)
        if part.path == self.output or not folder.file(TRAINED).is_file():
            return None
        trained = Trained(**json.loads(folder.file(TRAINED).read_text(encoding="utf-8")))
        return trained, folder.read_metrics()

    def _train(self, part: Part, before: Part | None) -> tuple[Trained, list[dict[str, Any]]]:
        """Trains a stage, or goes on with it, and writes its model. Rank 0 has the rows of metrics.jsonl."""
        settings, folder, stage = self.settings, RunFolder(part.path), part.stage

        def start() -> SpiralThinkerModel:
            return self.start(before, part.settings)

        model = start()
        data = training_data(model, self.problems)
        # Those of both kinds: what only a later stage could not use is said before the first is trained.
        rows = {each: self.rows(model, data, each) for each in {each.stage for each in self.parts}}[stage]
        frozen = stage == "implicit" and settings.method.aligns and settings.method.teacher == "frozen"
        teacher = start().eval().requires_grad_(False) if frozen else None
        arguments = self.arguments(part)
        if teacher is not None:
            teacher.to(arguments.device)
        point = choose_together(folder.checkpoints, self._resume_of(part))
        began_at = 0 if point.checkpoint is None else point.checkpoint.manifest.step

        def begin() -> list[dict[str, Any]]:
            self._begin(folder)
            for notice in point.notices():
                print(notice, file=sys.stderr)
            return folder.forget_metrics(after_step=began_at)

        history = ranks.on_main(begin, "begin the stage's folder") or []
        trainer = SpiralThinkerTrainer(
            model,
            arguments,
            rows,
            settings.method,
            stage=stage,
            teacher=teacher,
            identity=RunIdentity(
                settings=flat_settings(parse_yaml(to_yaml(settings), "the settings")),
                data={"training": data_fingerprint(rows)},
            ),
            allow_changes=self.allow_changes,
            nonfinite=settings.method.nonfinite,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(EngineCheck(trainer, settings.launch))
        trainer.add_callback(PhaseCallback())
        best = BestWeights(folder.file("best.safetensors"), history)
        began = time.perf_counter()
        with progress_bar(f"stage {part.name}") as update:
            metrics = MetricsLog(folder, update, history, status)
            trainer.add_callback(metrics)
            if self.validation is not None:
                trainer.add_callback(ValidationCallback(trainer, self.validation, settings, metrics, best))
            trainer.train(resume_from_checkpoint=None if point.checkpoint is None else point.checkpoint.path)
        seconds = time.perf_counter() - began
        keep_best = settings.evaluation.export == "best" and ranks.from_main(best.step, "step to export") > 0
        export(trainer, folder.model, best=best if keep_best else None, rebuild=start)
        trained = Trained(
            steps=trainer.state.global_step,
            exported_step=best.step if keep_best else trainer.state.global_step,
            training_seconds=round(seconds, 1),
            training_examples=len(rows),
            answer_only=data.answer_only,
            latent_steps=latent_steps(rows),
        )
        text = json.dumps(asdict(trained), indent=2) + "\n"
        ranks.on_main(lambda: write_atomic(folder.file(TRAINED), text), "mark the stage as trained")
        return trained, history

    def _resume_of(self, part: Part) -> str:
        """What `--resume` means for a stage: one of several goes on from a checkpoint that lies in its folder."""
        if self.resume in ("auto", "never") or len(self.parts) == 1:
            return self.resume
        elsewhere = Path(self.resume).resolve().parent != RunFolder(part.path).checkpoints.resolve()
        return "auto" if elsewhere and Path(self.resume).is_dir() else self.resume

    def _begin(self, folder: RunFolder) -> None:
        for own in (RunFolder(self.output), folder):
            if not own.holds_run():
                own.path.mkdir(parents=True, exist_ok=True)
            own.write_config(to_yaml(self.settings))
            own.write_environment()
        RunFolder(self.output).hold()

    def _evaluate(self, folder: RunFolder) -> dict[str, Measured]:
        """Evaluates the model that a stage has written, as it will be loaded again; goes on from its answers."""
        settings = self.settings
        model = SpiralThinkerModel.from_pretrained(folder.model, dtype=weights_dtype(settings.model))
        model.to(self.device)
        results = {}
        for benchmark in self.benchmarks:
            output = folder.file(f"evaluation/{benchmark.name}/generations.jsonl")
            with progress_bar(benchmark.name) as update:
                results[benchmark.name] = evaluate_one(model, benchmark, settings, output, update)
        return results


def parts_of(settings: Settings, output: Path) -> list[Part]:
    """The trainings of a run, in order; the last one's folder is the run's own."""
    method = settings.method
    final = settings.latent_settings()
    one_stage: dict[str, Stage] = {"explicit": "explicit", "answer_only": "explicit"}
    if method.name not in ("spiral", "coconut"):
        stage = one_stage.get(method.name, "implicit")
        return [Part(stage, stage, output, final)]
    latent = [Part("implicit", "implicit", output, final)]
    if method.name == "coconut":
        count = method.curriculum
        latent = [
            Part(
                "implicit" if number == count else f"implicit {number}",
                "implicit",
                output if number == count else output / f"latent{number}",
                settings.latent_settings(number),
                shares=count,
                evaluated=number == count,
            )
            for number in range(1, count + 1)
        ]
    if method.stages == "implicit":
        return latent
    alone = method.stages == "explicit"
    first = Part("explicit", "explicit", output if alone else output / "stage1", final)
    return [first] if alone else [first, *latent]


def export(
    trainer: SpiralThinkerTrainer, folder: Path, *, best: BestWeights | None, rebuild: Callable[[], SpiralThinkerModel]
) -> None:
    """Writes the trained model, on rank 0.

    Args:
        best: export these weights in the place of the last ones.
        rebuild: the model as it was before the stage. Under ZeRO-3 the trained weights are put into it, since the
            sharded one cannot be merged.
    """
    sharded = is_deepspeed_zero3_enabled()
    with gathered(trainer.model_wrapped) as base:
        weights = trained_weights(base) if sharded and best is None and ranks.is_main() else None
    unset_hf_deepspeed_config()  # what is loaded from here on is not sharded

    def write() -> None:
        model = rebuild() if sharded else trainer.spiral
        if best is not None:
            load_trained_weights(model.base, best.load())
        elif weights is not None:
            load_trained_weights(model.base, weights)
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed before the stage was done
        model.save_pretrained(folder)

    with torch.no_grad():
        ranks.on_main(write, "export the model")


def _print_results(results: list[StageResult], folder: RunFolder, console: Console) -> None:
    rows = [(evaluation, result.stage) for result in results for evaluation in result.evaluations.values()]
    if rows:
        console.print(terminal_table([(measured.result, name) for measured, name in rows]))
        console.print(cost_table(rows))
    for result in results:
        trained = result.trained
        if trained.answer_only:
            console.print(
                f"{result.stage} stage: {trained.answer_only} of {trained.training_examples} problems have no steps "
                "and were trained on with their answer alone",
                highlight=False,
                soft_wrap=True,
            )
    console.print(f"run folder: {folder.path}", highlight=False, soft_wrap=True)
    console.print(f"report: {folder.report}", highlight=False, soft_wrap=True)
