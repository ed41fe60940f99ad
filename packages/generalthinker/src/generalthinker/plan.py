"""What a run would do, for `--dry-run`: settings, steps, tokens, DeepSpeed's configuration, memory."""

import json
from pathlib import Path

from rich.console import Console
from trl import GRPOConfig

from ._common import check_arguments, count_parameters, memory, to_yaml, trains_in_bfloat16
from .arguments import planned_steps, rollout_responses, run_deepspeed, samples_itself, training_arguments
from .config import MANAGED_ARGUMENTS, Settings
from .prepare import prepare


def show_plan(settings: Settings, output: Path, *, seed: int, ranks: int, console: Console) -> None:
    """Loads and checks everything that the run needs, and prints what it would do on `ranks` processes.

    Raises:
        UserError: settings, data or model that cannot be used.
    """
    settings.training["seed"] = seed
    arguments = training_arguments(settings, output)
    run = prepare(settings, arguments, seed=seed, ranks=ranks)

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    say(to_yaml(settings))
    counts = count_parameters(run.policy)
    trained = "" if counts.trainable == counts.total else f", of which {counts.trainable / 1e6:.1f} M are trained"
    say(f"model: {settings.model.name_or_path}, {counts.total / 1e6:.1f} M parameters{trained}")
    say(f"data: {len(run.rows)} problems from {run.problems.source}")

    responses = rollout_responses(arguments, ranks=ranks)
    per_step = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps * ranks
    say(
        f"steps: {planned_steps(arguments, len(run.rows), ranks=ranks)}, each on {per_step} responses; a rollout has "
        f"{responses // arguments.num_generations} prompts of {arguments.num_generations} responses"
    )
    prompt = max(len(ids) for ids in run.tokenizer(list(run.rows["conditioned_prompt"]))["input_ids"])
    longest = prompt + settings.generation.max_new_tokens
    say(
        f"tokens: at most {per_step * longest} a step ({per_step} rows x ({prompt} of the longest prompt + "
        f"{settings.generation.max_new_tokens} of a response))"
    )
    checked = check_arguments(settings.training, GRPOConfig, managed=MANAGED_ARGUMENTS)
    deepspeed = run_deepspeed(settings, checked, ranks=ranks)
    if deepspeed is not None:
        say(f"DeepSpeed: {json.dumps(deepspeed, indent=2)}")
    rollout_rows = responses // ranks
    if samples_itself(arguments):
        rollout_rows = min(rollout_rows, max(1, settings.generation.max_tokens_per_batch // longest))
    job = memory.Job(
        micro_batch=arguments.per_device_train_batch_size,
        tokens=longest,
        accumulation=arguments.gradient_accumulation_steps,
        ranks=ranks,
        zero=None if deepspeed is None else deepspeed.get("zero_optimization", {}).get("stage", 0),
        offload=settings.launch.offload,
        bf16=trains_in_bfloat16(settings.model),
        checkpointing=bool(arguments.activation_checkpointing),
        reference=arguments.beta > 0 and settings.model.lora is None,
        rollout_rows=rollout_rows,
        scoring_tokens=min(settings.method.max_tokens_per_batch, responses // ranks * longest),
    )
    shape = memory.ModelShape.of(
        run.policy.config, parameters=counts.total, trainable=counts.trainable, quantized=counts.quantized
    )
    say("memory of one rank, estimated:")
    for line in memory.estimate(shape, job).lines():
        say(f"  {line}")
    say(f"output: {output} (not made: dry run)")
