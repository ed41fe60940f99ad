"""Two evaluations of the same problems, compared pair by pair; and why two may not be."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ..errors import UserError
from . import statistics
from .generations import Row, by_problem, share_right

# What two evaluations must share, and in which words that is said. See `evaluate.protocol`.
_PROTOCOL = {
    "benchmark": "the benchmark",
    "version": "the version of the benchmark's reader",
    "split": "the split",
    "revision": "the data revision",
    "grader": "the grader",
    "ranking": "the form of the options",
    "template": "the prompt template",
    "chat_template": "the chat template",
    "samples": "the number of samples",
    "max_new_tokens": "the decoding (max_new_tokens)",
    "temperature": "the decoding (temperature)",
    "top_p": "the decoding (top_p)",
    "top_k": "the decoding (top_k)",
}


@dataclass(frozen=True)
class Comparison:
    """Systems a and b on the same n problems. A problem's score is the share of its samples that are right.

    difference, standard_error: of accuracy, a - b, paired; interval: its 95 % paired bootstrap
    both, only_a, only_b, neither: numbers of problems with a score above one half: answered correctly
    p_value: two-sided, of no difference, by `test`: the exact McNemar test, or the permutation test where a score is
        neither 0 nor 1 (several samples, ties of a ranking)
    left_out_a, left_out_b: problems that only one of the two was evaluated on, and that do not count here
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
    test: Literal["exact McNemar", "permutation"]
    left_out_a: int
    left_out_b: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it: NaN becomes None."""
        values = {**asdict(self), "interval": list(self.interval)}
        return {name: None if value != value else value for name, value in values.items()}


def compare(rows_a: Sequence[Row], rows_b: Sequence[Row], *, seed: int = 0) -> Comparison:
    """The paired comparison of two evaluations' rows; `seed` is that of the bootstrap and of the permutations.

    Where one was evaluated on a part of the other's problems (`--limit`), that part is compared.

    Raises UserError unless both are of the same problems (ids, wording, options and golds) under the same grader, with
    the same number of samples.
    """
    a, b, left_out_a, left_out_b = _paired_scores(rows_a, rows_b)
    difference = statistics.paired_difference(a, b)
    bootstrap = statistics.paired_bootstrap(a, b, seed=seed)
    counts = statistics.mcnemar_exact([score > 0.5 for score in a], [score > 0.5 for score in b])
    zero_one = {*a, *b} <= {0.0, 1.0}
    return Comparison(
        n=len(a),
        accuracy_a=statistics.mean(a).value,
        accuracy_b=statistics.mean(b).value,
        difference=difference.value,
        standard_error=difference.standard_error,
        interval=(bootstrap.low, bootstrap.high),
        both=counts.both,
        only_a=counts.only_a,
        only_b=counts.only_b,
        neither=counts.neither,
        p_value=counts.p_value if zero_one else statistics.paired_permutation(a, b, seed=seed),
        test="exact McNemar" if zero_one else "permutation",
        left_out_a=left_out_a,
        left_out_b=left_out_b,
    )


def paired_scores(rows_a: Sequence[Row], rows_b: Sequence[Row]) -> tuple[list[float], list[float]]:
    """One score a problem that both have, in one order, for a test over several benchmarks. Raises as `compare`."""
    return _paired_scores(rows_a, rows_b)[:2]


def _paired_scores(rows_a: Sequence[Row], rows_b: Sequence[Row]) -> tuple[list[float], list[float], int, int]:
    of_a, of_b = by_problem(rows_a), by_problem(rows_b)
    shared = [problem_id for problem_id in of_a if problem_id in of_b]
    if not of_a or not of_b:
        raise UserError("there are no rows to compare")
    if len(shared) < min(len(of_a), len(of_b)):
        raise UserError(
            f"only results on the same problems can be compared: these have {len(of_a)} and {len(of_b)}, "
            f"{len(shared)} of them shared"
        )
    for problem_id in shared:
        _check_same_problem(problem_id, of_a[problem_id], of_b[problem_id])
    scores = [[share_right(rows[problem_id]) for problem_id in shared] for rows in (of_a, of_b)]
    return scores[0], scores[1], len(of_a) - len(shared), len(of_b) - len(shared)


def _check_same_problem(problem_id: str, rows_a: Sequence[Row], rows_b: Sequence[Row]) -> None:
    if len(rows_a) != len(rows_b):
        raise UserError(f"the number of samples differs for {problem_id}: {len(rows_a)} and {len(rows_b)}")
    for what, words in (("grader", "the grader"), ("prompt_hash", "the question, its options or its gold answer")):
        if rows_a[0][what] != rows_b[0][what]:
            raise UserError(f"{words} differs for {problem_id}: {rows_a[0][what]} and {rows_b[0][what]}")


def check_comparable(settings_a: Mapping[str, Any], settings_b: Mapping[str, Any]) -> None:
    """UserError, naming all that differs, unless two `generations.jsonl` were written under one protocol.

    The model, the seed and the batching may differ; which problems are shared is for `compare` to see.
    """
    differences = [
        f"{words} ({json.dumps(settings_a.get(name))} and {json.dumps(settings_b.get(name))})"
        for name, words in _PROTOCOL.items()
        if settings_a.get(name) != settings_b.get(name)
    ]
    if differences:
        raise UserError(f"these results cannot be compared, they differ in {'; '.join(differences)}")


def changes(rows_a: Sequence[Row], rows_b: Sequence[Row]) -> list[dict[str, Any]]:
    """The problems whose score differs, going from b to a: "wrong -> right" and "right -> wrong", then by id.

    With several samples "better" and "worse". Each has both scores, the reference, and all answers that were read.
    """
    of_a, of_b = by_problem(rows_a), by_problem(rows_b)
    found = []
    for problem_id, own in of_a.items():
        if problem_id not in of_b:
            continue
        other = of_b[problem_id]
        before, after = share_right(other), share_right(own)
        if before == after:
            continue
        if {before, after} == {0.0, 1.0}:
            change = "wrong -> right" if after > before else "right -> wrong"
        else:
            change = "better" if after > before else "worse"
        found.append(
            {
                "id": problem_id,
                "change": change,
                "before": before,
                "after": after,
                "answer": own[0]["answer"],
                "extracted_before": [row["extracted"] for row in other],
                "extracted_after": [row["extracted"] for row in own],
            }
        )
    return sorted(found, key=lambda row: (row["after"] > row["before"], row["id"]))
