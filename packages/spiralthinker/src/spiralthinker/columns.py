"""Where each token of a batch stands, so that a latent step has the same columns in every row that has it.

    row 1    question text . . <bol> <latent> <latent> <eol> step text . <bol> <latent> <latent> <eol> answer . . .
    row 2    a longer question <bol> <latent> <latent> <eol> . . . . . . . . . . . . . . . . . . . . . step answer
             text of round 0   block of round 0              round 1     block of round 1              tail

A round is the text up to a `<bol>`, padded behind it, and the block: `<bol>`, N latents, `<eol>`. What follows a row's
last latent step stands in the tail. A row without a block in a round has padding there; a row without any has its
prompt in round 0. Padding is masked, and positions count the real tokens: where it stands changes nothing.

Every row begins in column 0 with a real token, so that no position is ever without one to attend to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from .annotation import IGNORED, Annotation, Example, Markers, explicit

# B rows, T columns, R rounds, N latents, E columns of the explicit versions

Row = Mapping[str, Any]
Batch = dict[str, Tensor]


def explicit_row(example: Example, markers: Markers) -> Row:
    """What stage 1 trains on."""
    tokens = explicit(example, markers)
    return {"input_ids": tokens.input_ids, "labels": tokens.labels, "bols": []}


def implicit_row(
    annotation: Annotation,
    example: Example,
    markers: Markers,
    *,
    trains_teacher: bool = False,
    spelled: bool = False,
) -> Row:
    """What stage 2 trains on, and what the teacher reads.

    bols: places of the `<bol>` in `input_ids`. explicit_ids: the explicit version behind what both share, up to the
    last `<eot>` that a latent step stands for; eots: the places of those. With `trains_teacher` it goes to the end, and
    explicit_labels are its labels. With `spelled`, step_ids are what the latents of each step are to spell.
    """
    tokens = annotation.implicit(example, markers)
    blocks = annotation.blocks(example)
    shared = blocks[0].bol if blocks else 0  # up to the first <bol> both versions are the same
    last = blocks[-1].eot + 1 if blocks else 0
    whole = explicit(example, markers)
    if trains_teacher and blocks:
        last = len(whole.input_ids)
    labels = {"explicit_labels": whole.labels[shared:last]} if trains_teacher else {}
    spelling = {"step_ids": annotation.spelling(example)} if spelled else {}
    return {
        **labels,
        **spelling,
        "input_ids": tokens.input_ids,
        "labels": tokens.labels,
        "prompt_length": len(example.prompt_ids),
        "bols": [block.bol for block in blocks],
        "explicit_ids": whole.input_ids[shared:last],
        "eots": [block.eot - shared for block in blocks],
    }


def lay_out(rows: Sequence[Row], *, latents: int, pad_token_id: int) -> Batch:
    """The tensors of a batch.

    input_ids, labels, mask: (B, T), as the top of this file shows; mask is 1 on real tokens
    bols: (R,), the columns of `<bol>`; has_block: (B, R), whether the row has that block
    and where there are blocks, explicit_ids, explicit_mask: (B, E), and explicit_labels if the rows have them;
    eots: (B, R), places in them, 0 without a block
    and if the rows have them, step_ids: (B, R, N), IGNORED where a latent has no token to spell
    """
    block = latents + 2
    rounds = max(len(row["bols"]) for row in rows)
    columns: list[tuple[Tensor, Tensor, Tensor]] = []  # ids, labels, mask of consecutive columns
    bols: list[int] = []
    width = 0
    begins = [0] * len(rows)
    for number in range(rounds):
        ends = [_end_of_text(row, number, begin) for row, begin in zip(rows, begins, strict=True)]
        text = _padded(rows, begins, ends, pad_token_id)
        width += text[0].shape[1]
        bols.append(width)
        begins = ends
        ends = [end + block * (number < len(row["bols"])) for row, end in zip(rows, ends, strict=True)]
        columns += [text, _padded(rows, begins, ends, pad_token_id)]
        width += block
        begins = ends
    columns.append(_padded(rows, begins, [len(row["input_ids"]) for row in rows], pad_token_id))

    has_block = [[number < len(row["bols"]) for number in range(rounds)] for row in rows]
    ids, labels, masks = zip(*columns, strict=True)
    batch = {
        "input_ids": torch.cat(ids, dim=1),
        "labels": torch.cat(labels, dim=1),
        "mask": torch.cat(masks, dim=1),
        "bols": torch.tensor(bols, dtype=torch.long),
        "has_block": torch.tensor(has_block, dtype=torch.bool),
    }
    if rounds:
        explicit_ids = [torch.tensor(row["explicit_ids"], dtype=torch.long) for row in rows]
        eots = [[*row["eots"], *[0] * (rounds - len(row["eots"]))] for row in rows]
        batch["explicit_ids"] = pad_sequence(explicit_ids, batch_first=True, padding_value=pad_token_id)
        batch["explicit_mask"] = pad_sequence([torch.ones_like(row) for row in explicit_ids], batch_first=True)
        batch["eots"] = torch.tensor(eots, dtype=torch.long)
        if "step_ids" in rows[0]:
            batch["step_ids"] = torch.full((len(rows), rounds, latents), IGNORED)
            for place, row in enumerate(rows):
                for number, ids in enumerate(row["step_ids"]):
                    batch["step_ids"][place, number, : len(ids)] = torch.tensor(ids)
        if "explicit_labels" in rows[0]:
            of_explicit = [torch.tensor(row["explicit_labels"], dtype=torch.long) for row in rows]
            batch["explicit_labels"] = pad_sequence(of_explicit, batch_first=True, padding_value=IGNORED)
    return batch


def with_rounds(batch: Batch, rounds: int, *, latents: int, pad_token_id: int) -> Batch:
    """The batch with empty rounds before its tail, `rounds` in all: ranks must read equally often under ZeRO-3."""
    missing = rounds - len(batch["bols"])
    if missing <= 0:
        return batch
    block = latents + 2
    tail = int(batch["bols"][-1]) + block if len(batch["bols"]) else _first_column(batch)
    insert = missing * block

    def widened(name: str, value: int) -> Tensor:
        whole = batch[name]
        return torch.cat([whole[:, :tail], whole.new_full((len(whole), insert), value), whole[:, tail:]], dim=1)

    new = {"input_ids": widened("input_ids", pad_token_id), "labels": widened("labels", IGNORED)}
    bols = torch.arange(missing, device=batch["bols"].device) * block + tail
    empty_ids = batch["input_ids"].new_full((len(batch["mask"]), 1), pad_token_id)
    no_step_ids = batch["labels"].new_full((len(batch["mask"]), len(batch["bols"]), latents), IGNORED)
    return {
        "explicit_ids": empty_ids,
        "explicit_mask": torch.ones_like(empty_ids),
        "explicit_labels": torch.full_like(empty_ids, IGNORED),
        **batch,
        **new,
        "mask": widened("mask", 0),
        "bols": torch.cat([batch["bols"], bols]),
        "has_block": pad(batch["has_block"], (0, missing)),
        "eots": pad(batch.get("eots", empty_ids[:, :0]), (0, missing)),
        "step_ids": pad(batch.get("step_ids", no_step_ids), (0, 0, 0, missing), value=IGNORED),
    }


def _first_column(batch: Batch) -> int:
    """Where empty rounds go in a batch without any: behind the first token of every row."""
    assert bool(batch["mask"][:, 0].all())
    return 1


def _end_of_text(row: Row, number: int, begin: int) -> int:
    """Where the row's text of a round ends."""
    if number < len(row["bols"]):
        return row["bols"][number]
    return row["prompt_length"] if number == 0 else begin


def _padded(
    rows: Sequence[Row], begins: Sequence[int], ends: Sequence[int], pad_token_id: int
) -> tuple[Tensor, Tensor, Tensor]:
    """ids, labels and mask of the parts [begin, end) of the rows, padded behind."""
    parts = list(zip(rows, begins, ends, strict=True))
    ids = [torch.tensor(row["input_ids"][begin:end], dtype=torch.long) for row, begin, end in parts]
    labels = [torch.tensor(row["labels"][begin:end], dtype=torch.long) for row, begin, end in parts]
    return (
        pad_sequence(ids, batch_first=True, padding_value=pad_token_id),
        pad_sequence(labels, batch_first=True, padding_value=IGNORED),
        pad_sequence([torch.ones_like(part) for part in ids], batch_first=True),
    )
