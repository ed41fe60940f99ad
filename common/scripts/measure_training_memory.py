"""Measured peaks of training against the estimate of `distributed/memory.py`.

    python common/scripts/measure_training_memory.py --output docs/results/training-memory.md
    python common/scripts/measure_training_memory.py --case zero2 --case ddp

Every case trains a random Llama shape of 100 M parameters for two optimiser steps through `SupervisedTrainer`, with
the real launcher and engine, in float32 on CPU ranks. The figure is the highest resident memory of rank 0 above what it
was after the imports (Linux: VmHWM, reset in between).

glibc keeps blocks of up to 32 MiB that a program has freed, so that resident memory is more than what is in use. The
cases are measured with a fixed MALLOC_MMAP_THRESHOLD_, which gives them back; those of one process also without.
"""

import argparse
import json
import os
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from thinker_common.distributed.launch import plan_launch
from thinker_common.distributed.launch_settings import LaunchSettings
from thinker_common.distributed.memory import GIB, Estimate, Job, ModelShape, estimate
from thinker_common.distributed.resident import forget_peak, resident_bytes
from thinker_common.distributed.supervisor import run as supervise

SHAPE = {
    "vocab_size": 32000, "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12,
    "num_attention_heads": 12, "num_key_value_heads": 4, "tie_word_embeddings": True, "max_position_embeddings": 1024,
}  # fmt: skip
THRESHOLD = "MALLOC_MMAP_THRESHOLD_"
ROWS = Job(micro_batch=2, tokens=256)
LARGE = Job(micro_batch=4, tokens=512)


@dataclass(frozen=True)
class Case:
    """A training to measure. The job's `ranks` and `zero` say how it is launched."""

    name: str
    job: Job
    lora: bool = False


CASES = [
    Case("one process", ROWS),
    Case("one process, large batch", LARGE),
    Case("one process, large batch, activation checkpointing", replace(LARGE, checkpointing=True)),
    Case("one process, accumulation 2", replace(LARGE, micro_batch=2, accumulation=2)),
    Case("LoRA", LARGE, lora=True),
    Case("ddp", replace(ROWS, ranks=2)),
    Case("zero1", replace(ROWS, ranks=2, zero=1)),
    Case("zero2", replace(ROWS, ranks=2, zero=2)),
    Case("zero3", replace(ROWS, ranks=2, zero=3)),
    Case("zero3 offload", replace(ROWS, ranks=2, zero=3, offload=True)),
]


def measure(case: Case, *, keeps_freed: bool) -> tuple[float, Estimate]:
    """(measured peak in bytes, the estimate). `keeps_freed`: with glibc's own threshold."""
    os.environ.pop(THRESHOLD, None)
    if not keeps_freed:
        os.environ[THRESHOLD] = "131072"
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        arguments = ["--measure", case.name, "--result", str(result)]
        settings = LaunchSettings(gpus=case.job.ranks, zero=case.job.zero, offload=case.job.offload)
        os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
        plan = plan_launch(settings, Path(__file__).stem, arguments, gpus=[])
        if plan is None:
            code = os.spawnv(os.P_WAIT, sys.executable, [sys.executable, __file__, *arguments])
        else:
            code = supervise(plan)
        if code:
            sys.exit(f"{case.name}: exit code {code}")
        measured = json.loads(result.read_text())
    shape = ModelShape(**measured["shape"])
    return measured["peak"], estimate(shape, case.job)


def plain(case: Case) -> bool:
    return case.job.ranks == 1


def train_and_measure(case: Case, result: Path) -> None:
    """Inside a rank: trains, and writes the peak of rank 0."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments

    from thinker_common.distributed.deepspeed_config import RunValues, deepspeed_config
    from thinker_common.distributed.engine import check_engine
    from thinker_common.models.adapters import add_lora
    from thinker_common.models.load import load_tokenizer
    from thinker_common.training.sections import LoraSettings
    from thinker_common.training.supervised import SupervisedTrainer

    if case.job.zero is not None:
        import deepspeed  # noqa: F401
    job = case.job
    tokenizer = load_tokenizer("embedded")
    before = resident_bytes("now")
    forget_peak()

    settings = LaunchSettings(gpus=job.ranks, zero=job.zero, offload=job.offload)
    values = RunValues(
        job.micro_batch, job.accumulation, job.ranks, 1.0, False, 1e-4, (0.9, 0.999), 1e-8, 0.0, SHAPE["hidden_size"],
        cpu=True,
    )  # fmt: skip
    config = deepspeed_config(settings, values)
    arguments = TrainingArguments(
        output_dir=str(result.parent / "output"), use_cpu=True, max_steps=2, learning_rate=1e-4, report_to=[],
        per_device_train_batch_size=job.micro_batch, gradient_accumulation_steps=job.accumulation, deepspeed=config,
        activation_checkpointing=job.checkpointing, disable_tqdm=True, save_strategy="no", logging_strategy="no",
    )  # fmt: skip
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(LlamaConfig(**SHAPE))
    if case.lora:
        model = add_lora(model, LoraSettings(r=16))
    parameters = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    shape = ModelShape.of(model.config, parameters=parameters, trainable=trainable)
    rows = torch.randint(100, 1000, (2 * job.micro_batch * job.accumulation * job.ranks, job.tokens)).tolist()
    trainer = SupervisedTrainer(
        model, arguments, [{"input_ids": row, "labels": row} for row in rows], processing_class=tokenizer
    )
    trainer.train()
    check_engine(trainer.model_wrapped, settings, config, world_size=arguments.world_size, launched_ranks=job.ranks)
    if arguments.process_index == 0:
        peak = resident_bytes("peak") - before
        result.write_text(json.dumps({"peak": peak, "shape": vars(shape)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--case", action="append", choices=[case.name for case in CASES], help="only this; repeatable")
    parser.add_argument("--quick", action="store_true", help="leave the last column out")
    parser.add_argument("--output", type=Path, help="write the page")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure is not None:
        train_and_measure(next(case for case in CASES if case.name == given.measure), given.result)
        return
    lines = ["| case | measured GiB | estimated GiB | estimate / measured | with freed blocks kept |"]
    lines.append("|---|---:|---:|---:|---:|")
    print(*lines, sep="\n")
    for case in CASES:
        if given.case and case.name not in given.case:
            continue
        peak, estimated = measure(case, keeps_freed=False)
        kept = f"{measure(case, keeps_freed=True)[0] / GIB:.2f}" if plain(case) and not given.quick else ""
        expected = estimated.peak("both")
        lines.append(f"| {case.name} | {peak / GIB:.2f} | {expected / GIB:.2f} | {expected / peak:.2f} | {kept} |")
        print(lines[-1], flush=True)
    if given.output is not None:
        given.output.write_text(_page(lines))


def _page(table: list[str]) -> str:
    from thinker_common.training.run_folder import environment

    state = environment()
    packages = ", ".join(f"{name} {state['packages'][name]}" for name in ("torch", "transformers", "deepspeed"))
    return f"""# Memory of training: estimate against measurement

    python common/scripts/measure_training_memory.py --output docs/results/training-memory.md

Commit {(state["source"] or {}).get("commit", "unknown")[:12]}; {packages}; {state["processors"]} CPU cores, no GPU,
float32. A random Llama shape of 100 M parameters, two optimiser steps through `SupervisedTrainer` under the real
launcher and engine. Measured is the highest resident memory of rank 0 above what it was after the imports; the estimate
is that of `distributed/memory.py`, which `--dry-run` prints with its arithmetic. One run a case. Batches
have 2 rows of 256 tokens, large ones 4 of 512; accumulation has two passes of 2 rows of 512.

glibc keeps blocks of up to 32 MiB that a program has freed. The first column was measured with a fixed
`MALLOC_MMAP_THRESHOLD_=131072`, with which they are given back and resident memory is what is in use; the last one
without: there the estimate is too low, for LoRA by more than a third. On CPU ranks that are short of memory, set the
variable; GPUs have another allocator, whose waste is not measured here.

""" + "\n".join([*table, ""])


if __name__ == "__main__":
    main()
