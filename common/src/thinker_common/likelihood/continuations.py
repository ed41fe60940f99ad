"""Log-probabilities of given tokens behind given contexts under a causal language model, in batches.

    for found in measured(model, [Continuation(prompt_ids, response_ids), ...], max_tokens_per_batch=8192):
        found.indices, found.logprobs_S

What contexts and continuations have in common is read once, found by their token ids alone (`prefix_tree.py`): the
prompt of several responses, several answers behind one response. Where the model cannot do that, or where it would cost
more than it saves, rows stand by themselves, with little padding.

Shape legend: S tokens of a batch, one continuation after another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .batching import token_budget_batches
from .logprobs import causal_inputs, evaluation_mode, predicting_states, token_logprobs
from .prefix_tree import PackedRow, attention_span, can_branch, known_to_branch, pack, tree_inputs, widest_tree
from .targets import Targets

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

MAX_PADDING = 0.05  # share of a batch; it is computed like any other token, and batches need not be large to be fast


@dataclass(frozen=True, slots=True)
class Continuation:
    """Tokens to measure.

    context_ids: what the model reads before them, at least one token.
    ids: the tokens, at least one.
    closing_ids: the tokens whose summed probability counts in the place of the last one's; None if only that itself
        does.
    temperature: the logits are divided by it.
    """

    context_ids: Sequence[int]
    ids: Sequence[int]
    closing_ids: tuple[int, ...] | None = None
    temperature: float = 1.0

    @property
    def read_ids(self) -> list[int]:
        """What the model reads: nothing is predicted from the last token."""
        return [*self.context_ids, *self.ids[:-1]]


@dataclass(frozen=True, slots=True)
class Measured:
    """Continuations of one batch.

    indices: of the continuations, in the order of the values.
    lengths: how many values each has.
    logprobs_S: in nats, float32 at least.
    entropies_S: in nats, of the distribution each token was predicted from; None if not asked for.
    """

    indices: list[int]
    lengths: list[int]
    logprobs_S: Tensor
    entropies_S: Tensor | None


def measured(
    model: PreTrainedModel | PeftModel,
    continuations: Sequence[Continuation],
    *,
    max_tokens_per_batch: int,
    one_pass: bool = False,
    with_entropy: bool = False,
    entropy_grad: bool = False,
) -> Iterator[Measured]:
    """Batch after batch, with gradients where they are enabled, and the model in the mode (train, eval) it is in.

    Args:
        max_tokens_per_batch: padding included; a continuation that is longer on its own makes a batch of one.
        one_pass: everything in one forward pass, however long. Under ZeRO-3, which gathers weights in each of them,
            ranks with other tokens then still do the same. What would branch is shared if the model is known to be able
            to, since finding it out takes passes.
        with_entropy: the entropies as well.
        entropy_grad: let gradients flow through them; without it they are constants.
    """
    sequences = {index: continuation.read_ids for index, continuation in enumerate(continuations)}
    if one_pass:
        batches = iter([_packed(model, sequences, max_tokens_per_batch, can=known_to_branch)])
    else:
        batches = _batches(model, sequences, max_tokens_per_batch)
    for packed in batches:
        if any(row.branches for row in packed):
            inputs = tree_inputs(model, packed)
        else:
            # Under causal attention no real token ever sees padding on its right, so that no mask need hide it:
            # attention without one is faster.
            ids_BT, _ = padded([row.ids for row in packed], model.device)
            inputs = causal_inputs(model, ids_BT, torch.ones_like(ids_BT))
        indices, targets = targets_of(packed, continuations)
        logprobs_S, entropies_S = targets.measure(
            *predicting_states(model, inputs, targets.first_column),
            with_entropy=with_entropy,
            entropy_grad=entropy_grad,
        )
        yield Measured(indices, [len(continuations[i].ids) for i in indices], logprobs_S, entropies_S)


def _batches(
    model: PreTrainedModel | PeftModel, sequences: Mapping[int, Sequence[int]], max_tokens: int
) -> Iterator[list[PackedRow]]:
    """Rows that branch apart from rows that do not, whose attention takes an ordinary mask."""
    packed = _packed(model, sequences, max_tokens, can=can_branch)
    for branches in (True, False):
        rows = [row for row in packed if row.branches is branches]
        for batch in token_budget_batches([len(row.ids) for row in rows], max_tokens, max_padding=MAX_PADDING):
            yield [rows[i] for i in batch]


def _packed(
    model: PreTrainedModel | PeftModel,
    sequences: Mapping[int, Sequence[int]],
    max_tokens: int,
    *,
    can: Callable[[PreTrainedModel | PeftModel], bool],
) -> list[PackedRow]:
    packed = pack(sequences, widest=min(max_tokens, widest_tree(model)), attention_span=attention_span(model))
    if any(row.branches for row in packed) and not can(model):
        return pack(sequences)
    return packed


def targets_of(packed: Sequence[PackedRow], continuations: Sequence[Continuation]) -> tuple[list[int], Targets]:
    """The continuations of a batch, by their indices, and the tokens of all of them in that order."""
    indices: list[int] = []
    targets = Targets()
    for b, row in enumerate(packed):
        for index, path in row.paths.items():
            asked = continuations[index]
            targets.add(b, path[len(asked.context_ids) - 1 :], asked.ids, asked.closing_ids, asked.temperature)
            indices.append(index)
    return indices, targets


def padded(sequences: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """(ids_BT, mask_BT), padded on the right."""
    width = max(len(sequence) for sequence in sequences)
    ids_BT = torch.tensor([[*sequence, *[0] * (width - len(sequence))] for sequence in sequences], device=device)
    mask_BT = torch.tensor([[1] * len(sequence) + [0] * (width - len(sequence)) for sequence in sequences])
    return ids_BT, mask_BT.to(device)


def masked_logprobs(
    model: PreTrainedModel | PeftModel,
    input_ids_BT: Tensor,
    attention_mask_BT: Tensor,
    wanted_BT: Tensor,
    *,
    temperature: float = 1.0,
    entropy_grad: bool = False,
    one_pass: bool = False,
) -> tuple[Tensor, Tensor]:
    """(logprobs_BT, entropies_BT) of the wanted tokens of a padded batch, 0 elsewhere: `token_logprobs`, but what rows
    begin with alike is read once, and little padding is.

    Args:
        input_ids_BT, attention_mask_BT: as for `token_logprobs`.
        wanted_BT: True where the values are asked for, on real tokens that are not the first of their row. The head
            runs from the first to the last such token of a row.
        temperature, entropy_grad: as for `token_logprobs`.
        one_pass: as for `measured`.
    """
    ids, starts = input_ids_BT.tolist(), attention_mask_BT.argmax(dim=1).tolist()  # real tokens are contiguous
    wanted = [(b, row.nonzero().flatten().tolist()) for b, row in enumerate(wanted_BT.cpu())]
    spans = [(b, columns[0], columns[-1] + 1) for b, columns in wanted if columns]
    if not spans:
        return _nothing_wanted(model, input_ids_BT, attention_mask_BT)
    continuations = [
        Continuation(ids[b][starts[b] : first], ids[b][first:end], temperature=temperature) for b, first, end in spans
    ]
    batches = list(
        measured(
            model,
            continuations,
            max_tokens_per_batch=input_ids_BT.numel(),
            one_pass=one_pass,
            with_entropy=True,
            entropy_grad=entropy_grad,
        )
    )
    width = input_ids_BT.shape[1]
    order = [spans[index] for found in batches for index in found.indices]
    places_S = torch.cat([torch.arange(b * width + first, b * width + end) for b, first, end in order])

    def in_place(values_S: Tensor) -> Tensor:
        flat = values_S.new_zeros(input_ids_BT.numel()).index_put((places_S.to(values_S.device),), values_S)
        return flat.view_as(input_ids_BT).masked_fill(~wanted_BT, 0.0)

    entropies = [found.entropies_S for found in batches if found.entropies_S is not None]
    return in_place(torch.cat([found.logprobs_S for found in batches])), in_place(torch.cat(entropies))


def _nothing_wanted(
    model: PreTrainedModel | PeftModel, input_ids_BT: Tensor, attention_mask_BT: Tensor
) -> tuple[Tensor, Tensor]:
    """Zeros that depend on the parameters: a backward pass finds a graph, and other ranks their partner."""
    nothing_BK = torch.zeros_like(input_ids_BT[:, 1:], dtype=torch.bool)
    logprobs, entropies = token_logprobs(
        model, input_ids_BT, attention_mask_BT, wanted_BK=nothing_BK, with_entropy=True
    )
    first_B1 = logprobs.new_zeros(len(logprobs), 1)
    return torch.cat([first_B1, logprobs], dim=1), torch.cat([first_B1, entropies], dim=1)


@torch.no_grad()
def continuation_logprobs(
    model: PreTrainedModel | PeftModel, continuations: Sequence[Continuation], *, max_tokens_per_batch: int = 8192
) -> list[Tensor]:
    """For each continuation, in their order, the log-probabilities of its tokens in nats. Without dropout."""
    logprobs: dict[int, Tensor] = {}
    with evaluation_mode(model):
        for found in measured(model, continuations, max_tokens_per_batch=max_tokens_per_batch):
            logprobs.update(zip(found.indices, found.logprobs_S.split(found.lengths), strict=True))
    return [logprobs[index] for index in range(len(continuations))]
