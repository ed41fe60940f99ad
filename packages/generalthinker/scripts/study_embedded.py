"""Does it learn, and from the reference answers? The embedded model on `chains`, three conditions, several seeds.

    python packages/generalthinker/scripts/study_embedded.py --output runs/study --seeds 1 2 3 --jobs 2

Conditions: `none` (credit: none), `controlled` (the paper's token credit), and the control `wrong`, in which every
prompt has one wrong answer for its whole group (and `credit: none`, so that it differs from `none` in nothing but the
answers). Each run is `generalthinker train --recipe embedded` with one thread; a
run that has its `results.json` is not repeated, so that a study that was stopped goes on. Ends with the tables of
docs/results/embedded.md, also written to `summary.md`.
"""

import argparse
import json
import os
import shutil
import statistics as spread
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from thinker_common.evaluation.generations import read_generations
from thinker_common.evaluation.statistics import mcnemar_exact, paired_bootstrap

CONDITIONS = {
    "none": ["method.credit=none"],
    "controlled": ["method.credit=controlled"],
    "wrong": ["method.credit=none", "method.answers=wrong"],
}
PAIRS = (("none", "wrong"), ("controlled", "wrong"), ("controlled", "none"))


def run(output: Path, condition: str, seed: int, overrides: list[str]) -> None:
    """One training run in its own process, unless it is finished."""
    folder = output / f"{condition}-{seed}"
    if (folder / "results.json").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was stopped
    command = [
        sys.executable, "-c", "from generalthinker.cli import main; main()", "train", "--recipe", "embedded",
        "--output", str(folder), "--seed", str(seed), "evaluation.limit=null",
        "evaluation.export=last", *CONDITIONS[condition], *overrides,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    output.mkdir(parents=True, exist_ok=True)
    with (output / f"{condition}-{seed}.log").open("w") as log:
        subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment, check=True)
    print(f"{condition}, seed {seed}: done", flush=True)


def correct(output: Path, condition: str, seed: int) -> dict[str, bool]:
    """Problem id -> whether the trained model's greedy answer is right."""
    _, rows = read_generations(output / f"{condition}-{seed}" / "evaluation/after/chains/generations.jsonl")
    return {row["id"]: bool(row["correct"]) for row in rows}


def summary(output: Path, seeds: list[int]) -> str:
    """The tables in Markdown."""
    results: dict[tuple[str, int], dict[str, Any]] = {
        (condition, seed): json.loads((output / f"{condition}-{seed}" / "results.json").read_text())
        for condition in CONDITIONS
        for seed in seeds
    }
    lines = [
        "| condition | seed | before | after | after, given a box | boxed | truncated | answer log-lik. | minutes |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (condition, seed), result in results.items():
        before, after = (result["evaluations"][when]["chains"] for when in ("before", "after"))
        lines.append(
            f"| {condition} | {seed} | {_share(before, 'accuracy', 'standard_error')} "
            f"| {_share(after, 'accuracy', 'standard_error')} "
            f"| {_share(after, 'accuracy_given_boxed', 'accuracy_given_boxed_standard_error')} "
            f"| {100 * after['boxed_rate']:.1f} | {100 * after['truncation_rate']:.1f} "
            f"| {after['answer_loglik']:.2f} | {result['seconds'] / 60:.1f} |"
        )
    lines += ["", "| condition | gain, points | gain given a box, points | seeds |", "|---|---|---|---|"]
    for condition in CONDITIONS:
        raw, given_box = (
            _spread([_gain(results[condition, seed], value) for seed in seeds])
            for value in ("accuracy", "accuracy_given_boxed")
        )
        lines.append(f"| {condition} | {raw} | {given_box} | {len(seeds)} |")
    lines += ["", f"| condition | validation accuracy by step, mean of {len(seeds)} seeds |", "|---|---|"]
    for condition in CONDITIONS:
        lines.append(f"| {condition} | {_validation(output, condition, seeds)} |")
    lines += [
        "",
        "| paired, same problems | difference, points | 95 % bootstrap interval | by seed, exact McNemar p |",
        "|---|---|---|---|",
    ]
    for a, b in PAIRS:
        by_seed = [(correct(output, a, seed), correct(output, b, seed)) for seed in seeds]
        ids = list(by_seed[0][0])
        mean_a = [sum(scores[problem] for scores, _ in by_seed) / len(seeds) for problem in ids]
        mean_b = [sum(scores[problem] for _, scores in by_seed) / len(seeds) for problem in ids]
        interval = paired_bootstrap(mean_a, mean_b, seed=0)
        difference = 100 * (sum(mean_a) - sum(mean_b)) / len(ids)
        of_seeds = []
        for x, y in by_seed:
            p_value = mcnemar_exact([x[i] for i in ids], [y[i] for i in ids]).p_value
            of_seeds.append(f"{100 * (sum(x.values()) - sum(y.values())) / len(ids):+.1f} (p = {p_value:.2g})")
        lines.append(
            f"| {a} - {b} | {difference:+.1f} | {100 * interval.low:+.1f} to {100 * interval.high:+.1f} "
            f"| {', '.join(of_seeds)} |"
        )
    return "\n".join(lines) + "\n"


def _share(result: dict[str, Any], value: str, error: str) -> str:
    return f"{100 * result[value]:.1f} ± {100 * result[error]:.1f}"


def _gain(result: dict[str, Any], value: str) -> float:
    before, after = (result["evaluations"][when]["chains"][value] for when in ("before", "after"))
    return 100 * (after - before)


def _spread(values: list[float]) -> str:
    deviation = f" ± {spread.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{spread.mean(values):+.1f}{deviation} ({min(values):+.1f} to {max(values):+.1f})"


def _validation(output: Path, condition: str, seeds: list[int]) -> str:
    by_step: dict[int, list[float]] = {}
    for seed in seeds:
        for line in (output / f"{condition}-{seed}" / "metrics.jsonl").read_text().splitlines():
            row = json.loads(line)
            if "validation/accuracy" in row:
                by_step.setdefault(row["step"], []).append(row["validation/accuracy"])
    return ", ".join(f"{step}: {100 * spread.mean(values):.1f}" for step, values in sorted(by_step.items()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each with one thread")
    parser.add_argument("overrides", nargs="*", help="further settings of every run, SECTION.KEY=VALUE")
    arguments = parser.parse_args()
    with ThreadPoolExecutor(arguments.jobs) as pool:
        wanted = [(condition, seed) for seed in arguments.seeds for condition in CONDITIONS]
        for done in [pool.submit(run, arguments.output, *one, arguments.overrides) for one in wanted]:
            done.result()
    text = summary(arguments.output, arguments.seeds)
    (arguments.output / "summary.md").write_text(text, encoding="utf-8")
    print(text)
