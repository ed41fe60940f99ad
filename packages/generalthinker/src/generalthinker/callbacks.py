"""What happens beside the steps of a run: validation, and what the progress bar says."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.trainer_callback import TrainerCallback, TrainerControl, TrainerState

from ._common import BestWeights, EvaluationResult, LoadedBenchmark, MetricsLog, gathered, ranks
from .config import Settings
from .evaluations import evaluate_one
from .samples import NAME, PROBLEMS, read_samples, sample_rows, write_samples
from .trainer import GeneralThinkerTrainer


def status(row: Mapping[str, Any]) -> str | None:
    """What the progress bar says, of a row of the log; a reward is null where no response of the window has one."""
    if row.get("reward") is None:
        return None
    return f"reward {row['reward']:.3f}, boxed {row['boxed_rate']:.0%}"


class ValidationCallback(TrainerCallback):
    """Greedy accuracy and answer log-likelihood on problems held out of the training data, while training.

    Of the first of them the responses are kept as well, see `samples`.
    """

    def __init__(
        self,
        trainer: GeneralThinkerTrainer,
        tokenizer: PreTrainedTokenizerBase,
        benchmark: LoadedBenchmark,
        settings: Settings,
        metrics: MetricsLog,
        best: BestWeights,
    ) -> None:
        self._trainer = trainer
        self._tokenizer = tokenizer
        self._benchmark = benchmark
        self._settings = settings
        self._log = metrics
        self._best = best
        self._shown = benchmark.problems[:PROBLEMS]
        self._samples: list[dict[str, Any]] = []

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        with gathered(self._trainer.model_wrapped) as model:
            self._begin_samples(model, state.global_step)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        every = self._settings.evaluation.every_steps
        if every is None or state.global_step % every:
            return
        with gathered(self._trainer.model_wrapped) as model:
            step, result = state.global_step, self._evaluate(model, self._benchmark)
            ranks.on_main(lambda: self._keep(model, step, result), "keep the validation")

    def _begin_samples(self, model: Any, step: int) -> None:
        """A new run shows where it starts from; one that goes on drops the rows that it will write again."""
        if step:
            ranks.on_main(lambda: self._forget_samples(step), "samples of the run so far")
        else:
            rows = self._evaluate(model, replace(self._benchmark, problems=self._shown)).rows
            ranks.on_main(lambda: self._keep_samples(step, rows), "first samples")

    def _evaluate(self, model: Any, benchmark: LoadedBenchmark) -> EvaluationResult:
        """On all ranks together."""
        return evaluate_one(model, self._tokenizer, benchmark, self._settings, None, None)

    def _forget_samples(self, after_step: int) -> None:
        path = self._log.folder.file(NAME)
        self._samples = [row for row in read_samples(path) if row["step"] <= after_step]
        write_samples(path, self._samples)

    def _keep_samples(self, step: int, generations: Sequence[Mapping[str, Any]]) -> None:
        self._samples += sample_rows(step, self._shown, generations)
        write_samples(self._log.folder.file(NAME), self._samples)

    def _keep(self, model: Any, step: int, result: EvaluationResult) -> None:
        self._best.offer(model, step, result.accuracy)
        self._log.write(
            {
                "step": step,
                "validation/accuracy": result.accuracy,
                "validation/standard_error": result.standard_error,
                "validation/boxed_rate": result.boxed_rate,
                "validation/answer_loglik": result.answer_loglik,
            }
        )
        self._keep_samples(step, result.rows)
