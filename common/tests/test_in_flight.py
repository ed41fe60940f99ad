"""The cache with room holds what transformers' own holds, whatever happens to its rows and columns between two tokens."""

import weakref

import pytest
import torch
from transformers.cache_utils import DynamicLayer

from thinker_common.evaluation.in_flight import ROOM, InFlight, RoomyCache, RoomyLayer


@pytest.mark.parametrize("prompt", [1, 5, ROOM + 3])
def test_what_is_added_is_found(prompt):
    torch.manual_seed(0)
    ours, theirs = RoomyLayer(), DynamicLayer()
    for step in range(2 * ROOM + 2):
        width = prompt if step == 0 else 1
        rows = 4 if step < ROOM else 2
        keys, values = torch.randn(2, rows, 3, width, 8).unbind(0)
        for found, expected in zip(ours.update(keys, values), theirs.update(keys, values), strict=True):
            assert torch.equal(found, expected)
        if step == 0 and prompt > 1:
            ours.crop(-1), theirs.crop(-1)
        if step == ROOM - 1:
            for layer in (ours, theirs):  # as rows leave
                layer.keys, layer.values = layer.keys[[2, 0]], layer.values[[2, 0]]
        assert ours.get_seq_length() == theirs.get_seq_length()


def test_a_token_moves_no_other():
    layer = RoomyLayer()
    layer.update(*torch.randn(2, 2, 3, 7, 8).unbind(0))
    place = layer.keys.data_ptr()
    for _ in range(ROOM):
        layer.update(*torch.randn(2, 2, 3, 1, 8).unbind(0))
        assert layer.keys.data_ptr() == place
    layer.update(*torch.randn(2, 2, 3, 1, 8).unbind(0))
    assert layer.keys.data_ptr() != place and layer.get_seq_length() == 7 + ROOM + 1


def test_a_cache_makes_such_layers():
    cache = RoomyCache()
    cache.update(*torch.randn(2, 2, 3, 7, 8).unbind(0), 0)
    assert type(cache.layers[0]) is RoomyLayer


def in_flight(rows, columns, padded):
    """Random ids, keys and values; the first `padded` columns of row 0 are padding."""
    cache, mask = RoomyCache(), torch.ones(rows, columns, dtype=torch.long)
    mask[0, :padded] = 0
    for index in range(2):
        cache.update(*torch.randn(2, rows, 3, columns - 1, 8).unbind(0), index)
    return InFlight(torch.randint(3, 40, (rows, columns)), mask, cache)


@pytest.mark.parametrize("change", [lambda f: f.select([1, 0]), lambda f: f.join(in_flight(1, 6, 0))])
def test_what_rows_leave_behind_is_free(change):
    """Keys and values are the largest thing that generation holds; twice of them at every change would not fit."""
    torch.manual_seed(0)
    flight = in_flight(3, 9, 2)
    held = [weakref.ref(room) for layer in flight.cache.layers for room in layer._room]
    change(flight)
    assert [ref() for ref in held] == [None] * 4


def test_a_row_by_itself():
    torch.manual_seed(0)
    flight = in_flight(3, 9, 2)
    one = flight.copy_of(0)
    assert one.ids_BT.tolist() == flight.ids_BT[:1, 2:].tolist() and one.mask_BT.tolist() == [[1] * 7]
    for own, layer in zip(one.cache.layers, flight.cache.layers, strict=True):
        assert torch.equal(own.keys, layer.keys[:1, :, 2:]) and torch.equal(own.values, layer.values[:1, :, 2:])
        layer.keys.zero_()
        assert own.keys.abs().sum() > 0, "nothing is shared"
