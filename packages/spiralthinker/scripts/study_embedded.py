"""The embedded model on `chains` and `graphs`: SpiralThinker, its ablations and the baselines, several seeds.

    python packages/spiralthinker/scripts/study_embedded.py --output runs/study --task chains --seeds 1 2 3 4 5
    python packages/spiralthinker/scripts/study_embedded.py --output runs/study --task graphs --cells spiral explicit

Cells, each a run of `spiralthinker train` with one thread:

    stage1        explicit chains for FIRST steps; what spiral, its ablations and coconut go on from
    spiral        stage 2 for SECOND steps
    no_alignment, no_iteration, neither     the 2x2 ablation; `neither` is pause tokens behind stage 1
    simultaneous  the other schedule
    matched       `neither`, with as many token passes in stage 2 as spiral
    explicit, answer_only, pause, codi      from the base model for FIRST + SECOND steps
    coconut       its curriculum for SECOND steps in all
    n2, n8, k1, k2, k3                      spiral with another N, or K

Behind spiral and simultaneous comes `spiralthinker evaluate`: K at test time, latents shuffled and zeroed, and both
decodings. What is finished is not repeated, so that a study that was stopped goes on. Ends with tables of what there
is, also written to OUTPUT/TASK.md; cells and seeds that were not run are named there.
"""

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

# Steps of stage 1 and 2, and what the embedded recipe has otherwise for this task.
TASKS: dict[str, tuple[int, int, list[str]]] = {
    "chains": (300, 600, ["--recipe", "embedded"]),
    "graphs": (600, 600, ["--recipe", "prosqa-small"]),
}
FROM_STAGE1 = {
    "spiral": [],
    "no_alignment": ["method.alignment=false"],
    "no_iteration": ["method.iterations=0"],
    "neither": ["method.iterations=0", "method.alignment=false"],
    "simultaneous": ["method.schedule=simultaneous"],
    "matched": ["method.iterations=0", "method.alignment=false"],
    "coconut": ["method.name=coconut", "method.latents=2", "method.curriculum=3"],
    "n2": ["method.latents=2"],
    "n8": ["method.latents=8"],
    "k1": ["method.iterations=1"],
    "k2": ["method.iterations=2"],
    "k3": ["method.iterations=3"],
}
FROM_BASE = {
    "stage1": ["method.stages=explicit"],
    "explicit": ["method.name=explicit"],
    "answer_only": ["method.name=answer_only"],
    "pause": ["method.name=pause"],
    "codi": ["method.name=codi", "method.latents=6"],
}
CELLS = [*FROM_BASE, *FROM_STAGE1]
TESTED = {"spiral", "simultaneous"}
KS = "0,1,2,3,4,5,6,8"


class Study:
    def __init__(self, output: Path, task: str, scale: float, limit: int, extra: list[str]) -> None:
        self.output, self.task, self.limit, self.extra = output / task, task, limit, extra
        first, second, self.base = TASKS[task]
        self.first, self.second = math.ceil(first * scale), math.ceil(second * scale)

    def folder(self, cell: str, seed: int) -> Path:
        return self.output / f"{cell}-{seed}"

    def results(self, cell: str, seed: int) -> dict[str, Any] | None:
        file = self.folder(cell, seed) / "results.json"
        return json.loads(file.read_text()) if file.exists() else None

    def seed(self, cells: list[str], seed: int) -> None:
        """The cells of one seed, stage 1 first and `matched` behind spiral."""
        for cell in sorted(cells, key=lambda cell: (cell != "stage1", cell != "spiral")):
            self.cell(cell, seed)
            if cell in TESTED:
                self.tests(cell, seed)

    def cell(self, cell: str, seed: int) -> None:
        if self.results(cell, seed) is not None:
            return
        if cell in FROM_BASE:
            steps = self.first if cell == "stage1" else self.first + self.second
            given = [*FROM_BASE[cell], f"stage1.max_steps={steps}", f"training.max_steps={steps}"]
        else:
            steps = self.second if cell != "matched" else self._matched_steps(seed)
            start = self.folder("stage1", seed) / "model"
            given = [f"model.name_or_path={start}", "method.stages=implicit", f"training.max_steps={steps}"]
            given += FROM_STAGE1[cell]
        folder = self.folder(cell, seed)
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was stopped
        self._run(f"{cell}-{seed}", "train", *self.base, *given, f"evaluation.limit={self.limit}", *self.extra,
                  "--seed", str(seed), "--output", str(folder))  # fmt: skip

    def _matched_steps(self, seed: int) -> int:
        """Steps of `neither` that take as many token passes as spiral's stage 2."""
        self.cell("neither", seed)
        passes = {}
        for cell in ("spiral", "neither"):
            found = self.results(cell, seed)
            assert found is not None, "stages run in this order"
            passes[cell] = found["stages"]["implicit"]["token_passes"]
        return round(self.second * passes["spiral"] / passes["neither"])

    def tests(self, cell: str, seed: int) -> None:
        folder, model = self.folder(cell, seed), self.folder(cell, seed) / "model"
        for name, options in (
            ("sweep", ["--iterations", KS]),
            ("controls", ["--control", "none,shuffled,zeroed"]),
            ("decodings", ["--decoding", "sequential,simultaneous"]),
        ):
            if not (folder / name / "results.json").exists():
                self._run(f"{cell}-{seed}-{name}", "evaluate", str(model), "--benchmark", self.task, "--limit",
                          str(self.limit), "--max-new-tokens", "120", "--max-tokens-per-batch", "32768", *options,
                          "--output", str(folder / name))  # fmt: skip

    def _run(self, name: str, *arguments: str) -> None:
        self.output.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        began = time.monotonic()
        with (self.output / f"{name}.log").open("w") as log:
            command = [sys.executable, "-m", "spiralthinker", *arguments]
            subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment, check=True)
        print(f"{self.task}, {name}: done in {time.monotonic() - began:.0f} s", flush=True)

    # -------------------------------------------------------------------------------------------- tables

    def summary(self, seeds: list[int]) -> str:
        """The tables in Markdown, of what there is."""
        lines = [
            f"## {self.task}: {self.first} steps of stage 1, {self.second} of stage 2, {self.limit} test problems",
            "",
            (
                "| cell | seeds | accuracy %, mean ± sd over seeds (range) | se of one seed | text tokens "
                "| latent tokens | token passes | ms a response | training M token passes | training s |"
            ),
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        missing = []
        for cell in CELLS:
            runs = {seed: found for seed in seeds if (found := self.results(cell, seed)) is not None}
            missing += [f"{cell} (seed {seed})" for seed in seeds if seed not in runs]
            if runs:
                lines.append(self._row(cell, list(runs.values())))
        for cell in sorted(TESTED):
            for name, title in (("sweep", "K at test time"), ("controls", "latents"), ("decodings", "decoding")):
                lines += self._tested(cell, name, title, seeds)
        lines += ["", f"Not run: {', '.join(missing) or 'nothing'}."]
        return "\n".join(lines) + "\n"

    def _row(self, cell: str, runs: list[dict[str, Any]]) -> str:
        stages = [list(run["stages"].values())[-1] for run in runs]
        evaluated = [stage["evaluations"][self.task] for stage in stages]
        costs = [each["cost_of_a_response"] for each in evaluated]
        latent = statistics.mean(cost["latent_tokens"] for cost in costs)
        text = statistics.mean(each["mean_tokens"] for each in evaluated) - latent
        training = [sum(stage["token_passes"] for stage in run["stages"].values()) for run in runs]
        return (
            f"| {cell} | {len(runs)} | {_spread([100 * each['accuracy'] for each in evaluated])} "
            f"| {100 * statistics.mean(each['standard_error'] for each in evaluated):.1f} | {text:.1f} | {latent:.1f} "
            f"| {statistics.mean(cost['token_passes'] for cost in costs):.0f} "
            f"| {1000 * statistics.mean(cost['seconds'] for cost in costs):.1f} "
            f"| {statistics.mean(training) / 1e6:.2f} "
            f"| {statistics.mean(sum(s['training_seconds'] for s in run['stages'].values()) for run in runs):.0f} |"
        )

    def _tested(self, cell: str, name: str, title: str, seeds: list[int]) -> list[str]:
        by_point: dict[str, list[float]] = {}
        for seed in seeds:
            file = self.folder(cell, seed) / name / "results.json"
            for point in json.loads(file.read_text())["points"] if file.exists() else []:
                key = {
                    "sweep": f"K = {point['iterations']}",
                    "controls": point["control"] or "its own",
                    "decodings": point["decoding"],
                }[name]
                by_point.setdefault(key, []).append(100 * point["accuracy"])
        if not by_point:
            return []
        rows = [f"| {key} | {len(values)} | {_spread(values)} |" for key, values in by_point.items()]
        return ["", f"| {cell}, {title} | seeds | accuracy % |", "|---|---|---|", *rows]


def _spread(values: list[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.1f} ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=CELLS)
    parser.add_argument("--scale", type=float, default=1.0, help="of all numbers of steps")
    parser.add_argument("--limit", type=int, default=300, help="test problems")
    parser.add_argument("--jobs", type=int, default=1, help="seeds at a time, each with one thread")
    parser.add_argument("--tables", action="store_true", help="run nothing, only print the tables of what there is")
    parser.add_argument("overrides", nargs="*", help="further settings of every run, SECTION.KEY=VALUE")
    options = parser.parse_args()
    study = Study(options.output, options.task, options.scale, options.limit, options.overrides)
    needed = {"stage1"} if set(options.cells) & set(FROM_STAGE1) else set()
    needed |= {"spiral"} if "matched" in options.cells else set()
    if not options.tables:
        with ThreadPoolExecutor(options.jobs) as pool:
            wanted = [cell for cell in CELLS if cell in needed or cell in options.cells]
            for done in [pool.submit(study.seed, wanted, seed) for seed in options.seeds]:
                done.result()
    text = study.summary(options.seeds)
    study.output.mkdir(parents=True, exist_ok=True)
    study.output.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
