"""The evaluations between and behind the stages, while a stage trains, and of the verb `evaluate`."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ._common import (
    EvaluationResult,
    LoadedBenchmark,
    evaluate,
    model_fingerprint,
    ranks,
    trains_in_bfloat16,
)
from .config import Settings
from .generation import LatentGenerator
from .model import SpiralThinkerModel


@dataclass(frozen=True)
class Measured:
    """An evaluation with what it cost, so that "no extra tokens" is not mistaken for "no extra compute".

    responses: made in this call, on all ranks; without those that an earlier one left in the file
    token_passes: of these, real tokens summed over the readings, prompts included; latent_tokens: those among the
    response's tokens that are `<latent>`; seconds: of the clock
    """

    result: EvaluationResult
    responses: int
    token_passes: int
    latent_tokens: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """With the costs of a response, None where none was made."""
        costs = {"token_passes": self.token_passes, "latent_tokens": self.latent_tokens, "seconds": self.seconds}
        each = {name: value / self.responses if self.responses else None for name, value in costs.items()}
        return {**self.result.to_dict(), "responses": self.responses, "cost_of_a_response": each}


def evaluate_latent(
    generator: LatentGenerator,
    benchmark: LoadedBenchmark,
    *,
    grader: str = "default",
    output: Path | None = None,
    progress: Callable[..., None] | None = None,
) -> Measured:
    """The base's evaluation of a SpiralThinker model. Answers are not scored: scoring takes no latent steps."""
    model = generator.model
    annotation = model.settings.annotation
    how = f"N={annotation.latents} K={generator.iterations} {generator.decoding}"
    if generator.intervene is not None:
        how += f" {generator.intervene}"
    before = (generator.responses, generator.token_passes, generator.latent_tokens)
    began = time.perf_counter()
    result = evaluate(
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
    after = (generator.responses, generator.token_passes, generator.latent_tokens)
    responses, token_passes, latent_tokens = (ranks.total(new - old) for new, old in zip(after, before, strict=True))
    return Measured(result, responses, token_passes, latent_tokens, seconds=time.perf_counter() - began)


def evaluate_one(
    model: SpiralThinkerModel,
    benchmark: LoadedBenchmark,
    settings: Settings,
    output: Path | None = None,
    progress: Callable[..., None] | None = None,
) -> Measured:
    """Greedy, as the settings say."""
    generator = LatentGenerator(
        model,
        max_new_tokens=settings.evaluation.max_new_tokens,
        max_tokens_per_batch=settings.evaluation.max_tokens_per_batch,
    )
    with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=trains_in_bfloat16(settings.model)):
        return evaluate_latent(
            generator, benchmark, grader=settings.evaluation.grader, output=output, progress=progress
        )
