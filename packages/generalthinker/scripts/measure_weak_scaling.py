"""Weak scaling of GeneralThinker on CPU: two ranks with one thread each against one process, the same work per rank.

    python packages/generalthinker/scripts/measure_weak_scaling.py
    python packages/generalthinker/scripts/measure_weak_scaling.py --stages none 2 --steps 20 --responses 128

Runs `generalthinker train` on the embedded model, with the recipe's own sampling, rewards, token credit and update. A
stage is ZeRO's for the two ranks, `none` is DDP. Efficiency is the median step of one process over the median step of
two ranks; a step lasts from one row of `metrics.jsonl` to the next. The learning rate is next to nothing, so that
responses stay as long as they are at the start. Ranks sample responses of their own and wait for the longest, as in any
run. It says nothing on a machine that has other work.
"""

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WARM_UP = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", nargs="+", default=["none"], choices=["none", "0", "1", "2", "3"])
    parser.add_argument("--steps", type=int, default=12, help="counted steps")
    parser.add_argument("--responses", type=int, default=64, help="of a step, on each rank")
    options = parser.parse_args()
    alone = step_seconds("none", 1, options.steps, options.responses)
    print(f"one process: {described(alone)}", flush=True)
    for stage in options.stages:
        two = step_seconds(stage, 2, options.steps, options.responses)
        engine = "DDP" if stage == "none" else f"ZeRO-{stage}"
        efficiency = statistics.median(alone) / statistics.median(two)
        print(f"two ranks, {engine}: {described(two)}, efficiency {efficiency:.1%}", flush=True)
    print(f"{options.responses} responses a rank and step, {options.steps} steps after {WARM_UP} to warm up")


def step_seconds(stage: str, ranks: int, steps: int, responses: int) -> list[float]:
    """Wall-clock seconds of each counted step of one run."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "run"
        command = [
            sys.executable, "-m", "generalthinker", "train", "--recipe", "embedded", "--output", str(output),
            "--gpus", str(ranks), *([] if stage == "none" else ["--zero", stage]),
            f"training.max_steps={WARM_UP + steps}", f"training.per_device_train_batch_size={responses}",
            "training.learning_rate=1e-9", "training.logging_steps=1", "training.save_strategy=no",
            "evaluation.at_start=false", "evaluation.at_end=false", "evaluation.every_steps=null",
        ]  # fmt: skip
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        ends: list[float] = []
        with (Path(folder) / "log").open("w+") as log:
            run = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
            while run.poll() is None:
                time.sleep(0.02)
                metrics = output / "metrics.jsonl"
                rows = metrics.read_bytes().count(b'"loss"') if metrics.exists() else 0
                ends += [time.perf_counter()] * (rows - len(ends))
            if run.returncode:
                log.seek(0)
                raise SystemExit(log.read()[-3000:])
    counted = ends[WARM_UP - 1 :]
    return [end - begin for begin, end in itertools.pairwise(counted)][:steps]


def described(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.3f} s a step ({min(seconds):.3f} to {max(seconds):.3f})"


if __name__ == "__main__":
    main()
