"""Validation while phase 1 trains: greedy accuracy of the three stages on questions held out of training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from transformers.trainer_callback import TrainerCallback, TrainerControl, TrainerState

from ._common import BestWeights, EvaluationResult, MetricsLog, gathered, ranks, trains_in_bfloat16
from .config import Settings
from .evaluations import evaluate_student
from .inference import Sampling
from .question_sets import QuestionSet
from .student import Student
from .trainer import AcquisitionTrainer


class Validation(TrainerCallback):
    """Every so many steps, and behind the last.

    Args:
        every: optimiser steps.
        best: keeps the weights of the best accuracy.
    """

    def __init__(
        self,
        trainer: AcquisitionTrainer,
        student: Student,
        questions: QuestionSet,
        settings: Settings,
        *,
        every: int,
        log: MetricsLog,
        best: BestWeights,
    ) -> None:
        self._trainer = trainer
        self._student = student
        self._questions = questions
        self._settings = settings
        self._every = every
        self._log = log
        self._best = best

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step % self._every and state.global_step < state.max_steps:
            return
        with gathered(self._trainer.model_wrapped) as model:
            result = validate(replace(self._student, model=model), self._questions, self._settings)
            ranks.on_main(lambda: self._best.offer(model, state.global_step, result.accuracy), "keep the best weights")
        self._log.write({"step": state.global_step, **validation_row(result)})


def validate(student: Student, questions: QuestionSet, settings: Settings) -> EvaluationResult:
    """Greedy accuracy; on several ranks all call this together, with the whole model on each."""
    with autocast(student, settings), torch.no_grad():
        return evaluate_student(student, questions, "greedy", samples=1, sampling=Sampling())


def validation_row(result: EvaluationResult) -> dict[str, Any]:
    """What `metrics.jsonl` says of a validation."""
    return {
        "validation/accuracy": result.accuracy,
        "validation/standard_error": result.standard_error,
        "validation/abstained": 1 - result.boxed_rate,
        "validation/answer_loglik": result.answer_loglik,
        "validation/tokens": result.mean_tokens,
    }


def autocast(student: Student, settings: Settings) -> torch.autocast:
    """One precision for training, validation and tests."""
    return torch.autocast(student.model.device.type, dtype=torch.bfloat16, enabled=trains_in_bfloat16(settings.model))
