"""What do the phases, the stages and their mixing bring? The embedded student on `facts`, as one resumable command.

    python packages/tinythinker/scripts/study_embedded.py --jobs 2                 # all that is not done yet
    python packages/tinythinker/scripts/study_embedded.py --group main --at-most 5 # a part
    python packages/tinythinker/scripts/study_embedded.py --plan --jobs 2          # what is left, and how long it takes
    python packages/tinythinker/scripts/study_embedded.py --table                  # the tables of what is there so far

A cell is one run of the recipe `embedded` with the settings that `GROUPS` shows, in a process of its own with one
thread. A run with phase 2 gives the figures of phase 1 and of every iteration. A finished cell is a line of the ledger
(docs/results/data/tinythinker-study.jsonl) and is never run again; one that was stopped goes on, as long as its folder
below --work is there. Cells are in the order of what they are worth, seed by seed, so that a study that is cut short
has the main comparison on its first seeds.

The whole grid has 63 cells and is planned to take 7.0 hours of one quiet core, so under four hours of two (`SECONDS`).
The two phases with their baselines, phase 2 taken apart and the stages of phase 1 have five seeds, the mixings three,
the T5-shaped student two.

- The seed of a cell is that of its weights, orders and draws, and of its sample of training questions. Validation and
  test questions are the same in all.
- Phase 1, with any stages, mixing or in one target (`cot`), and the answer alone (`label`) are compared at equal
  optimiser steps of equal batches, on the same questions. A row of `label` or `cot` is a sixth of phase 1's rows, so
  that these are seen six times: `label, once` and `cot, once` see them once, in a sixth of the steps.
- Cells that differ in phase 2 alone go on from the run of `both` with the same seed where it is below --work, and else
  train phase 1 themselves, to the same student. `acquired` differs from iteration 2 on.
- Self-consistency has 5 draws. It and option likelihood are asked of `both` and `cot`, the latter of `label` too; all
  other answers are greedy.
- The T5-shaped student has random weights, for there is no embedded T5, and so 8,000 questions and 3,000 steps, at a
  rate of 3e-4; it and the causal one are not to be compared. At 1e-3, or with the position biases that transformers
  draws, it does not learn in 1,000 steps to find an option by its letter (docs/results/tinythinker-learning.md).
- `embedded@1` has seen texts about the same creatures before (docs/results/embedded.md): no cell learns them from
  nothing but the T5-shaped ones.
"""

import hashlib
import json
import shutil
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import score_facts

from thinker_common.evaluation.generations import read_generations
from thinker_common.training import study
from thinker_common.training.recipes import recipe_text
from tinythinker.config import DataSettings
from tinythinker.question_sets import load_questions
from tinythinker.stages import question_text

LEDGER = Path(__file__).parents[3] / "docs/results/data/tinythinker-study.jsonl"
ACQUISITION, FIRST, SECOND = "acquisition", "iteration-1", "iteration-2"
STEPS = 1500  # of every training of phase 1 or a baseline: an epoch of all stages over the recipe's 4,000 questions
T5_QUESTIONS, T5_STEPS, T5_RATE = 8000, 3000, 3e-4
T5_SHAPE = {"d_model": 160, "d_kv": 32, "d_ff": 448, "num_layers": 3, "num_heads": 5}  # 2.4 M parameters
# Standard deviation of the biases of relative positions at the start. With transformers' own, 0.08, it is learnt late
# which token stands next to which (docs/results/tinythinker-learning.md).
T5_POSITION_SPREAD = 2.0

COMMON = ("evaluation.limit=400", "evaluation.samples=5", "training.save_steps=250")
EVERY_WAY = "evaluation.answering=[greedy, self_consistency, option_likelihood]"
WITHOUT_CHAIN = "evaluation.answering=[greedy, option_likelihood]"  # there is nothing to draw
ALONE = "method.reflection.iterations=0"
EQUAL_STEPS = f"method.acquisition.max_steps={STEPS}"
T5_DATA = [
    f"data.limit={T5_QUESTIONS}", f"method.acquisition.max_steps={T5_STEPS}",
    f"method.acquisition.learning_rate={T5_RATE}", "method.acquisition.evaluate_every=750",
]  # fmt: skip

# What a cell takes, on a quiet core: estimated from cells of half as many steps and runs of the recipe's phase 1.
SECONDS = {
    "both": 1050, "label": 180, "cot": 750, "label, once": 50, "cot, once": 200,
    "recall pairs": 140, "analyze pairs": 190, "acquired": 100, "recall+summarize": 400, "analyze+summarize": 420,
    "sequential": 470, "proportional": 470, "interval 8": 470, "t5": 1300, "t5 label": 420,
}  # fmt: skip
# Cells that go on from a run of `both`, and which phases of it they have in common with it.
SHARED = {"recall pairs": (ACQUISITION,), "analyze pairs": (ACQUISITION,), "acquired": (ACQUISITION, FIRST)}
CURVES = ("cross_entropy/recall", "cross_entropy/analyze", "cross_entropy/summarize", "preference", "nll", "agreement")
KEPT = ("questions", "pairs", "recall_pass", "analyze_pass", "steps", "exported_step", "training_seconds",
        "sampling_seconds")  # fmt: skip
GREEDY = "greedy"


@dataclass(frozen=True)
class Group:
    """Cells that one table compares.

    cells: name -> settings. seeds: of every cell, and of every row of the tables. pairs: which students are compared
    with which; see `student`. also: cells of other groups that stand in the same tables.
    """

    title: str
    cells: dict[str, list[str]]
    seeds: int
    pairs: tuple[tuple[str, str], ...]
    also: tuple[str, ...] = ()


def student(cell: str, phase: str = ACQUISITION, answers: str = GREEDY) -> str:
    """The name of a student in the tables: a cell, a phase of its run, and how it answers unless that is greedily."""
    return ", ".join((cell, phase, *([answers] if answers != GREEDY else [])))


def reflected(cell: str) -> tuple[str, str]:
    return student(cell, FIRST), student(cell, SECOND)


PHASE_1 = student("both")
PHASES = (PHASE_1, *reflected("both"))
OTHER_WAYS = ("self_consistency", "option_likelihood")
PAIRS_ALONE = ("recall pairs", "analyze pairs")
GROUPS = {
    "main": Group(
        "Two phases and baselines",
        {
            "both": [EVERY_WAY],
            "label": ["method.baseline=label", EQUAL_STEPS, WITHOUT_CHAIN],
            "cot": ["method.baseline=cot", EQUAL_STEPS, EVERY_WAY],
            "label, once": ["method.baseline=label"],
            "cot, once": ["method.baseline=cot"],
        },
        5,
        study.each(PHASES, student("label"))
        + study.each(PHASES, student("cot"))
        + ((student("cot"), student("label")),)
        + study.each(reflected("both"), PHASE_1)
        + (tuple(reversed(reflected("both"))),)
        + ((PHASE_1, student("label, once")), (PHASE_1, student("cot, once")))
        + tuple(
            (student(cell, phase, way), student(cell, phase))
            for cell, phase in (("both", ACQUISITION), ("both", FIRST), ("both", SECOND), ("cot", ACQUISITION))
            for way in OTHER_WAYS
        )
        + ((student("label", answers="option_likelihood"), student("label")),)
        + study.each(
            [student("both", phase, "self_consistency") for phase in (ACQUISITION, FIRST, SECOND)],
            student("cot", ACQUISITION, "self_consistency"),
        ),
    ),
    "reflection": Group(
        "Phase 2 taken apart",
        {
            "recall pairs": ["method.reflection.stages=[recall]"],
            "analyze pairs": ["method.reflection.stages=[analyze]"],
            "acquired": ["method.reflection.reference=acquired"],
        },
        5,
        study.each((student(cell, FIRST) for cell in PAIRS_ALONE), student("both", FIRST))
        + study.each((student(cell, SECOND) for cell in (*PAIRS_ALONE, "acquired")), student("both", SECOND))
        + study.each((name for cell in PAIRS_ALONE for name in reflected(cell)), PHASE_1)
        + ((student("acquired", SECOND), PHASE_1), (student("acquired", SECOND), student("both", FIRST))),
        also=("both",),
    ),
    "stages": Group(
        "Phase 1 with fewer stages, equal steps (`label` is summarize alone)",
        {
            "recall+summarize": [ALONE, "method.acquisition.stages=[recall, summarize]", EQUAL_STEPS],
            "analyze+summarize": [ALONE, "method.acquisition.stages=[analyze, summarize]", EQUAL_STEPS],
        },
        5,
        study.each(map(student, ("label", "recall+summarize", "analyze+summarize")), PHASE_1)
        + study.each(map(student, ("recall+summarize", "analyze+summarize")), student("label")),
        also=("both", "label"),
    ),
    "mixing": Group(
        "Phase 1 with another mixing (`both` has interval 1)",
        {
            "sequential": [ALONE, "method.acquisition.mixing=sequential"],
            "proportional": [ALONE, "method.acquisition.mixing=proportional"],
            "interval 8": [ALONE, "method.acquisition.interval=8"],
        },
        3,
        study.each(map(student, ("sequential", "proportional", "interval 8")), PHASE_1),
        also=("both",),
    ),
    "t5": Group(
        "A T5-shaped student with random weights",
        {"t5": T5_DATA, "t5 label": ["method.baseline=label", *T5_DATA]},
        2,
        study.each((student("t5"), *reflected("t5")), student("t5 label"))
        + study.each(reflected("t5"), student("t5"))
        + (tuple(reversed(reflected("t5"))),),
    ),
}


@dataclass(frozen=True)
class Cell:
    name: str
    seed: int
    settings: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name.replace(',', '').replace(' ', '-')}-{self.seed}"

    @property
    def t5(self) -> bool:
        return self.name.startswith("t5")


def cells_of(group: Group) -> Iterator[Cell]:
    """Seed by seed."""
    for seed in range(1, group.seeds + 1):
        for name, settings in group.cells.items():
            yield Cell(name, seed, (*COMMON, f"data.seed={seed}", *settings))


def settings_of(cell: Cell) -> list[str]:
    """What the ledger keeps: the cell's own settings, and which recipe and student they stand on."""
    recipe = hashlib.sha256(recipe_text("tinythinker", "embedded").encode()).hexdigest()[:12]
    shape = [f"{name}={value}" for name, value in T5_SHAPE.items()] if cell.t5 else []
    return [f"recipe embedded {recipe}", *cell.settings, *shape]


def missing(ledger: study.Ledger, groups: Sequence[str]) -> list[Cell]:
    """The cells without a result, in the order in which they run. SystemExit for a result of other settings."""
    cells = [cell for name in groups for cell in cells_of(GROUPS[name])]
    return [cell for cell in cells if not ledger.has(cell.name, cell.seed, settings_of(cell))]


def planned_seconds(cells: Iterable[Cell], ledger: study.Ledger) -> float:
    """What these cells will take, one after another: by the finished ones of the same name, else by `SECONDS`."""
    return sum(
        statistics.median(seen) if (seen := [record["seconds"] for record in ledger[cell.name]]) else SECONDS[cell.name]
        for cell in cells
    )


# ---------------------------------------------------------------------------------------------------------- running


def run(cell: Cell, work: Path, ledger: study.Ledger) -> None:
    """Runs a cell, or goes on with it, and keeps its result."""
    folder, start = work / str(cell), work / f"start-{cell.seed}"
    commit = study.current_commit()
    if cell.name in SHARED and not folder.exists() and start.exists():
        keep_phases(start, folder, SHARED[cell.name])
    if not (folder / "results.json").exists():  # else it was stopped between its end and its line
        study.run_command(command(cell, work, folder), work / "logs" / f"{cell}.log")
    result = read_run(folder, SHARED.get(cell.name, ()))
    ledger.append({"cell": cell.name, "seed": cell.seed, "settings": settings_of(cell), "commit": commit, **result})
    if cell.name == "both":
        keep_phases(folder, start, (ACQUISITION, FIRST))
    shutil.rmtree(folder)
    print(f"{cell}: done in {result['seconds']:.0f} s", flush=True)


def keep_phases(run_folder: Path, target: Path, phases: Sequence[str]) -> None:
    """A run that has come as far as these phases, made of one that went further; it appears whole or not at all."""
    partial = target.with_name(f".{target.name}.partial")
    for folder in (target, partial):
        shutil.rmtree(folder, ignore_errors=True)
    partial.mkdir(parents=True)
    shutil.copy2(run_folder / "config.yaml", partial)
    for phase in phases:
        shutil.copytree(run_folder / phase, partial / phase)
    partial.rename(target)


def command(cell: Cell, work: Path, folder: Path) -> list[str]:
    """The command line of a cell. Where a run goes on from phases of `both`, settings of later phases differ."""
    model = [f"model.name_or_path={t5_folder(work, cell.seed)}"] if cell.t5 else []
    goes_on = ["--allow-changes"] if cell.name in SHARED else []
    return [
        sys.executable, "-m", "tinythinker", "train", "--recipe", "embedded", "--output", str(folder),
        "--seed", str(cell.seed), *goes_on, *cell.settings, *model,
    ]  # fmt: skip


def t5_folder(work: Path, seed: int) -> Path:
    return work / f"t5-student-{seed}"


def prepare(cells: Sequence[Cell], work: Path) -> None:
    """Makes the students that cells need. Their weights follow from the seed."""
    for seed in sorted({cell.seed for cell in cells if cell.t5}):
        make_t5(t5_folder(work, seed), seed)


def make_t5(folder: Path, seed: int, *, position_spread: float = T5_POSITION_SPREAD) -> None:
    """A folder with a T5 of about the embedded student's size and its tokenizer; whole, or not there.

    position_spread: see `T5_POSITION_SPREAD`; 0 leaves what transformers draws
    """
    import torch
    from transformers import T5Config, T5ForConditionalGeneration, set_seed

    from thinker_common.models import load_tokenizer

    if folder.exists():
        return
    tokenizer = load_tokenizer("embedded@1")
    set_seed(seed)
    config = T5Config(
        vocab_size=len(tokenizer), dropout_rate=0.0, feed_forward_proj="gated-gelu",
        decoder_start_token_id=tokenizer.pad_token_id, pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id, **T5_SHAPE,
    )  # fmt: skip
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    tokenizer.save_pretrained(partial)
    student = T5ForConditionalGeneration(config)
    if position_spread:
        for stack in (student.encoder, student.decoder):  # a stack's layers share those of its first
            biases = stack.block[0].layer[0].SelfAttention.relative_attention_bias
            torch.nn.init.normal_(biases.weight, std=position_spread)
    student.save_pretrained(partial)
    partial.rename(folder)


def read_run(folder: Path, shared: Sequence[str] = (), *, exact: bool = True) -> dict[str, Any]:
    """What the tables need of a finished run's folder.

    shared: phases that stand in another cell's line already. exact: it was tested on `facts`, whose exact explanations
    say what of a chain is right.
    """
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    questions = load_questions(DataSettings(benchmark="facts", split="test")).questions if exact else ()
    asked = {question_text(question): question for question in questions}
    phases = {}
    for phase, found in results["phases"].items():
        if phase in shared:
            continue
        tests = {}
        for way, figures in found["tests"].items():
            _, rows = read_generations(folder / phase / "evaluation" / way / "generations.jsonl")
            tests[way.partition("-")[2]] = {
                **{
                    name: figures[name]
                    for name in ("accuracy", "no_answer_rate", "truncation_rate", "answer_loglik", "mean_tokens")
                },
                "answers": study.pack_answers({row["id"]: row["correct"] for row in rows}),
            }
        validation = found["validation"]
        phases[phase] = {
            "tests": tests,
            "held_out": None if validation is None else validation["validation/accuracy"],
            "stages": (
                score_facts.score(folder / phase / "evaluation/facts-texts/greedy", asked)
                if exact
                else [None] * len(score_facts.COLUMNS)
            ),
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

Phases = Mapping[tuple[str, str], Mapping[int, study.Record]]  # (cell, phase) -> seed -> what became of it


def tables(ledger: study.Ledger) -> str:
    """Every table that the finished cells allow, in Markdown."""
    parts = []
    for name, group in GROUPS.items():
        wanted = list(cells_of(group))
        there = sum(any(record["seed"] == cell.seed for record in ledger[cell.name]) for cell in wanted)
        parts.append(f"### {group.title} (`--group {name}`: {there} of {len(wanted)} cells)\n")
        if there:
            shown = (*group.also, *group.cells)
            parts += [*tables_of(finished(shown, group.seeds, ledger), group.pairs)]
            parts.append(_exported(shown, group.seeds, ledger))
    return "\n".join(part for part in [*parts, _cost(ledger)] if part)


def tables_of(found: Phases, pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Accuracies, what they come from, and paired differences; an empty text where there is nothing to show."""
    kinds = (_accuracies, _stages, _learning, _chains, _preferences)
    return [*(kind(found) for kind in kinds), _pairs(pairs, found)]


def finished(names: Iterable[str], seeds: int, ledger: study.Ledger) -> Phases:
    """What these cells found on the group's seeds: rows of one table are means over the same seeds."""
    found: dict[tuple[str, str], dict[int, study.Record]] = {}
    for name in names:
        for record in ledger[name]:
            if record["seed"] <= seeds:
                for phase, own in record["phases"].items():
                    found.setdefault((name, phase), {})[record["seed"]] = own
    return found


def _accuracies(found: Phases) -> str:
    lines = [
        (
            "| cell | student | answers | n | seeds | accuracy, % | by seed | abstained, % | cut, % "
            "| answer log-lik., nats | tokens |"
        ),
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (cell, phase), seeds in found.items():
        for way in next(iter(seeds.values()))["tests"]:
            own = [record["tests"][way] for record in seeds.values()]
            accuracies = [100 * test["accuracy"] for test in own]
            lines.append(
                f"| {cell} | {phase} | {way} | {own[0]['answers']['n']} | {len(own)} "
                f"| {study.spread(accuracies)} | {', '.join(f'{x:.1f}' for x in accuracies)} "
                f"| {study.spread([100 * test['no_answer_rate'] for test in own])} "
                f"| {study.spread([100 * test['truncation_rate'] for test in own])} "
                f"| {study.spread([test['answer_loglik'] for test in own], 2)} "
                f"| {statistics.mean(test['mean_tokens'] for test in own):.0f} |"
            )
    return "\n".join(lines) + "\n"


def _spread_of(values: Iterable[float | None], digits: int = 1) -> str:
    """Empty where nothing was measured."""
    there = [value for value in values if value is not None]
    return study.spread(there, digits) if there else ""


def _stages(found: Phases) -> str:
    """What of the greedy chains is word for word right; nothing of baselines, which have no stages."""
    lines = [f"| greedy chains of | student | {', % | '.join(score_facts.COLUMNS)}, % |", "|---" * 6 + "|"]
    for (cell, phase), seeds in found.items():
        columns = list(zip(*(record["stages"] for record in seeds.values()), strict=True))
        if any(value is not None for column in columns for value in column):
            lines.append(f"| {cell} | {phase} | {' | '.join(map(_spread_of, columns))} |")
    return "\n".join(lines) + "\n" if len(lines) > 2 else ""


def _learning(found: Phases) -> str:
    """Held-out accuracy while phase 1 trains, and of the weights that each phase keeps."""
    steps = sorted({int(step) for seeds in found.values() for own in seeds.values() for step in _validation(own)})
    lines = [
        f"| held-out accuracy, %, at step | student | {''.join(f'{step} | ' for step in steps)}kept |",
        "|---" * (len(steps) + 3) + "|",
    ]
    for (cell, phase), seeds in found.items():
        values = [[_validation(own).get(str(step)) for own in seeds.values()] for step in steps]
        values.append([own["held_out"] for own in seeds.values()])
        shown = [_spread_of(None if value is None else 100 * value for value in column) for column in values]
        lines.append(f"| {cell} | {phase} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def _validation(own: study.Record) -> Mapping[str, float]:
    return {str(step): accuracy for step, accuracy in own.get("validation", {}).items()}


def _chains(found: Phases) -> str:
    """The draws of phase 2, each pass for itself; a pass that was not run has no row."""
    lines = [
        (
            "| cell | iteration | pass | seeds | questions | chains | right, % | abstained, % | cut, % "
            "| questions always right, % | always wrong, % |"
        ),
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (cell, phase), seeds in found.items():
        for name in ("recall_pass", "analyze_pass"):
            own = [(record["questions"], record[name]) for record in seeds.values() if name in record]
            if not own:
                continue
            shares = [
                study.spread([100 * counts[what] / counts["chains"] for _, counts in own])
                for what in ("right", "abstained", "truncated")
            ] + [
                study.spread([100 * counts[what] / questions for questions, counts in own])
                for what in ("questions_all_right", "questions_all_wrong")
            ]
            lines.append(
                f"| {cell} | {phase} | {name.partition('_')[0]} | {len(own)} "
                f"| {statistics.mean(questions for questions, _ in own):.0f} "
                f"| {statistics.mean(counts['chains'] for _, counts in own):.0f} | {' | '.join(shares)} |"
            )
    return "\n".join(lines) + "\n" if len(lines) > 2 else ""


def _preferences(found: Phases) -> str:
    """Pairs of phase 2 and what training on them did to the loss; nothing where there is none."""
    lines = [
        (
            "| cell | iteration | seeds | recall pairs | by the teacher | analyze pairs | of the right option "
            "| questions with a pair | steps | first and last: agreement | preference loss, nats | NLL, nats a token |"
        ),
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (cell, phase), seeds in found.items():
        own = [record for record in seeds.values() if "pairs" in record]
        if not own:
            continue
        counts = [
            study.spread([record["pairs"][kind] for record in own], 0)
            for kind in ("recall", "recall_from_teacher", "analyze", "analyze_of_gold", "questions")
        ]
        curves = [record["curves"] for record in own if "curves" in record]
        ends = [
            ", ".join(_spread_of((curve[name][end] for curve in curves if name in curve), 2) for end in (0, -1))
            if any(name in curve for curve in curves)
            else ""
            for name in ("agreement", "preference", "nll")
        ]
        lines.append(
            f"| {cell} | {phase} | {len(own)} | {' | '.join(counts)} "
            f"| {statistics.mean(record['steps'] for record in own):.0f} | {' | '.join(ends)} |"
        )
    return "\n".join(lines) + "\n" if len(lines) > 2 else ""


def _pairs(pairs: Iterable[tuple[str, str]], found: Phases) -> str:
    """Differences of two students: over the seeds (t interval), over the questions (bootstrap), and seed by seed."""
    answers: dict[str, dict[int, Any]] = {}
    for (cell, phase), seeds in found.items():
        for seed, record in seeds.items():
            for way, test in record["tests"].items():
                answers.setdefault(student(cell, phase, way), {})[seed] = test["answers"]
    lines = [study.PAIRED_HEAD]
    for name, against in pairs:
        own, theirs = answers.get(name, {}), answers.get(against, {})
        if seeds_of_both := sorted(own.keys() & theirs.keys()):
            lines.append(
                study.paired_row(
                    f"{name} - {against}", [own[s] for s in seeds_of_both], [theirs[s] for s in seeds_of_both]
                )
            )
    return "\n".join(lines) + "\n" if len(lines) > 1 else ""


def _exported(names: Iterable[str], seeds: int, ledger: study.Ledger) -> str:
    """Which phase a run of several has exported, by validation, seed by seed."""
    lines = [
        f"Exported by validation, {name}: {', '.join(record['exported'] for record in records)}.\n"
        for name in names
        if (records := [record for record in ledger[name] if record["seed"] <= seeds])
        and any(phase != ACQUISITION for record in records for phase in record["phases"])
    ]
    return "\n".join(lines)


def _cost(ledger: study.Ledger) -> str:
    """Trainings of phases, with the draws of phase 2; those that a cell took from another are that one's."""
    return study.cost_line(
        [
            own["training_seconds"] + own.get("sampling_seconds", 0)
            for name in sorted(SECONDS)
            for record in ledger[name]
            for own in record["phases"].values()
        ]
    )


# ---------------------------------------------------------------------------------------------------------- command


def main() -> None:
    arguments = study.command_line(
        __doc__, results=LEDGER, work=Path("runs/tinythinker-study"), groups=list(GROUPS)
    ).parse_args()
    ledger, work = study.Ledger(arguments.results), arguments.work.resolve()
    find: Callable[[], list[Cell]] = lambda: missing(ledger, arguments.group)  # noqa: E731
    study.conduct(
        arguments,
        missing=find,
        run=lambda cell: run(cell, work, ledger),
        tables=lambda: tables(ledger),
        prepare=lambda cells: prepare(cells, work),
    )
    if arguments.plan:
        hours = planned_seconds(find()[: arguments.at_most], ledger) / 3600
        print(f"about {hours:.1f} hours of one core, {hours / arguments.jobs:.1f} with --jobs {arguments.jobs}")


if __name__ == "__main__":
    main()
