r"""The embedded part of the study: every method, ablation and control on one small model, as one resumable command.

    python packages/generalthinker/scripts/study_grid.py --output runs/grid --jobs 2        # all that is not done yet
    python packages/generalthinker/scripts/study_grid.py --output runs/grid --group main    # one part
    python packages/generalthinker/scripts/study_grid.py --output runs/grid --table         # what is there so far

A cell is one training (or one evaluation of the untrained model) in a process of its own with one thread. It ends as
`OUTPUT/cells/NAME-SEED.json`, written whole or not at all; a cell with that file is never run again, and one that was
stopped begins anew. The run's folder is removed afterwards: the file has the settings, the curves, and for every test
problem whether the answer was right. Cells are in the order of what they are worth, seed by seed, so that a study that
is cut short has all methods on its first seeds.

All cells of a task have the same budget, model, data, sampling, optimiser, learning rate and evaluation
(`TRAINING`), and differ in the settings that `GROUPS` shows and in nothing else; the group `learning-rate` gives every
method the same other two learning rates. The budget is short on purpose: after 40 steps the likelihood reward is right
on 94 % or more of the problems, with token credit and without, which leaves no room to differ.

`phrases` is there for the reward: times in words, where each answer has three wordings or more and the reference is
one of them at random. `string` is a verifier that compares with the reference; `oracle` one that knows every wording,
which only a generated task has; `likelihood` sees the reference alone, as `string` does. All are tested against every
wording.
"""

import argparse
import itertools
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinker_common.benchmarks import phrases
from thinker_common.evaluation.generations import read_generations
from thinker_common.evaluation.statistics import mcnemar_exact, paired_bootstrap

STEPS = {"chains": 16, "phrases": 24}
TEST_PROBLEMS = 500
TRAINING = (
    "evaluation.at_start=false",
    "evaluation.every_steps=4",
    "evaluation.validation_limit=100",
    "evaluation.export=last",
    f"evaluation.limit={TEST_PROBLEMS}",
    "training.save_strategy=no",
)
PHRASES = 4000  # training problems, as the recipe's limit for chains

CONTROLLED = "method.credit=controlled"
PLAIN = "method.credit=none"
METHODS = {
    "binary": ["method.reward=binary", PLAIN],
    "likelihood": [PLAIN],
    "generalthinker": [CONTROLLED],
    "rlpr": ["method.reward=mean_probability", PLAIN],
    "verifree": ["method.reward=probability", PLAIN],
    "rlsd": ["method.reward=binary", "method.credit=rlsd"],
}
SHORT = "generation.max_new_tokens=24"  # some honest responses are longer: malformed ones then occur


@dataclass(frozen=True)
class Group:
    """Cells that one table compares.

    cells: name -> settings; None stands for the untrained model. seeds: of every cell. against: name of the cell that
    the others are compared with. also: cells of other groups that stand in the same table.
    """

    title: str
    cells: dict[str, list[str] | None]
    seeds: int
    against: str
    task: str = "chains"
    also: tuple[str, ...] = ()


GROUPS = {
    "main": Group("Methods, the same budget", {"base": None, **METHODS}, 5, "likelihood"),
    "phrases": Group(
        "Free-form answers: a string verifier, a verifier that knows every wording, the likelihood",
        {
            "phrases-base": None,
            "phrases-string": METHODS["binary"],
            "phrases-likelihood": METHODS["likelihood"],
            "phrases-oracle": METHODS["binary"],
            "phrases-generalthinker": METHODS["generalthinker"],
        },
        5,
        "phrases-string",
        task="phrases",
    ),
    "ablation": Group(
        "Token credit taken apart, lambda 0.1",
        {
            "am": ["method.credit=additive"],
            "am-tc": ["method.credit=clipped"],
            "am-dp": ["method.credit=direction_preserving"],
            "projection": ["method.credit=projection"],
        },
        5,
        "likelihood",
        also=("likelihood", "generalthinker"),
    ),
    "content": Group(
        "Does the content of the credit matter, or only its size? Lambda 0.1 and 0.8",
        {
            "shuffle": [CONTROLLED, "method.credit_control=shuffle"],
            "reverse": [CONTROLLED, "method.credit_control=reverse"],
            "shuffle-0.8": [CONTROLLED, "method.credit_control=shuffle", "method.credit_strength=0.8"],
            "reverse-0.8": [CONTROLLED, "method.credit_control=reverse", "method.credit_strength=0.8"],
        },
        5,
        "generalthinker",
        also=("likelihood", "generalthinker", "controlled-0.8"),
    ),
    "strength": Group(
        "Lambda, controlled and uncontrolled",
        {
            **{f"controlled-{x}": [CONTROLLED, f"method.credit_strength={x}"] for x in (0.05, 0.2, 0.4, 0.8)},
            **{f"am-{x}": ["method.credit=additive", f"method.credit_strength={x}"] for x in (0.4, 0.8)},
        },
        5,
        "likelihood",
        also=("likelihood", "generalthinker", "am"),
    ),
    "malformed": Group(
        "Malformed responses, with at most 24 new tokens while training, and groups without a spread",
        {
            "floor-24": [CONTROLLED, SHORT],
            "below-worst-24": [CONTROLLED, SHORT, "method.malformed=below_worst"],
            "exclude-24": [CONTROLLED, SHORT, "method.malformed=exclude"],
            "min-std-0.1": [CONTROLLED, "method.min_group_std=0.1"],
            "min-std-0.5": [CONTROLLED, "method.min_group_std=0.5"],
        },
        5,
        "floor-24",
        also=("generalthinker",),
    ),
    "learning-rate": Group(
        "Two other learning rates for every method (the recipe's is 5e-4)",
        {
            f"{name}-{rate}": [*settings, f"training.learning_rate={rate}"]
            for rate in ("2.5e-4", "1e-3")
            for name, settings in METHODS.items()
        },
        2,
        "likelihood-1e-3",
        also=tuple(METHODS),
    ),
}
CURVES = ("reward", "grad_norm", "kl", "entropy", "answer_logprob", "boxed_rate", "truncation_rate",
          "well_formed_rate", "groups_without_signal", "credit/sign_flip_ratio", "completions/mean_length")  # fmt: skip
# 97.5 % quantile of Student's t, by the number of seeds
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}


@dataclass(frozen=True)
class Cell:
    task: str
    name: str
    seed: int
    settings: tuple[str, ...] | None

    def file(self, output: Path) -> Path:
        return output / "cells" / f"{self.name}-{self.seed}.json"


def cells_of(group: Group) -> Iterator[Cell]:
    """Seed by seed. The untrained model is decoded greedily, so that one seed says all."""
    for seed in range(1, group.seeds + 1):
        for name, settings in group.cells.items():
            if settings is not None:
                yield Cell(group.task, name, seed, tuple(settings))
            elif seed == 1:
                yield Cell(group.task, name, seed, None)


def command(cell: Cell, output: Path, folder: Path, overrides: Sequence[str]) -> list[str]:
    """The command line of a cell. Training on phrases reads a file, so that a verifier can be kept from the aliases."""
    program = [sys.executable, "-c", "from generalthinker.cli import main; main()"]
    if cell.settings is None:
        return [
            *program, "evaluate", "embedded@1", "--benchmark", cell.task, "--limit", str(TEST_PROBLEMS),
            "--max-new-tokens", "64", "--output", str(folder),
        ]  # fmt: skip
    data = [f"evaluation.benchmarks=[{cell.task}]"]
    if cell.task == "phrases":
        wordings = "reference" if cell.name == "phrases-string" else "all"
        data += [f"data.train_file={output}/phrases-{wordings}.jsonl", "data.kind=text"]
    return [
        *program, "train", "--recipe", "embedded", "--output", str(folder), "--seed", str(cell.seed),
        f"training.max_steps={STEPS[cell.task]}", *TRAINING, *data, *cell.settings, *overrides,
    ]  # fmt: skip


def write_phrases(output: Path) -> None:
    """The training problems twice: with every accepted wording, and with the reference alone."""
    for wordings in ("all", "reference"):
        path = output / f"phrases-{wordings}.jsonl"
        if path.exists():
            continue
        rows = [
            {
                "id": problem.id,
                "question": problem.question,
                "answer": problem.answer,
                **({"aliases": list(problem.aliases)} if wordings == "all" else {}),
            }
            for problem in phrases.generate("train", PHRASES)
        ]
        replace(path, "".join(json.dumps(row) + "\n" for row in rows))


def replace(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def run(cell: Cell, output: Path, overrides: Sequence[str], commit: str) -> None:
    """Runs a cell and keeps its result."""
    folder = output / f"running-{cell.name}-{cell.seed}"
    shutil.rmtree(folder, ignore_errors=True)  # of a cell that was stopped
    log = output / "logs" / f"{cell.name}-{cell.seed}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("w") as stream:
        done = subprocess.run(
            command(cell, output, folder, overrides), stdout=stream, stderr=subprocess.STDOUT, env=environment
        )
    if done.returncode:
        raise SystemExit(f"{cell.name}, seed {cell.seed} ended with code {done.returncode}: see {log}")
    result = read_run(cell, folder) | {"settings": settings_of(cell, overrides), "commit": commit}
    replace(cell.file(output), json.dumps(result, indent=1) + "\n")
    shutil.rmtree(folder)
    print(f"{cell.name}, seed {cell.seed}: {100 * result['accuracy']:.1f} %", flush=True)


def settings_of(cell: Cell, overrides: Sequence[str]) -> list[str] | None:
    return None if cell.settings is None else [f"steps={STEPS[cell.task]}", *TRAINING, *cell.settings, *overrides]


def read_run(cell: Cell, folder: Path) -> dict[str, Any]:
    """What the tables need of a finished run's folder."""
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    if cell.settings is None:
        [generations] = folder.rglob("generations.jsonl")
        scores = results["benchmarks"][cell.task]
        curves: list[dict[str, Any]] = []
    else:
        generations = folder / f"evaluation/after/{cell.task}/generations.jsonl"
        scores = results["evaluations"]["after"][cell.task]
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        curves = [json.loads(line) for line in lines]
    _, rows = read_generations(generations)
    rows.sort(key=lambda row: row["id"])
    found = {
        "task": cell.task,
        "cell": cell.name,
        "seed": cell.seed,
        "accuracy": scores["accuracy"],
        "standard_error": scores["standard_error"],
        "boxed_rate": scores["boxed_rate"],
        "truncation_rate": scores["truncation_rate"],
        "answer_loglik": scores["answer_loglik"],
        "n": len(rows),
        "correct": {row["id"]: int(row["correct"]) for row in rows},
        "training_seconds": results.get("training_seconds"),
        "curves": [{"step": row["step"], **{k: row.get(k) for k in CURVES}} for row in curves if "reward" in row],
        "validation": {
            row["step"]: [row["validation/accuracy"], row["validation/answer_loglik"]]
            for row in curves
            if "validation/accuracy" in row
        },
    }
    if cell.task == "phrases":
        references = {problem.id: problem.answer for problem in phrases.load("test").problems}
        found["reference_wording"] = sum(row["correct"] and row["extracted"] == references[row["id"]] for row in rows)
    return found


# ---------------------------------------------------------------------------------------------------------- tables


def tables(output: Path) -> str:
    """Every table that the cells in the folder allow, in Markdown."""
    done: dict[str, dict[int, dict[str, Any]]] = {}
    for path in sorted((output / "cells").glob("*.json")):
        cell = json.loads(path.read_text(encoding="utf-8"))
        done.setdefault(cell["cell"], {})[cell["seed"]] = cell
    parts = []
    for name, group in GROUPS.items():
        wanted = list(cells_of(group))
        there = sum(cell.seed in done.get(cell.name, {}) for cell in wanted)
        parts.append(f"### {group.title} (`--group {name}`: {there} of {len(wanted)} cells)\n")
        if there:
            shown = [cell for cell in (*group.also, *group.cells) if cell in done]
            parts.append(_accuracies(shown, done))
            parts.append(_learning(shown, done))
            parts.append(_stability(shown, done))
            parts.append(_pairs(shown, group.against, done))
    return "\n".join(part for part in parts if part)


def _accuracies(names: list[str], done: dict[str, dict[int, dict[str, Any]]]) -> str:
    phrased = any(done[name][min(done[name])]["task"] == "phrases" for name in names)
    head = "| cell | seeds | accuracy, % | boxed, % | truncated, % | answer log-lik., nats |"
    lines = [head + (" of the right answers, in the reference's wording, % |" if phrased else "")]
    lines.append("|---" * (lines[0].count("|") - 1) + "|")
    for name in names:
        seeds = list(done[name].values())
        line = (
            f"| {name} | {len(seeds)} | {_spread([100 * cell['accuracy'] for cell in seeds])} "
            f"| {_mean(seeds, 'boxed_rate', 100):.1f} | {_mean(seeds, 'truncation_rate', 100):.1f} "
            f"| {_spread([cell['answer_loglik'] for cell in seeds], 2)} |"
        )
        if phrased:
            right = [(cell["reference_wording"], sum(cell["correct"].values())) for cell in seeds]
            shares = [100 * same / all_right for same, all_right in right if all_right]
            line += f" {_spread(shares) if shares else 'none right'} |"
        lines.append(line)
    return "\n".join(lines) + "\n"


def _learning(names: list[str], done: dict[str, dict[int, dict[str, Any]]]) -> str:
    """Held-out accuracy against the number of rollouts."""
    trained = [name for name in names if any(cell["validation"] for cell in done[name].values())]
    if not trained:
        return ""
    steps = sorted({int(step) for name in trained for cell in done[name].values() for step in cell["validation"]})
    lines = ["| held-out accuracy, %, after responses | " + " | ".join(str(128 * step) for step in steps) + " |"]
    lines.append("|---" * (len(steps) + 1) + "|")
    for name in trained:
        values = [
            [100 * cell["validation"][str(step)][0] for cell in done[name].values() if str(step) in cell["validation"]]
            for step in steps
        ]
        lines.append(f"| {name} | " + " | ".join(f"{statistics.mean(v):.1f}" if v else "" for v in values) + " |")
    return "\n".join(lines) + "\n"


def _stability(names: list[str], done: dict[str, dict[int, dict[str, Any]]]) -> str:
    trained = [name for name in names if any(cell["curves"] for cell in done[name].values())]
    if not trained:
        return ""
    lines = [
        (
            "| cell | largest KL, nats a token | entropy, first and last step | largest gradient norm | sign flips, % "
            "| groups without a signal, % | malformed in training, % | length at the end |"
        ),
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in trained:
        runs = [cell["curves"] for cell in done[name].values()]
        flips = [row["credit/sign_flip_ratio"] for run in runs for row in run]
        flipped = [100 * flip for flip in flips if flip is not None]
        lines.append(
            f"| {name} | {_spread([_largest(run, 'kl') for run in runs], 4)} "
            f"| {statistics.mean(run[0]['entropy'] for run in runs):.2f}, "
            f"{_spread([run[-1]['entropy'] for run in runs], 2)} "
            f"| {_spread([_largest(run, 'grad_norm') for run in runs], 2)} "
            f"| {f'{statistics.mean(flipped):.1f}' if flipped else ''} "
            f"| {100 * statistics.mean(row['groups_without_signal'] for run in runs for row in run):.1f} "
            f"| {100 * (1 - statistics.mean(row['well_formed_rate'] for run in runs for row in run)):.1f} "
            f"| {statistics.mean(run[-1]['completions/mean_length'] for run in runs):.0f} |"
        )
    return "\n".join(lines) + "\n"


def _pairs(names: list[str], against: str, done: dict[str, dict[int, dict[str, Any]]]) -> str:
    """Differences to one cell: over the seeds (t interval), over the problems (bootstrap), and seed by seed."""
    others = [name for name in names if name != against]
    if against not in done or not others:
        return ""
    lines = [
        (
            "| paired, same problems | seeds | difference, points: mean ± sd over seeds | 95 % t interval over seeds "
            "| 95 % bootstrap interval over problems | exact McNemar p, by seed |"
        ),
        "|---|---|---|---|---|---|",
    ]
    for name in others:
        seeds = sorted(set(done[name]) & set(done[against]))
        if not any(cell["curves"] for cell in done[name].values()):  # the untrained model is the same for every seed
            seeds = sorted(done[against])
        if not seeds:
            continue
        pairs = [
            ((done[name].get(seed) or next(iter(done[name].values())))["correct"], done[against][seed]["correct"])
            for seed in seeds
        ]
        ids = list(pairs[0][0])
        assert all(set(one) == set(ids) for one in itertools.chain(*pairs)), "the same problems in every cell"
        gains = [100 * (sum(a.values()) - sum(b.values())) / len(ids) for a, b in pairs]
        means = [[statistics.mean(pair[side][problem] for pair in pairs) for problem in ids] for side in (0, 1)]
        bootstrap = paired_bootstrap(*means)
        p_values = [mcnemar_exact([a[i] for i in ids], [b[i] for i in ids]).p_value for a, b in pairs]
        interval = ""
        if len(gains) in STUDENT:
            half = STUDENT[len(gains)] * statistics.stdev(gains) / math.sqrt(len(gains))
            interval = f"{statistics.mean(gains) - half:+.1f} to {statistics.mean(gains) + half:+.1f}"
        deviation = f" ± {statistics.stdev(gains):.1f}" if len(gains) > 1 else ""
        lines.append(
            f"| {name} - {against} | {len(seeds)} | {statistics.mean(gains):+.1f}{deviation} | {interval} "
            f"| {100 * bootstrap.low:+.1f} to {100 * bootstrap.high:+.1f} "
            f"| {', '.join(f'{p:.2g}' for p in p_values)} |"
        )
    return "\n".join(lines) + "\n"


def _largest(run: list[dict[str, Any]], value: str) -> float:
    return max(row[value] for row in run if row[value] is not None)


def _mean(cells: Sequence[dict[str, Any]], value: str, factor: float) -> float:
    return factor * statistics.mean(cell[value] for cell in cells)


def _spread(values: Sequence[float], digits: int = 1) -> str:
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


# ---------------------------------------------------------------------------------------------------------- command


def missing(output: Path, groups: Sequence[str], overrides: Sequence[str]) -> list[Cell]:
    """The cells that have no result yet, in the order in which they run.

    Raises SystemExit for a result of other settings: one folder holds one study.
    """
    todo = []
    for cell in itertools.chain.from_iterable(cells_of(GROUPS[name]) for name in groups):
        path = cell.file(output)
        if not path.exists():
            todo.append(cell)
        elif json.loads(path.read_text(encoding="utf-8"))["settings"] != settings_of(cell, overrides):
            raise SystemExit(f"{path} was made with other settings: take another --output, or remove it")
    return todo


def current_commit() -> str:
    """The commit that runs, marked when files differ from it."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude=*"], cwd=Path(__file__).parent, capture_output=True
    )
    return described.stdout.decode().strip() or "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--group", nargs="+", choices=GROUPS, default=list(GROUPS), help="in this order")
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time, each with one thread")
    parser.add_argument("--at-most", type=int, metavar="N", help="stop after N cells")
    parser.add_argument("--table", action="store_true", help="run nothing, print what is there")
    parser.add_argument("--plan", action="store_true", help="run nothing, name the cells that are not done yet")
    parser.add_argument("overrides", nargs="*", help="further settings of every training, SECTION.KEY=VALUE")
    arguments = parser.parse_args()
    output = arguments.output.resolve()
    if arguments.table:
        print(tables(output))
        return
    todo = missing(output, arguments.group, arguments.overrides)[: arguments.at_most]
    if arguments.plan:
        print(f"{len(todo)} cells: " + ", ".join(f"{cell.name}-{cell.seed}" for cell in todo))
        return
    write_phrases(output)
    commit = current_commit()
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for done in [pool.submit(run, cell, output, arguments.overrides, commit) for cell in todo]:
            done.result()
    print(tables(output))


if __name__ == "__main__":
    main()
