"""Training of both phases: transformers' Trainer with the method's two losses, for T5 and causal students alike.

    phase 1   cross-entropy of the targets, a mean over the target tokens of an optimiser batch; each of one stage
    phase 2   1/P sum over the pairs of -log sigmoid(...) + alpha NLL of what is preferred (see `reflection.py`)

Each term is divided by its own units in the whole batch of an optimiser step (see the base's `SupervisedTrainer`), so
that the loss depends neither on accumulation nor on the number of ranks, and never on padding.

Phase 2 has no dropout: a pair's margin must say how far the student has moved from the reference, which is scored once,
before the first step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import torch
from torch import Tensor

from ._common import (
    AnswerScorer,
    DataError,
    EpochLoader,
    MicroBatches,
    ScoringItem,
    SupervisedTrainer,
    naming_what_to_lower,
    ranks,
)
from .mixing import Mixing, StageBatches
from .reflection import preference_sums
from .targets import Batch, collate, target_logprobs

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainingArguments

    from .student import Student


class TargetRow(TypedDict):
    """A prompt and what is to follow it, as token ids."""

    prompt_ids: list[int]
    target_ids: list[int]


class PairRow(TypedDict):
    """Of two continuations of a prompt the one to prefer; reference: log pi_ref of both, in nats."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    reference: list[float]


class _StudentTrainer(SupervisedTrainer):
    """What the two phases share: the student."""

    def __init__(self, student: Student, args: TrainingArguments, rows: Sequence[Any], **rest: Any) -> None:
        self._decoder_start: int | None = student.decoder_start
        self._pad_id: int = student.tokenizer.pad_token_id or 0
        model: Any = student.model
        super().__init__(model, args, rows, student.tokenizer, **rest)

    def check_rows(self, rows: Sequence[Any]) -> None:
        if len(rows) == 0:
            raise DataError("there are no rows to train on")
        for row in rows:
            assert all(len(ids) > 0 for name, ids in row.items() if name.endswith("_ids")), "a text without tokens"


@dataclass(frozen=True)
class StageOrder:
    """In which order phase 1 sees its rows; see `mixing.StageBatches`.

    names, sizes: of the stages, in the order in which the rows are given
    """

    names: Sequence[str]
    sizes: Sequence[int]
    mixing: Mixing
    block: Sequence[int]


class AcquisitionTrainer(_StudentTrainer):
    """Phase 1: cross-entropy on the targets of the stages.

    Args:
        rows: those of the first stage, then those of the second, and so on.
        order: how they are mixed.
        rest: as in the base's `SupervisedTrainer`.
    """

    def __init__(
        self, student: Student, args: TrainingArguments, rows: Sequence[TargetRow], order: StageOrder, **rest: Any
    ) -> None:
        self._order = order
        super().__init__(student, args, rows, **rest)
        self._stage_of = [name for name, size in zip(order.names, order.sizes, strict=True) for _ in range(size)]

    def get_train_dataloader(self) -> EpochLoader:
        args = self.args
        rows: list[Any] = [{**row, "stage": name} for row, name in zip(self._rows, self._stage_of, strict=True)]
        batches = StageBatches(
            self._order.sizes,
            [len(row["prompt_ids"]) + len(row["target_ids"]) for row in self._rows],
            batch_size=args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size,
            mixing=self._order.mixing,
            block=self._order.block,
            accumulation=args.gradient_accumulation_steps,
            rank=args.process_index,
            ranks=args.world_size,
            seed=args.seed,
        )
        return self.loader(rows, batches)

    def collate(self, rows: Sequence[Any]) -> Batch:
        batch = collate(
            [row["prompt_ids"] for row in rows],
            [row["target_ids"] for row in rows],
            range(len(rows)),
            pad_id=self._pad_id,
            decoder_start=self._decoder_start,
        )
        # Of one optimiser batch all rows are of one stage.
        return {**batch, "stage": torch.tensor(list(self._order.names).index(rows[0]["stage"]))}

    def count_units(self, batch: Batch) -> dict[str, int]:
        return {"target_tokens": int(batch["target_mask"].sum())}

    def loss_sums(self, model: PreTrainedModel, batch: Batch) -> dict[str, Tensor]:
        nll = -target_logprobs(model, batch).sum()
        counts = float(batch["counts"])
        name = f"cross_entropy/{self._order.names[int(batch['stage'])]}"
        self.note(name, nll.detach() * counts, float(batch["target_mask"].sum()) * counts)
        return {"target_tokens": nll}

    def figures(self) -> dict[str, Literal["mean", "sum"]]:
        return {f"cross_entropy/{name}": "mean" for name in self._order.names}


class PreferenceTrainer(_StudentTrainer):
    """Phase 2: DPO with an NLL, on pairs of continuations.

    Args:
        rows: the pairs, with what the reference gives to both sides.
        beta, alpha: see `reflection.py`.
        rest: as in the base's `SupervisedTrainer`.
    """

    def __init__(
        self,
        student: Student,
        args: TrainingArguments,
        rows: Sequence[PairRow],
        *,
        beta: float,
        alpha: float,
        **rest: Any,
    ) -> None:
        self._beta = beta
        self._alpha = alpha
        without_dropout(student.model)
        super().__init__(student, args, rows, **rest)

    def get_train_dataloader(self) -> EpochLoader:
        args = self.args
        lengths = [len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"])) for row in self._rows]
        batches = MicroBatches(
            lengths,
            micro_batch_size=args.per_device_train_batch_size,
            accumulation=args.gradient_accumulation_steps,
            rank=args.process_index,
            ranks=args.world_size,
            seed=args.seed,
        )
        return self.loader(self._rows, batches)

    def collate(self, rows: Sequence[Any]) -> Batch:
        """2P rows: what is chosen of each pair, then what is rejected."""
        batch = collate(
            [row["prompt_ids"] for row in rows],
            [row[side] for side in ("chosen_ids", "rejected_ids") for row in rows],
            [*range(len(rows)), *range(len(rows))],
            pad_id=self._pad_id,
            decoder_start=self._decoder_start,
        )
        return {**batch, "reference_P2": torch.tensor([row["reference"] for row in rows])}

    def count_units(self, batch: Batch) -> dict[str, int]:
        chosen_mask_PT, _ = batch["target_mask"].chunk(2)
        return {"pairs": len(chosen_mask_PT), "chosen_tokens": int(chosen_mask_PT.sum())}

    def loss_sums(self, model: PreTrainedModel, batch: Batch) -> dict[str, Tensor]:
        chosen_PT, rejected_PT = target_logprobs(model, batch).chunk(2)
        chosen_mask_PT, rejected_mask_PT = batch["target_mask"].chunk(2)
        reference_chosen_P, reference_rejected_P = batch["reference_P2"].to(chosen_PT.dtype).unbind(-1)
        sums = preference_sums(
            chosen_PT,
            chosen_mask_PT,
            rejected_PT,
            rejected_mask_PT,
            reference_chosen_P,
            reference_rejected_P,
            beta=self._beta,
        )
        counts = float(batch["counts"])
        units = self.count_units(batch)
        pairs = units["pairs"] * counts
        self.note("preference", sums.preference.detach() * counts, pairs)
        self.note("nll", sums.nll.detach() * counts, units["chosen_tokens"] * counts)
        self.note("margin", sums.margins_P.sum() * counts, pairs)
        self.note("agreement", (sums.margins_P > 0).float().sum() * counts, pairs)
        return {"pairs": sums.preference, "chosen_tokens": self._alpha * sums.nll}

    def figures(self) -> dict[str, Literal["mean", "sum"]]:
        return {"preference": "mean", "nll": "mean", "margin": "mean", "agreement": "mean"}


def without_dropout(model: torch.nn.Module) -> None:
    """Sets every rate of dropout to 0: that of modules, and those that transformers' attention keeps as numbers."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in ("dropout", "attention_dropout"):
            if isinstance(vars(module).get(name), float):
                setattr(module, name, 0.0)


def with_reference(student: Student, rows: Sequence[Mapping[str, Any]], *, max_tokens_per_batch: int) -> list[PairRow]:
    """The pairs (prompt_ids, chosen_ids, rejected_ids) with the reference's log-probabilities of both sides.

    student: the reference, whole on every rank; the ranks share the work
    """
    scorer = AnswerScorer(student.model, student.tokenizer, max_tokens_per_batch=max_tokens_per_batch)
    own = ranks.shard(rows)
    items = [ScoringItem(row["prompt_ids"], [], row[side]) for row in own for side in ("chosen_ids", "rejected_ids")]
    with naming_what_to_lower("scoring the pairs", f"generation.max_tokens_per_batch (now {max_tokens_per_batch})"):
        sums = [score.sum for score in scorer.score(items)]
    found = ranks.unshard(ranks.gather([sums[i : i + 2] for i in range(0, len(sums), 2)], "the reference's scores"))
    return [
        PairRow(
            prompt_ids=list(row["prompt_ids"]),
            chosen_ids=list(row["chosen_ids"]),
            rejected_ids=list(row["rejected_ids"]),
            reference=reference,
        )
        for row, reference in zip(rows, found, strict=True)
    ]
