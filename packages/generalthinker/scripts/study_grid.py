r"""The embedded part of the study: every method, ablation and control on one small model, as one resumable command.

    python packages/generalthinker/scripts/study_grid.py --jobs 2               # all that is not done yet
    python packages/generalthinker/scripts/study_grid.py --group main           # one part
    python packages/generalthinker/scripts/study_grid.py --table                # what is there so far

A cell is one training (or one evaluation of the untrained model) in a process of its own with one thread. When it ends,
its line goes into the ledger, `docs/results/data/generalthinker-study.jsonl` unless `--results` names another, and its
folder goes; a cell in the ledger is never run again, and one that was stopped begins anew. Cells are in the order of
what they are worth, seed by seed, so that a study that is cut short has all methods on its first seeds.

All cells of a task have the same budget, model, data, sampling, optimiser, learning rate and evaluation
(`TRAINING`), and differ in the settings that `GROUPS` shows and in nothing else; the group `learning-rate` gives every
method the same other two learning rates. The budget is short on purpose: after 40 steps the likelihood reward is right
on 93 % or more of the problems, with token credit and without, which leaves no room to differ.

`phrases` is there for the reward: times in words, where each answer has three wordings or more and the reference is
one of them at random. Its cells start from `phrases_start.py`, since the embedded model itself is right on 8 % only.
`string` is a verifier that compares with the reference; `oracle` one that knows every wording, which only a generated
task has; the likelihoods see the reference alone, as `string` does. All are tested against every wording.
"""

import itertools
import json
import shutil
import statistics
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinker_common.benchmarks import phrases
from thinker_common.evaluation.generations import read_generations
from thinker_common.training import study

LEDGER = Path(__file__).parents[3] / "docs/results/data/generalthinker-study.jsonl"
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
START = "phrases-start"

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
PHRASED = tuple(f"phrases-{name}" for name in ("oracle", "generalthinker", "rlpr", "verifree"))
RATES = ("", "-2.5e-4", "-1e-3")  # what a cell's name ends in; nothing stands for the recipe's 5e-4


@dataclass(frozen=True)
class Group:
    """Cells that one table compares.

    cells: name -> settings; None stands for the untrained model. seeds: of every cell, and of every row of the tables.
    pairs: which cells are compared with which. also: cells of other groups that stand in the same tables.
    """

    title: str
    cells: dict[str, list[str] | None]
    seeds: int
    pairs: tuple[tuple[str, str], ...]
    task: str = "chains"
    also: tuple[str, ...] = ()


GROUPS = {
    "main": Group(
        "Methods, the same budget",
        {"base": None, **METHODS},
        5,
        study.each(("base", *METHODS), "likelihood")
        + study.each(("binary", "rlpr", "verifree", "rlsd"), "generalthinker"),
    ),
    "phrases": Group(
        "Free-form answers: a string verifier, a verifier that knows every wording, the likelihoods",
        {
            "phrases-base": None,
            "phrases-string": METHODS["binary"],
            "phrases-likelihood": METHODS["likelihood"],
            "phrases-oracle": METHODS["binary"],
            "phrases-generalthinker": METHODS["generalthinker"],
            "phrases-rlpr": METHODS["rlpr"],
            "phrases-verifree": METHODS["verifree"],
        },
        5,
        study.each(("phrases-base", "phrases-likelihood", *PHRASED), "phrases-string")
        + study.each(PHRASED, "phrases-likelihood"),
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
        study.each(("generalthinker", "am", "am-tc", "am-dp", "projection"), "likelihood")
        + study.each(("am", "am-tc", "am-dp", "projection"), "generalthinker"),
        also=("likelihood", "generalthinker"),
    ),
    "content": Group(
        "Does the content of the credit matter, or only its size? Lambda 0.1 and 0.8",
        {
            "controlled-0.8": [CONTROLLED, "method.credit_strength=0.8"],
            "shuffle": [CONTROLLED, "method.credit_control=shuffle"],
            "reverse": [CONTROLLED, "method.credit_control=reverse"],
            "shuffle-0.8": [CONTROLLED, "method.credit_control=shuffle", "method.credit_strength=0.8"],
            "reverse-0.8": [CONTROLLED, "method.credit_control=reverse", "method.credit_strength=0.8"],
        },
        5,
        study.each(("shuffle", "reverse"), "generalthinker")
        + study.each(("shuffle-0.8", "reverse-0.8"), "controlled-0.8")
        + study.each(
            ("generalthinker", "shuffle", "reverse", "controlled-0.8", "shuffle-0.8", "reverse-0.8"), "likelihood"
        ),
        also=("likelihood", "generalthinker"),
    ),
    "strength": Group(
        "Lambda, controlled and uncontrolled",
        {
            **{f"controlled-{x}": [CONTROLLED, f"method.credit_strength={x}"] for x in (0.05, 0.2, 0.4)},
            **{f"am-{x}": ["method.credit=additive", f"method.credit_strength={x}"] for x in (0.4, 0.8)},
        },
        5,
        study.each(
            ("controlled-0.05", "generalthinker", "controlled-0.2", "controlled-0.4", "controlled-0.8"), "likelihood"
        )
        + study.each(("am", "am-0.4", "am-0.8"), "likelihood")
        + (("am", "generalthinker"), ("am-0.4", "controlled-0.4"), ("am-0.8", "controlled-0.8")),
        also=("likelihood", "generalthinker", "am", "controlled-0.8"),
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
        study.each(("below-worst-24", "exclude-24"), "floor-24")
        + study.each(("min-std-0.1", "min-std-0.5"), "generalthinker"),
        also=("generalthinker",),
    ),
    "learning-rate": Group(
        "Two other learning rates for every method (the recipe's is 5e-4)",
        {
            name + rate: [*settings, f"training.learning_rate={rate[1:]}"]
            for rate in RATES[1:]
            for name, settings in METHODS.items()
        },
        5,
        tuple((name + rate, "likelihood" + rate) for rate in RATES for name in METHODS if name != "likelihood"),
        also=tuple(METHODS),
    ),
}
CURVES = ("reward", "grad_norm", "kl", "entropy", "answer_logprob", "boxed_rate", "truncation_rate",
          "well_formed_rate", "groups_without_signal", "credit/sign_flip_ratio", "completions/mean_length")  # fmt: skip


@dataclass(frozen=True)
class Cell:
    task: str
    name: str
    seed: int
    settings: tuple[str, ...] | None

    def __str__(self) -> str:
        return f"{self.name}-{self.seed}"


def cells_of(group: Group) -> Iterator[Cell]:
    """Seed by seed. The untrained model is decoded greedily, so that one seed says all."""
    for seed in range(1, group.seeds + 1):
        for name, settings in group.cells.items():
            if settings is not None:
                yield Cell(group.task, name, seed, tuple(settings))
            elif seed == 1:
                yield Cell(group.task, name, seed, None)


def command(cell: Cell, work: Path, folder: Path, overrides: Sequence[str]) -> list[str]:
    """The command line of a cell. Training on phrases reads a file, so that a verifier can be kept from the aliases."""
    program = [sys.executable, "-c", "from generalthinker.cli import main; main()"]
    model = str(work / START) if cell.task == "phrases" else "embedded@1"
    if cell.settings is None:
        return [
            *program, "evaluate", model, "--benchmark", cell.task, "--limit", str(TEST_PROBLEMS),
            "--max-new-tokens", "64", "--output", str(folder),
        ]  # fmt: skip
    data = [f"model.name_or_path={model}", f"evaluation.benchmarks=[{cell.task}]"]
    if cell.task == "phrases":
        wordings = "reference" if cell.name == "phrases-string" else "all"
        data += [
            f"model.name_or_path={work / START}",
            f"data.train_file={work}/phrases-{wordings}.jsonl",
            "data.kind=text",
        ]
    return [
        *program, "train", "--recipe", "embedded", "--output", str(folder), "--seed", str(cell.seed),
        f"training.max_steps={STEPS[cell.task]}", *TRAINING, *data, *cell.settings, *overrides,
    ]  # fmt: skip


def prepare_phrases(work: Path) -> None:
    """The model to start from, and the training problems twice: with every wording, and with the reference alone."""
    if not (work / START / "config.json").exists():
        script = Path(__file__).with_name("phrases_start.py")
        study.run_command([sys.executable, str(script), "--output", str(work / START)], work / "logs" / f"{START}.log")
    for wordings in ("all", "reference"):
        path = work / f"phrases-{wordings}.jsonl"
        rows = [
            {
                "id": problem.id,
                "question": problem.question,
                "answer": problem.answer,
                **({"aliases": list(problem.aliases)} if wordings == "all" else {}),
            }
            for problem in phrases.generate("train", PHRASES)
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def run(cell: Cell, work: Path, overrides: Sequence[str], ledger: study.Ledger) -> None:
    """Runs a cell and keeps its result."""
    folder = work / str(cell)
    shutil.rmtree(folder, ignore_errors=True)  # of a cell that was stopped
    commit = study.current_commit()
    study.run_command(command(cell, work, folder, overrides), work / "logs" / f"{cell}.log")
    result = read_run(cell, folder)
    ledger.append(result | {"settings": settings_of(cell, overrides), "commit": commit})
    shutil.rmtree(folder)
    print(f"{cell}: {100 * result['accuracy']:.1f} %", flush=True)


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
        "answers": study.pack_answers({row["id"]: row["correct"] for row in rows}),
        "training_seconds": results.get("training_seconds"),
        "curves": {name: [row.get(name) for row in curves if "reward" in row] for name in ("step", *CURVES) if curves},
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

Cells = Mapping[str, Sequence[study.Record]]  # results by name, at least one each; in the order of the rows


def tables(ledger: study.Ledger) -> str:
    """Every table that the finished cells allow, in Markdown."""
    parts = []
    for name, group in GROUPS.items():
        wanted = list(cells_of(group))
        there = sum(any(record["seed"] == cell.seed for record in ledger[cell.name]) for cell in wanted)
        parts.append(f"### {group.title} (`--group {name}`: {there} of {len(wanted)} cells)\n")
        if there:
            cells = _finished((*group.also, *group.cells), group.seeds, ledger)
            parts += [_accuracies(cells), _learning(cells), _stability(cells), _pairs(group.pairs, cells)]
            if name == "learning-rate":
                parts.append(_best_rates(cells))
    return "\n".join(part for part in [*parts, _cost(ledger)] if part)


def _finished(names: Iterable[str], seeds: int, ledger: study.Ledger) -> Cells:
    """The results of these cells on the group's seeds: rows of one table are means over the same seeds."""
    found = {name: [record for record in ledger[name] if record["seed"] <= seeds] for name in names}
    return {name: records for name, records in found.items() if records}


def _accuracies(cells: Cells) -> str:
    phrased = any(record["task"] == "phrases" for records in cells.values() for record in records)
    head = "| cell | seeds | accuracy, % | by seed | boxed, % | truncated, % | answer log-lik., nats |"
    lines = [head + (" of the right answers, in the reference's wording, % |" if phrased else "")]
    lines.append("|---" * (lines[0].count("|") - 1) + "|")
    for name, seeds in cells.items():
        accuracies = [100 * cell["accuracy"] for cell in seeds]
        line = (
            f"| {name} | {len(seeds)} | {study.spread(accuracies)} | {', '.join(f'{x:.1f}' for x in accuracies)} "
            f"| {_mean(seeds, 'boxed_rate', 100):.1f} | {_mean(seeds, 'truncation_rate', 100):.1f} "
            f"| {study.spread([cell['answer_loglik'] for cell in seeds], 2)} |"
        )
        if phrased:
            right = [(cell["reference_wording"], sum(study.unpack_answers(cell["answers"]))) for cell in seeds]
            shares = [100 * same / all_right for same, all_right in right if all_right]
            line += f" {study.spread(shares) if shares else 'none right'} |"
        lines.append(line)
    return "\n".join(lines) + "\n"


def _learning(cells: Cells) -> str:
    """Held-out accuracy against the number of rollouts."""
    steps = sorted({int(step) for records in cells.values() for record in records for step in record["validation"]})
    if not steps:
        return ""
    lines = ["| held-out accuracy, %, after responses | " + " | ".join(str(128 * step) for step in steps) + " |"]
    lines.append("|---" * (len(steps) + 1) + "|")
    for name, records in _trained(cells).items():
        values = [
            [100 * record["validation"][str(step)][0] for record in records if str(step) in record["validation"]]
            for step in steps
        ]
        lines.append(f"| {name} | " + " | ".join(study.spread(v) if v else "" for v in values) + " |")
    return "\n".join(lines) + "\n"


def _stability(cells: Cells) -> str:
    trained = _trained(cells)
    if not trained:
        return ""
    lines = [
        (
            "| cell | largest KL, nats a token | entropy: first step, halfway, last | largest gradient norm "
            "| sign flips, % | groups without a signal, % | malformed in training, % | length at the end |"
        ),
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, records in trained.items():
        runs = [record["curves"] for record in records]
        flipped = [100 * flip for run in runs for flip in run["credit/sign_flip_ratio"] if flip is not None]
        halfway = [run["entropy"][len(run["entropy"]) // 2 - 1] for run in runs]
        lines.append(
            f"| {name} | {study.spread([max(run['kl']) for run in runs], 4)} "
            f"| {statistics.mean(run['entropy'][0] for run in runs):.2f}, {study.spread(halfway, 2)}, "
            f"{study.spread([run['entropy'][-1] for run in runs], 2)} "
            f"| {study.spread([max(run['grad_norm']) for run in runs], 2)} "
            f"| {f'{statistics.mean(flipped):.1f}' if flipped else ''} "
            f"| {100 * statistics.mean(itertools.chain(*(run['groups_without_signal'] for run in runs))):.1f} "
            f"| {100 * (1 - statistics.mean(itertools.chain(*(run['well_formed_rate'] for run in runs)))):.1f} "
            f"| {statistics.mean(run['completions/mean_length'][-1] for run in runs):.0f} |"
        )
    return "\n".join(lines) + "\n"


def _pairs(pairs: Iterable[tuple[str, str]], cells: Cells) -> str:
    """Differences of two cells: over the seeds (t interval), over the problems (bootstrap), and seed by seed."""
    lines = [study.PAIRED_HEAD]
    for name, against in pairs:
        own, theirs = (
            {record["seed"]: record["answers"] for record in cells.get(cell, [])} for cell in (name, against)
        )
        if name in cells and name not in _trained(cells):  # the untrained model is the same for every seed
            own = dict.fromkeys(theirs, next(iter(own.values())))
        if seeds := sorted(own.keys() & theirs.keys()):
            lines.append(study.paired_row(f"{name} - {against}", [own[s] for s in seeds], [theirs[s] for s in seeds]))
    return "\n".join(lines) + "\n" if len(lines) > 1 else ""


def _best_rates(cells: Cells) -> str:
    """Each method at its own best of the three learning rates: the best by held-out accuracy at the end of training.

    The test problems have no say in it; the recipe's rate wins a tie.
    """
    best: dict[str, str] = {}
    lines = []
    for method in METHODS:
        rates = [method + rate for rate in RATES]
        if not cells.keys() >= set(rates):
            continue
        held_out = {name: [100 * [*record["validation"].values()][-1][0] for record in cells[name]] for name in rates}
        best[method] = max(rates, key=lambda name: statistics.mean(held_out[name]))
        lines.append(
            f"| {method} | {best[method].removeprefix(method).removeprefix('-') or '5e-4'} "
            f"| {study.spread(held_out[best[method]])} "
            f"| {study.spread([100 * record['accuracy'] for record in cells[best[method]]])} |"
        )
    if not lines:
        return ""
    head = [
        "| each method at its own best of the three rates | rate | held-out accuracy at the end, % | accuracy, % |",
        "|---|---|---|---|",
    ]
    pairs = study.each(best.values(), best["likelihood"]) if "likelihood" in best else ()
    return "\n".join([*head, *lines]) + "\n\n" + _pairs(pairs, cells)


def _cost(ledger: study.Ledger) -> str:
    names = {name for group in GROUPS.values() for name in group.cells}
    return study.cost_line(
        [record["training_seconds"] for name in sorted(names) for record in ledger[name] if record["training_seconds"]]
    )


def _trained(cells: Cells) -> Cells:
    return {name: records for name, records in cells.items() if records[0]["curves"]}


def _mean(cells: Sequence[dict[str, Any]], value: str, factor: float) -> float:
    return factor * statistics.mean(cell[value] for cell in cells)


# ---------------------------------------------------------------------------------------------------------- command


def missing(ledger: study.Ledger, groups: Sequence[str], overrides: Sequence[str]) -> list[Cell]:
    """The cells that have no result yet, in the order in which they run.

    Raises SystemExit for a result of other settings: one ledger holds one study.
    """
    cells = itertools.chain.from_iterable(cells_of(GROUPS[name]) for name in groups)
    return [cell for cell in cells if not ledger.has(cell.name, cell.seed, settings_of(cell, overrides))]


def main() -> None:
    parser = study.command_line(__doc__, results=LEDGER, work=Path("runs/grid"), groups=list(GROUPS))
    parser.add_argument("overrides", nargs="*", help="further settings of every training, SECTION.KEY=VALUE")
    arguments = parser.parse_args()
    ledger, work = study.Ledger(arguments.results), arguments.work.resolve()

    def prepare(cells: Sequence[Cell]) -> None:
        if any(cell.task == "phrases" for cell in cells):
            prepare_phrases(work)

    study.conduct(
        arguments,
        missing=lambda: missing(ledger, arguments.group, arguments.overrides),
        run=lambda cell: run(cell, work, arguments.overrides, ledger),
        tables=lambda: tables(ledger),
        prepare=prepare,
    )


if __name__ == "__main__":
    main()
