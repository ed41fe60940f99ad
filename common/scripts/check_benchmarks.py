"""Checks every original file of the benchmarks, and measures the grader: problems a second, and time-outs that fire.

    python common/scripts/check_benchmarks.py --data-dir DIR
    python common/scripts/check_benchmarks.py --data-dir DIR --only gsm8k/test,math500/test
    python common/scripts/check_benchmarks.py --data-dir DIR --json

For each file: problems, golds graded as right by both graders, wrong answers graded as right (the number and one more,
the next letter), golds of *other* problems graded as right, repeated questions, and questions that another split holds
too. Seconds are those of grading the gold and the wrong answer with the default grader in one process, one worker.
Exits with 1 if a gold is wrong under the default grader, or a wrong answer right.
"""

import argparse
import json
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any

from thinker_common.benchmarks import load_benchmark
from thinker_common.benchmarks.check import boxed, check_benchmark
from thinker_common.benchmarks.problem import Problem
from thinker_common.evaluation import math_equality
from thinker_common.evaluation.grading import grade

FILES = (
    "gsm8k/train", "gsm8k/test", "gsm8k_aug/valid", "math500/test", "math_train/train", "olympiadbench/test",
    "amc23/test", "aime24/test", "mmlu/dev", "mmlu/test", "csqa/train", "csqa/valid", "obqa/train", "obqa/valid",
    "strategyqa/train", "strategyqa/valid", "strategyqa/test", "prosqa/valid",
)  # fmt: skip
# What a computer-algebra system would work on for minutes, or until the memory is gone.
RUNAWAYS = {
    "a tower of powers": "9^{9^{9^{9}}}",
    "a factorial": "(10^{9})!",
    "a sum": r"\sum_{n=1}^{10^{9}} \sin(n)^{n}",
}
COLUMNS = {
    "file": "file",
    "problems": "problems",
    "dropped": "dropped",
    "gold_right": "gold right",
    "gold_right_generalthinker": "gold right, `generalthinker`",
    "wrong_right": "wrong right",
    "other_gold_right": "other gold right",
    "repeated": "repeated questions",
    "shared": "shared with",
    "responses_a_second": "responses a second",
    "slowest_ms": "slowest, ms",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True, help="folder with the original files")
    parser.add_argument("--only", help="some of the files, BENCHMARK/SPLIT separated by commas")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    started = time.perf_counter()
    math_equality.self_test()
    result: dict[str, Any] = {"worker_start_seconds": round(time.perf_counter() - started, 1)}
    names = arguments.only.split(",") if arguments.only else FILES
    result["files"] = [check_file(name, arguments.data_dir) for name in names]
    result["time_outs"] = list(runaways())
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        show(result)
    sys.exit(any(not row["passed"] for row in result["files"]))


def check_file(file: str, data_dir: str) -> dict[str, Any]:
    """One row of the table, for BENCHMARK/SPLIT."""
    name, _, split = file.partition("/")
    seconds: list[float] = []
    time_outs = 0

    def timed_grade(problem: Problem, response: str) -> bool:
        nonlocal time_outs
        begin = time.perf_counter()
        found = grade(problem, response)
        seconds.append(time.perf_counter() - begin)
        time_outs += found.timed_out
        return found.correct

    report = check_benchmark(name, split=split, data_dir=data_dir, grade=timed_grade)
    problems = load_quietly(name, split, data_dir)
    strict = sum(grade(p, boxed(p.target()), grader="generalthinker").correct for p in problems)
    others = [
        f"{problem.id}: {other!r} for {problem.answer!r}"
        for problem, other in with_another_gold(problems)
        if grade(problem, boxed(other)).correct
    ]
    return {
        "file": file,
        "passed": report.passed,
        "problems": report.problems,
        "dropped": sum(report.dropped.values()),
        "gold_right": report.gold_right,
        "gold_right_generalthinker": strict,
        "wrong_right": report.wrong_right,
        "other_gold_right": len(others),
        "repeated": len(report.duplicates),
        "shared": ", ".join(f"{other} {len(ids)}" for other, ids in report.overlaps.items() if ids) or "none",
        "responses_a_second": round(len(seconds) / sum(seconds)),
        "slowest_ms": round(1000 * max(seconds)),
        "time_outs": time_outs,
        "warnings": list(report.warnings),
        "failures": list(report.failures),
        "other_golds": others,
    }


def load_quietly(name: str, split: str, data_dir: str) -> tuple[Problem, ...]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the check has said it
        return load_benchmark(name, split=split, data_dir=data_dir).problems


def with_another_gold(problems: tuple[Problem, ...]) -> Iterator[tuple[Problem, str]]:
    """Each problem of "math" and "text" with the next gold that is written otherwise."""
    for index, problem in enumerate(problems):
        if problem.kind in ("math", "text"):
            following = (*problems[index + 1 :], *problems[:index])
            yield problem, next(other.answer for other in following if other.answer != problem.answer)


def runaways() -> Iterator[dict[str, Any]]:
    """The verdict on answers that cannot be computed, the time it takes, and whether the next answer is graded."""
    for what, answer in RUNAWAYS.items():
        begin = time.perf_counter()
        verdict = math_equality.compare("3", answer)
        given_up = time.perf_counter()
        after = math_equality.compare(r"\frac{1}{3}", r"\frac{2}{6}")
        math_equality.compare.cache_clear()
        yield {
            "answer": f"{what}, `{answer}`",
            "verdict": verdict,
            "seconds": round(given_up - begin, 1),
            "next": after,
            "next_seconds": round(time.perf_counter() - given_up, 1),
        }


def show(result: dict[str, Any]) -> None:
    print(f"the worker starts in {result['worker_start_seconds']} s\n")
    print("| " + " | ".join(COLUMNS.values()) + " |\n|" + "---|" * len(COLUMNS))
    for row in result["files"]:
        print("| " + " | ".join(f"{row[c]:,}" if isinstance(row[c], int) else row[c] for c in COLUMNS) + " |")
    print(f"\ntime-outs while grading: {sum(row['time_outs'] for row in result['files'])}")
    for row in result["files"]:
        for text in (*row["warnings"], *row["failures"], *row["other_golds"]):
            print(f"{row['file']}: {text}")
    print("\n| answer | verdict | seconds | next answer | seconds |\n|---|---|---|---|---|")
    for row in result["time_outs"]:
        print("| " + " | ".join(str(value) for value in row.values()) + " |")


if __name__ == "__main__":
    main()
