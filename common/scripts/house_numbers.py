"""Lines, tests and public names of each room, as a page: python common/scripts/house_numbers.py > docs/house-numbers.md

--junit FILE: of `pytest --junit-xml`, for the time of the tests. --coverage FILE: of `coverage json`, for coverage.
"""

import argparse
import ast
import json
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[2]
ROOMS = ["likelihood", "models", "distributed", "benchmarks", "evaluation", "training", "cli"]
METHODS = ["generalthinker", "spiralthinker", "tinythinker"]


def rooms() -> dict[str, tuple[Path, Path]]:
    """Room -> its source and its tests."""
    base = ROOT / "common/src/thinker_common"
    found = {f"thinker_common.{room}": (base / room, ROOT / "common/tests") for room in ROOMS}
    return found | {name: (ROOT / f"packages/{name}/src/{name}", ROOT / f"packages/{name}/tests") for name in METHODS}


def count(files: list[Path]) -> Counter[str]:
    """Lines that are code, lines of docstrings and comments, public functions and classes."""
    total: Counter[str] = Counter()
    for path in files:
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        prose: set[int] = {n for n, line in enumerate(text.splitlines(), start=1) if line.lstrip().startswith("#")}
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Expr)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                prose |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
        written = {n for n, line in enumerate(text.splitlines(), start=1) if line.strip()}
        total["code"] += len(written - prose)
        total["prose"] += len(written & prose)
        total["public"] += sum(
            isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_") for node in tree.body
        )
    return total


def coverage_of(report: dict, folder: Path) -> str:
    files = {name: data["summary"] for name, data in report["files"].items() if (ROOT / name).is_relative_to(folder)}
    covered = sum(summary["covered_lines"] for summary in files.values())
    statements = sum(summary["num_statements"] for summary in files.values())
    return f"{100 * covered / statements:.1f} %" if statements else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--junit", type=Path)
    parser.add_argument("--coverage", type=Path)
    given = parser.parse_args()
    report = json.loads(given.coverage.read_text()) if given.coverage else None
    command = "python common/scripts/house_numbers.py --junit junit.xml --coverage cov.json > docs/house-numbers.md"
    print(f"# House numbers\n\n    {command}\n")
    print("Lines without blank ones. Public: functions and classes at the top of a module, without an underscore.\n")
    heads = ["room", "modules", "code", "docstrings and comments", "public names", *(["coverage"] if report else [])]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for name, (source, _) in rooms().items():
        files = sorted(source.rglob("*.py"))
        found = count(files)
        cells = [f"`{name}`", str(len(files)), *(f"{found[key]:,}" for key in ("code", "prose", "public"))]
        print(f"| {' | '.join([*cells, *([coverage_of(report, source)] if report else [])])} |")
    print("\n| tests of | files | code |\n|---|---|---|")
    for name, folder in {"the base and the house": "common", **{m: f"packages/{m}" for m in METHODS}}.items():
        files = sorted((ROOT / folder / "tests").glob("*.py"))
        print(f"| {name} | {len(files)} | {count(files)['code']:,} |")
    if given.junit:
        suites = ElementTree.parse(given.junit).getroot().iter("testsuite")
        for suite in suites:
            seconds = float(suite.get("time", 0))
            print(f"\n{suite.get('tests')} tests in {seconds:.0f} s, {suite.get('skipped')} skipped.", end=" ")
        print("Time and coverage are of one run on two cores, two files at a time, with coverage counted. Ranks that a")
        print("test launches are processes of their own, and not counted: most of `distributed` runs there.")
    else:
        print("\nTime of the tests and coverage are not in this run: see `--junit` and `--coverage`.")


if __name__ == "__main__":
    main()
