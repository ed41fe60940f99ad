"""Supervised fine-tuning whose loss does not depend on how a batch is spread over ranks and forward passes.

    loss = sum over the terms k of (sum of k over its units in the batch) / (number of those units in the batch)

"The batch" is everything between two optimiser steps: all forward passes of gradient accumulation, on all ranks. The
term of plain fine-tuning is the cross-entropy, its unit the target token. A method with other terms (a latent step to
align, a sequence to judge) overrides `count_units` and `loss_sums`, and nothing else.

What is known to go wrong here, and is ruled out:

- A mean per forward pass, averaged: tokens of short batches weigh more, and the gradient changes with the number of
  ranks. Units are counted over the whole batch before its first forward pass.
- Examples repeated to fill up the last batch: see `batches.py`.
- A loss computed past DistributedDataParallel or DeepSpeed: see `likelihood/forward.py`.
- Logits of every position: the head runs on the positions before target tokens only, in chunks that are computed again
  in the backward pass.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments
from transformers.trainer_callback import TrainerCallback

from ..errors import DataError, SettingsError
from ..likelihood.forward import call_through
from ..likelihood.head import Head, in_one_call
from ..likelihood.logprobs import CHUNK_TOKENS, causal_inputs, log_softmax, predicting_states
from .batches import EpochBatches, EpochLoader, MicroBatches, WithFillers
from .dependable import DependableMixin, check_head
from .nonfinite import NonFinite
from .resume import RunIdentity

# B rows, T tokens a row, K = T - 1 predicted positions, N target tokens of all rows, C those of a chunk, D hidden size,
# F figures

IGNORED = -100  # the label of a token that is not a target

Row = Mapping[str, Sequence[int]]
Batch = dict[str, Tensor]


class SupervisedTrainer(DependableMixin):
    """transformers' Trainer on token ids with labels.

    Args:
        model: the causal language model, plain or with a PEFT adapter.
        args: transformers' configuration. `per_device_train_batch_size * gradient_accumulation_steps * ranks` examples
            make an optimiser step.
        rows: `input_ids` and `labels` of equal length for each example; labels are the ids of target tokens and -100
            for all others. The first token has nothing before it and is never a target.
        processing_class: the tokenizer, saved beside the weights; its pad token, if it has one, fills up rows.
        identity, allow_changes, nonfinite: see `DependableMixin`.

    Raises:
        DataError: no rows, or a row that cannot be trained on; the message numbers it from 0.
        SettingsError: several GPUs in one process (torch.nn.DataParallel), which would average over them.
    """

    loss_is_scaled_for_ga = True  # by the number of units of the whole batch

    def __init__(
        self,
        model: PreTrainedModel,
        args: TrainingArguments,
        rows: Sequence[Row],
        processing_class: PreTrainedTokenizerBase,
        *,
        callbacks: list[TrainerCallback] | None = None,
        identity: RunIdentity | None = None,
        allow_changes: bool = False,
        nonfinite: NonFinite = "stop",
    ) -> None:
        self.check_rows(rows)
        if args.n_gpu > 1:
            raise SettingsError(f"{args.n_gpu} GPUs in one process: start one process per GPU with --gpus {args.n_gpu}")
        self._rows = rows
        self._noted: dict[str, Tensor] = {}  # name of a figure -> (sum, units) since the last row of the log, (2,)
        self._pad_token_id = processing_class.pad_token_id or 0  # padding is masked, so that any id will do
        super().__init__(
            model=model,
            args=args,
            train_dataset=rows,
            processing_class=processing_class,
            callbacks=callbacks,
            identity=identity,
            allow_changes=allow_changes,
            nonfinite=nonfinite,
        )

    # ------------------------------------------------------------------------------------------------ what to override

    def check_rows(self, rows: Sequence[Row]) -> None:
        """DataError on rows that cannot be trained on. Asked before anything else is set up."""
        check_rows(rows)

    def collate(self, rows: Sequence[Row]) -> Batch:
        """The tensors of a forward pass: `input_ids`, `attention_mask` and `labels`, each (B, T)."""
        return pad_rows(rows, self._pad_token_id)

    def count_units(self, batch: Batch) -> dict[str, int]:
        """How many units each term of the loss has in these rows. Every rank and forward pass names the same terms."""
        return {"target_tokens": int((batch["labels"][:, 1:] != IGNORED).sum())}

    def loss_sums(self, model: PreTrainedModel, batch: Batch) -> dict[str, Tensor]:
        """Each term of the loss, summed over its units; a term's weight is part of the sum.

        Runs inside the forward of what wraps the model, so that it may call any part of the model.
        """
        check_head(model, ranks=self.args.world_size)
        return {"target_tokens": target_nll(model, batch)}

    def figures(self) -> dict[str, Literal["mean", "sum"]]:
        """What the log has beside the loss, of all that was noted since its last row; the same on every rank.

        mean: over the units of all ranks, and left out where there are none
        """
        return {}

    # ------------------------------------------------------------------------------------------------ the log

    def note(self, name: str, value: Tensor | float, units: float = 0.0) -> None:
        """Adds to a figure of the log. value: summed over the units."""
        pair = torch.tensor([float(value), units], dtype=torch.float64)
        self._noted[name] = self._noted.get(name, torch.zeros_like(pair)) + pair

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and (figures := self.figures()):
            nothing = torch.zeros(2, dtype=torch.float64)
            own_F2 = torch.stack([self._noted.get(name, nothing) for name in figures]).to(self.args.device)
            for (name, kind), (total, units) in zip(
                figures.items(), self.accelerator.reduce(own_F2, "sum").tolist(), strict=True
            ):
                if kind == "sum":
                    logs[name] = total
                elif units:
                    logs[name] = total / units
            self._noted = {}
        super().log(logs, start_time)

    def log_sums(self) -> dict[str, Tensor]:
        return dict(self._noted)

    def load_log_sums(self, sums: dict[str, Tensor]) -> None:
        self._noted = dict(sums)

    # ------------------------------------------------------------------------------------------------ the loss

    def get_train_dataloader(self) -> EpochLoader:
        args = self.args
        batches = MicroBatches(
            [len(row["input_ids"]) for row in self._rows],
            micro_batch_size=args.per_device_train_batch_size,
            accumulation=args.gradient_accumulation_steps,
            rank=args.process_index,
            ranks=args.world_size,
            seed=args.seed if args.data_seed is None else args.data_seed,
        )
        return self.loader(self._rows, batches)

    def loader(self, rows: Sequence[Row], batches: EpochBatches) -> EpochLoader:
        """Loads the rows that `batches` names; what `collate` makes of them gets `counts`, whether they count."""
        args = self.args
        return EpochLoader(
            WithFillers(rows),
            batch_sampler=batches,
            collate_fn=self._collate_counted,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
        )

    def _collate_counted(self, examples: list[tuple[Row, bool]]) -> Batch:
        batch = self.collate([row for row, _ in examples])
        return {**batch, "counts": torch.tensor([any(counts for _, counts in examples)])}

    def get_batch_samples(  # type: ignore[override]  # a count for each term; transformers only passes it on
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], dict[str, Tensor]]:
        """The forward passes of one optimiser step on this rank, and how many units the step has on all ranks."""
        batches = [next(epoch_iterator) for _ in range(num_batches)]
        counted = [self.count_units(batch) for batch in batches]
        totals = {
            term: sum(units[term] * int(batch["counts"]) for units, batch in zip(counted, batches, strict=True))
            for term in counted[0]
        }
        totals_K = torch.tensor(list(totals.values()), dtype=torch.long, device=device)
        totals_K = self.accelerator.reduce(totals_K, "sum").clamp(min=1)  # a term without units has the sum 0
        return batches, dict(zip(totals, totals_K, strict=True))

    def compute_loss(  # type: ignore[override]
        self,
        model: torch.nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """This rank's share of the loss, times the number of ranks, since DDP and DeepSpeed average over them."""
        assert num_items_in_batch is not None and not return_outputs
        bare = self.accelerator.unwrap_model(model)
        with self.accelerator.autocast():
            sums = call_through(model, bare, self.loss_sums, inputs)
        shares = [sums[term] / units for term, units in num_items_in_batch.items()]
        return torch.stack(shares).sum() * inputs["counts"].to(shares[0].dtype).squeeze() * self.args.world_size


def target_nll(model: PreTrainedModel, batch: Batch, *, chunk_tokens: int = CHUNK_TOKENS) -> Tensor:
    """The negative log-likelihood, in nats, of all target tokens of the rows together."""
    labels_BK = batch["labels"][:, 1:]
    inputs = causal_inputs(model, batch["input_ids"], batch["attention_mask"])
    states_BTD, head = predicting_states(model, inputs, 0)
    wanted_BK = labels_BK != IGNORED
    states_ND, targets_N = states_BTD[:, :-1][wanted_BK], labels_BK[wanted_BK]

    def nll_sum(head: Head, states_ND: Tensor) -> Tensor:
        def nll(states_CD: Tensor, targets_C: Tensor) -> Tensor:
            return -log_softmax(head(states_CD)).gather(-1, targets_C[:, None]).sum()

        chunks = zip(states_ND.split(chunk_tokens), targets_N.split(chunk_tokens), strict=True)
        return torch.stack([checkpoint(nll, *chunk, use_reentrant=False) for chunk in chunks]).sum()

    return in_one_call(head, nll_sum, states_ND)


def pad_rows(rows: Sequence[Row], pad_token_id: int) -> Batch:
    """Rows padded on the right: `input_ids`, `attention_mask` (1 on real tokens) and `labels`, each (B, T)."""
    ids = [torch.tensor(row["input_ids"], dtype=torch.long) for row in rows]
    labels = [torch.tensor(row["labels"], dtype=torch.long) for row in rows]
    return {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=pad_token_id),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
    }


def check_rows(rows: Sequence[Row]) -> None:
    """DataError on the first row whose ids and labels do not fit together or that has no target."""
    if len(rows) == 0:
        raise DataError("there are no rows to train on")
    for number, row in enumerate(rows):
        if len(row["input_ids"]) != len(row["labels"]):
            raise DataError(f"row {number}: {len(row['input_ids'])} token ids and {len(row['labels'])} labels")
        if all(label == IGNORED for label in row["labels"][1:]):
            raise DataError(f"row {number}: no target token behind the first token")
