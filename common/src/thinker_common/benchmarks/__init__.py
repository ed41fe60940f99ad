"""Benchmarks: one module each, every one yielding the same `Problem` record.

A module holds `VERSION`, the facts of its source, and `load(split, data_dir, revision) -> LoadedBenchmark`; a generated
task has `generate(split, count, seed) -> list[Problem]` besides. A module is imported when its benchmark is asked for.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import random
from pathlib import Path

from ..errors import UserError
from .problem import Kind, LoadedBenchmark, Problem

__all__ = ["NAMES", "Kind", "LoadedBenchmark", "Problem", "load_benchmark"]

# Each is also the name of its module.
NAMES: tuple[str, ...] = ("chains", "facts", "graphs", "phrases", "gsm8k", "math500")


def load_benchmark(
    name: str,
    *,
    split: str = "test",
    data_dir: str | Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    revision: str | None = None,
) -> LoadedBenchmark:
    """The problems of one split of the benchmark `name`.

    data_dir: folder with the original files (`gsm8k/test.jsonl`, ...); without it the hub is asked.
    limit: keep this many problems, a random sample that follows from `seed` alone, in the order of the source;
        `source` of the result says so.
    revision: of the hub data set; the default is the one the module pins.

    Raises UserError for an unknown name or an impossible limit, DataError for data that is missing or malformed.
    """
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"unknown benchmark {name!r}{hint} (there are: {', '.join(NAMES)})")
    if limit is not None and limit < 1:
        raise UserError(f"limit = {limit}: must be at least 1")
    module = importlib.import_module(f".{name}", __package__)
    loaded: LoadedBenchmark = module.load(split, None if data_dir is None else Path(data_dir), revision)
    return loaded if limit is None else sample(loaded, limit, seed)


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
