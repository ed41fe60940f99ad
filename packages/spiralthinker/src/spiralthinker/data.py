"""From problems to examples, rows and held-out problems."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ._common import DataError, LoadedBenchmark
from .annotation import Example, without_steps
from .columns import Row, explicit_row, implicit_row
from .model import SpiralThinkerModel


@dataclass(frozen=True)
class TrainingData:
    """The examples of a run, and what a reader should know of them.

    answer_only: how many have no steps
    """

    examples: list[Example]
    source: str
    answer_only: int

    def rows(
        self, model: SpiralThinkerModel, *, implicit: bool, trains_teacher: bool = False, spelled: bool = False
    ) -> list[Row]:
        """What a stage trains on.

        Raises:
            DataError: an example that does not fit the model, or with stage 2 none that has a latent step.
        """
        annotation = model.settings.annotation
        rows = [
            implicit_row(annotation, example, model.markers, trains_teacher=trains_teacher, spelled=spelled)
            if implicit
            else explicit_row(example, model.markers)
            for example in self.examples
        ]
        if implicit and not any(row["bols"] for row in rows):
            if self.answer_only == len(self.examples):
                raise DataError(
                    f"{self.source}: no problem has steps, which the method needs (a list of texts, `steps`)"
                )
            raise DataError(
                f"{self.source}: no problem has a step that method.parity = {annotation.parity} makes latent"
            )
        for row, example in zip(rows, self.examples, strict=True):
            # The teacher reads up to the last <eot>, which may lie further than the implicit version is long.
            longest = max(len(row["input_ids"]), (row["bols"] or [0])[0] + len(row.get("explicit_ids", ())))
            if model.context is not None and longest > model.context:
                raise DataError(
                    f"{example.problem_id}: {longest} tokens, and the model has {model.context} positions: leave the "
                    "problem out, or lower method.latents"
                )
        return rows


def training_data(model: SpiralThinkerModel, problems: LoadedBenchmark) -> TrainingData:
    """The problems as examples of this model."""
    examples = model.settings.annotation.examples(model.tokenizer, problems.problems)
    return TrainingData(examples, problems.source, without_steps(problems.problems))


def latent_steps(rows: Sequence[Row]) -> int:
    return sum(len(row["bols"]) for row in rows)
