"""Rows of an encoder-decoder model that are being decoded together, so that finished ones leave.

Rows do not enter as they do in `in_flight`: decoders of this kind count their positions by columns, and those in a
batch stand at the same one.

Shape legend: P prompts, S tokens a prompt, B rows, T decoder tokens, H heads, D head size. A layer's cache holds keys
and values of the decoder's own tokens (B, H, T - 1, D), and of the prompt (B, H, S, D).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache

from ..likelihood.encoder_decoder import EncodedPrompts
from .in_flight import RoomyCache, attention_layers, can_change_rows, keys_and_values, set_keys_and_values


def empty_decoder_cache(begun: object) -> EncoderDecoderCache | None:
    """A cache before the decoder's first token, with what the model made of the prompts when it wrote `begun`.

    None where the model keeps something else than keys and values, whose rows cannot leave.
    """
    if not isinstance(begun, EncoderDecoderCache):
        return None
    own, of_prompts = begun.self_attention_cache, begun.cross_attention_cache
    if not (can_change_rows(own) and can_change_rows(of_prompts)):
        return None
    return EncoderDecoderCache(RoomyCache(), of_prompts)


@dataclass(slots=True)
class Decoding:
    """Decoder tokens and encoded prompt of each row; cache: None where rows cannot leave"""

    ids_BT: Tensor
    encoded: EncodedPrompts
    cache: EncoderDecoderCache | None

    def select(self, rows: Sequence[int]) -> None:
        """Keeps these rows, in this order and as often as they occur."""
        rows_B = torch.tensor(rows, device=self.ids_BT.device)
        self.ids_BT = self.ids_BT[rows_B]
        self.encoded = self.encoded.select(rows_B)
        if self.cache is None:
            return
        _select(self.cache.self_attention_cache, rows_B, slice(None))
        _select(self.cache.cross_attention_cache, rows_B, slice(self.encoded.mask_PS.shape[1]))


def _select(cache: DynamicCache, rows_B: Tensor, columns: slice) -> None:
    for layer in attention_layers(cache):
        set_keys_and_values(layer, *(part[rows_B.to(part.device), :, columns] for part in keys_and_values(layer)))
