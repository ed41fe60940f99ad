"""The generated tasks chains, facts and phrases: exact steps, one right answer, splits that share nothing."""

import re
from types import ModuleType

import pytest

from thinker_common.benchmarks import chains, facts, load_benchmark, phrases
from thinker_common.benchmarks.generated import DEFAULT_COUNTS
from thinker_common.errors import DataError
from thinker_common.evaluation.grading import grade

TASKS = [chains, facts, phrases]
COUNT = 300


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.__name__.rpartition(".")[2])
class TestEveryTask:
    def test_deterministic_and_stable_under_length(self, task: ModuleType) -> None:
        assert task.generate("train", COUNT) == task.generate("train", 2 * COUNT)[:COUNT]
        assert task.generate("train", COUNT, seed=1) != task.generate("train", COUNT)

    def test_splits_are_disjoint_under_every_seed(self, task: ModuleType) -> None:
        def content(split: str, seed: int) -> set[str]:
            # What the split is decided by: the numbers or the names, not the wording around them.
            found = set()
            for problem in task.generate(split, COUNT, seed):
                found.add(repr((problem.steps, sorted(problem.options))) if task is not phrases else problem.question)
            return found

        test, valid = content("test", 0) | content("test", 5), content("valid", 0)
        train = set().union(*(content("train", seed) for seed in range(4)))
        assert not test & train
        assert not test & valid
        assert not valid & train

    def test_default_sizes_and_ids(self, task: ModuleType) -> None:
        name = task.__name__.rpartition(".")[2]
        loaded = load_benchmark(name, split="valid")
        assert len(loaded.problems) == DEFAULT_COUNTS["valid"]
        assert [problem.id for problem in loaded.problems[:2]] == [f"{name}/valid/0", f"{name}/valid/1"]

    def test_unknown_split(self, task: ModuleType) -> None:
        with pytest.raises(DataError, match="has no split 'dev'; it has train, valid, test"):
            task.generate("dev", 1)


def test_chains_steps_lead_from_the_question_to_the_answer() -> None:
    lengths = set()
    for problem in chains.generate("train", COUNT):
        value = int(re.search(r"has (\d+) ", problem.question)[1])
        for step in problem.steps:
            left, sign, right, result = re.fullmatch(r"<<(\d+)([-+*/])(\d+)=(\d+)>>", step).groups()
            assert int(left) == value
            exact = {"+": value + int(right), "-": value - int(right), "*": value * int(right), "/": value / int(right)}
            assert exact[sign] == int(result)
            value = int(result)
            assert 1 <= value <= chains.LARGEST
            assert re.search(rf"\b{right}\b", problem.question), "every operand stands in the question"
        assert str(value) == problem.answer
        lengths.add(len(problem.steps))
    assert lengths == {2, 3, 4, 5}


def test_facts_has_one_creature_with_both_properties_and_says_so_option_by_option() -> None:
    letters = []
    for problem in facts.generate("train", COUNT):
        first, second = problem.metadata["properties"]
        creatures = {creature.name: creature for creature in facts.KNOWLEDGE_BASE}
        gold = creatures[problem.options[problem.letters.index(problem.answer)]]
        wanted = (gold.values[first], gold.values[second])
        having = [
            name
            for name in problem.options
            if (creatures[name].values[first], creatures[name].values[second]) == wanted
        ]
        assert having == [gold.name]
        assert all(value in problem.question for value in wanted)
        assert len(set(problem.options)) == 4
        for name, sentence in zip(problem.options, problem.steps, strict=True):
            assert sentence == creatures[name].says(first, second)
        letters.append(problem.answer)
    assert all(50 <= letters.count(letter) <= 100 for letter in "ABCD"), "no letter is favoured"


def test_phrases_accepts_every_wording_and_no_other_time() -> None:
    for problem in phrases.generate("train", 60):
        for wording in (problem.answer, *problem.aliases):
            assert grade(problem, f"So \\boxed{{{wording}}}").correct, wording
        assert len(problem.aliases) >= 2
        hour, minute = map(int, problem.metadata["time"].split(":"))
        later = (hour % 12 * 60 + minute + 5) % phrases.HALF_DAY
        for wording in phrases.wordings(later):
            assert not grade(problem, f"So \\boxed{{{wording}}}").correct, wording


def test_phrases_wordings_by_hand() -> None:
    assert phrases.wordings(0) == ("12:00", "twelve o'clock", "exactly twelve")
    assert phrases.wordings(3 * 60 + 45) == ("3:45", "three forty-five", "fifteen to four", "quarter to four")
    assert phrases.wordings(11 * 60 + 30) == ("11:30", "eleven thirty", "half past eleven")
    assert phrases.wordings(12 * 60 - 5) == ("11:55", "eleven fifty-five", "five to twelve")
    assert phrases.wordings(7 * 60 + 5) == ("7:05", "seven oh five", "five past seven")


def test_no_two_times_share_a_wording() -> None:
    owner: dict[str, int] = {}
    for time in range(0, phrases.HALF_DAY, 5):
        for wording in phrases.wordings(time):
            assert owner.setdefault(wording, time) == time, wording
