"""From the section `data` of the settings to problems: those to train on, and those held out of them."""

from dataclasses import replace

from ..benchmarks import load_benchmark, sample
from ..benchmarks.problem import LoadedBenchmark, question_key
from ..benchmarks.user_file import load_jsonl
from ..errors import DataError
from .sections import DataSettings


def load_problems(data: DataSettings) -> LoadedBenchmark:
    """The training problems that the settings name: the user's file, or a benchmark's split."""
    if data.train_file is not None:
        problems = load_jsonl(data.train_file, data.columns, kind=data.kind)
        return problems if data.limit is None else sample(problems, data.limit, data.seed)
    assert data.benchmark is not None  # DataSettings wants one of the two
    return load_benchmark(data.benchmark, split=data.split, data_dir=data.data_dir, limit=data.limit, seed=data.seed)


def hold_out(loaded: LoadedBenchmark, count: int, *, seed: int) -> tuple[LoadedBenchmark, LoadedBenchmark]:
    """(for training, for validation): `count` problems, drawn from `seed`, are taken out of the training data.

    So are other problems that ask the same as one of them: a policy that trains on those has seen the question.

    Raises:
        DataError: no problem would be left to train on.
    """
    if count >= len(loaded.problems):
        raise DataError(
            f"evaluation.validation_limit = {count} would hold out all {len(loaded.problems)} problems: lower it, or "
            "set evaluation.every_steps = null to train without validation"
        )
    validation = sample(loaded, count, seed)
    held = {question_key(problem) for problem in validation.problems}
    rest = tuple(problem for problem in loaded.problems if question_key(problem) not in held)
    if not rest:
        raise DataError(
            f"all {len(loaded.problems)} problems ask what one of the {count} held out for validation asks: lower "
            "evaluation.validation_limit, or set evaluation.every_steps = null to train without validation"
        )
    source = f"{loaded.source}, {count} held out for validation (seed {seed})"
    if twins := len(loaded.problems) - count - len(rest):
        source += f", {twins} more left out that ask the same as one of those"
    return replace(loaded, problems=rest, source=source), validation
