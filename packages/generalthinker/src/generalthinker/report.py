"""`report.html` of a run: results, curves, and the token credit of a few responses."""

from collections.abc import Mapping, Sequence
from typing import Any

from ._common import COLUMNS, Curves, EvaluationResult, RunFolder, Table, Texts, TokenHeat, cells, to_yaml, write_report
from .config import Settings
from .samples import NAME, read_samples

# title -> metrics of metrics.jsonl, and what they are measured in
CURVES: dict[str, tuple[tuple[str, ...], str]] = {
    "Reward": (("reward", "answer_logprob"), "reward's unit; nats"),
    "KL to the reference policy": (("kl",), "nats a token"),
    "Entropy": (("entropy",), "nats a token"),
    "Validation accuracy": (("validation/accuracy", "validation/boxed_rate"), "share of problems"),
    "Validation answer log-likelihood": (("validation/answer_loglik",), "nats"),
    "Format": (("boxed_rate", "well_formed_rate", "truncation_rate"), "share of responses"),
    "Response length": (("completions/mean_length",), "tokens"),
    "Groups without a signal": (("groups_under_min_std", "groups_without_signal"), "share of groups"),
    "Log-ratio, conditioned to base policy": (("credit/log_ratio_mean", "credit/log_ratio_std"), "nats a token"),
    "Credit weights": (
        ("credit/weight_abs_p50", "credit/weight_abs_p90", "credit/weight_abs_p99"),
        "|w|, quantiles over tokens",
    ),
    "Credit control": (("credit/clip_ratio", "credit/sign_flip_ratio"), "share of tokens"),
    "Tokens outside the surrogate's clip range": (("clip_ratio/region_mean",), "share of tokens"),
    "Gradient norm": (("grad_norm",), ""),
}
SHOWN_GENERATIONS = 5
SHOWN_VALIDATIONS = 12


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
    sections.extend(curve_sections(metrics))
    sections.extend(sample_sections(read_samples(folder.file(NAME))))
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


def curve_sections(metrics: Sequence[Mapping[str, Any]]) -> list[Curves]:
    """The curves of whatever was logged."""
    sections = []
    for title, (names, unit) in CURVES.items():
        series = {name: points for name in names if (points := curve(metrics, name))}
        if series:
            sections.append(Curves(title, series, x_label="optimiser step", y_label=unit))
    return sections


def curve(rows: Sequence[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    """(step, value) of one metric where it has a value."""
    return [(row["step"], row[name]) for row in rows if isinstance(row.get(name), (int, float))]


def sample_sections(rows: Sequence[Mapping[str, Any]]) -> list[Curves | Texts]:
    """The same problems through training: the answers' log-likelihoods, and the responses to each."""
    if not rows:
        return []
    by_problem = by_id(rows)
    series = {name: curve(own, "answer_loglik") for name, own in by_problem.items()}
    sections: list[Curves | Texts] = [
        Curves(
            "Answer log-likelihood of the problems below",
            {name: points for name, points in series.items() if points},
            x_label="optimiser step",
            y_label="nats",
            note="of the reference behind the reasoning of the greedy response; a response without a box has none",
        )
    ]
    for name, own in by_problem.items():
        shown = evenly(own, SHOWN_VALIDATIONS)
        note = f"{len(shown)} of {len(own)} validations; all of them are in {NAME}" if len(shown) < len(own) else ""
        texts = [("question", f"{own[0]['question']}\n\nreference: {own[0]['answer']}")]
        texts += [(verdict(row), row["text"]) for row in shown]
        sections.append(Texts(f"Through training: {name}", texts, note=note))
    return sections


def by_id(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """The rows of each problem in their order."""
    grouped: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        grouped.setdefault(row["id"], []).append(row)
    return grouped


def evenly(rows: Sequence[Mapping[str, Any]], most: int) -> list[Mapping[str, Any]]:
    """At most so many of the rows, the first and the last among them."""
    if len(rows) <= most:
        return list(rows)
    return [rows[round(place * (len(rows) - 1) / (most - 1))] for place in range(most)]


def verdict(row: Mapping[str, Any]) -> str:
    """One line on a sampled response."""
    answer = "no answer" if row["extracted"] is None else f"answer {row['extracted']}"
    grade = "right" if row["correct"] else "truncated" if row["truncated"] else "wrong"
    loglik = "" if row["answer_loglik"] is None else f", reference {row['answer_loglik']:.3f} nats"
    return f"step {row['step']}: {answer}, {grade}{loglik}"


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
