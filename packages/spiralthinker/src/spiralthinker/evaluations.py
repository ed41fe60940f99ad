"""The evaluations between and behind the stages, and while a stage trains."""

from collections.abc import Callable
from pathlib import Path

import torch

from ._common import EvaluationResult, LoadedBenchmark, evaluate, load_benchmark, model_fingerprint
from .arguments import trains_in_bfloat16
from .config import Settings
from .generation import LatentGenerator
from .model import SpiralThinkerModel


def load_evaluations(settings: Settings) -> list[LoadedBenchmark]:
    """The benchmarks for behind the stages."""
    evaluation = settings.evaluation
    if not (evaluation.at_start or evaluation.at_end):
        return []
    return [
        load_benchmark(name, split=evaluation.split, data_dir=settings.data.data_dir, limit=evaluation.limit)
        for name in dict.fromkeys(evaluation.benchmarks)
    ]


def evaluate_latent(
    generator: LatentGenerator,
    benchmark: LoadedBenchmark,
    *,
    grader: str = "default",
    output: Path | None = None,
    progress: Callable[..., None] | None = None,
) -> EvaluationResult:
    """The base's evaluation of a SpiralThinker model. Answers are not scored: scoring takes no latent steps."""
    model = generator.model
    annotation = model.settings.annotation
    how = f"N={annotation.latents} K={generator.iterations} {generator.decoding}"
    return evaluate(
        None,
        model.tokenizer,
        benchmark,
        template=annotation.prompt_template,
        chat_template=annotation.chat_template,
        max_new_tokens=generator.max_new_tokens,
        temperature=generator.temperature,
        top_p=generator.top_p,
        top_k=generator.top_k,
        seed=generator.seed,
        grader=grader,
        score_answers=False,
        backend=generator,
        fingerprint=f"{model_fingerprint(model.base)} {how}",
        output=output,
        progress=progress,
    )


def evaluate_one(
    model: SpiralThinkerModel,
    benchmark: LoadedBenchmark,
    settings: Settings,
    output: Path | None = None,
    progress: Callable[..., None] | None = None,
) -> EvaluationResult:
    """Greedy, as the settings say."""
    generator = LatentGenerator(
        model,
        max_new_tokens=settings.evaluation.max_new_tokens,
        max_tokens_per_batch=settings.evaluation.max_tokens_per_batch,
    )
    with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=trains_in_bfloat16(settings)):
        return evaluate_latent(
            generator, benchmark, grader=settings.evaluation.grader, output=output, progress=progress
        )
