"""Real text and real explanations: a small student on StrategyQA, taught by the facts that people wrote.

    python packages/tinythinker/scripts/study_strategyqa.py SMOLLM2 --data-dir DIR           # on two cores
    python packages/tinythinker/scripts/study_strategyqa.py SMOLLM2 --data-dir DIR --plan
    python packages/tinythinker/scripts/study_strategyqa.py SMOLLM2 --data-dir DIR --table

SMOLLM2 is a folder with SmolLM2-135M-Instruct, or its name on the hub; any other causal or T5-shaped student will do.
DIR/strategyqa/train.json is the authors' file. The rows come from `tinythinker data teach teacher.kind=human` and
`data build`, of 800 of the 1,661 training questions; tests are all 201 questions of the test split, one standard error
of which is 3.5 points at 50 %, and the curve is of 100 questions of the split valid, every 50 steps.

`both` is phase 1 and one iteration of phase 2, `label` the answer alone in as many optimiser steps as phase 1; `cot`,
which takes as long as `both`, is run by `--group cot` alone. One seed each: n questions, no spread over seeds.

The rows of `both` have 274 thousand tokens, those of `label` 110 thousand in its four times over the questions.
SmolLM2-135M in float32 trains at roughly 100 tokens a second on two cores, as far as ten steps on GSM8K tell
(docs/results/smollm2.md). So `both` is planned for 80 minutes and `label` for 25; neither has been timed. A run that
was stopped goes on by the same command, a finished one is a line of the ledger
(docs/results/data/tinythinker-strategyqa.jsonl) and is not run again.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import study_embedded

from thinker_common.training import study

LEDGER = Path(__file__).parents[3] / "docs/results/data/tinythinker-strategyqa.jsonl"
STEPS = 200  # 800 questions of four rows, in batches of 16
COMMON = (
    "model.dtype=float32",
    "model.chat_template=none",  # a template would add a third to the tokens of a row
    "data.benchmark=strategyqa",
    "data.limit=800",
    "method.acquisition.interval=1",
    "method.acquisition.batch_size=16",
    f"method.acquisition.max_steps={STEPS}",
    "method.acquisition.learning_rate=1e-4",
    "method.acquisition.evaluate_every=50",
    "method.reflection.iterations=1",
    "method.reflection.limit=100",
    "method.reflection.samples=4",
    "method.reflection.batch_size=16",
    "method.reflection.num_train_epochs=2",
    "method.reflection.learning_rate=5e-6",
    "training.per_device_train_batch_size=8",
    "training.save_steps=50",
    "generation.recall_tokens=128",
    "generation.analyze_tokens=24",
    "generation.summarize_tokens=16",
    "generation.max_tokens_per_batch=8192",
    "evaluation.limit=null",  # the whole test split, for the 200 questions of the recipe that is the default
    "evaluation.validation_limit=100",
    "evaluation.answering=[greedy, option_likelihood]",
)
CELLS = {"both": [], "label": ["method.baseline=label"], "cot": ["method.baseline=cot"]}
MINUTES = {"both": 80, "label": 25, "cot": 85}
BOTH = (study_embedded.student("both"), study_embedded.student("both", study_embedded.FIRST))
PAIRS = (
    *study.each(BOTH, study_embedded.student("label")),
    *study.each(BOTH, study_embedded.student("cot")),
    (BOTH[1], BOTH[0]),
    *((f"{name}, option_likelihood", name) for name in (*BOTH, *map(study_embedded.student, ("label", "cot")))),
)


@dataclass(frozen=True)
class Cell:
    name: str
    seed: int

    def __str__(self) -> str:
        return f"{self.name}-{self.seed}"


def settings_of(cell: Cell) -> list[str]:
    return [*COMMON, *CELLS[cell.name]]


def preparation(data_dir: Path, work: Path) -> list[list[str]]:
    """The commands that make the rows."""
    source = ["--benchmark", "strategyqa", "--data-dir", str(data_dir)]
    replies = work / "teacher/replies.jsonl"
    return [
        ["data", "teach", *source, "teacher.kind=human", "--output", str(work / "teacher")],
        ["data", "build", *source, "--replies", str(replies), "--output", str(work / "rows")],
    ]


def command(cell: Cell, model: str, data_dir: Path, work: Path) -> list[str]:
    return [
        "train", f"model.name_or_path={model}", "--data-dir", str(data_dir), f"data.rows={work / 'rows'}",
        "--output", str(work / str(cell)), "--seed", str(cell.seed), *settings_of(cell),
    ]  # fmt: skip


def tinythinker(arguments: Sequence[str], log: Path, threads: int) -> None:
    """SystemExit when it fails, naming its log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with log.open("w", encoding="utf-8") as stream:
        done = subprocess.run(
            [sys.executable, "-m", "tinythinker", *arguments], stdout=stream, stderr=subprocess.STDOUT, env=environment
        )
    if done.returncode:
        raise SystemExit(f"{log.stem} ended with code {done.returncode}: see {log}")


def prepare(data_dir: Path, work: Path) -> None:
    if not (work / "rows/report.json").exists():
        for arguments in preparation(data_dir, work):
            tinythinker(arguments, work / "logs" / f"{arguments[1]}.log", 1)


def run(cell: Cell, model: str, data_dir: Path, work: Path, ledger: study.Ledger, threads: int) -> None:
    """Runs a cell, or goes on with it, and keeps its result; its model stays, as the one to look into."""
    commit, folder = study.current_commit(), work / str(cell)
    if not (folder / "results.json").exists():
        tinythinker(command(cell, model, data_dir, work), work / "logs" / f"{cell}.log", threads)
    found = study_embedded.read_run(folder, exact=False)
    ledger.append(
        {"cell": cell.name, "seed": cell.seed, "settings": settings_of(cell), "model": Path(model).name,
         "commit": commit, **found}
    )  # fmt: skip
    for phase in found["phases"]:
        shutil.rmtree(folder / phase / "model", ignore_errors=True)  # half a gigabyte each
    print(f"{cell}: done in {found['seconds'] / 60:.0f} minutes", flush=True)


def tables(ledger: study.Ledger) -> str:
    found = study_embedded.finished(CELLS, 1, ledger)
    return "\n".join(part for part in study_embedded.tables_of(found, PAIRS) if part) if found else "nothing yet"


def main() -> None:
    parser = study.command_line(__doc__, results=LEDGER, work=Path("runs/tinythinker-strategyqa"), groups=list(CELLS))
    parser.set_defaults(group=["both", "label"])
    parser.add_argument("model", help="folder, or name on the hub")
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with strategyqa/train.json")
    parser.add_argument("--threads", type=int, default=2, help="of a cell")
    arguments = parser.parse_args()
    ledger, work = study.Ledger(arguments.results), arguments.work.resolve()

    def missing() -> list[Cell]:
        cells = [Cell(name, 1) for name in arguments.group]
        return [cell for cell in cells if not ledger.has(cell.name, cell.seed, settings_of(cell))]

    study.conduct(
        arguments,
        missing=missing,
        run=lambda cell: run(cell, arguments.model, arguments.data_dir, work, ledger, arguments.threads),
        tables=lambda: tables(ledger),
        prepare=lambda cells: prepare(arguments.data_dir, work),
    )
    if arguments.plan:
        minutes = sum(MINUTES[cell.name] for cell in missing()[: arguments.at_most])
        print(f"about {minutes} minutes of two cores, one after another")


if __name__ == "__main__":
    main()
