"""The folder that `evaluate` writes, read again: which benchmarks it holds, their settings and rows."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError

if TYPE_CHECKING:
    from ..benchmarks.problem import LoadedBenchmark

ROWS = ("generations.jsonl", "ranking.jsonl")


def rows_file(folder: Path, benchmark: str) -> Path | None:
    """The file with the rows of a benchmark; None if the folder holds none."""
    return next((folder / benchmark / name for name in ROWS if (folder / benchmark / name).is_file()), None)


def benchmarks_of(folder: Path) -> list[str]:
    """The benchmarks that the folder holds rows of, by name."""
    return sorted(entry.name for entry in folder.iterdir() if rows_file(folder, entry.name) is not None)


def is_results_folder(path: str) -> bool:
    """Whether this is the folder of a finished evaluation, and no model."""
    folder = Path(path)
    return (folder / "results.json").is_file() and not (folder / "config.json").exists() and bool(benchmarks_of(folder))


@dataclass(frozen=True)
class Earlier:
    """An earlier evaluation on one benchmark: the settings it was written under, and its rows."""

    settings: dict[str, Any]
    rows: list[dict[str, Any]]

    def check(
        self,
        benchmark: "LoadedBenchmark",
        chat_template: str,
        grader: str,
        decoding: dict[str, Any],
        form: str | None = None,
        *,
        template: str | None = None,
    ) -> None:
        """UserError unless an evaluation on `benchmark` with these settings can be compared with this one.

        form: of a ranking's options; template: of the prompts, None for the usual one
        """
        from ..evaluation.comparison import check_comparable, paired_scores
        from ..evaluation.evaluate import PROMPT_TEMPLATE, problem_hash, protocol

        if form is not None:
            grader, decoding = "likelihood", {}
        settings = protocol(
            benchmark,
            template=PROMPT_TEMPLATE if template is None else template,
            chat_template=chat_template,
            grader=grader,
            decoding=decoding,
        )
        try:
            check_comparable(self.settings, {**settings, **({"ranking": form} if form is not None else {})})
            to_come = [
                {"id": p.id, "sample": i, "prompt_hash": problem_hash(p), "grader": grader, "correct": False}
                for p in benchmark.problems
                for i in range(decoding.get("samples", 1))
            ]
            paired_scores(to_come, self.rows)
        except UserError as error:
            raise UserError(f"--compare, {benchmark.name}: {error}") from error


def read_earlier(folder: Path, benchmark: str) -> Earlier:
    """The rows of one benchmark. UserError when the folder holds none."""
    from ..evaluation.generations import read_generations

    path = rows_file(folder, benchmark)
    if path is None:
        raise UserError(f"{folder}: there is no {benchmark}/{ROWS[0]}, so nothing to compare with")
    return Earlier(*read_generations(path))
