"""The measured peak of GeneralThinker with a large rollout against the estimate that `train --dry-run` prints.

    python packages/generalthinker/scripts/measure_rollout_memory.py
    python packages/generalthinker/scripts/measure_rollout_memory.py --case zero3

Every case trains a random Llama shape of 100 M parameters in float32 on CPU ranks, with rewards, token credit and
activation checkpointing. A rollout is spent on several optimiser steps; the first has short responses, so that the
second, a long one, meets a filled optimiser. Its keys and values are the largest part of the peak. The figure is the
highest resident memory of rank 0 above what it was after the imports (Linux), with a fixed MALLOC_MMAP_THRESHOLD_ as in
`measure_training_memory.py`, so that glibc gives freed blocks back.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from thinker_common.distributed.memory import GIB, Estimate, Job, ModelShape, estimate

SHAPE = {
    "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 15, "num_attention_heads": 12,
    "num_key_value_heads": 12, "tie_word_embeddings": True, "max_position_embeddings": 1024,
}  # fmt: skip
RESPONSE, WARM_UP = 192, 16  # tokens
SCORING = 1024  # method.max_tokens_per_batch
GROUP = 8
ROLLOUT = Job(micro_batch=2, tokens=0, checkpointing=True, rollout_rows=32, scoring_tokens=SCORING)


@dataclass(frozen=True)
class Case:
    """A training to measure. The job's `ranks` and `zero` say how it is launched."""

    name: str
    job: Job
    beta: float = 0.0  # of the KL term, which wants a reference model


CASES = [
    Case("one process", ROLLOUT),
    Case("one process, twice as many responses", replace(ROLLOUT, rollout_rows=64)),
    Case("one process, reference model", replace(ROLLOUT, reference=True), beta=0.01),
    Case("ddp", replace(ROLLOUT, ranks=2)),
    Case("zero2", replace(ROLLOUT, ranks=2, zero=2)),
    Case("zero3", replace(ROLLOUT, ranks=2, zero=3)),
]


def measure(case: Case) -> tuple[float, Estimate]:
    """(measured peak in bytes, the estimate)."""
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder) / "model")
        result = Path(folder) / "result.json"
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={case.job.ranks}"]
        subprocess.run(
            [sys.executable, *(launcher if case.job.ranks > 1 else []), __file__, "--measure", case.name, str(result)],
            env={
                **os.environ,
                "MALLOC_MMAP_THRESHOLD_": "131072",
                "DS_ACCELERATOR": "cpu",
                "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // case.job.ranks)),
            },
            check=True,
        )
        measured = json.loads(result.read_text())
    return measured["peak"], estimate(ModelShape(**measured["shape"]), replace(case.job, tokens=measured["tokens"]))


def write_model(folder: Path) -> None:
    """Random weights; in a folder, from which a reference model is loaded too."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from thinker_common.models.load import load_tokenizer

    torch.manual_seed(0)
    tokenizer = load_tokenizer("embedded")
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **SHAPE)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def train_and_measure(case: Case, result: Path) -> None:
    """Inside a rank: trains, and writes the peak of rank 0."""
    from transformers.trainer_callback import PrinterCallback
    from trl import GRPOConfig

    from generalthinker.config import MethodSettings
    from generalthinker.data import training_rows
    from generalthinker.trainer import GeneralThinkerTrainer
    from thinker_common.benchmarks import chains
    from thinker_common.distributed.deepspeed_config import RunValues, deepspeed_config
    from thinker_common.distributed.engine import check_engine
    from thinker_common.distributed.launch import launched_ranks
    from thinker_common.distributed.launch_settings import LaunchSettings
    from thinker_common.distributed.process_group import leave
    from thinker_common.distributed.resident import forget_peak, resident_bytes
    from thinker_common.models.load import load_policy, load_tokenizer

    job, folder = case.job, result.parent / "model"
    tokenizer = load_tokenizer(folder)
    if job.zero is not None:
        import deepspeed

        deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False, verbose=False)
    before = resident_bytes("now")
    forget_peak()

    base = "reference" if case.beta else "current"
    method = MethodSettings(credit="controlled", credit_base=base, max_tokens_per_batch=SCORING)
    rollout_steps = job.rollout_rows // job.micro_batch
    launch = LaunchSettings(gpus=job.ranks, zero=job.zero)
    values = RunValues(
        job.micro_batch, 1, job.ranks, 1.0, False, 1e-4, (0.9, 0.999), 1e-8, 0.0, SHAPE["hidden_size"], cpu=True
    )
    arguments = GRPOConfig(
        output_dir=str(result.parent / "output"), use_cpu=True, bf16=False, max_steps=rollout_steps + 1,
        learning_rate=1e-4, report_to=[], per_device_train_batch_size=job.micro_batch, gradient_accumulation_steps=1,
        steps_per_generation=rollout_steps, num_generations=GROUP, max_completion_length=RESPONSE, beta=case.beta,
        deepspeed=deepspeed_config(launch, values), disable_tqdm=True,
        activation_checkpointing=job.checkpointing, save_strategy="no", logging_strategy="no",
    )  # fmt: skip
    problems = chains.generate("train", 64)
    rows = training_rows(problems, method, seed=0)
    model = load_policy(folder, dtype="float32")
    parameters = sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters())
    shape = ModelShape.of(model.config, parameters=parameters, trainable=parameters)
    trainer = GeneralThinkerTrainer(model, arguments, method, rows, tokenizer)
    trainer.remove_callback(PrinterCallback)
    sample, eos_token_ids = trainer._generate_single_turn, trainer.eos_token_ids

    def sampled(*args: Any, **kwargs: Any) -> tuple:
        trainer.max_completion_length = RESPONSE if trainer.state.global_step else WARM_UP
        trainer.eos_token_ids = []  # all responses have this length
        try:
            return sample(*args, **kwargs)
        finally:
            trainer.eos_token_ids = eos_token_ids

    trainer._generate_single_turn = sampled
    trainer.train()
    check_engine(
        trainer.model_wrapped,
        launch,
        arguments.deepspeed,
        world_size=arguments.world_size,
        launched_ranks=launched_ranks(),
    )
    if arguments.process_index == 0:
        peak = resident_bytes("peak") - before
        prompt = max(len(ids) for ids in tokenizer(list(rows["conditioned_prompt"]))["input_ids"])
        result.write_text(json.dumps({"peak": peak, "shape": vars(shape), "tokens": prompt + RESPONSE}))
    leave()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=[case.name for case in CASES], help="only this; repeatable")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure is not None:
        name, result = given.measure
        train_and_measure(next(case for case in CASES if case.name == name), Path(result))
        return
    print("| case | responses a rank | measured GiB | estimated GiB | estimate / measured | highest in |")
    print("|---|---:|---:|---:|---:|---|")
    for case in CASES:
        if given.case and case.name not in given.case:
            continue
        peak, estimated = measure(case)
        expected = estimated.peak("both")
        highest = estimated.lines()[-1].rpartition(" in ")[2]
        print(
            f"| {case.name} | {case.job.rollout_rows} | {peak / GIB:.2f} | {expected / GIB:.2f} | "
            f"{expected / peak:.2f} | {highest} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
