"""From prompts and targets as token ids to the log-probability of each target token, for both kinds of student.

Where the two kinds differ is here alone. A causal student reads a prompt and its target in one sequence. An
encoder-decoder student encodes the prompt, once for all targets that follow it, and its decoder reads the target after
a start token. Rows are padded on the right, and padding is never a target.

The output head runs on the positions before target tokens only, in chunks that the backward pass computes again.

Shape legend: P prompts, B rows (a target after a prompt), S prompt tokens, T tokens a row, N target tokens of all rows,
C those of a chunk, D hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint

from ._common import (
    CHUNK_TOKENS,
    causal_inputs,
    decoder_states,
    encode_prompts,
    in_one_call,
    log_softmax,
    predicting_states,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ._common import Head

Batch = dict[str, Tensor]


def collate(
    prompts: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    prompt_of: Sequence[int],
    *,
    pad_id: int,
    decoder_start: int | None,
) -> Batch:
    """The tensors of a forward pass.

    Args:
        prompts, targets: token ids.
        prompt_of: for each target the position of its prompt; several targets may have one.
        pad_id: masked wherever it stands for padding, so that any id will do.
        decoder_start: what the decoder of an encoder-decoder student reads first; None for a causal student.

    Returns:
        `input_ids` and `attention_mask` of what is read first, (B, T) or for an encoder (P, S); `targets`, what the
        position before predicts, and `target_mask`, True where that is a target token, (B, T - 1) or for a decoder
        (B, T); for a decoder also `decoder_input_ids` (B, T), `decoder_mask` (B, T) and `prompt_of` (B,).
    """
    if decoder_start is None:
        rows = [[*prompts[p], *target] for p, target in zip(prompt_of, targets, strict=True)]
        input_ids_BT, mask_BT = _padded(rows, pad_id)
        target_mask_BT = torch.zeros_like(mask_BT, dtype=torch.bool)
        for row, (p, target) in enumerate(zip(prompt_of, targets, strict=True)):
            target_mask_BT[row, len(prompts[p]) : len(prompts[p]) + len(target)] = True
        return {
            "input_ids": input_ids_BT,
            "attention_mask": mask_BT,
            "targets": input_ids_BT[:, 1:],
            "target_mask": target_mask_BT[:, 1:],
        }
    input_ids_PS, mask_PS = _padded(prompts, pad_id)
    targets_BT, target_mask_BT = _padded(targets, pad_id)
    decoder_input_ids_BT, decoder_mask_BT = _padded([[decoder_start, *target[:-1]] for target in targets], pad_id)
    return {
        "input_ids": input_ids_PS,
        "attention_mask": mask_PS,
        "targets": targets_BT,
        "target_mask": target_mask_BT.bool(),
        "decoder_input_ids": decoder_input_ids_BT,
        "decoder_mask": decoder_mask_BT,
        "prompt_of": torch.tensor(prompt_of),
    }


def target_logprobs(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> Tensor:
    """Log-probability, in nats, of each target token, in the place that it has in `targets`; 0 elsewhere.

    model: plain, or with PEFT adapters
    batch: of `collate`; on several ranks all call this together
    """
    mask_BT = batch["target_mask"]
    if "decoder_input_ids" in batch:
        prompts = encode_prompts(model, batch["input_ids"], batch["attention_mask"]).select(batch["prompt_of"])
        states_BTD, head = decoder_states(model, prompts, batch["decoder_input_ids"], batch["decoder_mask"], 0)
    else:
        inputs = causal_inputs(model, batch["input_ids"], batch["attention_mask"])
        states_BTD, head = predicting_states(model, inputs, 0)
        states_BTD = states_BTD[:, :-1]
    states_ND, targets_N = states_BTD[mask_BT], batch["targets"][mask_BT]

    def in_chunks(head: Head, states_ND: Tensor) -> Tensor:
        def logprobs(states_CD: Tensor, targets_C: Tensor) -> Tensor:
            return log_softmax(head(states_CD)).gather(-1, targets_C[:, None]).squeeze(-1)

        # tensor_split, and one chunk at the least: a rank may hold a batch without targets.
        chunks = max(1, -(-len(targets_N) // CHUNK_TOKENS))
        parts = zip(states_ND.tensor_split(chunks), targets_N.tensor_split(chunks), strict=True)
        return torch.cat([checkpoint(logprobs, *part, use_reentrant=False) for part in parts])

    logprobs_N = in_one_call(head, in_chunks, states_ND)
    return logprobs_N.new_zeros(mask_BT.shape).masked_scatter(mask_BT, logprobs_N)


def _padded(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """(ids, 1 on real tokens), padded on the right."""
    ids = [torch.tensor(row, dtype=torch.long) for row in rows]
    mask = [torch.ones_like(row) for row in ids]
    return pad_sequence(ids, batch_first=True, padding_value=pad_id), pad_sequence(mask, batch_first=True)
