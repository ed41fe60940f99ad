"""Studies that outlive their machine: one line a finished cell, in a file that is kept in version control.

A cell is one training with one seed. Its line holds the settings, the commit, the figures, and for every test problem
whether the answer was right, so that tables and paired tests come from the file alone and a study that was stopped,
also by the end of its machine, goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import statistics
import subprocess
import threading
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, TypeVar

from ..evaluation.statistics import mcnemar_exact, paired_bootstrap
from .run_folder import source_commit

# 97.5 % quantile of Student's t, by the number of seeds
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
DIGITS = 4  # of every figure that is kept

Record = dict[str, Any]
Cell = TypeVar("Cell")


class Ledger:
    """The finished cells of a study: a JSON-lines file of records with `cell`, `seed` and `settings`.

    Records are appended whole and synced, from any thread; half a line, from a machine that went away, is removed when
    the file is opened. Raises SystemExit for two records of one cell and seed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._records: dict[str, dict[int, Record]] = {}
        if not path.exists():
            return
        text = path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            os.truncate(path, len(whole.encode()))
        for line in whole.splitlines():
            self._add(json.loads(line))

    def _add(self, record: Record) -> None:
        seeds = self._records.setdefault(record["cell"], {})
        if record["seed"] in seeds:
            raise SystemExit(f"{self.path} has two results of {record['cell']}, seed {record['seed']}")
        seeds[record["seed"]] = record

    def __contains__(self, cell: str) -> bool:
        return cell in self._records

    def __getitem__(self, cell: str) -> list[Record]:
        """The records of a cell, by seed; none where there are none."""
        return [record for _, record in sorted(self._records.get(cell, {}).items())]

    def has(self, cell: str, seed: int, settings: Sequence[str] | None) -> bool:
        """Whether this cell is finished. Raises SystemExit when it was made with other settings."""
        record = self._records.get(cell, {}).get(seed)
        if record is None:
            return False
        if record["settings"] != (settings if settings is None else list(settings)):
            raise SystemExit(
                f"{self.path}: {cell}, seed {seed} was made with other settings: take another --results, or remove its "
                f"line\n  there: {record['settings']}\n  here:  {settings}"
            )
        return True

    def append(self, record: Record) -> None:
        """Keep a finished cell. Floats are rounded to four significant digits."""
        line = json.dumps(_rounded(record), separators=(",", ":"), allow_nan=False)
        with self._lock:
            self._add(json.loads(line))
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
                file.flush()
                os.fsync(file.fileno())


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _rounded(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(own) for own in value]
    return value


def run_command(command: Sequence[str], log: Path) -> None:
    """One command with one thread and without a network. Raises SystemExit when it fails, naming its log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("w", encoding="utf-8") as stream:
        done = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, env=environment)
    if done.returncode:
        raise SystemExit(f"{log.stem} ended with code {done.returncode}: see {log}")


def current_commit() -> str:
    """The commit of the sources, marked `-dirty` when files differ from it; unknown outside a checkout."""
    source = source_commit()
    return "unknown" if source is None else source["commit"][:7] + ("-dirty" if source["changed"] else "")


# ------------------------------------------------------------------------------------------------------------- command


def command_line(description: str | None, *, results: Path, work: Path, groups: Sequence[str]) -> ArgumentParser:
    """The options that every study has. results: its ledger; work: a folder for cells that run, and their logs."""
    parser = ArgumentParser(description=description, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=results, help="the ledger of finished cells")
    parser.add_argument("--work", type=Path, default=work, help="folder for cells that run, and their logs")
    parser.add_argument("--group", nargs="+", choices=groups, default=list(groups), help="in this order")
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time, each with one thread")
    parser.add_argument("--at-most", type=int, metavar="N", help="stop after N cells")
    parser.add_argument("--table", action="store_true", help="run nothing, print what is there")
    parser.add_argument("--plan", action="store_true", help="run nothing, name the cells that are not done yet")
    return parser


def conduct(
    arguments: Namespace,
    *,
    missing: Callable[[], Sequence[Cell]],
    run: Callable[[Cell], None],
    tables: Callable[[], str],
    prepare: Callable[[Sequence[Cell]], None] = lambda cells: None,
) -> None:
    """Does what the options of `command_line` ask for.

    missing: the cells without a result, in order; run: runs one and appends it to the ledger; tables: of what there is;
    prepare: called once with the cells that will run
    """
    if not arguments.table:
        cells = missing()[: arguments.at_most]
        if arguments.plan:
            print(f"{len(cells)} cells: " + ", ".join(map(str, cells)))
            return
        prepare(cells)
        with ThreadPoolExecutor(arguments.jobs) as pool:
            running = [pool.submit(run, cell) for cell in cells]
            try:
                for done in as_completed(running):
                    done.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)  # a cell that fails ends the study
                raise
    print(tables())


# --------------------------------------------------------------------------------------------- right and wrong answers


def pack_answers(correct: Mapping[str, bool | int]) -> Record:
    """Right and wrong by problem id, as {"n", "problems", "right"}: 0/1 in the order of the ids, in hexadecimal."""
    ids = sorted(correct)
    bits = "".join(str(int(bool(correct[problem]))) for problem in ids)
    return {
        "n": len(ids),
        "problems": hashlib.sha256("\n".join(ids).encode()).hexdigest()[:12],
        "right": f"{int(bits, 2):0{(len(bits) + 3) // 4}x}" if bits else "",
    }


def unpack_answers(answers: Mapping[str, Any]) -> list[int]:
    """0/1 of every problem, in the order of their ids."""
    return [int(bit) for bit in f"{int(answers['right'], 16):0{answers['n']}b}"] if answers["n"] else []


# --------------------------------------------------------------------------------------------------------------- tables


def each(names: Iterable[str], against: str) -> tuple[tuple[str, str], ...]:
    """Every one of these cells against the same cell, which is left out where it is among them."""
    return tuple((name, against) for name in names if name != against)


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Mean ± standard deviation; the mean alone of a single value."""
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def t_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of the mean by Student's t; none for one value, or more than ten."""
    if len(values) not in STUDENT:
        return None
    middle = statistics.mean(values)
    half = STUDENT[len(values)] * statistics.stdev(values) / math.sqrt(len(values))
    return middle - half, middle + half


def paired_row(name: str, one: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]) -> str:
    """A row of `PAIRED_HEAD`: the difference in accuracy of one cell to another, seed by seed on the same problems.

    one, other: packed answers, one entry a seed, in the same order of seeds. Raises ValueError for other problems.
    """
    if len({answers["problems"] for answers in (*one, *other)}) != 1:
        raise ValueError(f"{name}: these are answers to different problems")
    pairs = [(unpack_answers(a), unpack_answers(b)) for a, b in zip(one, other, strict=True)]
    gains = [100 * (sum(a) - sum(b)) / len(a) for a, b in pairs]
    means = [[statistics.mean(rights) for rights in zip(*side, strict=True)] for side in zip(*pairs, strict=True)]
    bootstrap = paired_bootstrap(*means)
    interval = t_interval(gains)
    return (
        f"| {name} | {len(gains)} | {'+' if statistics.mean(gains) >= 0 else ''}{spread(gains)} "
        f"| {f'{interval[0]:+.1f} to {interval[1]:+.1f}' if interval else ''} "
        f"| {100 * bootstrap.low:+.1f} to {100 * bootstrap.high:+.1f} "
        f"| {', '.join(f'{mcnemar_exact([*map(bool, a)], [*map(bool, b)]).p_value:.2g}' for a, b in pairs)} |"
    )


PAIRED_HEAD = (
    "| paired, same problems | seeds | difference, points: mean ± sd over seeds | 95 % t interval over seeds "
    "| 95 % bootstrap interval over problems | exact McNemar p, by seed |\n|---|---|---|---|---|---|"
)


def cost_line(seconds: Sequence[float]) -> str:
    """What the trainings took, as a line of text; empty if there were none.

    Their starts, and the test problems behind them, are not counted.
    """
    if not seconds:
        return ""
    return (
        f"{len(seconds)} trainings, one thread each: {sum(seconds) / 3600:.1f} hours together; "
        f"from {min(seconds):.0f} to {max(seconds):.0f} s, median {statistics.median(seconds):.0f} s.\n"
    )
