"""Two evaluations of the same problems, compared pair by pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import UserError
from . import statistics
from .generations import Row


@dataclass(frozen=True)
class Comparison:
    """Systems a and b on the same n problems.

    difference, standard_error: of accuracy, a - b, paired; interval: its 95 % paired bootstrap
    both, only_a, only_b, neither: numbers of problems that were answered correctly
    p_value: exact two-sided McNemar
    """

    n: int
    accuracy_a: float
    accuracy_b: float
    difference: float
    standard_error: float
    interval: tuple[float, float]
    both: int
    only_a: int
    only_b: int
    neither: int
    p_value: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it: NaN becomes None."""
        values = {**asdict(self), "interval": list(self.interval)}
        return {name: None if value != value else value for name, value in values.items()}


def compare(rows_a: Sequence[Row], rows_b: Sequence[Row], *, seed: int = 0) -> Comparison:
    """The paired comparison of two evaluations' rows; `seed` is that of the bootstrap.

    Raises UserError unless both are of the same problems (ids, wording, options and golds) under the same grader.
    """
    by_id_a, by_id_b = ({row["id"]: row for row in rows} for rows in (rows_a, rows_b))
    if by_id_a.keys() != by_id_b.keys():
        shared = len(by_id_a.keys() & by_id_b.keys())
        raise UserError(
            f"only results on the same problems can be compared: these have {len(by_id_a)} and {len(by_id_b)}, "
            f"{shared} of them shared"
        )
    if not by_id_a:
        raise UserError("there are no rows to compare")
    for what in ("grader", "prompt_hash"):
        for problem_id, row in by_id_a.items():
            if row[what] != by_id_b[problem_id][what]:
                name = "the grader" if what == "grader" else "the question, its options or its gold answer"
                raise UserError(f"{name} differs for {problem_id}: {row[what]} and {by_id_b[problem_id][what]}")
    a = [bool(row["correct"]) for row in by_id_a.values()]
    b = [bool(by_id_b[problem_id]["correct"]) for problem_id in by_id_a]
    difference = statistics.paired_difference(a, b)
    bootstrap = statistics.paired_bootstrap(a, b, seed=seed)
    mcnemar = statistics.mcnemar_exact(a, b)
    return Comparison(
        n=len(a),
        accuracy_a=statistics.mean(a).value,
        accuracy_b=statistics.mean(b).value,
        difference=difference.value,
        standard_error=difference.standard_error,
        interval=(bootstrap.low, bootstrap.high),
        both=mcnemar.both,
        only_a=mcnemar.only_a,
        only_b=mcnemar.only_b,
        neither=mcnemar.neither,
        p_value=mcnemar.p_value,
    )
