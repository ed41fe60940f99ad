"""The curves of a run as a table: means over as many steps as one row stands for, and its validations.

    python packages/generalthinker/scripts/curve_table.py RUN --every 10

RUN is the folder of a `generalthinker train`, finished or not. A value that some steps lack (the likelihood of answers
where no response was well-formed) is the mean of the others.
"""

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Title, name in metrics.jsonl, format
CURVES = (
    ("reward", "reward", "{:.1f}"),
    ("boxed", "boxed_rate", "{:.0%}"),
    ("well-formed", "well_formed_rate", "{:.0%}"),
    ("truncated", "truncation_rate", "{:.0%}"),
    ("KL", "kl", "{:.2f}"),
    ("entropy", "entropy", "{:.2f}"),
    ("tokens", "completions/mean_length", "{:.0f}"),
    ("answer log-likelihood, well-formed ones", "answer_logprob", "{:.1f}"),
)
VALIDATION = (
    ("accuracy", "validation/accuracy", "{:.1%}"),
    ("boxed", "validation/boxed_rate", "{:.0%}"),
    ("answer log-likelihood", "validation/answer_loglik", "{:.2f}"),
)
Row = Mapping[str, Any]


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (titles, ["---"] * len(titles), *rows))


def mean(rows: Sequence[Row], name: str, form: str) -> str:
    values = [row[name] for row in rows if row.get(name) is not None]
    return form.format(statistics.fmean(values)) if values else ""


def curve_table(metrics: Sequence[Row], every: int) -> str:
    """One row for each `every` optimiser steps, the last for what there is."""
    trained = [row for row in metrics if "reward" in row]
    groups: dict[int, list[Row]] = {}
    for row in trained:
        groups.setdefault((row["step"] - 1) // every, []).append(row)
    rows = [
        [f"{group[0]['step']} to {group[-1]['step']}", *(mean(group, name, form) for _, name, form in CURVES)]
        for group in groups.values()
    ]
    return table(["steps", *(title for title, _, _ in CURVES)], rows)


def validation_table(metrics: Sequence[Row]) -> str:
    rows = [
        [str(row["step"]), *(mean([row], name, form) for _, name, form in VALIDATION)]
        for row in metrics
        if VALIDATION[0][1] in row
    ]
    return table(["step", *(title for title, _, _ in VALIDATION)], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--every", type=int, default=10, help="steps a row")
    arguments = parser.parse_args()
    metrics = [json.loads(line) for line in (arguments.run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    print(curve_table(metrics, arguments.every), validation_table(metrics), sep="\n\n")


if __name__ == "__main__":
    main()
