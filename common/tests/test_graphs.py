"""The generated `graphs` benchmark against the figures of the real ProsQA, and against the rules it promises."""

import json
import math
import os
import re
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from thinker_common.benchmarks import graphs, load_benchmark
from thinker_common.benchmarks.problem import Problem
from thinker_common.errors import SettingsError

# Measured on the 800 rows of ProsQA's validation and test files.
ROWS = 800
REAL_STEPS = {3: 326, 4: 350, 5: 105, 6: 19}
REAL_PARENTLESS = {2: 461, 3: 253, 4: 68, 5: 16, 6: 2}
REAL_IN_DEGREES = {1: 7979, 2: 5068, 3: 2221, 4: 698, 5: 188, 6: 36}
REAL_NODES, REAL_EDGES = 22.8, 36.0

# Sampling noise alone, from simulated draws of the real distributions: 4000 problems against 800 rows differ by 0.023 in
# total variation on average, by more than 0.05 about once in 40; the in-degrees of their nodes by 0.006, hardly ever 0.02.
# The standard error of the difference of two means is 0.1 nodes (deviation 2 a graph) and 0.2 edges (deviation 5).
SAMPLE = 4000
TV_PROBLEMS, TV_NODES = 0.05, 0.03
NODES_TOLERANCE, EDGES_TOLERANCE = 0.5, 1.0


@pytest.fixture(scope="module", params=graphs.SIZES)
def problems(request: pytest.FixtureRequest) -> list[Problem]:
    return graphs.generate("train", ROWS, size=request.param)


@pytest.fixture(scope="module")
def sample_statistics() -> dict[str, Any]:
    return graphs.statistics(graphs.generate("train", SAMPLE))


def total_variation(left: Mapping[int, int], right: Mapping[int, int]) -> float:
    left_sum, right_sum = sum(left.values()), sum(right.values())
    return sum(abs(left.get(k, 0) / left_sum - right.get(k, 0) / right_sum) for k in left.keys() | right.keys()) / 2


def breadth_first(edges: list[tuple[str, str]], start: str) -> dict[str, int]:
    """Distances from `start`, over rules as the reader of the question has them: pairs of names."""
    distances = {start: 0}
    queue = deque([start])
    while queue:
        name = queue.popleft()
        for subject, kind in edges:
            if subject == name and kind not in distances:
                distances[kind] = distances[name] + 1
                queue.append(kind)
    return distances


def read_question(question: str) -> tuple[list[tuple[str, str]], str, set[str]]:
    """(rules, person asked about, the two options), from the text alone."""
    *sentences, asked = re.split(r"(?<=\.) ", question)
    rules = []
    for text in sentences:
        match = re.fullmatch(r"(?:Every ([a-z]+)|([A-Z][a-z]+)) is a ([a-z]+)\.", text)
        assert match, text
        rules.append((match[1] or match[2], match[3]))
    match = re.fullmatch(r"Is ([A-Z][a-z]+) a ([a-z]+) or ([a-z]+)\?", asked)
    assert match, asked
    return rules, match[1], {match[2], match[3]}


def test_distributions_fit_the_real_set(sample_statistics):
    found = sample_statistics
    assert total_variation(found["steps"], REAL_STEPS) <= TV_PROBLEMS
    assert total_variation(found["parentless"], REAL_PARENTLESS) <= TV_PROBLEMS
    assert total_variation(found["in_degrees"], REAL_IN_DEGREES) <= TV_NODES
    assert found["nodes"] == pytest.approx(REAL_NODES, abs=NODES_TOLERANCE)
    assert found["edges"] == pytest.approx(REAL_EDGES, abs=EDGES_TOLERANCE)
    # The real set has the right option first in 406 of 800: a fair coin, which ours must be within 3 deviations.
    assert abs(found["right_first"] - SAMPLE / 2) <= 3 * math.sqrt(SAMPLE) / 2
    assert found["persons"] == set(graphs.PERSONS) and len(graphs.PERSONS) == 17
    assert found["concepts"] == set(graphs.CONCEPTS) and len(graphs.CONCEPTS) == 38


def test_the_question_alone_decides_the_answer(problems):
    for problem in problems:
        rules, person, options = read_question(problem.question)
        subjects = {subject for subject, _ in rules}
        distances = breadth_first(rules, person)
        data = problem.metadata
        target, wrong = data["symbols"][data["target"]], data["symbols"][data["neg_target"]]

        assert person == data["symbols"][data["root"]]
        assert options == {target, wrong} and not options & subjects  # both are sinks
        assert target in distances and wrong not in distances
        assert problem.answer == f"{person} is a {target}"
        assert problem.aliases == (f"{problem.answer}.", target)
        assert len(problem.steps) == distances[target]  # the gold chain is a shortest one


def test_steps_are_a_chain_of_rules_of_the_question(problems):
    for problem in problems:
        rules, person, _ = read_question(problem.question)
        here = person
        for step in problem.steps:
            (subject, kind), *_ = [rule for rule in rules if step.endswith(f"{rule[0]} is a {rule[1]}.")]
            assert subject == here
            assert step == f"{subject if subject == person else f'Every {subject}'} is a {kind}."
            here = kind
        assert problem.answer.endswith(f" {here}")


def test_metadata_says_what_the_question_says(problems):
    for problem in problems:
        rules, _, _ = read_question(problem.question)
        symbols = problem.metadata["symbols"]
        assert len(set(symbols)) == len(symbols)
        assert sorted(rules) == sorted((symbols[a], symbols[b]) for a, b in problem.metadata["edges"])
        assert len(set(rules)) == len(rules)
        assert {name for rule in rules for name in rule} == set(symbols)
        assert all((name in graphs.PERSONS) == name[0].isupper() for name in symbols)


def test_rules_are_shuffled(problems):
    # With the rules in the order of growth a person's first rule would nearly always stand before the rules below it.
    ahead = 0
    for problem in problems:
        rule_texts = problem.question.split(". ")
        first, last = (rule_texts.index(step.removesuffix(".")) for step in (problem.steps[0], problem.steps[-1]))
        ahead += first < last
    assert abs(ahead - ROWS / 2) <= 3 * math.sqrt(ROWS) / 2


@pytest.mark.parametrize(("size", "nodes", "steps"), [("small", 8.5, {2, 3}), ("medium", 15, {3, 4})])
def test_smaller_sizes(size, nodes, steps):
    train, test = (load_benchmark("graphs", split=split, limit=300, size=size) for split in ("train", "test"))
    found = graphs.statistics(train.problems)
    assert set(found["steps"]) == steps
    assert found["nodes"] == pytest.approx(nodes, abs=0.5)
    assert abs(found["right_first"] - 150) <= 3 * math.sqrt(300) / 2
    assert train.problems[0].id.startswith(f"graphs_{size}/train/")
    assert f"size {size}" in train.source
    shapes = [{graphs._shape(problem.metadata["edges"]) for problem in part.problems} for part in (train, test)]
    assert not shapes[0] & shapes[1]  # no graph of the test split is trained on, under other names


def test_an_unknown_size():
    with pytest.raises(SettingsError, match="size = 'tiny': expected one of small, medium, full"):
        load_benchmark("graphs", size="tiny")


def test_no_name_hides_in_another():
    names = (*graphs.CONCEPTS, *graphs.PERSONS)
    assert not [(a, b) for a in names for b in names if a != b and a.lower() in b.lower()]


def test_same_arguments_same_problems_and_prefixes_are_stable():
    long = graphs.generate("valid", 30, seed=3)
    assert graphs.generate("valid", 10, seed=3) == long[:10]
    assert graphs.generate("valid", 30, seed=4) != long
    assert [problem.id for problem in long[:2]] == ["graphs/valid/0", "graphs/valid/1"]


def degree_sequence(problem: Problem) -> tuple[tuple[int, int], ...]:
    """(in-degree, out-degree) at both ends of all edges: the same for every renaming of the graph."""
    edges = problem.metadata["edges"]
    ends = [
        (sum(b == n for _, b in edges), sum(a == n for a, _ in edges)) for n in range(len(problem.metadata["symbols"]))
    ]
    return tuple(sorted((*ends[a], *ends[b]) for a, b in edges))


def test_splits_share_no_graph(problems):
    # Different seeds as well: a seed must not carry a test problem into training.
    seen = {
        "train": {degree_sequence(problem) for problem in [*problems, *graphs.generate("train", 200, seed=1)]},
        "valid": {degree_sequence(problem) for problem in graphs.generate("valid", 200)},
        "test": {degree_sequence(problem) for problem in graphs.generate("test", 200, seed=1)},
    }
    assert not seen["train"] & seen["valid"]
    assert not seen["train"] & seen["test"]
    assert not seen["valid"] & seen["test"]


def test_loading_gives_the_default_sizes():
    loaded = load_benchmark("graphs", split="valid")
    assert (loaded.name, loaded.split, len(loaded.problems)) == ("graphs", "valid", 500)
    assert loaded.version == graphs.VERSION
    assert list(loaded.problems[:3]) == graphs.generate("valid", 3)


def read_prosqa(path: Path) -> list[Problem]:
    return [
        Problem(
            id=f"prosqa/{index}",
            question=row["question"],
            answer=row["answer"],
            kind="text",
            steps=tuple(row["steps"]),
            metadata={**row, "symbols": row["idx_to_symbol"]},
        )
        for index, row in enumerate(json.loads(path.read_text(encoding="utf-8")))
    ]


def test_fits_the_real_rows_and_copies_none(sample_statistics):
    folder = os.environ.get("THINKER_DATA_DIR")
    path = Path(folder or ".") / "prosqa" / "prosqa_valid.json"
    if not folder or not path.is_file():
        pytest.skip("needs THINKER_DATA_DIR with prosqa/prosqa_valid.json")
    real, ours = graphs.statistics(read_prosqa(path)), sample_statistics

    # This file has 300 of the 800 rows, so chance differences grow by sqrt((1/300 + 1/4000) / (1/800 + 1/4000)) = 1.55.
    wider = 1.55
    assert total_variation(ours["steps"], real["steps"]) <= wider * TV_PROBLEMS
    assert total_variation(ours["parentless"], real["parentless"]) <= wider * TV_PROBLEMS
    assert total_variation(ours["in_degrees"], real["in_degrees"]) <= wider * TV_NODES
    assert ours["nodes"] == pytest.approx(real["nodes"], abs=wider * NODES_TOLERANCE)
    assert ours["edges"] == pytest.approx(real["edges"], abs=wider * EDGES_TOLERANCE)
    assert len(real["persons"]) == len(ours["persons"])
    assert len(real["concepts"]) == len(ours["concepts"])
    assert not real["concepts"] & ours["concepts"] and not real["persons"] & ours["persons"]
