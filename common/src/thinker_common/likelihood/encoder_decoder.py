"""Encoder-decoder models (T5, BART): the encoder over the prompts, the decoder over what is scored after them.

Rows are padded on the right on both sides: a decoder of this kind counts its positions by columns.

Shape legend: P prompts, S tokens a prompt, B decoder rows, T decoder tokens a row, K columns from `first` on, D hidden
size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from .logprobs import probe_ids, verified_head

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class EncodedPrompts:
    """The encoder's last hidden states, and which of its columns are real tokens."""

    states_PSD: Tensor
    mask_PS: Tensor

    def select(self, prompts_B: Tensor) -> EncodedPrompts:
        """One row for each of the given prompts, as narrow as the longest of them allows."""
        mask_BS = self.mask_PS[prompts_B]
        width = int(mask_BS.sum(-1).max())
        return EncodedPrompts(self.states_PSD[prompts_B, :width], mask_BS[:, :width])


def encode_prompts(model: PreTrainedModel | PeftModel, input_ids_PS: Tensor, mask_PS: Tensor) -> EncodedPrompts:
    output = model.get_encoder()(input_ids=input_ids_PS, attention_mask=mask_PS)
    return EncodedPrompts(output.last_hidden_state, mask_PS)


def decoder_states(
    model: PreTrainedModel | PeftModel, prompts: EncodedPrompts, input_ids_BT: Tensor, mask_BT: Tensor, first: int
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """`predicting_states` of the decoder: (states_BKD, head), after one encoded prompt a row."""
    probe_BT = probe_ids(model, 4)
    probe_mask_BT = torch.ones_like(probe_BT)

    def probe() -> EncodedPrompts:
        return encode_prompts(model, probe_BT, probe_mask_BT)

    head = verified_head(
        model,
        states=lambda: _decode(model, probe(), probe_BT, probe_mask_BT),
        own_logits=lambda: _own_logits(model, probe(), probe_BT, probe_mask_BT),
    )
    if head is None:
        return _own_logits(model, prompts, input_ids_BT, mask_BT)[:, first:], nn.Identity()
    return _decode(model, prompts, input_ids_BT, mask_BT)[:, first:], head


def _decode(
    model: PreTrainedModel | PeftModel, prompts: EncodedPrompts, input_ids_BT: Tensor, mask_BT: Tensor
) -> Tensor:
    output = model.get_decoder()(
        input_ids=input_ids_BT,
        attention_mask=mask_BT,
        encoder_hidden_states=prompts.states_PSD,
        encoder_attention_mask=prompts.mask_PS,
        use_cache=False,
    )
    return output.last_hidden_state


def _own_logits(
    model: PreTrainedModel | PeftModel, prompts: EncodedPrompts, input_ids_BT: Tensor, mask_BT: Tensor
) -> Tensor:
    output = model(
        encoder_outputs=BaseModelOutput(last_hidden_state=prompts.states_PSD),
        attention_mask=prompts.mask_PS,
        decoder_input_ids=input_ids_BT,
        decoder_attention_mask=mask_BT,
        use_cache=False,
    )
    return output.logits
