"""What a run would do, for `--dry-run`: settings, data, steps, token passes, DeepSpeed's configuration, memory."""

import json
from pathlib import Path

from rich.console import Console

from ._common import memory, to_yaml, trains_in_bfloat16
from .arguments import checked_arguments, planned_steps, run_deepspeed
from .columns import Row
from .config import Settings
from .data import latent_steps, training_data
from .model import LatentSettings
from .train import Run
from .trainer import Stage


def show_plan(settings: Settings, output: Path, *, seed: int, ranks: int, console: Console) -> None:
    """Loads and checks everything that the run needs, and prints what it would do on `ranks` processes.

    Raises:
        UserError: settings, data or model that cannot be used.
    """
    settings.training["seed"] = seed
    run = Run(settings, output, seed, resume="never", allow_changes=False)
    run.load()
    model = run.first_model()
    data = training_data(model, run.problems)

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    say(to_yaml(settings))
    parameters = list(model.base.parameters())
    total = sum(p.numel() for p in parameters)
    trainable = sum(p.numel() for p in parameters if p.requires_grad)
    trained = "" if trainable == total else f", of which {trainable / 1e6:.1f} M are trained"
    say(f"model: {settings.model.name_or_path} with markers and adapter, {total / 1e6:.1f} M parameters{trained}")
    say(f"data: {len(data.examples)} problems from {data.source}; {data.answer_only} have no steps, their answer alone")
    for part in run.parts:
        stage = part.stage
        model.settings = part.settings
        data = training_data(model, run.problems)
        rows = run.rows(model, data, stage)
        arguments = run.arguments(part)
        micro_batch = arguments.per_device_train_batch_size
        per_step = micro_batch * arguments.gradient_accumulation_steps * ranks
        tokens = sum(len(row["input_ids"]) for row in rows)
        steps = latent_steps(rows)
        again = [read_again(row, part.settings, settings) for row in rows]
        longest = max(len(row["input_ids"]) for row in rows)
        say(f"{part.name} stage: {planned_steps(arguments, len(rows), ranks=ranks)} steps of {per_step} examples")
        say(f"  tokens: {tokens / len(rows):.0f} an example, {longest} the longest")
        if steps:
            say(
                f"  latent steps: {steps / len(rows):.1f} an example; token passes: "
                f"{(tokens + sum(again)) / len(rows):.0f} an example ({part.settings.schedule} schedule, without a "
                "teacher that is not trained)"
            )
        checked = checked_arguments(settings, stage)
        deepspeed = run_deepspeed(settings, checked, ranks=ranks)
        if deepspeed is not None:
            say(f"  DeepSpeed: {json.dumps(deepspeed, indent=2)}")
        shape = memory.ModelShape.of(model.causal.config, parameters=total, trainable=trainable)
        blocks = max(len(row["bols"]) for row in rows)
        job = memory.Job(
            micro_batch=micro_batch,
            tokens=longest + max(again),
            accumulation=arguments.gradient_accumulation_steps,
            ranks=ranks,
            zero=None if deepspeed is None else deepspeed.get("zero_optimization", {}).get("stage", 0),
            offload=settings.launch.offload,
            bf16=trains_in_bfloat16(settings.model),
            checkpointing=bool(arguments.activation_checkpointing) and stage == "explicit",
            reference=_has_frozen_teacher(settings, stage),
        )
        say("  memory of one rank, estimated:")
        for line in memory.estimate(shape, job).lines():
            say(f"    {line}")
        if stage == "implicit":
            say(f"    {kept_prefixes(shape, settings, part.settings, micro_batch, blocks, longest)}")
    say(f"output: {output} (not made: dry run)")


def read_again(row: Row, latent: LatentSettings, settings: Settings) -> int:
    """Tokens of a row that are read with gradient beside one reading of each: those of the iterations, in which the
    schedules differ most, and the explicit version of a teacher that is trained."""
    if not row["bols"]:
        return 0
    taught = len(row["explicit_ids"]) if settings.method.trains_teacher else 0
    latents, first, last = latent.annotation.latents, row["bols"][0], row["bols"][-1]
    if latent.schedule == "simultaneous":  # from the first latent to the last <eol>, or to the end
        end = len(row["input_ids"]) if settings.method.cross_entropy == "every" else last + latents + 2
        return taught + latent.iterations * (end - first - 1)
    return taught + latent.iterations * len(row["bols"]) * (latents + 1)


def kept_prefixes(
    shape: memory.ModelShape,
    settings: Settings,
    latent: LatentSettings,
    micro_batch: int,
    blocks: int,
    longest: int,
) -> str:
    """What attention keeps for its backward pass: a copy of all keys and values for each reading of a latent step."""
    copies = {
        "sequential": blocks * latent.iterations,
        "simultaneous": min(blocks, 1) * latent.iterations,  # all latent steps in one reading
        "autoregressive": blocks * latent.annotation.latents,
    }[latent.schedule]
    item = 2 if trains_in_bfloat16(settings.model) else 4
    size = copies * 2 * shape.layers * micro_batch * longest * shape.kv_heads * shape.head_dim * item
    return (
        f"besides, at most {size / memory.GIB:.2f} GiB for keys and values: {copies} readings (of latent steps) x "
        f"{shape.layers} layers x {micro_batch} rows x {longest} positions x 2 x {shape.kv_heads * shape.head_dim} x "
        f"{item} B"
    )


def _has_frozen_teacher(settings: Settings, stage: Stage) -> bool:
    return stage == "implicit" and settings.method.aligns and settings.method.teacher == "frozen"
