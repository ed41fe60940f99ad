"""What a verb `evaluate` was asked to evaluate on: benchmarks by name, and a file of the user's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import UserError
from .options import benchmark_options, column_mapping

if TYPE_CHECKING:
    from ..benchmarks.problem import LoadedBenchmark


@dataclass(frozen=True)
class Chosen:
    """names: in the order they were given, each once. options: of the one benchmark that there is then."""

    names: tuple[str, ...]
    file: Path | None
    columns: Mapping[str, str]
    kind: Literal["math", "mcq", "bool", "text"]
    split: str
    options: Mapping[str, Any]
    data_dir: Path | None
    limit: int | None
    seed: int

    def load(self) -> list[LoadedBenchmark]:
        """The benchmarks in their order, then the file. UserError for what is unknown, or for two of one name."""
        from ..benchmarks import load_benchmark, sample
        from ..benchmarks.user_file import load_jsonl

        loaded = [
            load_benchmark(
                name, split=self.split, data_dir=self.data_dir, limit=self.limit, seed=self.seed, **self.options
            )
            for name in self.names
        ]
        if self.file is not None:
            problems = load_jsonl(self.file, self.columns, kind=self.kind)
            loaded.append(problems if self.limit is None else sample(problems, self.limit, self.seed))
            if loaded[-1].name in self.names:  # both would write one file of rows
                raise UserError(f"--file {self.file} and --benchmark {loaded[-1].name} have one name: rename the file")
        return loaded


def chosen(
    benchmark: str | None,
    file: Path | None,
    column: Sequence[str] | None,
    kind: Literal["math", "mcq", "bool", "text"],
    split: str | None,
    option: Sequence[str] | None,
    data_dir: Path | None,
    limit: int | None,
    seed: int = 0,
) -> Chosen:
    """From the values of the options of these names. UserError for nothing at all, or what has nothing to refer to.

    split: None for test
    """
    if benchmark is None and file is None:
        raise UserError("name what to evaluate on: --benchmark NAME[,NAME] or --file FILE")
    names = names_in(benchmark)
    if benchmark is not None and not names:
        raise UserError(f"--benchmark {benchmark!r} names no benchmark")
    if column and file is None:
        raise UserError("--column is for --file")
    if option and len(names) != 1:
        raise UserError("--option is a benchmark's own: name one --benchmark with it")
    columns, options = column_mapping(column or []), benchmark_options(option or [])
    return Chosen(names, file, columns, kind, split or "test", options, data_dir, limit, seed)


def names_in(benchmark: str | None) -> tuple[str, ...]:
    """What stands between the commas of `--benchmark`, each once."""
    return tuple(name for name in dict.fromkeys(part.strip() for part in (benchmark or "").split(",")) if name)
