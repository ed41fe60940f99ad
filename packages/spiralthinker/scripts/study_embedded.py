r"""The study on the embedded model: SpiralThinker, its ablations, the baselines, on `chains` and `graphs`; resumable.

    python packages/spiralthinker/scripts/study_embedded.py --jobs 2 --data-dir data    # all that is not done yet
    python packages/spiralthinker/scripts/study_embedded.py --group main      # one part
    python packages/spiralthinker/scripts/study_embedded.py --plan            # what is missing, and how long it takes
    python packages/spiralthinker/scripts/study_embedded.py --table           # what is there so far

Planned are 7.7 core-hours, that is less than four hours of two quiet cores, by the seconds that `SECONDS` assumes;
`--plan` says what is left of them, corrected by the cells that are finished.

A cell is one `spiralthinker train` with one thread, on one task, with one seed, and the tests of its model. When it
ends, its line goes into the ledger, `docs/results/data/spiralthinker-study.jsonl` unless `--results` names another; a
cell in the ledger is never run again, and one that was stopped begins anew. Only stage 1 leaves its model in the work
folder, since spiral, its ablations and Coconut go on from it; where that is gone, the same training is done again.

All cells of a task have the same model, data, optimiser, batch, learning rate and number of steps in all (`TASKS`),
and differ in the settings that `GROUPS` shows. Those of `FROM_STAGE1` take the steps of stage 1 and then those of
stage 2, the others both numbers in one stage from the base model. Costs of training are those of both stages.

    spiral           the recipe: the terms of the paper and the spelling term, shift 1
    no-alignment     the recipe without alignment: cross-entropy and spelling
    no-spelling      the terms of the paper alone, shift 1: alignment and iteration
    alignment-only   K = 0, no spelling   \
    iteration-only   no spelling           > with no-spelling the paper's 2x2
    neither          pause tokens behind stage 1; `pause` is the same from the base model
    shift0           no-spelling with shift 0, our reading of the paper
    matched          neither, with as many token passes in all as spiral of its seed, hence more steps
    matched-explicit explicit chains, the same
    n2k1 ... n8k3    the recipe with another N and K. With two latents the spelling term asks for the last two tokens
                     of a step, `=` and its result; with eight, three of them have nothing to spell
    codi             with the weight that its paper gives the alignment, 20

Behind a training come the tests of `TESTS`: K and N at test time, latents shuffled and zeroed, the other decoding, and
the gap between the schedules (`measure_mismatch.py`).

`graphs` stands for ProsQA, by the recipe prosqa-small: the terms of the paper alone, shift 0. `graphs` small has the
main methods on two seeds; `zero-shot` trains on regenerated graphs of full size alone and is tested on the real
validation file of ProsQA, which `--data-dir` has to hold (prosqa/prosqa_valid.json): without it these cells are left
out, and named. Explicit chains were not learnt there in ten times as many examples (see
docs/results/spiralthinker-diagnosis.md), so these cells say whether any method is above a guess (50 %), not which is
the best.

The default schedule is chosen by this rule, which was written before any of these cells was run. Each of `spiral` and
`simultaneous` is decoded as trained. If the 95 % t interval over the five seeds of their difference in accuracy
excludes zero, the better one is the default. If not, it is the one that is cheaper to train, by the seconds in the
table. Decoding follows training, unless the same interval says of a model that the other decoding is better.
"""

import json
import shutil
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinker_common.evaluation.generations import read_generations
from thinker_common.training import study

LEDGER = Path(__file__).parents[3] / "docs/results/data/spiralthinker-study.jsonl"
MISMATCH = Path(__file__).with_name("measure_mismatch.py")
TEST_PROBLEMS = 300
LOGGED = 20  # steps between two lines of the log, which counts token passes: all numbers of steps are multiples of it
TRAINING = (
    "training.per_device_train_batch_size=8",
    "training.save_strategy=no",
    f"training.logging_steps={LOGGED}",
    "evaluation.at_start=false",
)
ROOM = ("--max-new-tokens", "120", "--max-tokens-per-batch", "32768")


@dataclass(frozen=True)
class Task:
    """recipe: what all cells of the task have otherwise. first, second: steps of stage 1 and of stage 2.

    trained, tested: benchmarks. options: of the benchmark, for training and test. own: further settings. slower: how
    much more a step takes than one on `chains`. local: whether the tested one is read from `--data-dir`
    """

    recipe: str
    first: int
    second: int
    trained: str
    tested: str
    options: tuple[str, ...] = ()
    own: tuple[str, ...] = (f"evaluation.limit={TEST_PROBLEMS}",)
    slower: float = 1.0
    local: bool = False

    @property
    def settings(self) -> list[str]:
        places = ("data.options", f"evaluation.options.{self.tested}")
        return [f"data.benchmark={self.trained}", f"evaluation.benchmarks=[{self.tested}]", *self.own] + [
            f"{place}.{option}" for option in self.options for place in places
        ]


TASKS = {
    "chains": Task("embedded", 300, 600, "chains", "chains"),
    "graphs": Task("prosqa-small", 200, 200, "graphs", "graphs", ("size=small",), slower=1.2),
    "zero-shot": Task(
        "prosqa-small", 200, 200, "graphs", "prosqa",
        own=("evaluation.split=valid", "evaluation.limit=null", "evaluation.max_new_tokens=160"),
        slower=2.5, local=True,
    ),
}  # fmt: skip

STAGE1 = "stage1"
NO_SPELLING = ["method.spell_weight=0"]
NEITHER = ["method.iterations=0", "method.alignment=false", *NO_SPELLING]
FROM_STAGE1 = {
    "spiral": [],
    "no-alignment": ["method.alignment=false"],
    "no-spelling": NO_SPELLING,
    "alignment-only": ["method.iterations=0", *NO_SPELLING],
    "iteration-only": ["method.alignment=false", *NO_SPELLING],
    "neither": NEITHER,
    "matched": NEITHER,
    "shift0": ["method.shift=0", *NO_SPELLING],
    "simultaneous": ["method.schedule=simultaneous"],
    "coconut": ["method.name=coconut", "method.latents=2", "method.curriculum=3"],
    "n2k1": ["method.latents=2", "method.iterations=1"],
    "n2k3": ["method.latents=2"],
    "n5k1": ["method.iterations=1"],
    "n8k1": ["method.latents=8", "method.iterations=1"],
    "n8k3": ["method.latents=8"],
}
FROM_BASE = {
    STAGE1: ["method.stages=explicit"],
    "explicit": ["method.name=explicit"],
    "matched-explicit": ["method.name=explicit"],
    "answer-only": ["method.name=answer_only"],
    "pause": ["method.name=pause"],
    "codi": ["method.name=codi", "method.latents=6", "method.align_weight=20"],
}
MATCHED = {"matched": "neither", "matched-explicit": "explicit"}  # which method has as many token passes as spiral


@dataclass(frozen=True)
class Test:
    """Options of the verb `evaluate` for a trained cell. shown: what a point is called by. benchmark: if another."""

    options: tuple[str, ...]
    points: int
    shown: str
    benchmark: str | None = None

    def label(self, point: Mapping[str, Any]) -> str:
        if self.shown == "numbers":
            return f"N = {point['latents']}, K = {point['iterations']}"
        return self.shown if self.benchmark else str(point[self.shown])


TESTS = {
    "K at test time": Test(("--iterations", "0,1,2,5,8"), 5, "numbers"),
    "N at test time": Test(("--latents", "2,3,8"), 3, "numbers"),
    "latents": Test(("--control", "shuffled,zeroed"), 2, "control"),
    "decoded simultaneous": Test(("--decoding", "simultaneous"), 1, "schedule"),
    "decoded sequential": Test(("--decoding", "sequential"), 1, "schedule"),
    "in distribution": Test((), 1, "graphs, full size", "graphs"),
}
CONTROLLED = dict.fromkeys(("no-alignment", "iteration-only", "shift0", "coconut", "codi"), ("latents",))
TESTED: dict[str, dict[str, tuple[str, ...]]] = {  # task -> method -> tests
    "chains": {
        **CONTROLLED,
        "spiral": ("K at test time", "N at test time", "latents", "decoded simultaneous"),
        "no-spelling": ("K at test time", "latents"),
        "simultaneous": ("latents", "decoded sequential"),
    },
    "graphs": dict.fromkeys(("spiral", "coconut", "codi"), ("latents",)),
    "zero-shot": dict.fromkeys((STAGE1, "explicit", "spiral"), ("in distribution",)),
}
MISMATCHED = ("spiral", "simultaneous")  # of chains: the gap between the schedules is measured

# Assumed seconds of a step on `chains` with one thread, two such trainings on two quiet cores: half of what the
# diagnosis took on a machine that others used too (docs/results/data/spiralthinker-diagnosis.jsonl), or interpolated.
# Matched cells: of a step of the unmatched one.
SECONDS = {
    STAGE1: 0.16, "explicit": 0.16, "answer-only": 0.16, "pause": 0.16, "neither": 0.16, "alignment-only": 0.22,
    "spiral": 0.6, "no-alignment": 0.45, "no-spelling": 0.6, "iteration-only": 0.45, "shift0": 0.6,
    "simultaneous": 0.6, "coconut": 0.35, "codi": 0.45, "matched": 0.4, "matched-explicit": 0.3,
    "n2k1": 0.3, "n2k3": 0.5, "n5k1": 0.35, "n8k1": 0.35, "n8k3": 0.65,
}  # fmt: skip
STARTING, EVALUATING = 10, 12  # seconds of a process until it works, and of an evaluation


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
SQUARE = ("no-spelling", "alignment-only", "iteration-only", "neither")
GRID = ("n2k1", "n2k3", "n5k1", "n8k1", "n8k3")
ZERO_SHOT = (STAGE1, "explicit", "spiral")
GROUPS = {
    "main": Group("Methods, the same steps", MAIN, 5, study.each(MAIN, "spiral")),
    "ablation": Group(
        "Alignment x iteration, the terms of the paper alone",
        SQUARE,
        5,
        (
            *study.each(SQUARE, "neither"),
            ("no-spelling", "alignment-only"),
            ("no-spelling", "iteration-only"),
        ),
        also=(STAGE1,),
    ),
    "spelling": Group(
        "The term that is not in the paper, with alignment and without",
        ("no-alignment",),
        5,
        (("spiral", "no-alignment"), ("spiral", "no-spelling"), ("no-alignment", "iteration-only")),
        also=("spiral", "no-spelling", "iteration-only"),
    ),
    "schedule": Group("The other schedule", ("simultaneous",), 5, (("simultaneous", "spiral"),), also=("spiral",)),
    "compute": Group(
        "As many token passes as spiral",
        tuple(MATCHED),
        3,
        (("matched", "spiral"), ("matched-explicit", "spiral"), ("matched", "neither")),
        also=("spiral", "neither", "explicit"),
    ),
    "shift": Group(
        "The terms of the paper with shift 0", ("shift0",), 3, (("shift0", "no-spelling"),), also=("no-spelling",)
    ),
    "numbers": Group(
        "N and K in training (spiral: N = 5, K = 3)", GRID, 2, study.each(GRID, "spiral"), also=("spiral",)
    ),
    "graphs": Group(
        "Another task: `graphs`, small (recipe prosqa-small)", MAIN, 2, study.each(MAIN, "spiral"), task="graphs"
    ),
    "zero-shot": Group(
        "Trained on `graphs` of full size, tested on ProsQA's validation file",
        ZERO_SHOT,
        2,
        study.each(ZERO_SHOT, "spiral"),
        task="zero-shot",
    ),
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
    def stage1(self) -> "Cell | None":
        """The cell that it goes on from."""
        return Cell(self.task, STAGE1, self.seed) if self.method in FROM_STAGE1 else None

    @property
    def steps(self) -> int:
        """Of its own training, stage 1 left out where it goes on from that."""
        task = TASKS[self.task]
        if self.method in FROM_STAGE1:
            return task.second
        return task.first if self.method == STAGE1 else task.first + task.second

    @property
    def tests(self) -> tuple[str, ...]:
        return TESTED[self.task].get(self.method, ())

    @property
    def measures_mismatch(self) -> bool:
        return self.task == "chains" and self.method in MISMATCHED

    def assumed_seconds(self) -> float:
        """Of training and all tests, without stage 1 where it goes on from that."""
        task = TASKS[self.task]
        seconds = STARTING + EVALUATING + self.steps * SECONDS[self.method] * task.slower
        seconds += sum(STARTING + TESTS[name].points * EVALUATING for name in self.tests)
        return seconds + (STARTING + EVALUATING if self.measures_mismatch else 0)

    def __str__(self) -> str:
        return f"{self.task}-{self.method}-{self.seed}"


def cells_of(group: Group) -> Iterator[Cell]:
    """Seed by seed, so that a study that is cut short has all methods on its first seeds."""
    for seed in range(1, group.seeds + 1):
        for method in group.cells:
            yield Cell(group.task, method, seed)


def settings_of(cell: Cell, overrides: Sequence[str]) -> list[str]:
    """What decides a cell's result beside its seed. For matched cells, the steps are those it would take unmatched."""
    task = TASKS[cell.task]
    start = [f"first={task.first}"] if cell.stage1 else []
    own = {**FROM_BASE, **FROM_STAGE1}[cell.method]
    return [f"recipe={task.recipe}", *start, f"steps={cell.steps}", *TRAINING, *task.settings, *own, *overrides]


# ---------------------------------------------------------------------------------------------------------- running


class Study:
    """Runs cells.

    Args:
        work: folder for cells that run, models of stage 1 and logs.
        overrides: further settings of every training.
        data_dir: of benchmarks that are read from files; without it their cells are left out.
    """

    def __init__(
        self, ledger: study.Ledger, work: Path, overrides: Sequence[str], *, data_dir: Path | None = None
    ) -> None:
        self.ledger, self.work, self.overrides, self.data_dir = ledger, work, overrides, data_dir
        self._locks: dict[Cell, threading.Lock] = {}
        self._lock_of_locks = threading.Lock()

    def missing(self, groups: Sequence[str]) -> list[Cell]:
        """The cells that have no result yet and can be run; see `left_out` for those that cannot.

        Raises:
            SystemExit: a result of other settings, since a ledger holds one study.
        """
        wanted = [cell for name in groups for cell in cells_of(GROUPS[name]) if not self._done(cell)]
        return [cell for cell in wanted if self._can_run(cell)]

    def left_out(self, groups: Sequence[str]) -> list[Cell]:
        """The missing cells whose benchmark needs `--data-dir`."""
        return [
            cell for name in groups for cell in cells_of(GROUPS[name]) if not (self._done(cell) or self._can_run(cell))
        ]

    def _can_run(self, cell: Cell) -> bool:
        return self.data_dir is not None or not TASKS[cell.task].local

    def _done(self, cell: Cell) -> bool:
        return self.ledger.has(cell.name, cell.seed, settings_of(cell, self.overrides))

    def run(self, cell: Cell) -> None:
        """Runs a cell unless it is finished, behind those that it needs; each of them once, whoever asks first."""
        with self._lock(cell):
            if self._done(cell):
                return
            if cell.stage1:
                self._prepare(cell.stage1)
            began = time.perf_counter()
            steps = self._matched_steps(cell) if cell.method in MATCHED else cell.steps
            folder = self.work / str(cell)
            self._train(cell, steps, folder)
            self._keep(cell, folder, began)
            if cell.method != STAGE1:
                shutil.rmtree(folder)

    def _lock(self, cell: Cell) -> threading.Lock:
        with self._lock_of_locks:
            return self._locks.setdefault(cell, threading.Lock())

    def _prepare(self, first: Cell) -> None:
        """Makes sure that stage 1's model is there; cells that share it wait for that alone."""
        self.run(first)
        with self._lock(first):
            if not (self.work / str(first) / "model").exists():  # on a machine that has the ledger alone
                self._train(first, first.steps, self.work / str(first))

    def _matched_steps(self, cell: Cell) -> int:
        """With which the cell's method comes to spiral's token passes, stage 1 counted in both."""
        spiral, other = (
            self._finished(Cell(cell.task, method, cell.seed)) for method in ("spiral", MATCHED[cell.method])
        )
        before = other["stage1"] or {"training_token_passes": 0, "training_steps": 0}
        passes = other["training_token_passes"] - before["training_token_passes"]
        each = passes / (other["training_steps"] - before["training_steps"])
        wanted = (spiral["training_token_passes"] - before["training_token_passes"]) / each
        return max(1, round(wanted / LOGGED)) * LOGGED

    def _finished(self, cell: Cell) -> study.Record:
        self.run(cell)
        [found] = [record for record in self.ledger[cell.name] if record["seed"] == cell.seed]
        return found

    def _train(self, cell: Cell, steps: int, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)  # of a cell that was stopped
        given = [f"stage1.max_steps={steps}", f"training.max_steps={steps}"]
        if cell.stage1:
            start = self.work / str(cell.stage1) / "model"
            given = [f"model.name_or_path={start}", "method.stages=implicit", f"training.max_steps={steps}"]
        task = TASKS[cell.task]
        own = {**FROM_BASE, **FROM_STAGE1}[cell.method]
        self._spiralthinker(
            cell, "train", "--recipe", task.recipe, *given, *TRAINING, *task.settings, *own, *self.overrides,
            *self._data(task), "--seed", str(cell.seed), "--output", str(folder),
        )  # fmt: skip

    def _data(self, task: Task) -> list[str]:
        return ["--data-dir", str(self.data_dir)] if task.local else []

    def _keep(self, cell: Cell, folder: Path, began: float) -> None:
        commit = study.current_commit()
        result = read_run(cell, folder) | {"stage1": None}
        if cell.stage1:
            [first] = [record for record in self.ledger[cell.stage1.name] if record["seed"] == cell.seed]
            result["stage1"] = {name: first[name] for name in COSTS}
            result |= {name: result[name] + first[name] for name in COSTS}
        if cell.tests:
            result["tests"] = {name: self._test(cell, folder, name) for name in cell.tests}
        if cell.measures_mismatch:
            result["mismatch"] = self._mismatch(cell, folder)
        result["cell_seconds"] = time.perf_counter() - began
        self.ledger.append(result | {"settings": settings_of(cell, self.overrides), "commit": commit})
        print(f"{cell}: {100 * result['accuracy']:.1f} %", flush=True)

    def _test(self, cell: Cell, folder: Path, name: str) -> dict[str, study.Record]:
        """Answers and costs at every point of a test."""
        test, task = TESTS[name], TASKS[cell.task]
        output = folder / name.replace(" ", "-")
        benchmark = test.benchmark or task.tested
        options = [argument for option in task.options for argument in ("--option", option)]
        self._spiralthinker(
            cell, "evaluate", str(folder / "model"), "--benchmark", benchmark, *options, "--limit", str(TEST_PROBLEMS),
            *ROOM, *test.options, "--output", str(output),
        )  # fmt: skip
        found = json.loads((output / "results.json").read_text(encoding="utf-8"))["points"]
        return {
            test.label(point): {
                "accuracy": point["accuracy"],
                "answers": read_answers(output / benchmark / folder_of(point)),
                **costs_of(point),
            }
            for point in found
        }

    def _mismatch(self, cell: Cell, folder: Path) -> study.Record:
        file = folder / "mismatch.json"
        command = [sys.executable, str(MISMATCH), str(folder / "model"), "--task", "chains", "--json", str(file)]
        study.run_command(command, self.work / "logs" / f"{cell}-mismatch.log")
        found: study.Record = json.loads(file.read_text(encoding="utf-8"))
        return found

    def _spiralthinker(self, cell: Cell, *arguments: str) -> None:
        command = [sys.executable, "-m", "spiralthinker", *arguments]
        study.run_command(command, self.work / "logs" / f"{cell}-{arguments[0]}.log")


COSTS = ("training_steps", "training_token_passes", "training_seconds")


def folder_of(point: Mapping[str, Any]) -> str:
    """Where `spiralthinker evaluate` has the responses of a point."""
    numbers = f"N{point['latents']}-K{point['iterations']}-{point['schedule']}"
    return numbers if point["control"] is None else f"{numbers}-{point['control']}"


def read_answers(folder: Path) -> study.Record:
    _, rows = read_generations(folder / "generations.jsonl")
    return study.pack_answers({row["id"]: row["correct"] for row in rows})


def costs_of(evaluated: Mapping[str, Any]) -> study.Record:
    """Of a response: tokens of text and of latents, token passes, seconds."""
    cost = evaluated["cost_of_a_response"]
    return {
        "text_tokens": evaluated["mean_tokens"] - cost["latent_tokens"],
        "latent_tokens": cost["latent_tokens"],
        "token_passes": cost["token_passes"],
        "seconds": cost["seconds"],
    }


def read_run(cell: Cell, folder: Path) -> study.Record:
    """What the tables need of a finished run's folder. Costs of training are summed over the stages of the run."""
    stages = list(json.loads((folder / "results.json").read_text(encoding="utf-8"))["stages"].values())
    benchmark = TASKS[cell.task].tested
    found = stages[-1]["evaluations"][benchmark]
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    curve = [row for line in lines if "cross_entropy" in (row := json.loads(line))]
    return {
        "cell": cell.name,
        "seed": cell.seed,
        "accuracy": found["accuracy"],
        "standard_error": found["standard_error"],
        "boxed_rate": found["boxed_rate"],
        "answers": read_answers(folder / "evaluation" / benchmark),
        **costs_of(found),
        "training_steps": sum(stage["steps"] for stage in stages),
        "training_token_passes": sum(stage["token_passes"] for stage in stages),
        "training_seconds": sum(stage["training_seconds"] for stage in stages),
        "curve": {name: [row.get(name) for row in curve] for name in ("step", "cross_entropy", "alignment")},
    }


# ---------------------------------------------------------------------------------------------------------- the plan


def planned_hours() -> float:
    """Core-hours of the whole grid, as assumed."""
    return sum(cell.assumed_seconds() for group in GROUPS.values() for cell in cells_of(group)) / 3600


def plan(runner: Study, groups: Sequence[str], jobs: int) -> str:
    """What is missing, and how long it will take.

    A method that has finished cells on the task takes as long as those did; others as assumed, times what all finished
    cells took over what was assumed of them.
    """
    took: dict[str, list[float]] = {}
    taken = assumed = 0.0
    for cell in (cell for group in GROUPS.values() for cell in cells_of(group)):
        for record in runner.ledger[cell.name]:
            if record["seed"] == cell.seed:
                took.setdefault(cell.name, []).append(record["cell_seconds"])
                taken += record["cell_seconds"]
                assumed += cell.assumed_seconds()
    correction = taken / assumed if assumed else 1.0
    lines = []
    total = 0.0
    for name in groups:
        cells = runner.missing([name])
        seconds = sum(
            statistics.mean(took[cell.name]) if cell.name in took else correction * cell.assumed_seconds()
            for cell in cells
        )
        total += seconds
        lines.append(
            f"{name}: {len(cells)} cells, {seconds / 3600:.2f} core-hours: {', '.join(map(str, cells)) or '-'}"
        )
    basis = f"times {correction:.2f}, after finished cells" if assumed else "no cell is finished yet"
    lines.append(
        f"left: {total / 3600:.1f} core-hours, {total / 3600 / jobs:.1f} hours with --jobs {jobs} (assumed, {basis}); "
        f"the whole grid was planned with {planned_hours():.1f}"
    )
    return "\n".join(lines)


# ---------------------------------------------------------------------------------------------------------- tables

Cells = Mapping[str, Sequence[study.Record]]  # results by method, at least one each; in the order of the rows


def with_error(values: Sequence[float], digits: int = 1) -> str:
    """Mean ± standard error over the values; the mean alone of a single one."""
    error = f" ± {statistics.stdev(values) / len(values) ** 0.5:.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{error}"


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
            parts += [_interaction(cells)] if name == "ablation" else []
    parts += [_tests(f"{task}/{method}", ledger) for task, methods in TESTED.items() for method in methods]
    return "\n".join(part for part in [*parts, _mismatches(ledger), _cost(ledger)] if part)


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
            "| cell | seeds | accuracy, %: mean ± standard error over seeds | by seed | boxed, % | text tokens "
            "| latent tokens | token passes | ms a response | training, stage 1 included: steps | M token passes | s |"
        ),
        "|---" * 12 + "|",
    ]
    for method, runs in cells.items():

        def mean(value: str, factor: float = 1, runs: Sequence[study.Record] = runs) -> float:
            return factor * statistics.mean(run[value] for run in runs)

        accuracies = [100 * run["accuracy"] for run in runs]
        lines.append(
            f"| {method} | {len(runs)} | {with_error(accuracies)} | {', '.join(f'{x:.1f}' for x in accuracies)} "
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


def _interaction(cells: Cells) -> str:
    """What alignment and iteration do together beyond what each does alone, over the seeds that have all four cells."""
    by_seed = [{run["seed"]: 100 * run["accuracy"] for run in cells.get(method, ())} for method in SQUARE]
    seeds = sorted(set.intersection(*(set(found) for found in by_seed)))
    if not seeds:
        return ""
    gains = [both - alignment - iteration + neither for both, alignment, iteration, neither in
             ([found[seed] for found in by_seed] for seed in seeds)]  # fmt: skip
    interval = study.t_interval(gains)
    between = f", 95 % t interval {interval[0]:+.1f} to {interval[1]:+.1f}" if interval else ""
    return (
        "Interaction, (both - alignment) - (iteration - neither), points: "
        f"{with_error(gains)} (standard error over {len(seeds)} seeds{between}).\n"
    )


def _tests(name: str, ledger: study.Ledger) -> str:
    """A trained cell tested otherwise; on the same problems also compared with its own decoding, seed by seed."""
    runs = [run for run in ledger[name] if run.get("tests")]
    if not runs:
        return ""
    lines = [
        (
            f"| {name} | | seeds | accuracy, %: mean ± standard error over seeds | text tokens | latent tokens "
            "| token passes | ms a response |"
        ),
        "|---" * 8 + "|",
    ]
    pairs = [study.PAIRED_HEAD]
    for test, points in runs[0]["tests"].items():
        for point in points:
            found = [run["tests"][test][point] for run in runs]

            def mean(value: str, factor: float = 1, found: Sequence[study.Record] = found) -> float:
                return factor * statistics.mean(each[value] for each in found)

            lines.append(
                f"| {test} | {point} | {len(runs)} | {with_error([100 * each['accuracy'] for each in found])} "
                f"| {mean('text_tokens'):.1f} | {mean('latent_tokens'):.1f} | {mean('token_passes'):.0f} "
                f"| {mean('seconds', 1000):.1f} |"
            )
            answers, own = [each["answers"] for each in found], [run["answers"] for run in runs]
            if answers != own and TESTS[test].benchmark is None:
                pairs.append(study.paired_row(f"{name}: {point} - as trained", answers, own))
    return "\n".join([*lines, "", *(pairs if len(pairs) > 1 else [])]) + "\n"


def _mismatches(ledger: study.Ledger) -> str:
    """What it costs to read a model by the schedule that it was not trained with."""
    lines = [
        (
            "| log-probability of the answer, nats: mean ± standard error over seeds | seeds | problems | as trained "
            "| by the other schedule | difference | mean absolute difference | other most likely tokens, % |"
        ),
        "|---" * 8 + "|",
    ]
    for method in MISMATCHED:
        found = [run["mismatch"] for run in ledger[f"chains/{method}"] if run.get("mismatch")]
        if found:
            values = [
                with_error([each[name] for each in found], 3) for name in ("own", "other", "difference", "absolute")
            ]
            changed = with_error([100 * each["choice"] for each in found])
            lines.append(
                f"| chains/{method} | {len(found)} | {found[0]['problems']} | {' | '.join(values)} | {changed} |"
            )
    return "\n".join(lines) + "\n" if len(lines) > 2 else ""


def _cost(ledger: study.Ledger) -> str:
    """Stage 1 is counted once, and not again in the cells that go on from it."""
    names = {cell.name for group in GROUPS.values() for cell in cells_of(group)}
    seconds = [
        record["training_seconds"] - (record["stage1"] or {"training_seconds": 0})["training_seconds"]
        for name in sorted(names)
        for record in ledger[name]
    ]
    return study.cost_line(seconds)


# ---------------------------------------------------------------------------------------------------------- command


def main() -> None:
    parser = study.command_line(__doc__, results=LEDGER, work=Path("runs/spiral-study"), groups=list(GROUPS))
    parser.add_argument("--data-dir", type=Path, help="with prosqa/prosqa_valid.json, for the group zero-shot")
    parser.add_argument("overrides", nargs="*", help="further settings of every training, SECTION.KEY=VALUE")
    arguments = parser.parse_args()
    ledger = study.Ledger(arguments.results)
    data_dir = None if arguments.data_dir is None else arguments.data_dir.resolve()
    runner = Study(ledger, arguments.work.resolve(), arguments.overrides, data_dir=data_dir)
    if not arguments.table and (left_out := runner.left_out(arguments.group)):
        print(f"left out, since --data-dir is not given: {', '.join(map(str, left_out))}", flush=True)
    if arguments.plan:
        print(plan(runner, arguments.group, arguments.jobs))
        return
    study.conduct(
        arguments,
        missing=lambda: runner.missing(arguments.group),
        run=runner.run,
        tables=lambda: tables(ledger),
    )


if __name__ == "__main__":
    main()
