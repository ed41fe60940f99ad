r"""The study on the embedded model: SpiralThinker, its ablations, the baselines, on `chains` and `graphs`; resumable.

    python packages/spiralthinker/scripts/study_embedded.py --jobs 2          # all that is not done yet
    python packages/spiralthinker/scripts/study_embedded.py --group main      # one part
    python packages/spiralthinker/scripts/study_embedded.py --table           # what is there so far

A cell is one `spiralthinker train` with one thread, on one task, with one seed. When it ends, its line goes into the
ledger, `docs/results/data/spiralthinker-study.jsonl` unless `--results` names another; a cell in the ledger is never
run again, and one that was stopped begins anew. Only stage 1 leaves its model in the work folder, since spiral, its
ablations and Coconut go on from it; where that is gone, the same training is done again.

All cells of a task have the same model, data, optimiser, batch, learning rate and number of steps in all (`TASKS`),
and differ in the settings that `GROUPS` shows. Those of `FROM_STAGE1` take the steps of stage 1 and then those of
stage 2, the others both numbers in one stage from the base model. So `pause` is pause tokens from the base model,
`neither` pause tokens behind stage 1. `no-spelling` has the terms of the paper alone. `matched` is `neither` with as
many token passes in stage 2 as spiral of its seed, hence more steps.

`graphs`, in its smallest size, has the main methods alone: the embedded model learns it in none of them as far as this
grid goes, and explicit chains not in five times as many examples either (docs/results/spiralthinker.md).

Behind a cell of `TESTED` comes `spiralthinker evaluate`: K at test time, latents shuffled and zeroed, both decodings.
"""

import json
import shutil
import statistics
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinker_common.evaluation.generations import read_generations
from thinker_common.training import study

LEDGER = Path(__file__).parents[3] / "docs/results/data/spiralthinker-study.jsonl"


@dataclass(frozen=True)
class Task:
    """recipe: what all cells of the task have otherwise. first, second: steps of stage 1 and of stage 2.

    options: of the benchmark, for training and test
    """

    recipe: str
    first: int
    second: int
    options: tuple[str, ...] = ()

    def settings(self, name: str) -> list[str]:
        """`options` as settings of a training; name: of the task."""
        places = ("data.options", f"evaluation.options.{name}")
        return [f"{place}.{option}" for option in self.options for place in places]


TASKS = {"chains": Task("embedded", 300, 600), "graphs": Task("prosqa-small", 300, 600, ("size=small",))}
TEST_PROBLEMS = 300
TRAINING = (
    "training.per_device_train_batch_size=8",
    "training.save_strategy=no",
    "evaluation.at_start=false",
    f"evaluation.limit={TEST_PROBLEMS}",
)

STAGE1 = "stage1"
NEITHER = ["method.iterations=0", "method.alignment=false"]
FROM_STAGE1 = {
    "spiral": [],
    "no-spelling": ["method.spell_weight=0"],
    "no-alignment": ["method.alignment=false"],
    "no-iteration": ["method.iterations=0"],
    "neither": NEITHER,
    "matched": NEITHER,
    "simultaneous": ["method.schedule=simultaneous"],
    "coconut": ["method.name=coconut", "method.latents=2", "method.curriculum=3"],
    "n2": ["method.latents=2"],
    "n8": ["method.latents=8"],
    "k1": ["method.iterations=1"],
    "k8": ["method.iterations=8"],
}
FROM_BASE = {
    STAGE1: ["method.stages=explicit"],
    "explicit": ["method.name=explicit"],
    "answer-only": ["method.name=answer_only"],
    "pause": ["method.name=pause"],
    "codi": ["method.name=codi", "method.latents=6"],
}
TESTED = {  # name -> options of the verb `evaluate`
    "K at test time": ["--iterations", "0,1,2,3,5,8"],
    "latents": ["--control", "shuffled,zeroed"],
    "decoding": ["--decoding", "sequential,simultaneous"],
}
TESTED_CELLS = ("spiral", "simultaneous")


@dataclass(frozen=True)
class Group:
    """Cells that one table compares, on one task. seeds: of every cell, and of every row of the tables.

    pairs: which cells are compared with which. also: cells of other groups that stand in the same tables.
    """

    title: str
    cells: tuple[str, ...]
    seeds: int
    pairs: tuple[tuple[str, str], ...]
    also: tuple[str, ...] = ()
    task: str = "chains"


MAIN = (STAGE1, "explicit", "answer-only", "spiral", "pause", "coconut", "codi")
ON_GRAPHS = (STAGE1, "explicit", "answer-only", "spiral", "pause")
GROUPS = {
    "main": Group("Methods, the same steps", MAIN, 5, study.each(MAIN, "spiral")),
    "ablation": Group(
        "Alignment x iteration",
        ("no-alignment", "no-iteration", "neither"),
        5,
        study.each(("spiral", "no-alignment", "no-iteration"), "neither")
        + study.each(("no-alignment", "no-iteration"), "spiral"),
        also=(STAGE1, "spiral"),
    ),
    "spelling": Group(
        "Without the term that is not in the paper",
        ("no-spelling",),
        5,
        study.each(("spiral", "neither", "no-iteration"), "no-spelling"),
        also=("spiral", "neither", "no-iteration"),
    ),
    "schedule": Group("The other schedule", ("simultaneous",), 3, (("simultaneous", "spiral"),), also=("spiral",)),
    "compute": Group(
        "As many token passes as spiral",
        ("matched",),
        3,
        study.each(("spiral", "neither"), "matched"),
        also=("spiral", "neither"),
    ),
    "numbers": Group(
        "N and K in training",
        ("n2", "n8", "k1", "k8"),
        2,
        study.each(("n2", "n8", "k1", "k8", "no-iteration"), "spiral"),
        also=("no-iteration", "spiral"),
    ),
    "graphs": Group("Another task: `graphs`, small", ON_GRAPHS, 2, study.each(ON_GRAPHS, "spiral"), task="graphs"),
}


@dataclass(frozen=True)
class Cell:
    task: str
    method: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.task}/{self.method}"

    @property
    def steps(self) -> int:
        task = TASKS[self.task]
        if self.method in FROM_STAGE1:
            return task.second
        return task.first if self.method == STAGE1 else task.first + task.second

    def __str__(self) -> str:
        return f"{self.task}-{self.method}-{self.seed}"


def cells_of(group: Group) -> Iterator[Cell]:
    """Seed by seed, so that a study that is cut short has all methods on its first seeds."""
    for seed in range(1, group.seeds + 1):
        for method in group.cells:
            yield Cell(group.task, method, seed)


def settings_of(cell: Cell, overrides: Sequence[str]) -> list[str]:
    """What decides a cell's result beside its seed. For `matched`, the steps are those it would take unmatched."""
    task = TASKS[cell.task]
    start = [f"first={task.first}"] if cell.method in FROM_STAGE1 else []
    own = {**FROM_BASE, **FROM_STAGE1}[cell.method]
    options = task.settings(cell.task)
    return [f"recipe={task.recipe}", *start, f"steps={cell.steps}", *TRAINING, *options, *own, *overrides]


# ---------------------------------------------------------------------------------------------------------- running


class Study:
    """Runs cells. work: folder for cells that run, models of stage 1 and logs."""

    def __init__(self, ledger: study.Ledger, work: Path, overrides: Sequence[str]) -> None:
        self.ledger, self.work, self.overrides = ledger, work, overrides
        self._locks: defaultdict[tuple[str, int], threading.Lock] = defaultdict(threading.Lock)

    def missing(self, groups: Sequence[str]) -> list[Cell]:
        """The cells that have no result yet. SystemExit for a result of other settings: a ledger holds one study."""
        return [cell for name in groups for cell in cells_of(GROUPS[name]) if not self._done(cell)]

    def _done(self, cell: Cell) -> bool:
        return self.ledger.has(cell.name, cell.seed, settings_of(cell, self.overrides))

    def run(self, cell: Cell) -> None:
        """Runs a cell and what it goes on from. What shares a stage 1 runs one after the other."""
        shares = cell.method == STAGE1 or cell.method in FROM_STAGE1
        with self._locks[cell.task, cell.seed] if shares else nullcontext():
            self._run(cell)

    def _run(self, cell: Cell) -> None:
        if self._done(cell):
            return
        if cell.method in FROM_STAGE1:
            self._stage1(cell)
        steps = cell.steps if cell.method != "matched" else self._matched_steps(cell)
        folder = self.work / str(cell)
        self._train(cell, steps, folder)
        self._keep(cell, folder)
        if cell.method != STAGE1:
            shutil.rmtree(folder)

    def _stage1(self, cell: Cell) -> None:
        """Makes sure that the model is there which the cell goes on from."""
        first = Cell(cell.task, STAGE1, cell.seed)
        if not self._done(first):
            self._run(first)
        elif not (self.work / str(first) / "model").exists():  # on a machine that has the ledger alone
            self._train(first, first.steps, self.work / str(first))

    def _matched_steps(self, cell: Cell) -> int:
        spiral, neither = (Cell(cell.task, method, cell.seed) for method in ("spiral", "neither"))
        passes = []
        for other in (spiral, neither):
            self._run(other)
            [found] = [record for record in self.ledger[other.name] if record["seed"] == cell.seed]
            passes.append(found["training_token_passes"])
        return round(neither.steps * passes[0] / passes[1])

    def _train(self, cell: Cell, steps: int, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)  # of a cell that was stopped
        given = [f"stage1.max_steps={steps}", f"training.max_steps={steps}"]
        if cell.method in FROM_STAGE1:
            start = self.work / str(Cell(cell.task, STAGE1, cell.seed)) / "model"
            given = [f"model.name_or_path={start}", "method.stages=implicit", f"training.max_steps={steps}"]
        own = {**FROM_BASE, **FROM_STAGE1}[cell.method]
        self._spiralthinker(
            cell, "train", "--recipe", TASKS[cell.task].recipe, *given, *TRAINING,
            *TASKS[cell.task].settings(cell.task), *own, *self.overrides,
            "--seed", str(cell.seed), "--output", str(folder),
        )  # fmt: skip

    def _keep(self, cell: Cell, folder: Path) -> None:
        commit = study.current_commit()
        result = read_run(cell, folder)
        if cell.method in TESTED_CELLS:
            result["tests"] = {name: self._test(cell, folder, name) for name in TESTED}
        self.ledger.append(result | {"settings": settings_of(cell, self.overrides), "commit": commit})
        print(f"{cell}: {100 * result['accuracy']:.1f} %", flush=True)

    def _test(self, cell: Cell, folder: Path, name: str) -> dict[str, Any]:
        """Packed answers of every point of a test."""
        output = folder / name.replace(" ", "-")
        options = [argument for option in TASKS[cell.task].options for argument in ("--option", option)]
        self._spiralthinker(
            cell, "evaluate", str(folder / "model"), "--benchmark", cell.task, *options, "--limit", str(TEST_PROBLEMS),
            "--max-new-tokens", "120", "--max-tokens-per-batch", "32768", *TESTED[name], "--output", str(output),
        )  # fmt: skip
        found = json.loads((output / "results.json").read_text(encoding="utf-8"))["points"]
        return {label_of(name, point): read_answers(output / cell.task / folder_of(point)) for point in found}

    def _spiralthinker(self, cell: Cell, *arguments: str) -> None:
        command = [sys.executable, "-m", "spiralthinker", *arguments]
        study.run_command(command, self.work / "logs" / f"{cell}-{arguments[0]}.log")


def folder_of(point: dict[str, Any]) -> str:
    """Where `spiralthinker evaluate` has the responses of a point."""
    numbers = f"N{point['latents']}-K{point['iterations']}-{point['schedule']}"
    return numbers if point["control"] is None else f"{numbers}-{point['control']}"


def label_of(test: str, point: dict[str, Any]) -> str:
    return {
        "K at test time": f"K = {point['iterations']}",
        "latents": point["control"],
        "decoding": point["schedule"],
    }[test]


def read_answers(folder: Path) -> study.Record:
    _, rows = read_generations(folder / "generations.jsonl")
    return study.pack_answers({row["id"]: row["correct"] for row in rows})


def read_run(cell: Cell, folder: Path) -> study.Record:
    """What the tables need of a finished run's folder. Costs of training are summed over the stages of the run."""
    stages = list(json.loads((folder / "results.json").read_text(encoding="utf-8"))["stages"].values())
    found = stages[-1]["evaluations"][cell.task]
    cost = found["cost_of_a_response"]
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    curve = [row for line in lines if "cross_entropy" in (row := json.loads(line))]
    return {
        "cell": cell.name,
        "seed": cell.seed,
        "accuracy": found["accuracy"],
        "standard_error": found["standard_error"],
        "boxed_rate": found["boxed_rate"],
        "answers": read_answers(folder / "evaluation" / cell.task),
        "text_tokens": found["mean_tokens"] - cost["latent_tokens"],
        "latent_tokens": cost["latent_tokens"],
        "token_passes": cost["token_passes"],
        "seconds": cost["seconds"],
        "training_steps": sum(stage["steps"] for stage in stages),
        "training_token_passes": sum(stage["token_passes"] for stage in stages),
        "training_seconds": sum(stage["training_seconds"] for stage in stages),
        "curve": {name: [row.get(name) for row in curve] for name in ("step", "cross_entropy", "alignment")},
    }


# ---------------------------------------------------------------------------------------------------------- tables

Cells = Mapping[str, Sequence[study.Record]]  # results by method, at least one each; in the order of the rows


def tables(ledger: study.Ledger) -> str:
    """Every table that the finished cells allow, in Markdown."""
    parts = []
    for name, group in GROUPS.items():
        wanted = list(cells_of(group))
        there = sum(any(record["seed"] == cell.seed for record in ledger[cell.name]) for cell in wanted)
        parts.append(f"### {group.title} (`--group {name}`: {there} of {len(wanted)} cells)\n")
        if there:
            cells = _finished(group, ledger)
            parts += [_costs(cells), _pairs(group.pairs, cells)]
    parts += [_tests(f"{task}/{method}", ledger) for task in TASKS for method in TESTED_CELLS]
    return "\n".join(part for part in [*parts, _cost(ledger)] if part)


def _finished(group: Group, ledger: study.Ledger) -> Cells:
    """The results of a group's cells on its seeds: rows of one table are means over the same seeds."""
    found = {
        method: [record for record in ledger[f"{group.task}/{method}"] if record["seed"] <= group.seeds]
        for method in (*group.also, *group.cells)
    }
    return {method: records for method, records in found.items() if records}


def _costs(cells: Cells) -> str:
    lines = [
        (
            "| cell | seeds | accuracy, % | by seed | boxed, % | text tokens | latent tokens | token passes "
            "| ms a response | training: steps | M token passes | s |"
        ),
        "|---" * 12 + "|",
    ]
    for method, runs in cells.items():

        def mean(value: str, factor: float = 1, runs: Sequence[study.Record] = runs) -> float:
            return factor * statistics.mean(run[value] for run in runs)

        accuracies = [100 * run["accuracy"] for run in runs]
        lines.append(
            f"| {method} | {len(runs)} | {study.spread(accuracies)} | {', '.join(f'{x:.1f}' for x in accuracies)} "
            f"| {mean('boxed_rate', 100):.1f} | {mean('text_tokens'):.1f} "
            f"| {mean('latent_tokens'):.1f} | {mean('token_passes'):.0f} | {mean('seconds', 1000):.1f} "
            f"| {mean('training_steps'):.0f} | {mean('training_token_passes', 1e-6):.2f} "
            f"| {mean('training_seconds'):.0f} |"
        )
    return "\n".join(lines) + "\n"


def _pairs(pairs: Sequence[tuple[str, str]], cells: Cells) -> str:
    """Differences of two cells: over the seeds (t interval), over the problems (bootstrap), and seed by seed."""
    lines = [study.PAIRED_HEAD]
    for method, against in pairs:
        own, theirs = (
            {record["seed"]: record["answers"] for record in cells.get(name, ())} for name in (method, against)
        )
        if seeds := sorted(own.keys() & theirs.keys()):
            lines.append(study.paired_row(f"{method} - {against}", [own[s] for s in seeds], [theirs[s] for s in seeds]))
    return "\n".join(lines) + "\n" if len(lines) > 1 else ""


def _tests(name: str, ledger: study.Ledger) -> str:
    """A trained cell decoded otherwise, each compared with its own decoding on the same problems."""
    runs = ledger[name]
    if not runs:
        return ""
    lines = [f"| {name} | | seeds | accuracy, % |", "|---|---|---|---|"]
    pairs = [study.PAIRED_HEAD]
    for test in TESTED:
        for point in runs[0]["tests"][test]:
            packed = [run["tests"][test][point] for run in runs]
            shares = [100 * statistics.mean(study.unpack_answers(answers)) for answers in packed]
            lines.append(f"| {test} | {point} | {len(runs)} | {study.spread(shares)} |")
            own = [run["answers"] for run in runs]
            if packed != own:
                pairs.append(study.paired_row(f"{name}: {point} - as trained", packed, own))
    return "\n".join([*lines, "", *pairs]) + "\n"


def _cost(ledger: study.Ledger) -> str:
    names = {cell.name for group in GROUPS.values() for cell in cells_of(group)}
    seconds = [record["training_seconds"] for name in sorted(names) for record in ledger[name]]
    return study.cost_line(seconds)


# ---------------------------------------------------------------------------------------------------------- command


def main() -> None:
    parser = study.command_line(__doc__, results=LEDGER, work=Path("runs/spiral-study"), groups=list(GROUPS))
    parser.add_argument("overrides", nargs="*", help="further settings of every training, SECTION.KEY=VALUE")
    arguments = parser.parse_args()
    ledger = study.Ledger(arguments.results)
    runner = Study(ledger, arguments.work.resolve(), arguments.overrides)
    study.conduct(
        arguments,
        missing=lambda: runner.missing(arguments.group),
        run=runner.run,
        tables=lambda: tables(ledger),
    )


if __name__ == "__main__":
    main()
