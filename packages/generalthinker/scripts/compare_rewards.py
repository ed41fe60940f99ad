"""What does each reward call a good response? Advantages of the same rollouts under all rewards, before any training.

    python packages/generalthinker/scripts/compare_rewards.py                      # embedded@1 on chains
    python packages/generalthinker/scripts/compare_rewards.py --model FOLDER --benchmark phrases
    python packages/generalthinker/scripts/compare_rewards.py --model FOLDER --benchmark gsm8k --data-dir DIR

Draws a group of --samples responses to each of --problems training problems and prints, over the groups that have right
and wrong responses,

    in order    pairs of a right and a wrong response of a group that the reward orders rightly, ties counted half: the
                area under the ROC curve, 50 for a reward that knows nothing
    shared      squared correlation, in a group, of the advantage with being right: the share of the advantages'
                variance that a verifier agrees with; the rest tells wrong from wrong responses, or right from right
    among wrong the share of the squared advantages' spread that lies among wrong responses
    the worst   the response of lowest advantage: its share of all squared advantages
    right > 0   right responses with a positive advantage
    wrong > 0   wrong responses with a positive advantage

and over the groups without a right response, the share that still has a signal: a deviation of the reward above 0.001.
± is the standard error over groups. Right is what the benchmark's grading calls right, every wording of the answer that
it knows included; where there are several, `binary, reference only` is a verifier that knows the reference alone, as
the likelihoods do. Prints Markdown.
"""

import argparse
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import get_args

from generalthinker.config import MethodSettings
from generalthinker.inspect.group import credit_group, sample_group
from generalthinker.rewards import Reward
from thinker_common.benchmarks import load_benchmark
from thinker_common.evaluation.grading import grade
from thinker_common.models.load import load_policy, load_tokenizer

SIGNAL = 1e-3
REFERENCE_ONLY = "binary, reference only"


@dataclass(frozen=True)
class Group:
    """right, advantages: of each response; deviation: of the rewards."""

    right: list[bool]
    advantages: list[float]
    deviation: float

    @property
    def mixed(self) -> bool:
        return len(set(self.right)) == 2

    def of(self, side: bool) -> list[float]:
        """The advantages of the right, or of the wrong responses."""
        return [advantage for advantage, right in zip(self.advantages, self.right, strict=True) if right is side]


def squares(values: Sequence[float]) -> float:
    """The sum of squared deviations from the mean."""
    return statistics.pvariance(values) * len(values) if values else 0.0


def in_order(group: Group) -> float:
    """The area under the ROC curve of the advantage, for right against wrong."""
    pairs = [(good, bad) for good in group.of(True) for bad in group.of(False)]
    return statistics.mean(0.5 if good == bad else float(good > bad) for good, bad in pairs)


def shared(group: Group) -> float:
    """The squared correlation of the advantage with being right; nan where all advantages are equal."""
    whole = squares(group.advantages)
    if whole == 0:
        return math.nan
    parts = [
        [a for a, right in zip(group.advantages, group.right, strict=True) if right is side] for side in (True, False)
    ]
    return 1 - sum(map(squares, parts)) / whole


def among_wrong(group: Group) -> float:
    whole = squares(group.advantages)
    return squares(group.of(False)) / whole if whole else math.nan


def the_worst(group: Group) -> float:
    whole = sum(a * a for a in group.advantages)
    return min(group.advantages) ** 2 / whole if whole else math.nan


def above_zero(group: Group, side: bool) -> float:
    return statistics.mean(advantage > 0 for advantage in group.of(side))


def mean(values: Sequence[float]) -> str:
    """Mean ± standard error, in per cent."""
    known = [100 * value for value in values if not math.isnan(value)]
    if len(known) < 2:
        return "none"
    error = statistics.stdev(known) / math.sqrt(len(known))
    return f"{statistics.mean(known):.0f} ± {error:.0f}"


def measure(arguments: argparse.Namespace) -> dict[str, list[Group]]:
    """The groups of each reward; all rewards see the same responses."""
    policy, tokenizer = load_policy(arguments.model), load_tokenizer(arguments.model)
    problems = load_benchmark(arguments.benchmark, split="train", data_dir=arguments.data_dir).problems
    plain = MethodSettings(credit="none")
    problems = problems[: arguments.problems]
    methods: dict[str, MethodSettings] = {reward: replace(plain, reward=reward) for reward in get_args(Reward)}
    if any(problem.aliases for problem in problems):
        methods[REFERENCE_ONLY] = methods["binary"]
    found: dict[str, list[Group]] = {name: [] for name in methods}
    for number, problem in enumerate(problems):
        responses = sample_group(
            policy, tokenizer, problem, plain,
            samples=arguments.samples, temperature=1.0, max_new_tokens=arguments.max_new_tokens, seed=number,
        )  # fmt: skip
        texts = [tokenizer.decode(response.token_ids, skip_special_tokens=True) for response in responses]
        right = [grade(problem, text).correct for text in texts]
        for name, method in methods.items():
            shown = replace(problem, aliases=()) if name == REFERENCE_ONLY else problem
            group = credit_group(policy, policy, tokenizer, shown, method, responses)
            advantages = [response.advantage for response in group.responses]
            rewards = [0.0 if response.reward is None else response.reward for response in group.responses]
            found[name].append(Group(right, advantages, statistics.stdev(rewards)))
    return found


def table(found: dict[str, list[Group]]) -> str:
    lines = [
        "| reward | in order | shared | among wrong | the worst | right > 0 | wrong > 0 | signal without a right one |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for reward, groups in found.items():
        mixed = [group for group in groups if group.mixed]
        lost = [group for group in groups if not any(group.right)]
        shares = [
            *(mean([share(group) for group in mixed]) for share in (in_order, shared, among_wrong, the_worst)),
            *(mean([above_zero(group, side) for group in mixed]) for side in (True, False)),
            mean([float(group.deviation > SIGNAL) for group in lost]),
        ]
        lines.append(f"| {reward} | {' | '.join(shares)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded@1")
    parser.add_argument("--benchmark", default="chains")
    parser.add_argument("--data-dir")
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    arguments = parser.parse_args()
    found = measure(arguments)
    groups = found["binary"]
    mixed, lost = sum(group.mixed for group in groups), sum(not any(group.right) for group in groups)
    print(f"{len(groups)} groups of {arguments.samples}; {mixed} mixed, {lost} without a right response; per cent\n")
    print(table(found))


if __name__ == "__main__":
    main()
