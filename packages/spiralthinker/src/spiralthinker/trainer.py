"""Training of both stages: cross-entropy by target tokens, alignment by latent steps.

    stage 1 (explicit)   cross-entropy on the explicit versions
    stage 2 (implicit)   cross-entropy on the implicit versions + lambda * sum_k v_k align^(k)
    CODI                 the same, + cross-entropy on the explicit versions, which are then read with gradient

With `spell_weight`, stage 2 has a term more, which is not in the paper: what is written to the latents spells the step.

    spell = - (1/K) sum_k log p( step's token n | h^(L,k-1) that e^(k) of latent n is made of ),  p by the output head

Each term is divided by its own units in the whole batch of an optimiser step (see the base's `SupervisedTrainer`), and
sigma, the deviation of the teacher's states, is taken over the whole batch: the loss does not depend on how that is
spread over ranks and forward passes. With one forward pass a step, the live teacher goes on from the keys and values
that the student has of the prompt. With several, or with a frozen teacher, it reads before the first of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from ._common import SupervisedTrainer, call_through, ranks
from .alignment import alignment, deviation, iteration_weights, moments
from .annotation import IGNORED
from .columns import Batch, lay_out, with_rounds
from .config import MethodSettings
from .deferred import deferred_weights
from .iteration import Iterated, Past
from .model import SpiralThinkerModel, needed_chunks

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainingArguments

    from .columns import Row

# L layers, U latent steps, K iterations, D hidden size

Stage = Literal["explicit", "implicit"]


class SpiralThinkerTrainer(SupervisedTrainer):
    """transformers' Trainer for one of the two stages.

    Args:
        spiral: the model; its `base` is trained.
        args: transformers' configuration. With `activation_checkpointing` stage 2 recomputes whole readings, since
            transformers' own way drops the prefix; stage 1, which has none, goes transformers' way.
        rows: of `columns.explicit_row` for stage 1, of `columns.implicit_row` for stage 2.
        teacher: the frozen teacher; None for the live one.
        rest: as in `SupervisedTrainer`.
    """

    def __init__(
        self,
        spiral: SpiralThinkerModel,
        args: TrainingArguments,
        rows: Sequence[Row],
        method: MethodSettings,
        *,
        stage: Stage,
        teacher: SpiralThinkerModel | None = None,
        **rest: Any,
    ) -> None:
        self.spiral = spiral
        self.method = method
        self.stage = stage
        self.iterations = spiral.settings.iterations
        self.aligns = stage == "implicit" and method.aligns
        self.spells = stage == "implicit" and method.spells
        self.trains_teacher = stage == "implicit" and method.trains_teacher
        self._teacher = teacher
        spiral.parts.adapter.requires_grad_(stage == "implicit" and spiral.uses_adapter)
        if stage == "implicit" and args.activation_checkpointing:
            spiral.checkpoint_segments = True
            args.activation_checkpointing = False
        self._unread: list[Batch] = []  # of the optimiser step, until the teacher has read them
        base: Any = spiral.base
        super().__init__(base, args, rows, spiral.tokenizer, **rest)

    # ------------------------------------------------------------------------------------------------ the batch

    def collate(self, rows: Sequence[Row]) -> Batch:
        batch = lay_out(rows, latents=self._latents, pad_token_id=self._pad)
        return batch if self.stage == "explicit" else self._with_rounds(batch, 1)

    def count_units(self, batch: Batch) -> dict[str, int]:
        units = super().count_units(batch)
        if self.trains_teacher:
            units["explicit_tokens"] = int((batch["explicit_labels"] != IGNORED).sum())
        if self.aligns:
            units["latent_steps"] = int(batch["has_block"].sum())
        if self.spells:
            units["step_tokens"] = int((batch["step_ids"] != IGNORED).sum())
        return units

    def get_batch_samples(  # type: ignore[override]  # as the base's
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], dict[str, Tensor]]:
        batches, totals = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.stage == "implicit":  # all ranks must read equally often: under ZeRO-3 each reading is a collective
            batches = [self._with_rounds(batch, ranks.largest(len(batch["bols"]))) for batch in batches]
        if self.aligns and (self._teacher is not None or self.args.gradient_accumulation_steps > 1):
            self._unread = batches
        return batches, totals

    def training_step(self, model: torch.nn.Module, inputs: Batch, *args: Any, **kwargs: Any) -> Tensor:
        if self._unread:
            # Here and not with the batches: a resumed run has its random numbers back only behind its first batches,
            # and a model is set to training, with dropout, by its first step.
            model.train()
            self._read_teacher(self._unread)
            self._unread = []
        return super().training_step(model, inputs, *args, **kwargs)

    def _with_rounds(self, batch: Batch, rounds: int) -> Batch:
        return with_rounds(batch, rounds, latents=self._latents, pad_token_id=self._pad)

    def _read_teacher(self, batches: list[Batch]) -> None:
        """Puts the teacher's states, and sigma of the whole step, into the batches."""
        device, states_LUD = self.args.device, []
        for batch in batches:
            inputs = {name: tensor.to(device) for name, tensor in batch.items()}
            with torch.no_grad(), self.accelerator.autocast():
                if self._teacher is not None:
                    found = self._teacher.teacher_states(inputs)
                else:
                    bare = self.accelerator.unwrap_model(self.model_wrapped)
                    found = call_through(
                        self.model_wrapped, bare, lambda _, inputs: self.spiral.teacher_states(inputs), inputs
                    )
            states_LUD.append(found[0])
            self.note("token_passes", float(found[1]))
        counted = [
            moments(states, self.method.sigma) * batch["counts"].to(device)
            for states, batch in zip(states_LUD, batches, strict=True)
        ]
        sigma_LD = deviation(self.accelerator.reduce(torch.stack(counted).sum(0), "sum"))
        for batch, states in zip(batches, states_LUD, strict=True):
            batch |= {"teacher_LUD": states, "sigma_LD": sigma_LD}

    # ------------------------------------------------------------------------------------------------ the loss

    def loss_sums(self, model: PreTrainedModel, batch: Batch) -> dict[str, Tensor]:
        assert model is self.spiral.base
        # Stage 1 reads once, so that there is nothing to collect; what is computed again must not be deferred.
        if self.stage == "explicit" or self.spiral.checkpoint_segments:
            return self._loss_sums(batch)
        with deferred_weights(model.get_decoder()):  # without the head, whose chunks are computed again
            return self._loss_sums(batch)

    def _loss_sums(self, batch: Batch) -> dict[str, Tensor]:
        iterated, passes = self.spiral(
            batch,
            through_iterations=self.method.through_iterations,
            every_reading=self.stage == "implicit" and self.method.cross_entropy == "every" and self.iterations > 0,
        )
        units = self.count_units(batch)
        chunks = ranks.largest(needed_chunks(units["target_tokens"]))
        nll = torch.stack([self.spiral.nll(states, batch, chunks=chunks) for states in iterated.readings]).mean()
        counts = float(batch["counts"])
        self.note("cross_entropy", nll.detach() * counts, units["target_tokens"] * counts)
        self.note("token_passes", float(passes))
        sums = {"target_tokens": nll}
        if self.spells:
            assert iterated.written_KRBND is not None
            chunks = ranks.largest(needed_chunks(self.iterations * units["step_tokens"]))
            spelled = self.spiral.spelling_nll(iterated.written_KRBND, batch["step_ids"], chunks=chunks)
            self.note("latent_cross_entropy", spelled.detach() * counts, units["step_tokens"] * counts)
            sums["step_tokens"] = self.method.spell_weight * spelled
        if not (self.aligns or self.trains_teacher):
            return sums
        assert iterated.eol_KLBCD is not None and iterated.prefix is not None
        taught_LUD = None
        if self.trains_teacher:
            taught_LUD, sums["explicit_tokens"] = self._teach(batch, iterated, units["explicit_tokens"])
        if not self.aligns:
            return sums
        teacher_LUD, sigma_LD = self._target(batch, iterated.prefix, taught_LUD)
        student_KLUD = iterated.eol_KLBCD[1 if self.iterations else 0 :, :, batch["has_block"]]
        weights_K = iteration_weights(self.iterations, self.method.alpha)
        aligned = alignment(student_KLUD, teacher_LUD, sigma_LD, weights_K, distance=self.method.distance).sum()
        self.note("alignment", aligned.detach() * counts, units["latent_steps"] * counts)
        return {**sums, "latent_steps": self.method.align_weight * aligned}

    def _teach(self, batch: Batch, iterated: Iterated, targets: int) -> tuple[Tensor, Tensor]:
        """(h_eot, (L, U, D); the negative log-likelihood of the explicit versions' target tokens)."""
        assert iterated.prefix is not None
        shared = iterated.prefix.length
        teacher_LUD, states_BED, passes = self.spiral.explicit_version(batch, iterated.prefix)
        self.note("token_passes", float(passes))
        # The token before the first target is the prompt's last, which is the student's too.
        of_prompt = torch.full_like(batch["labels"][:, :shared], IGNORED)
        whole = {
            "mask": torch.cat([batch["mask"][:, :shared], batch["explicit_mask"]], dim=1),
            "labels": torch.cat([of_prompt, batch["explicit_labels"]], dim=1),
        }
        states_BTD = torch.cat([iterated.readings[-1][:, :shared], states_BED], dim=1)
        nll = self.spiral.nll(states_BTD, whole, chunks=ranks.largest(needed_chunks(targets)))
        self.note("explicit_cross_entropy", nll.detach() * float(batch["counts"]), targets * float(batch["counts"]))
        return teacher_LUD, nll

    def _target(self, batch: Batch, prefix: Past, taught_LUD: Tensor | None) -> tuple[Tensor, Tensor]:
        """The teacher's states, (L, U, D), and sigma, (L, D) or (L, 1). taught_LUD: the states, if known already."""
        if "teacher_LUD" in batch:
            return batch["teacher_LUD"], batch["sigma_LD"]
        if taught_LUD is None:
            teacher_LUD, passes = self.spiral.teacher_states(batch, prefix)
            self.note("token_passes", float(passes))
        else:
            teacher_LUD = taught_LUD.detach()
        counted = moments(teacher_LUD, self.method.sigma) * batch["counts"]
        return teacher_LUD, deviation(self.accelerator.reduce(counted, "sum"))

    # ------------------------------------------------------------------------------------------------ the log

    def figures(self) -> dict[str, Literal["mean", "sum"]]:
        """The terms, each by its unit, and `token_passes`: real tokens in one reading, teacher included."""
        taught = ["explicit_cross_entropy"] if self.trains_teacher else []
        terms = [*(["alignment"] if self.aligns else []), *(["latent_cross_entropy"] if self.spells else [])]
        return {**dict.fromkeys(["cross_entropy", *taught, *terms], "mean"), "token_passes": "sum"}

    @property
    def _latents(self) -> int:
        return self.spiral.settings.annotation.latents

    @property
    def _pad(self) -> int:
        return self.spiral.tokenizer.pad_token_id or 0  # padding is masked, so that any id will do
