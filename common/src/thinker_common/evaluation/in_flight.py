"""Rows that are being generated together, so that a finished row makes room for a new one at once.

In a batch that runs until its longest response has ended, the other rows wait. Here rows leave and enter between two
calls of `generate`, which end when enough of them have; they keep their keys and values, and nothing of theirs is
computed again.

Shape legend: B rows, T columns (padding on the left, then prompt, then response), H heads, D head size. The cache of
each layer is (B, H, T - 1, D): the last token has not been through the model yet.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache, StoppingCriteria
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer
from transformers.modeling_outputs import BaseModelOutputWithPast

ROOM = 32  # columns

# What models and `generate` call their keys and values, as an argument and in what they return. The old name is
# `past_key_values`; transformers 5.24 renamed it, takes the old one with a warning, and shows it in no signature.
CACHE = "cache" if "cache" in {field.name for field in fields(BaseModelOutputWithPast)} else "past_key_values"


def can_change_rows(cache: object) -> bool:
    """Whether a model that `generate` gave this cache can do with a plain `DynamicCache`, whose rows are free to go.

    So it is where every layer is attention. A sliding window is kept by the mask then, and the cache holds what is
    outside of it too. Recurrent states, which padding inside a row would change, and the two sides of an
    encoder-decoder model cannot.
    """
    return type(cache) is DynamicCache and all(
        type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers
    )


class RoomyLayer(DynamicLayer):
    """A layer that has room for further columns: a token is written behind the others, which stay where they are.

    `DynamicLayer` copies all keys and values at every token.
    """

    _room: tuple[Tensor, Tensor] | None = None
    _filled: Tensor | None = None  # the part of the room that holds the keys; whoever sets others leaves the room

    def leave_room(self) -> None:
        """Frees what was set aside; for whoever has set other keys and values."""
        self._room = self._filled = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        before = self.get_seq_length()
        after = before + key_states.shape[-2]
        if self._room is None or self.keys is not self._filled or after > self._room[0].shape[-2]:
            self._room = (_with_room(self.keys, key_states, before), _with_room(self.values, value_states, before))
        for room, new in zip(self._room, (key_states, value_states), strict=True):
            room[:, :, before:after] = new
        self.keys, self.values = (room[:, :, :after] for room in self._room)
        self._filled = self.keys
        return self.keys, self.values


class RoomyCache(DynamicCache):
    """A `DynamicCache` of such layers."""

    def __init__(self) -> None:
        Cache.__init__(self, layer_class_to_replicate=RoomyLayer)


class EnoughEnded(StoppingCriteria):
    """Ends a call of `generate` for all rows once a share of them has ended.

    width: columns that stood there before the call
    """

    def __init__(self, eos_ids: Collection[int], width: int, share: float) -> None:
        self._eos_ids = sorted(eos_ids)
        self._width = width
        self._share = share

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        new_BT = input_ids[:, self._width :]
        ended_B = torch.isin(new_BT, torch.tensor(self._eos_ids, device=new_BT.device)).any(1)
        return (ended_B.float().mean() >= self._share).expand(len(ended_B))


def _with_room(old: Tensor | None, new: Tensor, columns: int) -> Tensor:
    room = new.new_empty((*new.shape[:2], columns + new.shape[2] + ROOM, new.shape[3]))
    if columns:
        assert old is not None
        room[:, :, :columns] = old
    return room


@dataclass(slots=True)
class InFlight:
    """Token ids and mask of every row, and the keys and values of all columns but the last."""

    ids_BT: Tensor
    mask_BT: Tensor
    cache: DynamicCache

    def select(self, rows: Sequence[int]) -> None:
        """Keeps these rows, in this order and as often as they occur, without the columns that pad all of them."""
        rows_B = torch.tensor(rows, device=self.ids_BT.device)
        self.mask_BT = self.mask_BT[rows_B]
        first = int(self.mask_BT.any(0).int().argmax())
        self.mask_BT = self.mask_BT[:, first:]
        self.ids_BT = self.ids_BT[rows_B, first:]
        for layer in attention_layers(self.cache):
            set_keys_and_values(layer, *(part[rows_B.to(part.device), :, first:] for part in keys_and_values(layer)))

    def copy_of(self, row: int) -> InFlight:
        """One of the rows by itself, of which nothing is shared with the others."""
        cache, columns = RoomyCache(), self.mask_BT[row].bool()
        for index, layer in enumerate(attention_layers(self.cache)):
            keys, values = keys_and_values(layer)
            own = columns[:-1].to(keys.device)
            cache.update(keys[row : row + 1, :, own], values[row : row + 1, :, own], index)
        return InFlight(self.ids_BT[row : row + 1, columns], self.mask_BT[row : row + 1, columns], cache)

    def join(self, other: InFlight) -> None:
        """Puts the rows of `other` below its own."""
        width = max(self.ids_BT.shape[1], other.ids_BT.shape[1])
        self.ids_BT = _stacked(self.ids_BT, other.ids_BT, width, dim=1)
        self.mask_BT = _stacked(self.mask_BT, other.mask_BT, width, dim=1)
        for own, new in zip(attention_layers(self.cache), attention_layers(other.cache), strict=True):
            pairs = zip(keys_and_values(own), keys_and_values(new), strict=True)
            set_keys_and_values(own, *(_stacked(upper, lower, width - 1, dim=2) for upper, lower in pairs))


def _stacked(upper: Tensor, lower: Tensor, width: int, dim: int) -> Tensor:
    """Both along dimension 0, each padded with zeros at the front of dimension `dim` to `width`."""
    after = (0, 0) * (upper.dim() - 1 - dim)
    return torch.cat([pad(part, (*after, width - part.shape[dim], 0)) for part in (upper, lower)])


def attention_layers(cache: DynamicCache) -> list[DynamicLayer]:
    """The layers of a cache for which `can_change_rows` holds."""
    layers = [layer for layer in cache.layers if isinstance(layer, DynamicLayer)]
    assert len(layers) == len(cache.layers), "it has no other layers"
    return layers


def set_keys_and_values(layer: DynamicLayer, keys: Tensor, values: Tensor) -> None:
    """Puts these in place of what the layer holds, whose memory is free then."""
    layer.keys, layer.values = keys, values
    if isinstance(layer, RoomyLayer):
        layer.leave_room()


def keys_and_values(layer: DynamicLayer) -> tuple[Tensor, Tensor]:
    assert layer.keys is not None and layer.values is not None
    return layer.keys, layer.values
