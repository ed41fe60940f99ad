"""The pass over prompts before their first new token. What several of them begin with goes through the model once.

The options of a question, the draws of a stage and the shots of a benchmark make prompts that differ at the end only.
They are packed into rows as for scoring (`likelihood/prefix_tree.py`); each prompt then takes the keys and values of
its own tokens out of its row.

Shape legend: R packed rows, W columns of such a row, P prompts, T columns a prompt, H heads, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..distributed.in_step import is_sharded
from ..likelihood.batching import token_budget_batches
from ..likelihood.prefix_tree import PackedRow, attention_span, can_branch, pack, tree_inputs, widest_tree
from .in_flight import CACHE, RoomyCache, attention_layers, keys_and_values, set_keys_and_values

# Of a pass over prompts that share nothing.
PADDING = 0.1
# Below this share saved, the mask and the picking of columns are not worth it.
WORTH = 0.1
# Of a packed row, in columns: its mask has the square of that.
WIDEST = 4096
# Attention that keeps all scores may keep so many times those of the padded prompts.
SCORES = 2


def like_lengths(prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Positions of the prompts in passes of which at most a tenth is padding, small ones aside."""
    lengths = [len(prompt) for prompt in prompts]
    return token_budget_batches(lengths, max(1, sum(lengths) * len(lengths)), max_padding=PADDING)


def shared_prefill(model: Any, prompts: Sequence[Sequence[int]]) -> RoomyCache | None:
    """Keys and values of all tokens of the prompts but the last of each, (P, H, T, D) a layer.

    T is that of the longest prompt. Shorter ones stand on the right; their other columns hold what is to be masked.
    None where nothing is gained, or the model cannot do it.

    model: a causal one, all layers attention
    """
    known = {index: prompt[:-1] for index, prompt in enumerate(prompts)}
    config = model.config.get_text_config()
    room = min(WIDEST, widest_tree(model))
    rows = pack(known, widest=room, attention_span=attention_span(model))
    widest, longest = max(len(row.ids) for row in rows), max(map(len, known.values()))
    if widest > room:  # a prompt by itself, which may be beyond a window
        return None
    padded = sum(len(together) * max(len(known[index]) for index in together) for together in like_lengths(prompts))
    if padded == 0 or len(rows) * widest > (1 - WORTH) * padded:
        return None
    if config._attn_implementation != "sdpa" and len(rows) * widest**2 > SCORES * padded * longest:
        return None
    # Where ranks take turns in a model, an attempt that fails in the middle of it would put them out of step.
    if is_sharded(model) or not can_branch(model, warn=False):
        return None
    cache = RoomyCache()
    with torch.no_grad():
        model.get_decoder()(**{**tree_inputs(model, rows), "use_cache": True, CACHE: cache})
    row_P, column_PT = _places(rows, len(prompts), longest)
    for layer in attention_layers(cache):
        set_keys_and_values(layer, *(_picked(part, row_P, column_PT) for part in keys_and_values(layer)))
    return cache


def _places(rows: Sequence[PackedRow], prompts: int, longest: int) -> tuple[Tensor, Tensor]:
    """The row that holds each prompt, and its columns there, on the right."""
    row_P = torch.zeros(prompts, dtype=torch.long)
    column_PT = torch.zeros(prompts, longest, dtype=torch.long)
    for number, row in enumerate(rows):
        for index, path in row.paths.items():
            row_P[index] = number
            if path:
                column_PT[index, -len(path) :] = torch.tensor(path)
    return row_P, column_PT


def _picked(part_RHWD: Tensor, row_P: Tensor, column_PT: Tensor) -> Tensor:
    rows_P1, columns_PT = row_P[:, None].to(part_RHWD.device), column_PT.to(part_RHWD.device)
    return part_RHWD[rows_P1, :, columns_PT].transpose(1, 2).contiguous()
