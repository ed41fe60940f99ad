"""Passes through a sharded model that the ranks do not share out evenly: evaluation under ZeRO-3.

ZeRO-3 gathers a module's weights when its forward is called, on all ranks at once. Ranks that generate and score shares
of their own call the decoder and the head at different times and numbers, and one that is through calls them no more:
all would wait forever. So before each of these parts computes, the ranks say which one they want next. The first part
that any of them wants is computed by all, on a single token by those that want another or none; then they ask again.
Every rank gets on with its own work in its own order, and the weights of a part are whole for as long as it computes.

A part has to gather the same weights whatever it reads. Each layer is therefore gathered as one (`sharded`), since
which of its modules are called may depend on the input (experts) or on the step (cross-attention, whose keys are kept).

Where a model is whole on every rank (`gathered`), nothing of this is needed, and nothing is done.
"""

import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import nn

from ..errors import UserError
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
        model: of transformers, inside a DeepSpeed engine; for any other, and for None, nothing is done. Its parts are
            the encoder, the decoder, the output head and the input embeddings; a part may hold another.

    An error between two passes is raised when the other ranks are through. One in the middle of a pass is printed, and
    ends this rank (SystemExit): the others wait for its weights, and are ended by the launching process.

    Raises:
        UserError: a model that calls modules outside of these parts, which no other rank would take part in.
    """
    if model is None or not is_sharded(model):
        yield
        return
    turns = _Turns(model)
    hooks = turns.register()
    try:
        try:
            yield
        except Exception as error:
            if turns.depth > 0:
                _end(error)
            turns.wait()
            raise
        turns.wait()
    finally:
        for hook in hooks:
            hook.remove()


def _end(error: Exception) -> NoReturn:
    if isinstance(error, UserError):
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    traceback.print_exception(error)
    raise SystemExit(1) from error


@dataclass(frozen=True)
class _Part:
    """What is gathered in one go. Read from embeddings, a decoder gathers no embeddings: that is a part of its own."""

    module: nn.Module
    idle: Callable[[], Any]  # a pass over one token
    from_embeddings: bool = False


class _Turns:
    """Which part all ranks compute next."""

    def __init__(self, model: Any) -> None:
        self.parts = _parts(model)
        self.depth = 0  # of parts within parts, which take no turns of their own; it stays above 0 behind an error
        inside = {module for part in self.parts for module in part.module.modules()}
        self.outside = {
            module: name
            for name, module in model.named_modules()
            if module not in inside and any(map(_is_partitioned, module.parameters(recurse=False)))
        }

    def register(self) -> list[Any]:
        hooks: list[Any] = []
        for module in dict.fromkeys(part.module for part in self.parts):
            # prepend: before DeepSpeed gathers the weights
            hooks.append(module.register_forward_pre_hook(self._enter, prepend=True, with_kwargs=True))
            hooks.append(module.register_forward_hook(self._leave))
        hooks += [module.register_forward_pre_hook(self._refuse, prepend=True) for module in self.outside]
        return hooks

    def wait(self) -> None:
        """Until no rank wants anything."""
        self._others_first(_NOTHING)

    def _enter(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        if self.depth == 0:
            embedded = kwargs.get("inputs_embeds") is not None
            for number, part in enumerate(self.parts):
                if part.module is module and part.from_embeddings == embedded:
                    self._others_first(number)
                    break
            else:
                raise UserError(f"{type(module).__name__} reads embeddings, which --zero 3 is not prepared for")
        self.depth += 1

    def _leave(self, *_: Any) -> None:
        self.depth -= 1

    def _refuse(self, module: nn.Module, *_: Any) -> None:
        if self.depth == 0:
            raise UserError(
                f"--zero 3 cannot divide this model, which calls {self.outside[module]} outside of its decoder: leave "
                "it out, or say --backend vllm"
            )

    def _others_first(self, number: int) -> None:
        while (turn := ranks.smallest(number)) != number:
            self.depth += 1
            with torch.no_grad():
                self.parts[turn].idle()
            self.depth -= 1


def _parts(model: Any) -> list[_Part]:
    device, dtype = next(model.parameters()).device, model.dtype
    one_BT = torch.zeros((1, 1), dtype=torch.long, device=device)
    decoder, head, embeddings = model.get_decoder(), model.get_output_embeddings(), model.get_input_embeddings()

    def states(width: int) -> torch.Tensor:
        return torch.zeros((1, 1, width), dtype=dtype, device=device)

    width = model.config.get_text_config().hidden_size
    embedded_BTD = states(getattr(embeddings, "embedding_dim", width))
    parts = [
        _Part(decoder, lambda: decoder(input_ids=one_BT, use_cache=False)),
        _Part(decoder, lambda: decoder(inputs_embeds=embedded_BTD, use_cache=False), from_embeddings=True),
    ]
    if model.config.is_encoder_decoder:
        encoder = model.get_encoder()
        read_BTD = states(getattr(encoder.config, "hidden_size", width))
        parts = [
            _Part(encoder, lambda: encoder(input_ids=one_BT)),
            _Part(decoder, lambda: decoder(input_ids=one_BT, encoder_hidden_states=read_BTD, use_cache=False)),
        ]
    if head is not None:
        last_BTD = states(getattr(head, "in_features", width))
        parts.append(_Part(head, lambda: head(last_BTD)))
    return [*parts, _Part(embeddings, lambda: embeddings(one_BT))]


def _is_partitioned(parameter: nn.Parameter) -> bool:
    status = getattr(parameter, "ds_status", None)  # of DeepSpeed's ZeRO-3 alone
    return status is not None and status.name == "NOT_AVAILABLE"
