"""Parity: the same training, spread in different ways over processes, must be the same training.

A method has a worker script, which trains for STEPS steps as a `Layout` says and writes what it saw with `record`. Its
test runs the worker once per layout and compares with the layout "one process". The workers and tests of the methods
load this file by its path.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from thinker_common.distributed.deepspeed_config import RunValues, deepspeed_config
from thinker_common.distributed.launch_settings import LaunchSettings

STEPS = 20
BATCH = 8  # examples of an optimiser step, in every layout


@dataclass(frozen=True)
class Layout:
    """How a training is spread. `ranks * micro_batch * accumulation` is always BATCH."""

    ranks: int = 1
    accumulation: int = 1
    zero: int | None = None  # DeepSpeed's stage; None: no DeepSpeed
    offload: bool = False
    activation_checkpointing: bool = False

    @property
    def micro_batch(self) -> int:
        return BATCH // (self.ranks * self.accumulation)


REFERENCE = "one process"
LAYOUTS = {
    REFERENCE: Layout(),
    "accumulation 1x8": Layout(accumulation=8),
    "activation checkpointing": Layout(activation_checkpointing=True),
    "2 ranks, DDP": Layout(ranks=2),
    "2 ranks, ZeRO-1": Layout(ranks=2, zero=1),
    "2 ranks, ZeRO-2, accumulation 2x2": Layout(ranks=2, accumulation=2, zero=2),
    "2 ranks, ZeRO-3": Layout(ranks=2, zero=3),
    "2 ranks, ZeRO-3, CPU offload": Layout(ranks=2, zero=3, offload=True),
}
MORE_LAYOUTS = {
    "2 ranks, DDP, accumulation 1x4": Layout(ranks=2, accumulation=4),
    "2 ranks, ZeRO-0": Layout(ranks=2, zero=0),
    "2 ranks, ZeRO-2": Layout(ranks=2, zero=2),
    "2 ranks, ZeRO-2, CPU offload": Layout(ranks=2, zero=2, offload=True),
    "2 ranks, ZeRO-3, accumulation 1x4, activation checkpointing": Layout(
        ranks=2, accumulation=4, zero=3, activation_checkpointing=True
    ),
    "4 ranks, ZeRO-3": Layout(ranks=4, zero=3),
}


def training_arguments(layout: Layout, output: Path, *, hidden_size: int) -> dict[str, Any]:
    """Arguments of transformers' TrainingArguments, or of a class derived from it, on CPU in float32."""
    arguments = {
        "output_dir": str(output),
        "max_steps": STEPS,
        "per_device_train_batch_size": layout.micro_batch,
        "gradient_accumulation_steps": layout.accumulation,
        "activation_checkpointing": layout.activation_checkpointing,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 2,
        "max_grad_norm": 1.0,
        "weight_decay": 0.01,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "use_cpu": True,
        "bf16": False,
        "seed": 7,
        "ddp_find_unused_parameters": False,
    }
    return {**arguments, "deepspeed": deepspeed_preset(layout, arguments, hidden_size)}


def deepspeed_preset(layout: Layout, arguments: dict[str, Any], hidden_size: int) -> dict[str, Any] | None:
    """The configuration that the package ships for the layout, filled as a run fills it."""
    values = RunValues(
        micro_batch=layout.micro_batch,
        accumulation=layout.accumulation,
        world_size=layout.ranks,
        max_grad_norm=arguments["max_grad_norm"],
        bf16=False,
        learning_rate=arguments["learning_rate"],
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=arguments["weight_decay"],
        hidden_size=hidden_size,
        cpu=True,
    )
    return deepspeed_config(LaunchSettings(zero=layout.zero, offload=layout.offload), values)


def run(worker: Path, layout: Layout, folder: Path, *options: str, timeout: float = 300) -> float:
    """Runs a worker script under torchrun and returns the seconds it took. AssertionError with its output on failure.

    The script is called as `worker LAYOUT_JSON FOLDER OPTIONS`.
    """
    arguments = [str(worker), json.dumps(asdict(layout)), str(folder), *options]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={layout.ranks}"]
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *(launcher if layout.ranks > 1 or layout.zero is not None else []), *arguments],
        env={**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    return time.perf_counter() - began


def record(folder: Path, history: list[dict[str, float]], weights: dict[str, torch.Tensor], **rest: Any) -> None:
    """Writes what a worker saw; to be called on rank 0."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous().clone() for name, tensor in weights.items()}, folder / "weights.safetensors")
    (folder / "record.json").write_text(json.dumps({"history": history, **rest}))


@dataclass(frozen=True)
class Difference:
    """How far a training is from the reference."""

    loss_max: float  # of the steps' losses
    loss_drift: float  # |mean over the steps of the signed difference|
    grad_norm_relative: float  # largest of the steps
    weight_change_relative: float  # |dw_a - dw_b| / |dw_b|

    def within(self, other: "Difference") -> bool:
        return all(getattr(self, name) <= getattr(other, name) for name in self.__dataclass_fields__)


TOLERANCE = Difference(loss_max=1e-5, loss_drift=1e-6, grad_norm_relative=1e-4, weight_change_relative=1e-3)


def difference(folder: Path, reference: Path, start: dict[str, torch.Tensor]) -> Difference:
    """Compares two recorded trainings that began at the weights `start`."""
    ours, theirs = (json.loads((path / "record.json").read_text())["history"] for path in (folder, reference))
    losses = torch.tensor([[row["loss"] for row in rows] for rows in (ours, theirs)], dtype=torch.float64)
    # DeepSpeed reports no norms under ZeRO-0; elsewhere there is one a step.
    both = [(a["grad_norm"], b["grad_norm"]) for a, b in zip(ours, theirs, strict=True) if "grad_norm" in a]
    norms = torch.tensor(both or [(1.0, 1.0)], dtype=torch.float64).T
    assert losses.shape == (2, STEPS)
    changes = [change(path, start) for path in (folder, reference)]
    assert changes[1].norm() > 0, "a training that changes nothing would agree with everything"
    return Difference(
        loss_max=(losses[0] - losses[1]).abs().max().item(),
        loss_drift=(losses[0] - losses[1]).mean().abs().item(),
        # A step that nothing is trained on has the norm 0 in both.
        grad_norm_relative=((norms[0] - norms[1]).abs() / norms[1].clamp(min=1e-12)).max().item(),
        weight_change_relative=((changes[0] - changes[1]).norm() / changes[1].norm()).item(),
    )


def change(folder: Path, start: dict[str, torch.Tensor]) -> torch.Tensor:
    weights = load_file(folder / "weights.safetensors")
    assert weights.keys() == start.keys()
    return torch.cat([(weights[name].double() - start[name].double()).flatten() for name in sorted(start)])
