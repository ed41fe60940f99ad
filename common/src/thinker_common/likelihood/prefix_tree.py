"""Shared prefixes computed once: token sequences packed into rows, each a tree of common prefixes.

The eight answers to one question, or the G responses to one prompt, differ only at the end. Written one after another
into a row, with what they share written once,

    tokens     q1 q2 q3 | a1 a2 | b1 b2 | c1         three sequences that begin with q1 q2 q3
    positions   0  1  2 |  3  4 |  3  4 |  3

they take one forward, if every token attends to its own ancestors only (`tree_inputs`): the keys and values of the
prefix serve all branches, and each token is computed in the very context, and at the very position, that it has in its
own sequence. Branches may branch again. Nothing is cached or copied, so memory stays that of a batch of tokens, and
gradients flow as through any other forward.

What it costs is attention: a token of one branch is compared with those of its siblings and the result is thrown away.
That grows with the square of the row, so that `pack` starts a new row where it would outweigh what is saved.

Who takes such a mask: decoders with position ids under the attention implementations "sdpa" and "eager". That a model
does is verified once, on itself (`can_branch`). Sliding windows are respected by never packing a row wider than
the window (`widest_tree`).

Shape legend: B rows, T columns a row.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn

from .logprobs import causal_head, causal_inputs, evaluation_mode, probe_ids, takes_position_ids

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

USUAL_HIDDEN_SIZE = 1024  # for a config that names none


@dataclass
class PackedRow:
    """Sequences in one row.

    ids, positions: of the columns.
    segments: what each sequence added to the row, as (columns of its ancestors, first column, column after its last).
    paths: for each sequence, by its index, the columns that hold it, in order.
    """

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    segments: list[tuple[list[int], int, int]] = field(default_factory=list)
    paths: dict[int, list[int]] = field(default_factory=dict)

    @property
    def branches(self) -> bool:
        """Whether some token attends to less than all columns before it."""
        return any(len(ancestors) < start for ancestors, start, _ in self.segments)

    def add(self, index: int, sequence: Sequence[int], ancestors: list[int]) -> list[int]:
        """Write what of the sequence comes after its ancestors, which hold its beginning. Returns its path."""
        start, shared = len(self.ids), len(ancestors)
        self.ids.extend(sequence[shared:])
        self.positions.extend(range(shared, len(sequence)))
        if len(sequence) > shared:
            self.segments.append((ancestors, start, len(self.ids)))
        self.paths[index] = ancestors + list(range(start, len(self.ids)))
        return self.paths[index]


def pack(
    sequences: Mapping[int, Sequence[int]], *, widest: float = 0, attention_span: float = math.inf
) -> list[PackedRow]:
    """Rows that hold every sequence once, with common prefixes shared where that saves work.

    Args:
        sequences: token ids by index.
        widest: a row that branches has at most this many columns; if none may, only a sequence that continues another
            one shares its row.
        attention_span: see the function of this name.
    """

    def cost(columns: int) -> float:
        return columns + columns**2 / attention_span

    rows: list[PackedRow] = []
    last: Sequence[int] = ()
    last_path: list[int] = []
    # In lexicographic order, what a sequence shares with all those before it is what it shares with the last one.
    for index in sorted(sequences, key=lambda i: list(sequences[i])):
        sequence = sequences[index]
        shared = _common_prefix(last, sequence)
        columns = len(rows[-1].ids) if rows else 0
        wider = columns + len(sequence) - shared
        continues = shared == columns
        saves = wider <= widest and cost(wider) - cost(columns) < cost(len(sequence))
        if not rows or not (continues or saves):
            rows.append(PackedRow())
            shared = 0
        last, last_path = sequence, rows[-1].add(index, sequence, last_path[:shared])
    return rows


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    for length, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return length
    return min(len(a), len(b))


def attention_span(model: PreTrainedModel | PeftModel) -> float:
    """The width at which attention costs a row as much time as the linear layers do: 3 D tokens.

    By operations it would be 6 D: a layer has about 12 D^2 weights, 24 D^2 operations a token, and comparing a token
    with T others and averaging their values takes 4 D T. But attention with a mask runs at about half the speed of
    large matrix products (measured in docs/results/scoring-throughput.md).
    """
    return 3 * getattr(model.config.get_text_config(), "hidden_size", USUAL_HIDDEN_SIZE)


def widest_tree(model: PreTrainedModel | PeftModel) -> float:
    """How many columns a row that branches may have: the smallest window of the model's layers, or its positions.

    Inside a window the tree mask is all there is; beyond it, a layer would have to know how far apart two tokens are in
    their own sequence, which a column does not tell. Some models cut their own mask out of a square of as many columns
    as they have positions.
    """
    config = model.config.get_text_config()
    windows = (
        getattr(config, name, None)
        for name in (
            "sliding_window",
            "attention_chunk_size",
            "window_size",
            "attention_window_size",
            "max_position_embeddings",
        )
    )
    return min((window for window in windows if isinstance(window, int)), default=math.inf)


def tree_inputs(model: PreTrainedModel | PeftModel, rows: Sequence[PackedRow]) -> dict[str, Any]:
    """Keyword arguments for a causal model or its decoder: rows in which tokens see their ancestors only.

    They are padded on the right; padding sees itself, so that nothing attends to nothing.
    """
    width = max(len(row.ids) for row in rows)
    input_ids_BT = torch.zeros(len(rows), width, dtype=torch.long)
    position_ids_BT = torch.zeros_like(input_ids_BT)
    visible_BTT = torch.eye(width, dtype=torch.bool).repeat(len(rows), 1, 1)
    for b, row in enumerate(rows):
        input_ids_BT[b, : len(row.ids)] = torch.tensor(row.ids)
        position_ids_BT[b, : len(row.ids)] = torch.tensor(row.positions)
        for ancestors, start, end in row.segments:
            visible_BTT[b, start:end, ancestors] = True
            visible_BTT[b, start:end, start:end] = torch.ones(end - start, end - start, dtype=torch.bool).tril()
    mask_B1TT = visible_BTT[:, None].to(model.device)
    if model.config.get_text_config()._attn_implementation != "sdpa":  # eager adds the mask to the scores
        hidden = torch.finfo(model.dtype).min
        mask_B1TT = torch.zeros(mask_B1TT.shape, dtype=model.dtype, device=model.device).masked_fill(~mask_B1TT, hidden)
    return {
        "input_ids": input_ids_BT.to(model.device),
        "attention_mask": mask_B1TT,
        "position_ids": position_ids_BT.to(model.device),
        "use_cache": False,
    }


# Why a model's decoder cannot work on rows that branch, or None if it can.
_obstacle: WeakKeyDictionary[nn.Module, str | None] = WeakKeyDictionary()


# Models whose obstacle was told.
_warned: WeakSet[nn.Module] = WeakSet()


def can_branch(model: PreTrainedModel | PeftModel, *, warn: bool = True) -> bool:
    """Whether the model's decoder can work on rows that branch. Found out once per model.

    warn: say once why not, where that costs what the user may count on
    """
    if model not in _obstacle:
        with evaluation_mode(model), torch.no_grad():  # dropout would make two forwards differ
            _obstacle[model] = _find_obstacle(model)
    obstacle = _obstacle[model]
    if obstacle is not None and warn and model not in _warned:
        _warned.add(model)
        warnings.warn(f"prefixes that items share are computed once for each item: {obstacle}", stacklevel=2)
    return obstacle is None


def known_to_branch(model: PreTrainedModel | PeftModel) -> bool:
    """Whether `can_branch` has found that it can. Runs nothing, as where ranks have to do the same in step."""
    return model in _obstacle and _obstacle[model] is None


def _find_obstacle(model: PreTrainedModel | PeftModel) -> str | None:
    implementation = model.config.get_text_config()._attn_implementation
    if implementation not in ("sdpa", "eager"):
        return f"attn_implementation={implementation!r} takes no mask of its own; sdpa and eager do"
    try:
        if not takes_position_ids(model):
            return f"{model.config.model_type} models take no position ids"
        if causal_head(model) is None:
            return "its own forward computes the logits"
        deviation = _deviation(model)
    except Exception as error:  # whatever a decoder makes of such a mask: it does not take it
        reason = str(error).partition("\n")[0]
        return f"{model.config.model_type} models do not take a mask for each pair of tokens ({reason})"
    # In exact arithmetic 0, or about 1 if tokens see a branch that is not theirs.
    if not deviation < max(1e-3, 2 * torch.finfo(model.dtype).eps ** 0.5):
        return f"{model.config.model_type} models give other numbers when branches share a row"
    return None


def _deviation(model: PreTrainedModel | PeftModel) -> float:
    """How far two branches of one row are from the same two sequences in rows of their own.

    In units of what another prefix would change, since that is what goes wrong where the mask is not respected: how
    much an untrained model attends to at all is small.
    """
    first, second = probe_ids(model, 12).tolist()
    prefix, other_prefix, branches = first[:5], second[:5], (first[5:8], first[8:12])

    def in_rows_of_their_own(prefix: list[int]) -> Tensor:
        rows = [[*prefix, *branch] for branch in branches]
        states = [
            model.get_decoder()(**causal_inputs(model, ids_1T, torch.ones_like(ids_1T))).last_hidden_state[0]
            for ids_1T in (torch.tensor([row], device=model.device) for row in rows)
        ]
        return torch.cat([states_TD[len(prefix) :] for states_TD in states])

    tree = PackedRow()
    tree.add(0, prefix + branches[0], [])
    tree.add(1, prefix + branches[1], list(range(len(prefix))))
    states_TD = model.get_decoder()(**tree_inputs(model, [tree])).last_hidden_state[0, len(prefix) :]
    expected_TD = in_rows_of_their_own(prefix)
    difference = (states_TD - expected_TD).abs().max() / (in_rows_of_their_own(other_prefix) - expected_TD).abs().max()
    return difference.item()
