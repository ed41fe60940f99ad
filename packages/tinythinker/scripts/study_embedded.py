"""What do the phases, the stages and their mixing bring? The embedded student on `facts`, cell by cell, several seeds.

    python packages/tinythinker/scripts/study_embedded.py --output runs/study --seeds 1 2 3 4 5 --jobs 2

Cells are settings on top of the recipe `embedded`; see CELLS. A run of `both` gives the figures of phase 1 and of every
iteration of phase 2. Each run is one process with one thread. A run that is finished is not repeated and one that was
stopped goes on, so that the study is one command however often it is stopped. Ends with the tables of
docs/results/tinythinker.md, also written to `summary.md`; `--summary` writes them from whatever is finished.
"""

import argparse
import json
import os
import statistics as spread
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from thinker_common.evaluation.generations import read_generations
from thinker_common.evaluation.statistics import mcnemar_exact, paired_bootstrap

ALONE = "method.reflection.iterations=0"
EVERY_WAY = "evaluation.answering=[greedy, self_consistency, option_likelihood]"
CELLS = {
    "both": [EVERY_WAY],
    "label": ["method.baseline=label"],
    "cot": ["method.baseline=cot"],
    "recall+summarize": [ALONE, "method.acquisition.stages=[recall, summarize]"],
    "analyze+summarize": [ALONE, "method.acquisition.stages=[analyze, summarize]"],
    "sequential": [ALONE, "method.acquisition.mixing=sequential"],
    "proportional": [ALONE, "method.acquisition.mixing=proportional"],
    "interval 8": [ALONE, "method.acquisition.interval=8"],
    "recall pairs alone": ["method.reflection.stages=[recall]"],
    "analyze pairs alone": ["method.reflection.stages=[analyze]"],
    "acquired": ["method.reflection.reference=acquired"],
}


def run(output: Path, cell: str, seed: int, overrides: list[str]) -> None:
    """One training run in its own process, unless it is finished."""
    folder = folder_of(output, cell, seed)
    if (folder / "results.json").exists():
        return
    command = [
        sys.executable, "-m", "tinythinker", "train", "--recipe", "embedded", "--output", str(folder),
        "--seed", str(seed), *CELLS[cell], *overrides,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    output.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".log").open("a") as log:
        subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment, check=True)
    print(f"{cell}, seed {seed}: done", flush=True)


def folder_of(output: Path, cell: str, seed: int) -> Path:
    return output / f"{cell.replace(' ', '-')}-{seed}"


def summary(output: Path, cells: list[str], seeds: list[int]) -> str:
    """The tables in Markdown, of the runs that are finished."""
    results: dict[tuple[str, int], dict[str, Any]] = {}
    for cell in cells:
        for seed in seeds:
            path = folder_of(output, cell, seed) / "results.json"
            if path.exists():
                results[cell, seed] = json.loads(path.read_text())
    lines = [
        "| cell | student | answers | seeds | accuracy %, mean ± spread (range) | abstained % | log-lik. | tokens |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for cell in cells:
        own = {seed: results[cell, seed] for seed in seeds if (cell, seed) in results}
        phases = list(dict.fromkeys(phase for result in own.values() for phase in result["phases"]))
        for phase in phases:
            ways = next(iter(own.values()))["phases"][phase]["tests"]
            for way in ways:
                tests = [result["phases"][phase]["tests"][way] for result in own.values() if phase in result["phases"]]
                lines.append(
                    f"| {cell} | {phase} | {way.partition('-')[2]} | {len(tests)} "
                    f"| {_spread([100 * test['accuracy'] for test in tests])} "
                    f"| {100 * spread.mean(test['no_answer_rate'] for test in tests):.1f} "
                    f"| {spread.mean(test['answer_loglik'] for test in tests):.2f} "
                    f"| {spread.mean(test['mean_tokens'] for test in tests):.0f} |"
                )
    lines += ["", *_pairs(results), "", *_paired(output, results, seeds)]
    minutes = {cell: [r["seconds"] / 60 for (name, _), r in results.items() if name == cell] for cell in cells}
    took = "; ".join(f"{cell} {spread.mean(own):.1f}" for cell, own in minutes.items() if own)
    test_sizes = {
        test["n"] for r in results.values() for phase in r["phases"].values() for test in phase["tests"].values()
    }
    lines += ["", f"n = {', '.join(map(str, sorted(test_sizes)))} test questions. Minutes of a run, mean: {took}."]
    return "\n".join(lines) + "\n"


def _pairs(results: dict[tuple[str, int], dict[str, Any]]) -> list[str]:
    lines = [
        "| cell | iteration | seeds | right %, recall pass | analyze pass | recalls | by teacher | analyses |",
        "|---|---|---|---|---|---|---|---|",
    ]
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for (cell, _), result in results.items():
        for phase, own in result["phases"].items():
            if "pairs" in own:
                found.setdefault((cell, phase), []).append(own)
    for (cell, phase), runs in found.items():
        right = [
            _spread([100 * own[name]["right"] / own[name]["chains"] for own in runs if name in own])
            for name in ("recall_pass", "analyze_pass")
        ]
        counts = [
            f"{spread.mean(own['pairs'][n] for own in runs):.0f}" for n in ("recall", "recall_from_teacher", "analyze")
        ]
        lines.append(f"| {cell} | {phase} | {len(runs)} | {' | '.join(right)} | {' | '.join(counts)} |")
    return lines


def _paired(output: Path, results: dict[tuple[str, int], dict[str, Any]], seeds: list[int]) -> list[str]:
    """Every student against phase 1 of `both`, greedy, on the same questions and seeds."""
    lines = [
        "| greedy, paired with phase 1 of `both` | seeds | difference, points | 95 % interval | by seed (p) |",
        "|---|---|---|---|---|",
    ]
    students = {(cell, phase) for (cell, _), result in results.items() for phase in result["phases"]}
    order = [*CELLS]
    for cell, phase in sorted(students, key=lambda one: (order.index(one[0]), one[1])):
        common = [
            s for s in seeds if (cell, s) in results and ("both", s) in results and phase in results[cell, s]["phases"]
        ]
        if (cell, phase) == ("both", "acquisition") or not common:
            continue
        pairs = [(_correct(output, cell, s, phase), _correct(output, "both", s, "acquisition")) for s in common]
        ids = list(pairs[0][0])
        means = [[sum(one[side][i] for one in pairs) / len(pairs) for i in ids] for side in (0, 1)]
        interval = paired_bootstrap(means[0], means[1], seed=0)
        difference = 100 * (sum(means[0]) - sum(means[1])) / len(ids)
        of_seeds = []
        for ours, theirs in pairs:
            p_value = mcnemar_exact([ours[i] for i in ids], [theirs[i] for i in ids]).p_value
            of_seeds.append(f"{100 * (sum(ours.values()) - sum(theirs.values())) / len(ids):+.1f} ({p_value:.2g})")
        lines.append(
            f"| {cell}, {phase} | {len(common)} | {difference:+.1f} "
            f"| {100 * interval.low:+.1f} to {100 * interval.high:+.1f} | {', '.join(of_seeds)} |"
        )
    return lines


def _correct(output: Path, cell: str, seed: int, phase: str) -> dict[str, bool]:
    """Question id -> whether the student's greedy answer is right."""
    path = folder_of(output, cell, seed) / phase / "evaluation/facts-greedy/generations.jsonl"
    return {row["id"]: bool(row["correct"]) for row in read_generations(path)[1]}


def _spread(values: list[float]) -> str:
    if not values:
        return "-"
    deviation = f" ± {spread.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{spread.mean(values):.1f}{deviation} ({min(values):.1f} to {max(values):.1f})"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--cells", nargs="+", choices=[*CELLS], default=[*CELLS])
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each with one thread")
    parser.add_argument("--summary", action="store_true", help="run nothing")
    parser.add_argument("overrides", nargs="*", help="further settings of every run, SECTION.KEY=VALUE")
    arguments = parser.parse_args()
    if not arguments.summary:
        with ThreadPoolExecutor(arguments.jobs) as pool:
            # Seed after seed: whatever time runs out on, each cell has nearly as many of them.
            wanted = [(cell, seed) for seed in arguments.seeds for cell in arguments.cells]
            for done in [pool.submit(run, arguments.output, *one, arguments.overrides) for one in wanted]:
                done.result()
    text = summary(arguments.output, arguments.cells, arguments.seeds)
    (arguments.output / "summary.md").write_text(text, encoding="utf-8")
    print(text)
