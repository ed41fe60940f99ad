"""`report.html` of an evaluation, and of a comparison: tables, intervals, groups, responses, what changed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..benchmarks.problem import LoadedBenchmark
from . import suite as suites
from .generations import Row
from .ranking import RankingResult
from .report import Intervals, Response, Responses, Section, Table, write_report
from .results import EvaluationResult, Groups
from .suite import SuiteComparison
from .table import (
    COLUMNS,
    COMPARISON_COLUMNS,
    RANKING_COLUMNS,
    at_k_cells,
    average_sentence,
    cells,
    comparison_cells,
    decoding_in_words,
    percent,
    ranking_cells,
    suite_sentences,
)

# A page must open quickly whatever the run: `generations.jsonl` and `changes.jsonl` hold the rest.
MAX_RESPONSES = 300
MAX_CHARACTERS = 6_000  # of one response
MAX_CHANGES = 300


def write_evaluation_page(
    path: Path,
    model: str,
    results: Sequence[EvaluationResult | RankingResult],
    benchmarks: Mapping[str, LoadedBenchmark],
    comparison: SuiteComparison | None = None,
    changes: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    other: str = "",
) -> None:
    """One model's results. benchmarks: by name, for the questions; comparison, changes, other: if it was compared."""
    generated = [result for result in results if isinstance(result, EvaluationResult)]
    ranked = [result for result in results if isinstance(result, RankingResult)]
    sections = _result_tables(generated, ranked, model)
    sections.append(_accuracy_plot(results))
    if comparison is not None:
        sections += comparison_sections(comparison, changes or {})
    for result in results:
        sections += [_groups_table(result.benchmark, name, groups) for name, groups in result.groups.items()]
    share = max(1, MAX_RESPONSES // max(1, len(results)))
    for result in generated:
        questions = {problem.id: problem.prompt_text() for problem in benchmarks[result.benchmark].problems}
        sections.append(_responses(result, questions, share))
    sections.append(_provenance(results))
    subtitle = f"on {', '.join(result.benchmark for result in results)}"
    if comparison is not None:
        subtitle += f"\ncompared with {other}"
    write_report(path, f"Evaluation of {model}", subtitle, sections)


def write_comparison_page(
    path: Path, after: str, before: str, comparison: SuiteComparison, changes: Mapping[str, Sequence[Mapping[str, Any]]]
) -> None:
    """Two finished evaluations, from `before` to `after`."""
    subtitle = f"before: {before}\nafter: {after}\non the same problems"
    write_report(path, "Comparison", subtitle, comparison_sections(comparison, changes))


def _result_tables(generated: Sequence[EvaluationResult], ranked: Sequence[RankingResult], model: str) -> list[Section]:
    sections: list[Section] = []
    if generated:
        note = f"{', '.join(dict.fromkeys(map(decoding_in_words, generated)))}; value ± standard error over problems; "
        note += (
            "given a box: of responses with a closed box; loglik: of the reference after the response's reasoning, nats"
        )
        rows_of_generated = [cells(result, model) for result in generated]
        sections.append(_without_model("Results", COLUMNS, rows_of_generated, _averaged(generated, note)))
        sections += _counted_apart(generated)
        columns, rows = at_k_cells(generated)
        if rows:
            sections.append(Table("Several responses to each problem", columns, rows))
    if ranked:
        note = "the option with the highest likelihood, by sum and by mean per token; value ± standard error"
        rows_of_ranked = [ranking_cells(result, model) for result in ranked]
        sections.append(
            _without_model("Options ranked by likelihood", RANKING_COLUMNS, rows_of_ranked, _averaged(ranked, note))
        )
    return sections


def _without_model(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], note: str) -> Table:
    """The page is about one model, whose name is its title."""
    place = columns.index("model")
    return Table(
        title,
        [column for column in columns if column != "model"],
        [[*row[:place], *row[place + 1 :]] for row in rows],
        note,
    )


def _averaged(results: Sequence[EvaluationResult | RankingResult], note: str) -> str:
    if len(results) < 2:
        return note
    average = suites.average({result.benchmark: result.estimate for result in results})
    return f"{note}\n{average_sentence(average, suites.shared_questions([result.benchmark for result in results]))}"


def _counted_apart(results: Sequence[EvaluationResult]) -> list[Table]:
    """What is wrong for another reason than a wrong answer, and what is not there at all."""
    rows = [
        [
            result.benchmark,
            percent(result.no_answer_rate, result.no_answer_rate_standard_error),
            str(result.timed_out),
            "; ".join(f"{count} ({reason})" for reason, count in result.dropped.items()) or "none",
        ]
        for result in results
    ]
    note = "no answer could be read, or its comparison was given up: counted as wrong; rows left out are not counted"
    return [Table("Counted apart", ["benchmark", "no answer %", "timed out", "source rows left out"], rows, note)]


def _accuracy_plot(results: Sequence[EvaluationResult | RankingResult]) -> Intervals:
    rows = [
        (result.benchmark, *(100 * value for value in (result.accuracy, *result.wilson_interval, result.chance)))
        for result in results
    ]
    marked = any(math.isfinite(result.chance) for result in results)
    note = "95 % interval (Wilson)" + ("; dotted: what guessing scores" if marked else "")
    return Intervals("Accuracy, %", rows, note=note)  # type: ignore[arg-type]


def comparison_sections(
    comparison: SuiteComparison, changes: Mapping[str, Sequence[Mapping[str, Any]]]
) -> list[Section]:
    """The paired table, the differences as a plot, and what changed on each benchmark."""
    comparisons = comparison.comparisons
    tests = " and ".join(dict.fromkeys(one.test for one in comparisons.values()))
    note = f"paired by problem; interval: bootstrap; p: {tests}"
    for name, one in comparisons.items():
        if one.left_out_a + one.left_out_b:
            note += f"\n{name}: {one.n} problems are shared, {one.left_out_a + one.left_out_b} are left out"
    note += "".join(f"\n{line}" for line in suite_sentences(comparison))
    sections: list[Section] = [
        Table("Compared", COMPARISON_COLUMNS, comparison_cells(comparisons, comparison.adjusted_p_values), note)
    ]
    points = [(name, one.difference, *one.interval) for name, one in comparisons.items()]
    if len(points) > 1:
        points.append(("average", comparison.difference, *comparison.interval))
    scaled = [(name, 100 * value, 100 * low, 100 * high, math.nan) for name, value, low, high in points]
    sections.append(Intervals("Difference, points", scaled, from_zero=False, note="after - before, 95 % interval"))
    share = max(1, MAX_CHANGES // max(1, len(changes)))
    sections += [_changes_table(name, rows, share) for name, rows in changes.items() if rows]
    return sections


def _changes_table(benchmark: str, changes: Sequence[Mapping[str, Any]], share: int) -> Table:
    shown = [changes[index] for index in _balanced([frozenset([row["change"]]) for row in changes], share)]
    note = "answers as they were read from the responses"
    if len(shown) < len(changes):
        note += f"\n{len(shown)} of {len(changes)}; all of them are in changes.jsonl"
    return Table(
        f"Changed on {benchmark}",
        ["problem", "change", "reference", "before", "after"],
        [
            [
                row["id"],
                row["change"],
                _cut(row["answer"], 80),
                _read(row["extracted_before"], row["before"]),
                _read(row["extracted_after"], row["after"]),
            ]
            for row in shown
        ],
        note,
    )


def _read(extracted: Sequence[str | None], score: float) -> str:
    if len(extracted) > 1:
        return percent(score) + " %"
    return "no answer" if extracted[0] is None else _cut(extracted[0], 80)


def _groups_table(benchmark: str, name: str, groups: Groups) -> Table:
    rows = [
        [value, str(accuracy.n), percent(accuracy.value, accuracy.standard_error)]
        for value, accuracy in groups.accuracies.items()
    ]
    macro = percent(groups.macro.value, groups.macro.standard_error)
    return Table(f"{benchmark} by {name}", [name, "n", "accuracy %"], rows, f"macro average, of these: {macro} %")


def _responses(result: EvaluationResult, questions: Mapping[str, str], share: int) -> Responses:
    """Up to `share` responses, as many of each kind as there are, in the benchmark's order."""
    kinds = [_kinds(row) for row in result.rows]
    counts = {kind: sum(kind in own for own in kinds) for kind in ("right", "wrong", "truncated", "without a box")}
    chosen = _balanced(kinds, share)
    note = ""
    if len(chosen) < len(result.rows):
        note = f"{len(chosen)} of {len(result.rows)} responses; all of them are in generations.jsonl"
    return Responses(
        f"Responses, {result.benchmark}",
        counts,
        [
            Response(
                heading=_heading(result.rows[index], result.samples),
                question=_cut(questions[result.rows[index]["id"]], MAX_CHARACTERS),
                text=_cut(result.rows[index]["text"], MAX_CHARACTERS),
                answer=_cut(result.rows[index]["answer"], MAX_CHARACTERS),
                extracted=_cut(result.rows[index]["extracted"] or "", MAX_CHARACTERS),
                kinds=kinds[index],
            )
            for index in chosen
        ],
        note,
    )


def _kinds(row: Row) -> frozenset[str]:
    found = {"right" if row["correct"] else "wrong"}
    if row["truncated"]:
        found.add("truncated")
    if not row["boxed"]:
        found.add("without a box")
    return frozenset(found)


def _balanced(kinds: Sequence[frozenset[str]], share: int) -> list[int]:
    """Positions of at most `share` rows, taken in turns from each combination of kinds."""
    queues: dict[frozenset[str], list[int]] = {}
    for index, own in enumerate(kinds):
        queues.setdefault(own, []).append(index)
    in_turns = sorted((turn, index) for queue in queues.values() for turn, index in enumerate(queue))
    return sorted(index for _, index in in_turns[:share])


def _heading(row: Row, samples: int) -> str:
    return f"{row['id']}, sample {row['sample'] + 1}" if samples > 1 else row["id"]


def _cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else f"{text[:characters]} … ({len(text) - characters:,} characters more)"


def _provenance(results: Sequence[EvaluationResult | RankingResult]) -> Table:
    """What a figure has to be quoted with."""
    columns = ["what", *(result.benchmark for result in results)]
    facts: dict[str, list[str]] = {}
    for result in results:
        own = {
            "source": result.source,
            "split": result.split,
            "revision": (result.revision or "-")[:19],
            "reader's version": str(result.version),
            "chat template": result.chat_template,
            "prompt": result.template,
        }
        if isinstance(result, EvaluationResult):
            own |= {"grader": result.grader, "seed": str(result.seed)}
            own |= {name.replace("_", " "): f"{value:g}" for name, value in result.decoding.items()}
        else:
            own |= {"options ranked by": result.form}
        for name, value in own.items():
            facts.setdefault(name, []).append(value)
    rows = [[name, *values] for name, values in facts.items()]
    return Table("Where the figures come from", columns, rows)
