"""From the settings to problems: those to train on, those held out of them, and those to evaluate on."""

import math
from dataclasses import replace

from ..benchmarks import load_benchmark, sample
from ..benchmarks.problem import LoadedBenchmark, question_key
from ..benchmarks.user_file import load_jsonl
from ..errors import DataError, SettingsError
from .sections import DataSettings, EvaluationSettings


def load_problems(data: DataSettings) -> LoadedBenchmark:
    """The training problems that the settings name: the user's file, or a benchmark's split."""
    if data.train_file is not None:
        problems = load_jsonl(data.train_file, data.columns, kind=data.kind)
        return problems if data.limit is None else sample(problems, data.limit, data.seed)
    assert data.benchmark is not None  # DataSettings wants one of the two
    return load_benchmark(
        data.benchmark, split=data.split, data_dir=data.data_dir, limit=data.limit, seed=data.seed, **data.options
    )


def hold_out(loaded: LoadedBenchmark, count: int | None, *, seed: int) -> tuple[LoadedBenchmark, LoadedBenchmark]:
    """(for training, for validation): `count` problems, drawn from `seed`, are taken out of the training data.

    So are other problems that ask the same as one of them: a policy that trains on those has seen the question. None is
    100 problems, or a fifth of a small file, rounded up.

    Raises:
        DataError: no problem would be left to train on.
    """
    if count is None:
        count = min(100, math.ceil(len(loaded.problems) / 5))
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


def load_evaluations(data: DataSettings, evaluation: EvaluationSettings) -> list[LoadedBenchmark]:
    """What `evaluation.benchmarks` names, each once: benchmarks, and the user's own files by a path ending in .jsonl.

    A file is read as `data.train_file` is, with `data.columns` and `data.kind`; `evaluation.split` is not for it.

    Raises:
        SettingsError: two of one name, whose results would share a folder.
    """
    loaded = [_load_evaluation(name, data, evaluation) for name in dict.fromkeys(evaluation.benchmarks)]
    names = [benchmark.name for benchmark in loaded]
    for name in names:
        if names.count(name) > 1:
            raise SettingsError(f"evaluation.benchmarks: two are named {name}; rename the file")
    return loaded


def _load_evaluation(name: str, data: DataSettings, evaluation: EvaluationSettings) -> LoadedBenchmark:
    if not name.endswith(".jsonl"):
        options = evaluation.options.get(name, {})
        return load_benchmark(name, split=evaluation.split, data_dir=data.data_dir, limit=evaluation.limit, **options)
    problems = load_jsonl(name, data.columns, kind=data.kind)
    return problems if evaluation.limit is None else sample(problems, evaluation.limit, seed=0)
