"""The evaluations around and inside a run."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from ._common import (
    Comparison,
    EvaluationResult,
    LoadedBenchmark,
    RunFolder,
    compare,
    evaluate,
    progress_bar,
    trains_in_bfloat16,
)
from .config import Settings


def evaluate_all(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    benchmarks: Sequence[LoadedBenchmark],
    settings: Settings,
    folder: RunFolder,
    when: str,
) -> dict[str, EvaluationResult]:
    """Greedy evaluation on every benchmark; generations in `evaluation/<when>/<benchmark>`."""
    results = {}
    for benchmark in benchmarks:
        output = folder.file(f"evaluation/{when}/{benchmark.name}/generations.jsonl")
        with progress_bar(f"{benchmark.name} {when}") as update:
            results[benchmark.name] = evaluate_one(model, tokenizer, benchmark, settings, output, update)
    return results


def evaluate_one(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    benchmark: LoadedBenchmark,
    settings: Settings,
    output: Path | None,
    update: Callable[..., None] | None,
) -> EvaluationResult:
    # One precision for before, during and after: the trainer's own.
    with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=trains_in_bfloat16(settings.model)):
        return evaluate(
            model,
            tokenizer,
            benchmark,
            template=settings.method.prompt_template,
            chat_template=settings.model.chat_template,
            max_new_tokens=settings.evaluation.max_new_tokens,
            max_tokens_per_batch=settings.evaluation.max_tokens_per_batch,
            grader=settings.evaluation.grader,
            output=output,
            progress=update,
        )


def compare_before_after(evaluations: Mapping[str, Mapping[str, EvaluationResult]]) -> dict[str, Comparison]:
    """After against before on the same problems, for each benchmark that was evaluated twice."""
    if set(evaluations) != {"before", "after"}:
        return {}
    return {
        name: compare(evaluations["after"][name].rows, before.rows) for name, before in evaluations["before"].items()
    }
