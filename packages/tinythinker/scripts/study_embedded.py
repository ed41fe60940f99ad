"""What do the phases, the stages and their mixing bring? The embedded student on `facts`, as one resumable command.

    python packages/tinythinker/scripts/study_embedded.py --jobs 2                 # all that is not done yet
    python packages/tinythinker/scripts/study_embedded.py --group main --at-most 5 # a part
    python packages/tinythinker/scripts/study_embedded.py --table                  # the tables of what is there so far

A cell is one run of the recipe `embedded` with the settings that `GROUPS` shows, in a process of its own with one
thread. A run with phase 2 gives the figures of phase 1 and of every iteration. A finished cell is a line of the ledger
(docs/results/data/tinythinker-study.jsonl) and is never run again; one that was stopped goes on, as long as its folder
below --work is there. Cells are in the order of what they are worth, seed by seed, so that a study that is cut short
has the main comparison on its first seeds.

The T5-shaped student has random weights, for there is no embedded T5, and so three times the epochs; it and the causal
one are not to be compared.
"""

import hashlib
import json
import shutil
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinker_common.evaluation.generations import read_generations
from thinker_common.training import study
from thinker_common.training.recipes import recipe_text

LEDGER = Path(__file__).parents[3] / "docs/results/data/tinythinker-study.jsonl"
ACQUISITION = "acquisition"
ALONE = "method.reflection.iterations=0"
EVERY_WAY = "evaluation.answering=[greedy, self_consistency, option_likelihood]"
COMMON = ("evaluation.limit=500", "training.save_steps=200")
T5_EPOCHS = 3
CURVES = ("cross_entropy/recall", "cross_entropy/analyze", "cross_entropy/summarize", "preference", "nll", "agreement")
KEPT = ("pairs", "recall_pass", "analyze_pass", "steps", "exported_step", "training_seconds", "sampling_seconds")


@dataclass(frozen=True)
class Group:
    """Cells that one table compares.

    cells: name -> settings. seeds: of every cell. against: cell and phase that the others are compared with
    """

    title: str
    cells: dict[str, list[str]]
    seeds: int
    against: tuple[str, str] = ("both", ACQUISITION)


GROUPS = {
    "main": Group(
        "Two phases and baselines",
        {"both": [EVERY_WAY], "label": ["method.baseline=label"], "cot": ["method.baseline=cot"]},
        5,
    ),
    "stages": Group(
        "Phase 1 with fewer stages",
        {
            "recall+summarize": [ALONE, "method.acquisition.stages=[recall, summarize]"],
            "analyze+summarize": [ALONE, "method.acquisition.stages=[analyze, summarize]"],
        },
        3,
    ),
    "mixing": Group(
        "Phase 1 with another mixing",
        {
            "sequential": [ALONE, "method.acquisition.mixing=sequential"],
            "proportional": [ALONE, "method.acquisition.mixing=proportional"],
            "interval 8": [ALONE, "method.acquisition.interval=8"],
        },
        3,
    ),
    "t5": Group(
        "A T5-shaped student with random weights",
        {"t5": [f"method.acquisition.num_train_epochs={T5_EPOCHS}"]},
        3,
        ("t5", ACQUISITION),
    ),
    "reflection": Group(
        "Phase 2 taken apart",
        {
            "recall pairs": ["method.reflection.stages=[recall]"],
            "analyze pairs": ["method.reflection.stages=[analyze]"],
            "acquired": ["method.reflection.reference=acquired"],
        },
        2,
    ),
}


@dataclass(frozen=True)
class Cell:
    name: str
    seed: int
    settings: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name.replace(' ', '-')}-{self.seed}"


def cells_of(group: Group) -> Iterator[Cell]:
    """Seed by seed."""
    for seed in range(1, group.seeds + 1):
        for name, settings in group.cells.items():
            yield Cell(name, seed, (*COMMON, *settings))


def settings_of(cell: Cell) -> list[str]:
    """What the ledger keeps: the cell's own settings, and which recipe they stand on."""
    recipe = hashlib.sha256(recipe_text("tinythinker", "embedded").encode()).hexdigest()[:12]
    return [f"recipe embedded {recipe}", *cell.settings]


def missing(ledger: study.Ledger, groups: Sequence[str]) -> list[Cell]:
    """The cells without a result, in the order in which they run. SystemExit for a result of other settings."""
    cells = [cell for name in groups for cell in cells_of(GROUPS[name])]
    return [cell for cell in cells if not ledger.has(cell.name, cell.seed, settings_of(cell))]


def run(cell: Cell, work: Path, ledger: study.Ledger) -> None:
    """Runs a cell, or goes on with it, and keeps its result."""
    folder = work / str(cell)
    commit = study.current_commit()
    study.run_command(command(cell, work, folder), work / "logs" / f"{cell}.log")
    result = read_run(folder)
    ledger.append({"cell": cell.name, "seed": cell.seed, "settings": settings_of(cell), "commit": commit, **result})
    shutil.rmtree(folder)
    print(f"{cell}: done", flush=True)


def command(cell: Cell, work: Path, folder: Path) -> list[str]:
    model = [f"model.name_or_path={t5_student(work, cell.seed)}"] if cell.name == "t5" else []
    return [
        sys.executable, "-m", "tinythinker", "train", "--recipe", "embedded", "--output", str(folder),
        "--seed", str(cell.seed), *cell.settings, *model,
    ]  # fmt: skip


def t5_student(work: Path, seed: int) -> Path:
    """A folder with a T5 of about the embedded student's size and its tokenizer; the weights follow from the seed."""
    from transformers import T5Config, T5ForConditionalGeneration, set_seed

    from thinker_common.models import load_tokenizer

    folder = work / f"t5-student-{seed}"
    if not (folder / "config.json").exists():
        tokenizer = load_tokenizer("embedded@1")
        tokenizer.save_pretrained(folder)
        set_seed(seed)
        config = T5Config(
            vocab_size=len(tokenizer), d_model=160, d_kv=32, d_ff=448, num_layers=3, num_heads=5, dropout_rate=0.0,
            feed_forward_proj="gated-gelu", decoder_start_token_id=tokenizer.pad_token_id,
            pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        )  # fmt: skip
        T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


def read_run(folder: Path) -> dict[str, Any]:
    """What the tables need of a finished run's folder."""
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    phases = {}
    for phase, found in results["phases"].items():
        tests = {}
        for way, figures in found["tests"].items():
            _, rows = read_generations(folder / phase / "evaluation" / way / "generations.jsonl")
            tests[way.partition("-")[2]] = {
                **{name: figures[name] for name in ("accuracy", "no_answer_rate", "answer_loglik", "mean_tokens")},
                "answers": study.pack_answers({row["id"]: row["correct"] for row in rows}),
            }
        phases[phase] = {
            "tests": tests,
            **{name: found[name] for name in KEPT if name in found},
            **_curves(folder / phase / "metrics.jsonl"),
        }
    return {"phases": phases, "exported": results["exported"], "seconds": results["seconds"]}


def _curves(path: Path) -> dict[str, Any]:
    """The losses and the validations by step; nothing of an iteration that did not train."""
    if not path.exists():
        return {}
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    logged = [row for row in rows if "loss" in row]
    names = [name for name in CURVES if any(name in row for row in logged)]
    return {
        "curves": {name: [row.get(name) for row in logged] for name in ("step", *names)},
        "validation": {row["step"]: row["validation/accuracy"] for row in rows if "validation/accuracy" in row},
    }


# ---------------------------------------------------------------------------------------------------------- tables


def tables(ledger: study.Ledger) -> str:
    """Every table that the finished cells allow, in Markdown."""
    parts = []
    for name, group in GROUPS.items():
        wanted = list(cells_of(group))
        there = sum(any(record["seed"] == cell.seed for record in ledger[cell.name]) for cell in wanted)
        parts.append(f"### {group.title} (`--group {name}`: {there} of {len(wanted)} cells)\n")
        if there:
            shown = [cell for cell in group.cells if cell in ledger]
            parts += [_accuracies(shown, ledger), _reflections(shown, ledger), _pairs(shown, group.against, ledger)]
    return "\n".join(part for part in parts if part)


def _of_phases(names: Sequence[str], ledger: study.Ledger) -> Iterator[tuple[str, str, dict[int, dict[str, Any]]]]:
    """(cell, phase, seed -> what became of it)"""
    for name in names:
        for phase in dict.fromkeys(phase for record in ledger[name] for phase in record["phases"]):
            yield name, phase, {record["seed"]: record["phases"][phase] for record in ledger[name]}


def _accuracies(names: Sequence[str], ledger: study.Ledger) -> str:
    lines = [
        "| cell | student | answers | n | seeds | accuracy, % | abstained, % | answer log-lik., nats | tokens |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, phase, seeds in _of_phases(names, ledger):
        for way in next(iter(seeds.values()))["tests"]:
            own = [found["tests"][way] for found in seeds.values()]
            lines.append(
                f"| {name} | {phase} | {way} | {own[0]['answers']['n']} | {len(own)} "
                f"| {study.spread([100 * test['accuracy'] for test in own])} "
                f"| {study.spread([100 * test['no_answer_rate'] for test in own])} "
                f"| {study.spread([test['answer_loglik'] for test in own], 2)} "
                f"| {statistics.mean(test['mean_tokens'] for test in own):.0f} |"
            )
    return "\n".join(lines) + "\n"


def _reflections(names: Sequence[str], ledger: study.Ledger) -> str:
    """Chains and pairs of phase 2; nothing where there is none."""
    lines = [
        (
            "| cell | iteration | seeds | right chains, %: recall pass | analyze pass | recall pairs | by teacher "
            "| analyze pairs | steps | agreement at the beginning and the end |"
        ),
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, phase, seeds in _of_phases(names, ledger):
        own = [found for found in seeds.values() if "pairs" in found]
        if not own:
            continue
        right = [
            study.spread([100 * found[part]["right"] / found[part]["chains"] for found in own if part in found] or [0])
            for part in ("recall_pass", "analyze_pass")
        ]
        counts = [
            f"{statistics.mean(found['pairs'][kind] for found in own):.0f}"
            for kind in ("recall", "recall_from_teacher", "analyze")
        ]
        agreement = [found["curves"]["agreement"] for found in own if "curves" in found]
        ends = [f"{statistics.mean(curve[end] for curve in agreement):.2f}" for end in (0, -1)] if agreement else []
        lines.append(
            f"| {name} | {phase} | {len(own)} | {' | '.join((*right, *counts))} "
            f"| {statistics.mean(found['steps'] for found in own):.0f} | {', '.join(ends)} |"
        )
    return "\n".join(lines) + "\n" if len(lines) > 2 else ""


def _pairs(names: Sequence[str], against: tuple[str, str], ledger: study.Ledger) -> str:
    """Greedy answers against one student's, and the other ways to answer against greedy, seed by seed."""
    found = {(name, phase): seeds for name, phase, seeds in _of_phases([*{*names, against[0]}], ledger)}
    if against not in found:
        return ""

    def answers(student: tuple[str, str], way: str) -> dict[int, Any]:
        return {seed: own["tests"][way]["answers"] for seed, own in found[student].items()}

    lines = [study.PAIRED_HEAD]
    theirs = answers(against, "greedy")
    for student, seeds in found.items():
        if student[0] not in names:
            continue
        for way in next(iter(seeds.values()))["tests"]:
            other, title = (theirs, f"{against[0]}, {against[1]}") if way == "greedy" else (None, "greedy")
            if student == against and way == "greedy":
                continue
            other = answers(student, "greedy") if other is None else other
            own = answers(student, way)
            if common := sorted(own.keys() & other.keys()):
                row = f"{', '.join(student)}, {way} - {title}"
                lines.append(study.paired_row(row, [own[s] for s in common], [other[s] for s in common]))
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------------------------------------------------- command


def main() -> None:
    arguments = study.command_line(
        __doc__, results=LEDGER, work=Path("runs/tinythinker-study"), groups=list(GROUPS)
    ).parse_args()
    ledger = study.Ledger(arguments.results)
    study.conduct(
        arguments,
        missing=lambda: missing(ledger, arguments.group),
        run=lambda cell: run(cell, arguments.work.resolve(), ledger),
        tables=lambda: tables(ledger),
    )


if __name__ == "__main__":
    main()
