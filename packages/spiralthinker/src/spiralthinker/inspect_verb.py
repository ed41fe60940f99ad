"""What `spiralthinker inspect` does: load model and problem, look, show, and write the page."""

from pathlib import Path

import torch
from rich.console import Console

from ._common import Curves, Problem, UserError, load_benchmark
from .inspection import inspect_problem
from .inspection_view import show_inspection, write_inspection
from .model import SpiralThinkerModel
from .sweep import curves, evaluate_points, points


def inspect_model(
    name_or_path: str,
    *,
    question: str | None,
    answer: str | None,
    steps: tuple[str, ...],
    benchmark: str,
    index: int,
    latents: int | None,
    iterations: int | None,
    top: int,
    curves_of: str | None,
    limit: int | None,
    page: Path | None,
    max_new_tokens: int,
    data_dir: Path | None,
) -> None:
    """UserError for a model, problem or benchmark that cannot be used."""
    if question is not None:
        problem = Problem("command line", question, answer or "not given", "text", steps=steps)
    else:
        problems = load_benchmark(benchmark, data_dir=data_dir).problems
        if index >= len(problems):
            raise UserError(f"--index {index}: {benchmark} has {len(problems)} problems, numbered from 0")
        problem = problems[index]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = SpiralThinkerModel.from_pretrained(name_or_path, latents=latents, iterations=iterations).to(device)
    console = Console()
    found = inspect_problem(model, problem, max_new_tokens=max_new_tokens, top=top)
    show_inspection(found, console)
    if page is None:
        return
    accuracy: list[Curves] = []
    if curves_of is not None:
        loaded = load_benchmark(curves_of, data_dir=data_dir, limit=limit)
        n, k = model.settings.annotation.latents, model.settings.iterations
        wanted = points(model, latents=sorted({1, max(1, n // 2), n, n + 2}))
        if k > 0:
            wanted = list(dict.fromkeys([*points(model, iterations=sorted({*range(k + 1), k + 2})), *wanted]))
        measured = list(evaluate_points(model, loaded, wanted, max_new_tokens=max_new_tokens))
        accuracy = curves([each for each in measured if each.point.latents == n])
        accuracy += curves([each for each in measured if each.point.iterations == k])
    settings = model.settings
    how = f"{name_or_path}, N = {settings.annotation.latents}, K = {settings.iterations}, {settings.schedule}"
    write_inspection(page, found, how, accuracy)
    console.print(f"\npage: {page}", highlight=False, soft_wrap=True)
