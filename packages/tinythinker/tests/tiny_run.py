"""A whole run so small that a test can make it many times, and kill it: both phases on a random student.

    python tiny_run.py FOLDER STUDENT KILL_AT      # ends itself at its KILL_AT-th durable write, without any clean-up

A durable write is one that is brought to the disk (fsync) or put in its place (replace, rename).
"""

import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tiny_students import KINDS, save, student

SETTINGS = [
    "model.dtype=float32", "model.chat_template=none", "data.benchmark=facts", "data.limit=5",
    "method.acquisition.batch_size=8", "method.acquisition.max_steps=4", "method.acquisition.learning_rate=1e-2",
    "method.acquisition.evaluate_every=2", "method.acquisition.interval=1", "method.reflection.iterations=2",
    "method.reflection.samples=2", "method.reflection.batch_size=4", "method.reflection.max_steps=3",
    "method.reflection.learning_rate=1e-2", "training.save_steps=1", "training.logging_steps=1", "training.seed=5",
    "generation.recall_tokens=6", "generation.analyze_tokens=5", "generation.summarize_tokens=4",
    "evaluation.limit=3", "evaluation.validation_limit=3",
]  # fmt: skip


class Killed(BaseException):
    """No `except Exception` holds it."""


def run(folder: Path, model: str, *overrides: str) -> dict[str, Any]:
    from rich.console import Console

    from tinythinker._common import load_settings
    from tinythinker.config import Settings
    from tinythinker.train import train

    given = [f"model.name_or_path={model}", *SETTINGS, *overrides]
    settings = load_settings(Settings, recipe_text=None, recipe_name="defaults", overrides=given)
    with open(os.devnull, "w") as nowhere:
        return train(settings, folder, seed=settings.training["seed"], console=Console(file=nowhere))


def watch_writes(patch: Callable[[Any, str, Any], None], happened: Callable[[], None]) -> None:
    """Calls `happened` before each durable write; patch: sets an attribute."""
    for name in ("fsync", "replace", "rename"):
        own = getattr(os, name)

        def watched(*args: Any, own: Any = own, **kwargs: Any) -> Any:
            happened()
            return own(*args, **kwargs)

        patch(os, name, watched)


def named_at_random(text: str, question: Any) -> int:
    """An option of the question, which follows from the text: a random student names none."""
    return hashlib.sha256(text.encode()).digest()[0] % len(question.options)


def main(folder: str, model: str, kill_at: str) -> None:
    left = int(kill_at)

    def happened() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            os._exit(137)

    watch_writes(setattr, happened)
    run(Path(folder), model)


def saved_student(folder: Path, kind: str = KINDS[0]) -> str:
    return save(student(kind, seed=2), folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
