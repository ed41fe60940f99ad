"""`report.html` of a run: results, curves, and the token credit of a few responses."""

from collections.abc import Mapping, Sequence
from typing import Any

from ._common import COLUMNS, Curves, EvaluationResult, RunFolder, Table, Texts, TokenHeat, cells, to_yaml, write_report
from .config import Settings

# title -> metrics of metrics.jsonl, and what they are measured in
CURVES: dict[str, tuple[tuple[str, ...], str]] = {
    "Reward": (("reward", "answer_logprob"), "nats"),
    "KL to the reference policy": (("kl",), "nats a token"),
    "Entropy": (("entropy",), "nats a token"),
    "Validation accuracy": (("validation/accuracy", "validation/boxed_rate"), "share of problems"),
    "Validation answer log-likelihood": (("validation/answer_loglik",), "nats"),
    "Format": (("boxed_rate", "well_formed_rate", "truncation_rate"), "share of responses"),
    "Response length": (("completions/mean_length",), "tokens"),
    "Log-ratio, conditioned to reference policy": (
        ("credit/log_ratio_mean", "credit/log_ratio_std"),
        "nats a token",
    ),
    "Gradient norm": (("grad_norm",), ""),
}
SHOWN_GENERATIONS = 5


def write_run_report(
    folder: RunFolder,
    settings: Settings,
    results: Mapping[str, Any],
    metrics: Sequence[Mapping[str, Any]],
    evaluations: Mapping[str, Mapping[str, EvaluationResult]],
    credits: Sequence[TokenHeat],
) -> None:
    """Writes the page into the run folder."""
    sections: list[Any] = []
    rows = [list(cells(result, when)) for when, by_name in evaluations.items() for result in by_name.values()]
    if rows:
        sections.append(
            Table(
                "Greedy evaluation", list(COLUMNS), rows, note="value ± standard error; given a box: of boxed responses"
            )
        )
    if results["paired"]:
        sections.append(_paired_table(results["paired"]))
    for title, (names, unit) in CURVES.items():
        series = {
            name: [(row["step"], row[name]) for row in metrics if row.get(name) is not None]
            for name in names
            if any(row.get(name) is not None for row in metrics)
        }
        if series:
            sections.append(Curves(title, series, x_label="optimiser step", y_label=unit))
    sections.extend(credits)
    for when, by_name in evaluations.items():
        for name, result in by_name.items():
            shown = [
                (row["id"], f"{row['text']}\n\nreference: {row['answer']}") for row in result.rows[:SHOWN_GENERATIONS]
            ]
            sections.append(Texts(f"Generations, {name}, {when}", shown))
    sections.append(Texts("Settings", [("config.yaml", to_yaml(settings))]))
    write_report(
        folder.report,
        "GeneralThinker",
        f"{settings.model.name_or_path}, credit {settings.method.credit}, seed {results['seed']}, "
        f"{results['steps']} steps in {results['training_seconds']:.0f} s",
        sections,
    )


def _paired_table(paired: Mapping[str, Mapping[str, Any]]) -> Table:
    columns = ["benchmark", "n", "after - before", "95 % interval", "only after", "only before", "McNemar p"]
    rows = []
    for name, values in paired.items():
        low, high = values["interval"]
        rows.append(
            [
                name,
                str(values["n"]),
                f"{100 * values['difference']:+.1f} points",
                f"{100 * low:+.1f} to {100 * high:+.1f}",
                str(values["only_a"]),
                str(values["only_b"]),
                f"{values['p_value']:.2g}",
            ]
        )
    return Table("After against before, paired", columns, rows, note="exact McNemar, paired bootstrap interval")
