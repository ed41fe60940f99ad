"""What a run would do, for `--dry-run`: settings, data, steps, DeepSpeed's configuration, memory."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from ._common import count_parameters, memory, to_yaml, trains_in_bfloat16
from .arguments import Phase, checked_arguments, planned_steps, run_deepspeed
from .config import Settings
from .prepare import check_room, first_student, load_material, stage_order, target_rows
from .student import Student
from .trainer import StageOrder, TargetRow


def show_plan(settings: Settings, output: Path, *, seed: int, ranks: int, console: Console) -> None:
    """Loads and checks everything that the run needs, and prints what it would do on `ranks` processes.

    Raises:
        UserError: settings, data or model that cannot be used.
    """
    settings.training["seed"] = seed
    method = settings.method
    for phase in (method.acquisition, method.reflection):
        checked_arguments(settings, phase, ranks=ranks)
    material = load_material(settings)
    student = first_student(settings, seed)
    rows = target_rows(student, material)
    check_room(student, material, settings)
    order = stage_order(settings, material)

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    say(to_yaml(settings))
    counts = count_parameters(student.model)
    trained = "" if counts.trainable == counts.total else f", of which {counts.trainable / 1e6:.1f} M are trained"
    kind = "encoder-decoder" if student.encoder_decoder else "causal"
    say(f"student: {settings.model.name_or_path}, {kind}, {counts.total / 1e6:.1f} M parameters{trained}")
    sizes = ", ".join(f"{size} of {name}" for name, size in zip(order.names, order.sizes, strict=True))
    say(f"data: {len(material.questions)} questions from {material.source}; rows: {sizes}")
    if material.validation is not None:
        say(f"validation: {len(material.validation.questions)} questions from {material.validation.source}")
    for questions in material.tests:
        say(f"test: {len(questions.questions)} questions of {questions.name}, {questions.split}")
    for warning in material.tests_trained_on():
        say(warning)

    batches = sum(-(-size // method.acquisition.batch_size) for size in order.sizes)
    steps = planned_steps(method.acquisition, batches)
    block = ", ".join(f"{count} of {name}" for name, count in zip(order.names, order.block, strict=True))
    how = f"; one round is {block} batches" if order.mixing == "interval" and len(order.names) > 1 else ""
    say(f"phase 1: {steps} steps of {method.acquisition.batch_size} rows, each of one stage ({order.mixing}){how}")
    if material.validation is not None:
        say(f"  validation every {method.acquisition.steps_between_evaluations(material.options)} steps and at the end")
    longest = max(len(row["prompt_ids"]) + len(row["target_ids"]) for row in rows)
    say(f"  tokens: {longest} the longest row")
    _say_phase(settings, method.acquisition, student, longest, 1, ranks, say)
    if method.iterations:
        reflection = method.reflection
        length = f"{reflection.max_steps} steps" if reflection.max_steps else f"{reflection.num_train_epochs:g} epochs"
        questions_drawn = min(len(material.questions), reflection.limit or len(material.questions))
        say(
            f"phase 2: {method.iterations} iterations, each with {reflection.samples} chains of {questions_drawn} "
            f"questions in each of two passes, then {length} of {reflection.batch_size} pairs a step"
        )
        most = longest_pair(settings, order, rows)
        _say_phase(settings, reflection, student, most, 2, ranks, say)
    say(f"output: {output} (not made: dry run)")


def longest_pair(settings: Settings, order: StageOrder, rows: Sequence[TargetRow]) -> int:
    """Tokens of the longest row of a pair: the longest prompt of a stage that is reflected on, and the longest text.

    rows: of phase 1, whose prompts hold the teacher's recalls in the place of the student's
    """
    names = [name for name, size in zip(order.names, order.sizes, strict=True) for _ in range(size)]
    reflected = settings.method.reflection.stages
    longest = max(len(row["prompt_ids"]) for name, row in zip(names, rows, strict=True) if name in reflected)
    return longest + max(settings.generation.recall_tokens, settings.generation.analyze_tokens)


def _say_phase(
    settings: Settings,
    phase: Phase,
    student: Student,
    tokens: int,
    rows_of_one: int,
    ranks: int,
    say: Callable[[str], None],
) -> None:
    """Passes of a step, DeepSpeed, memory. rows_of_one: rows in the forward pass for each row of the batch"""
    checked = checked_arguments(settings, phase, ranks=ranks)
    micro_batch, accumulation = checked["per_device_train_batch_size"], checked["gradient_accumulation_steps"]
    say(f"  on each of {ranks} ranks, {accumulation} forward passes a step, each of {micro_batch}")
    deepspeed = run_deepspeed(settings, phase, ranks=ranks)
    if deepspeed is not None:
        say(f"  DeepSpeed: {json.dumps(deepspeed, indent=2)}")
    if student.encoder_decoder:
        return  # the estimate is of decoders
    counts = count_parameters(student.model)
    shape = memory.ModelShape.of(
        student.model.config, parameters=counts.total, trainable=counts.trainable, quantized=counts.quantized
    )
    job = memory.Job(
        micro_batch=micro_batch * rows_of_one,
        tokens=tokens,
        accumulation=accumulation,
        ranks=ranks,
        zero=None if deepspeed is None else deepspeed.get("zero_optimization", {}).get("stage", 0),
        offload=settings.launch.offload,
        bf16=trains_in_bfloat16(settings.model),
        checkpointing=bool(checked.get("activation_checkpointing")),
    )
    say("  memory of one rank, estimated:")
    for line in memory.estimate(shape, job).lines():
        say(f"    {line}")
