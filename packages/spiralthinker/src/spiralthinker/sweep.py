"""A model on benchmarks at several N, K, decodings and controls: the verb `evaluate`, and the curves of `inspect`.

OUTPUT/results.json, report.html                          all points
OUTPUT/chains/N5-K3-sequential/generations.jsonl          the responses of one; a killed run goes on from them
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ._common import Curves, LoadedBenchmark, SettingsError, progress_bar
from .controls import Control, exchange
from .evaluations import Measured, evaluate_latent
from .generation import LatentGenerator
from .iteration import Schedule
from .model import SpiralThinkerModel, warn_of_other_numbers, with_numbers


@dataclass(frozen=True)
class Point:
    """How a model is decoded. latents, iterations: N and K; control: None for its own latents"""

    latents: int
    iterations: int
    decoding: Schedule
    control: Control | None = None

    @property
    def name(self) -> str:
        parts = [f"N{self.latents}", f"K{self.iterations}", self.decoding, self.control]
        return "-".join(part for part in parts if part is not None)


@dataclass(frozen=True)
class Found:
    point: Point
    measured: Measured

    def to_dict(self) -> dict[str, Any]:
        point = self.point
        return {
            "latents": point.latents,
            "iterations": point.iterations,
            "schedule": point.decoding,  # `decoding` is the evaluation's own: sampling and length
            "control": point.control,
            **self.measured.to_dict(),
        }


def points(
    model: SpiralThinkerModel,
    *,
    latents: Sequence[int] = (),
    iterations: Sequence[int] = (),
    decodings: Sequence[Schedule] = (),
    controls: Sequence[Control | None] = (None,),
) -> list[Point]:
    """Every combination; what is not given is as the model was trained.

    Raises:
        SettingsError: what this model cannot be decoded with.
    """
    settings = model.settings
    if settings.schedule == "autoregressive" and any(iterations):
        raise SettingsError("iterations: this model writes its latents one at a time and has none (K = 0)")
    trained = Point(settings.annotation.latents, settings.iterations, settings.schedule)
    return [
        Point(n, k, decoding, control)
        for n in latents or [trained.latents]
        for k in iterations or [trained.iterations]
        for decoding in decodings or [trained.decoding]
        for control in controls
    ]


def evaluate_points(
    model: SpiralThinkerModel,
    benchmark: LoadedBenchmark,
    wanted: Sequence[Point],
    *,
    max_new_tokens: int,
    max_tokens_per_batch: int = 8192,
    grader: str = "default",
    folder: Path | None = None,
) -> Iterator[Found]:
    """Greedy accuracy and cost at each point; on all ranks together. The model's settings are as before afterwards.

    N or K other than the model's are warned of.
    """
    trained = model.settings
    try:
        for point in wanted:
            warn_of_other_numbers(trained, latents=point.latents)  # of K the generator warns
            model.settings = with_numbers(trained, latents=point.latents, iterations=None)
            generator = LatentGenerator(
                model,
                max_new_tokens=max_new_tokens,
                iterations=point.iterations,
                decoding=point.decoding,
                max_tokens_per_batch=max_tokens_per_batch,
            )
            if point.control is not None:
                exchange(generator, point.control)
            rows = None if folder is None else folder / benchmark.name / point.name / "generations.jsonl"
            with progress_bar(f"{benchmark.name} {point.name}") as update:
                yield Found(point, evaluate_latent(generator, benchmark, grader=grader, output=rows, progress=update))
    finally:
        model.settings = trained


def curves(found: Sequence[Found]) -> list[Curves]:
    """Accuracy against K and against N, a line for each of what else differs; nothing along what has one value."""
    sections = []
    for axis, other in (("iterations", "latents"), ("latents", "iterations")):
        if len({getattr(each.point, axis) for each in found}) < 2:
            continue
        series: dict[str, list[tuple[float, float]]] = {}
        for each in found:
            point = each.point
            letter = "N" if other == "latents" else "K"
            name = ", ".join(
                part
                for part in (
                    each.measured.result.benchmark,
                    f"{letter} = {getattr(point, other)}",
                    point.decoding,
                    point.control,
                )
                if part is not None
            )
            series.setdefault(name, []).append((getattr(point, axis), each.measured.result.accuracy))
        letter = "K" if axis == "iterations" else "N"
        sections.append(
            Curves(
                f"Accuracy against {letter} at test time",
                {name: sorted(line) for name, line in series.items() if len(line) > 1},
                x_label=f"{letter}, {'iterations' if letter == 'K' else 'latent tokens of a step'}",
                y_label="share of problems",
            )
        )
    return sections
