"""Passes through a sharded model that the ranks do not share out evenly: evaluation under ZeRO-3.

ZeRO-3 gathers a module's weights when its forward is called, on all ranks at once. Ranks that generate and score shares
of their own call the decoder and the head at different times and numbers, and one that is through calls them no more:
all would wait forever. So before each of these parts computes, the ranks say which one they want next. The first part
that any of them wants is computed by all, on a single token by those that want another or none; then they ask again.
Every rank gets on with its own work in its own order, and the weights of a part are whole for as long as it computes.

Where a model is whole on every rank (`gathered`), nothing of this is needed, and nothing is done.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from . import ranks

_NOTHING = 1 << 30  # a rank that is through


def is_sharded(model: nn.Module) -> bool:
    """Whether ZeRO-3 holds a part of the weights on each rank, so that a forward pass is a series of collectives."""
    return any(_is_partitioned(parameter) for parameter in model.parameters())


@contextmanager
def whole(parameter: nn.Parameter) -> Iterator[None]:
    """Within it the parameter has its whole value on every rank; all enter together. It may not be changed."""
    if not _is_partitioned(parameter):
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter]):
        yield


@contextmanager
def in_step(model: Any) -> Iterator[None]:
    """Within it every rank may call a sharded `model` as often as its own work wants; all enter, and leave, together.

    Args:
        model: a model of transformers inside a DeepSpeed engine, or any other, for which nothing is done. Its parts are
            the encoder, the decoder, the output head and the input embeddings; a part may hold another.

    An error between two passes leaves no other rank behind; one in the middle of a pass (memory) does, and the run is
    ended as one that hangs.
    """
    if model is None or not is_sharded(model):
        yield
        return
    turns = _Turns(_parts(model))
    hooks = turns.register()
    try:
        yield
    finally:
        try:
            turns.wait()
        finally:
            for hook in hooks:
                hook.remove()


@dataclass(frozen=True)
class _Part:
    """What is gathered in one go. Read from embeddings, a decoder gathers no embeddings: that is a part of its own."""

    module: nn.Module
    idle: Callable[[], Any]  # a pass over one token
    from_embeddings: bool = False


class _Turns:
    """Which part all ranks compute next."""

    def __init__(self, parts: list[_Part]) -> None:
        self.parts = parts
        self.depth = 0  # of parts within parts, which take no turns of their own

    def register(self) -> list[Any]:
        hooks: list[Any] = []
        for module in dict.fromkeys(part.module for part in self.parts):
            # prepend: before DeepSpeed gathers the weights
            hooks.append(module.register_forward_pre_hook(self._enter, prepend=True, with_kwargs=True))
            hooks.append(module.register_forward_hook(self._leave, always_call=True))
        return hooks

    def wait(self) -> None:
        """Until no rank wants anything."""
        self._others_first(_NOTHING)

    def _enter(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        if self.depth == 0:
            embedded = kwargs.get("inputs_embeds") is not None
            self._others_first(
                next(
                    number
                    for number, part in enumerate(self.parts)
                    if part.module is module and part.from_embeddings == embedded
                )
            )
        self.depth += 1

    def _leave(self, *_: Any) -> None:
        self.depth -= 1

    def _others_first(self, number: int) -> None:
        while (turn := ranks.smallest(number)) != number:
            self.depth += 1
            try:
                self.parts[turn].idle()
            finally:
                self.depth -= 1


def _parts(model: Any) -> list[_Part]:
    device = next(model.parameters()).device
    one_BT = torch.zeros((1, 1), dtype=torch.long, device=device)
    # Weights are in one precision, which small ones that are never sharded show.
    state_BTD = torch.zeros((1, 1, _width(model.config)), dtype=next(model.parameters()).dtype, device=device)
    decoder, head, embeddings = model.get_decoder(), model.get_output_embeddings(), model.get_input_embeddings()
    parts = [
        _Part(decoder, lambda: decoder(input_ids=one_BT, use_cache=False)),
        _Part(decoder, lambda: decoder(inputs_embeds=state_BTD, use_cache=False), from_embeddings=True),
    ]
    if model.config.is_encoder_decoder:
        encoder = model.get_encoder()
        parts = [
            _Part(encoder, lambda: encoder(input_ids=one_BT)),
            _Part(decoder, lambda: decoder(input_ids=one_BT, encoder_hidden_states=state_BTD, use_cache=False)),
        ]
    if head is not None:
        parts.append(_Part(head, lambda: head(state_BTD)))
    return [*parts, _Part(embeddings, lambda: embeddings(one_BT))]


def _width(config: Any) -> int:
    return int(config.get_text_config().hidden_size)


def _is_partitioned(parameter: nn.Parameter) -> bool:
    status = getattr(parameter, "ds_status", None)  # of DeepSpeed's ZeRO-3 alone
    return status is not None and status.name == "NOT_AVAILABLE"
