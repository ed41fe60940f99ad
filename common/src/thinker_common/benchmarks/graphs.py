"""`graphs`: deduction over a graph of "is a" rules in the manner of ProsQA, generated.

"Every larpus is a mempus. Anna is a larpus. ... Is Anna a mempus or wilpus?": one option follows from the rules in
three to six steps, the other follows only for another person. `Problem.steps` holds the exact chain, a shortest one.

How a graph grows follows the account of ProsQA in "Training Large Language Models to Reason in a Continuous Latent
Space" (COCONUT), arXiv 2412.06769, appendix. The constants are fitted to the 800 rows of its validation and test files:
`statistics` measures both. Names are our own; no row of ProsQA is copied.
"""

import itertools
import math
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .generated import draw, load_generated
from .problem import LoadedBenchmark, Problem

VERSION = 1

# Nodes without a parent. Exactly two of them matter: the one asked about, and the one that leads to the wrong option.
PERSONS = (
    "Anna", "Ben", "Clara", "Daniel", "Emma", "Frank", "Grace", "Henry", "Irene",
    "Jacob", "Laura", "Martin", "Nora", "Peter", "Ruth", "Simon", "Victor",
)  # fmt: skip
# No name ends in another one, so that a search for a name cannot find a longer one.
CONCEPTS = (
    "balpus", "blempus", "brolpus", "clompus", "crelpus", "dalpus", "drelpus", "dwimpus", "fampus", "flirpus",
    "frolpus", "glampus", "gralpus", "halpus", "hempus", "jarpus", "jilpus", "kolpus", "krimpus", "larpus",
    "mempus", "molpus", "narpus", "nelpus", "parpus", "plimpus", "pralpus", "quarpus", "rilpus", "sarpus",
    "skempus", "slorpus", "snilpus", "swelpus", "talpus", "trimpus", "varpus", "wilpus",
)  # fmt: skip

GROWN_NODES = 28  # the two roots included; about five of them stay unconnected and are dropped
MEAN_PARENTS = 1.49  # of the Poisson distribution of a new node's parents, before there are too few candidates
# A new node takes its parents among the nodes that only the first root leads to, only the second, or among all nodes.
CANDIDATES_FIRST, CANDIDATES_SECOND = 0.34, 0.46
DEPTH_PREFERENCE = 1.5  # a candidate at depth d has weight 1 + 1.5 d, which favours long chains
STEPS = range(3, 7)

# Which roots lead to a node, as a bit set; both bits are set for a node that follows for both persons.
FIRST, SECOND = 1, 2
ROOT_SIDES = (FIRST, SECOND)  # of nodes 0 and 1


class _Graph(NamedTuple):
    """parents: of each node; nodes are numbered so that parents come first. sides: of each node, FIRST | SECOND."""

    parents: list[list[int]]
    sides: list[int]


def _poisson(rng: random.Random, mean: float) -> int:
    """A Poisson number by inversion of its distribution function."""
    probability = math.exp(-mean)
    rest = rng.random() - probability
    count = 0
    while rest >= 0 and probability > 0:
        count += 1
        probability *= mean / count
        rest -= probability
    return count


def _sample(rng: random.Random, weights: dict[int, float], count: int) -> list[int]:
    """Up to `count` different keys, drawn one after the other with chances in proportion to their weights."""
    # Efraimidis and Spirakis (2006): the largest of u^(1/weight) are such a sample.
    ranks = {key: rng.random() ** (1 / weight) for key, weight in weights.items()}
    return sorted(ranks, key=lambda key: ranks[key], reverse=True)[:count]


def _grow(rng: random.Random) -> _Graph:
    """Two roots, then one node after the other, each under parents drawn among the nodes before it."""
    parents: list[list[int]] = [[], []]
    sides = list(ROOT_SIDES)
    depths = [0, 0]
    while len(parents) < GROWN_NODES:
        where = rng.random()
        if where < CANDIDATES_FIRST:
            allowed = {FIRST}
        elif where < CANDIDATES_FIRST + CANDIDATES_SECOND:
            allowed = {SECOND}
        else:
            allowed = {0, FIRST, SECOND, FIRST | SECOND}
        weights = {
            node: 1 + DEPTH_PREFERENCE * depth
            for node, (side, depth) in enumerate(zip(sides, depths, strict=True))
            if side in allowed
        }
        chosen = _sample(rng, weights, _poisson(rng, MEAN_PARENTS))
        side = 0
        for parent in chosen:
            side |= sides[parent]
        parents.append(chosen)
        sides.append(side)
        depths.append(1 + min(depths[parent] for parent in chosen) if chosen else 0)

    # A node that drew no parents is one more person, but only if something was drawn under it.
    with_child = {parent for row in parents for parent in row}
    kept = [node for node, row in enumerate(parents) if row or node in with_child or node < len(ROOT_SIDES)]
    number = {node: index for index, node in enumerate(kept)}
    return _Graph([[number[parent] for parent in parents[node]] for node in kept], [sides[node] for node in kept])


def _distances(parents: Sequence[Sequence[int]], root: int) -> dict[int, int]:
    """Length of a shortest chain from the root to every node that it leads to."""
    distances = {root: 0}
    for node, row in enumerate(parents):
        reached = [distances[parent] for parent in row if parent in distances]
        if reached:
            distances[node] = 1 + min(reached)
    return distances


def _exclusive_sinks(graph: _Graph, root: int) -> list[int]:
    """Nodes without a child that this root leads to and the other does not."""
    with_child = {parent for row in graph.parents for parent in row}
    side = ROOT_SIDES[root]
    return [
        node
        for node in range(len(ROOT_SIDES), len(graph.parents))
        if graph.sides[node] == side and node not in with_child
    ]


def _draw_question(rng: random.Random) -> tuple[_Graph, int, int, int, list[int]]:
    """(graph, root, target, neg_target, chain of nodes from root to target) with a chain of an accepted length."""
    while True:
        graph = _grow(rng)
        sinks = [_exclusive_sinks(graph, root) for root in (0, 1)]
        if not all(sinks):
            continue
        distances = [_distances(graph.parents, root) for root in (0, 1)]
        deepest = [max(distances[root][sink] for sink in sinks[root]) for root in (0, 1)]
        if max(deepest) not in STEPS:
            continue
        # The question is about the person with the longer chain, and about the end of that chain.
        root = rng.choice([root for root in (0, 1) if deepest[root] == max(deepest)])
        target = rng.choice([sink for sink in sinks[root] if distances[root][sink] == deepest[root]])
        neg_target = rng.choice(sinks[1 - root])

        to_root = distances[root]
        chain = [target]
        while chain[-1] != root:
            chain.append(next(p for p in graph.parents[chain[-1]] if to_root.get(p) == to_root[chain[-1]] - 1))
        return graph, root, target, neg_target, chain[::-1]


def _shape(edges: Sequence[tuple[int, int]]) -> str:
    """The degrees at both ends of every edge: equal for graphs that differ only in the names or numbers of nodes."""
    out_degree = Counter(parent for parent, _ in edges)
    in_degree = Counter(child for _, child in edges)
    return str(sorted((in_degree[a], out_degree[a], in_degree[b], out_degree[b]) for a, b in edges))


def _draw_one(rng: random.Random, problem_id: str) -> tuple[Problem, str]:
    graph, root, target, neg_target, chain = _draw_question(rng)
    edges = [(parent, node) for node, row in enumerate(graph.parents) for parent in row]
    persons = iter(rng.sample(PERSONS, len(PERSONS)))
    concepts = iter(rng.sample(CONCEPTS, len(CONCEPTS)))
    symbols = [next(concepts if row else persons) for row in graph.parents]

    def sentence(parent: int, child: int) -> str:
        subject = f"Every {symbols[parent]}" if graph.parents[parent] else symbols[parent]
        return f"{subject} is a {symbols[child]}."

    rules = [sentence(*edge) for edge in edges]
    rng.shuffle(rules)
    first, second = rng.sample([target, neg_target], 2)
    answer = f"{symbols[root]} is a {symbols[target]}"
    problem = Problem(
        id=problem_id,
        question=f"{' '.join(rules)} Is {symbols[root]} a {symbols[first]} or {symbols[second]}?",
        answer=answer,
        kind="text",
        aliases=(f"{answer}.", symbols[target]),
        steps=tuple(sentence(*edge) for edge in itertools.pairwise(chain)),
        metadata={"edges": edges, "symbols": symbols, "root": root, "target": target, "neg_target": neg_target},
    )
    return problem, _shape(edges)


def generate(split: str, count: int, seed: int = 0) -> list[Problem]:
    """`count` problems of a split; the same for the same arguments on every machine.

    `metadata` has ProsQA's fields: `edges` as (parent, child) pairs of node numbers, `symbols` (the name of each node),
    and the nodes `root`, `target` and `neg_target`. No two splits share a graph, not even under other names.
    """
    return draw("graphs", split, count, seed, _draw_one)


def load(split: str, data_dir: Path | None = None, revision: str | None = None) -> LoadedBenchmark:
    """The split at its default size. `data_dir` and `revision` have no meaning for a generated benchmark."""
    return load_generated("graphs", VERSION, split, generate)


def statistics(problems: Sequence[Problem]) -> dict[str, Any]:
    """What describes a set of such problems, ours or ProsQA's own with the same `metadata`.

    Returns counts of problems by the number of `steps` and of `parentless` nodes, of nodes by in-degree (`in_degrees`,
    nodes with a parent only), the means `nodes` and `edges`, the number of problems whose right option stands first
    (`right_first`), and the sets of names used, `persons` (nodes without a parent) and `concepts`.
    """
    steps: Counter[int] = Counter()
    parentless: Counter[int] = Counter()
    in_degrees: Counter[int] = Counter()
    persons: set[str] = set()
    concepts: set[str] = set()
    nodes = edges = right_first = 0
    for problem in problems:
        data = problem.metadata
        symbols = data["symbols"]
        degree = Counter(child for _, child in data["edges"])
        steps[len(problem.steps)] += 1
        parentless[len(symbols) - len(degree)] += 1
        in_degrees.update(degree.values())
        for node, symbol in enumerate(symbols):
            (concepts if node in degree else persons).add(symbol)
        nodes += len(symbols)
        edges += len(data["edges"])
        ending = f" a {symbols[data['target']]} or {symbols[data['neg_target']]}?"
        right_first += problem.question.endswith(ending)
    return {
        "steps": dict(sorted(steps.items())),
        "parentless": dict(sorted(parentless.items())),
        "in_degrees": dict(sorted(in_degrees.items())),
        "nodes": nodes / len(problems),
        "edges": edges / len(problems),
        "right_first": right_first,
        "persons": persons,
        "concepts": concepts,
    }
