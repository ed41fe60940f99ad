"""Benchmarks: one module each, every one yielding the same `Problem` record.

A module holds `VERSION`, `INFO` (title, source, licence, traps), and
`load(split, data_dir, revision, *, <its own options>) -> LoadedBenchmark`; a generated task has
`generate(split, count, seed) -> list[Problem]` besides. A module is imported when its benchmark is asked for.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import random
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import DataError, SettingsError, UserError, did_you_mean
from .problem import BenchmarkInfo, Kind, LoadedBenchmark, Problem

__all__ = [
    "NAMES",
    "RESERVED",
    "TRAINING_NAMES",
    "BenchmarkInfo",
    "Kind",
    "LoadedBenchmark",
    "Problem",
    "benchmark_module",
    "load_benchmark",
]

# Each is also the name of its module. Those to evaluate on:
NAMES: tuple[str, ...] = (
    *("chains", "facts", "graphs", "phrases"),
    *("gsm8k", "math500", "minerva_math", "olympiadbench", "amc23", "aime24", "aime25", "gsm8k_aug"),
    *("gpqa", "gpqa_diamond", "mmlu", "mmlu_pro", "mmlu_redux", "supergpqa", "csqa", "obqa", "strategyqa", "prosqa"),
)
# Those to train on only:
TRAINING_NAMES: tuple[str, ...] = ("math_train", "gsm8k_train", "crossthink", "generalthinker_mix")

# Arguments of `load_benchmark`, which no benchmark's option is named as.
RESERVED = ("name", "split", "data_dir", "limit", "seed", "revision")


def load_benchmark(
    name: str,
    *,
    split: str = "test",
    data_dir: str | Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    revision: str | None = None,
    **options: Any,
) -> LoadedBenchmark:
    """The problems of one split of the benchmark or training mixture `name`.

    data_dir: folder with the original files (`gsm8k/test.jsonl`, ...); without it the hub is asked.
    limit: keep this many problems, a random sample that follows from `seed` alone, in the order of the source;
        `source` of the result says so.
    revision: of the hub data set; the default is the one the module pins.
    options: the benchmark's own, which its `load` describes.

    Raises UserError for an unknown name or an impossible limit, SettingsError for an unknown or impossible option,
    DataError for data that is missing or malformed.
    """
    module = benchmark_module(name)
    if limit is not None and limit < 1:
        raise UserError(f"limit = {limit}: must be at least 1")
    known = option_names(module)
    for option in options:
        if option not in known:
            there = f"there are: {', '.join(known)}" if known else "it has none"
            raise SettingsError(f"{name} has no option {option!r}{did_you_mean(option, known)} ({there})")
    loaded: LoadedBenchmark = module.load(split, None if data_dir is None else Path(data_dir), revision, **options)
    if not loaded.problems:
        reasons = "; ".join(f"{count} rows: {reason}" for reason, count in loaded.dropped.items() if count)
        raise DataError(f"{loaded.source}: no row is a problem of {name} ({reasons or 'it has no rows'})")
    return loaded if limit is None else sample(loaded, limit, seed)


def benchmark_module(name: str) -> ModuleType:
    """The module of a benchmark or training mixture, with its `VERSION`, `INFO` and `load`; UserError without one."""
    names = (*NAMES, *TRAINING_NAMES)
    if name not in names:
        raise UserError(f"unknown benchmark {name!r}{did_you_mean(name, names)} (`thinker benchmarks list` shows all)")
    return importlib.import_module(f".{name}", __package__)


def option_names(module: ModuleType) -> list[str]:
    """The options of a benchmark's own: the keyword-only arguments of its `load`."""
    parameters = inspect.signature(module.load).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]


def sample(loaded: LoadedBenchmark, limit: int, seed: int) -> LoadedBenchmark:
    """`limit` of its problems, drawn from `seed`, in their old order; all of them if there are no more."""
    total = len(loaded.problems)
    if limit >= total:
        return loaded
    chosen = sorted(random.Random(seed).sample(range(total), limit))
    return dataclasses.replace(
        loaded,
        problems=tuple(loaded.problems[index] for index in chosen),
        source=f"{loaded.source}, sample of {limit} of {total} (seed {seed})",
    )
