"""Exact token log-probabilities of a causal language model, without ever building its full logits.

    logprobs_BK = token_logprobs(model, input_ids_BT, attention_mask_BT, keep=K)

The decoder runs once over the whole batch; the output head runs only on the positions whose next token is wanted, a
chunk of positions at a time. Under autograd every chunk is checkpointed, so that the peak is one chunk of logits in the
backward pass too.

Shape legend: B rows, T tokens a row, K kept positions (the last ones), N wanted positions of all rows, D hidden size,
V vocabulary size.

Three things that are silent errors elsewhere, and are ruled out here:

- Position ids are counted over the real tokens and always passed. A left-padded row of a model with absolute positions
  (GPT-2) is wrong by more than a nat without them.
- The head is the model's own, with its soft cap, its scale and any adapter on it (`head.py`). That this reading of the
  head is right is verified once per model against the model's own forward; where it is not, the model's own forward
  computes the logits of the kept positions, and a warning says so.
- Sums over the vocabulary are taken in float32 at least (float64 stays float64), whatever the model's dtype.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, overload
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .head import Head, OutputHead, agrees, described_head, in_one_call

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

CHUNK_TOKENS = 256  # positions a chunk: 50 MB of float32 logits at a vocabulary of 49k, 155 MB at 152k


@overload
def token_logprobs(
    model: PreTrainedModel | PeftModel,
    input_ids_BT: Tensor,
    attention_mask_BT: Tensor,
    *,
    keep: int | None = None,
    wanted_BK: Tensor | None = None,
    temperature: float = 1.0,
    chunk_tokens: int = CHUNK_TOKENS,
    with_entropy: Literal[False] = False,
    entropy_grad: bool = False,
) -> Tensor: ...


@overload
def token_logprobs(
    model: PreTrainedModel | PeftModel,
    input_ids_BT: Tensor,
    attention_mask_BT: Tensor,
    *,
    keep: int | None = None,
    wanted_BK: Tensor | None = None,
    temperature: float = 1.0,
    chunk_tokens: int = CHUNK_TOKENS,
    with_entropy: Literal[True],
    entropy_grad: bool = False,
) -> tuple[Tensor, Tensor]: ...


def token_logprobs(
    model: PreTrainedModel | PeftModel,
    input_ids_BT: Tensor,
    attention_mask_BT: Tensor,
    *,
    keep: int | None = None,
    wanted_BK: Tensor | None = None,
    temperature: float = 1.0,
    chunk_tokens: int = CHUNK_TOKENS,
    with_entropy: bool = False,
    entropy_grad: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Log-probability, in nats, of each of the last `keep` tokens of every row given the tokens before it.

    Args:
        model: a causal language model of transformers, plain or wrapped by PEFT, in the mode (train, eval) it is in.
        input_ids_BT: token ids; rows may be padded on the left, on the right or on both sides.
        attention_mask_BT: 1 for a real token, 0 for padding; the real tokens of a row are contiguous.
        keep: how many columns to return, the last ones; default all that have a predecessor, T - 1.
        wanted_BK: True where the log-probability is asked for; elsewhere it is 0, and the head does not run.
        temperature: the logits are divided by it first.
        chunk_tokens: positions the head works on at a time: memory against the number of kernel launches.
        with_entropy: also return the entropy, in nats, of the distribution each token was predicted from.
        entropy_grad: let gradients flow through the entropies; without it they are constants.

    Returns:
        logprobs_BK, or (logprobs_BK, entropies_BK); float32 at least. Column j belongs to token T - keep + j. Padding
        and a row's first token, which nothing predicts, are 0 and carry no gradient.

    Raises:
        ValueError: `keep` outside 1..T-1, a temperature that is not positive, or left padding for a model that takes no
            position ids.
    """
    length = input_ids_BT.shape[1]
    keep = length - 1 if keep is None else keep
    if not 1 <= keep < length:
        raise ValueError(f"keep must be between 1 and {length - 1} for rows of {length} tokens, not {keep}")
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, not {temperature}")

    states_BKD, head = predicting_states(
        model, causal_inputs(model, input_ids_BT, attention_mask_BT), length - keep - 1
    )
    states_BKD = states_BKD[:, :-1]  # nothing follows the last token
    real_BT = attention_mask_BT.bool()
    predicted_BK = (real_BT[:, 1:] & real_BT[:, :-1])[:, -keep:]
    wanted_BK = predicted_BK if wanted_BK is None else predicted_BK & wanted_BK
    states_ND, targets_N = states_BKD[wanted_BK], input_ids_BT[:, -keep:][wanted_BK]

    def in_chunks(head: Head, states_ND: Tensor) -> tuple[Tensor, ...]:
        chunks = []
        for states_CD, targets_C in zip(states_ND.split(chunk_tokens), targets_N.split(chunk_tokens), strict=True):
            arguments = (head, states_CD, targets_C, temperature, with_entropy, entropy_grad)
            if torch.is_grad_enabled():
                chunks.append(checkpoint(_chunk_logprobs, *arguments, use_reentrant=False))
            else:
                chunks.append(_chunk_logprobs(*arguments))
        return tuple(map(torch.cat, zip(*chunks, strict=True)))

    found = [
        values_N.new_zeros(wanted_BK.shape).masked_scatter(wanted_BK, values_N)
        for values_N in in_one_call(head, in_chunks, states_ND)
    ]
    return (found[0], found[1]) if with_entropy else found[0]


def predicting_states(model: PreTrainedModel | PeftModel, inputs: Mapping[str, Any], first: int) -> tuple[Tensor, Head]:
    """The last hidden states of the columns from `first` on, and the function from such states to logits.

    Args:
        inputs: `causal_inputs`.

    Returns:
        (states_BKD, head): `head(states_ND)` gives logits_NV for any selection of the positions. Where the model's head
        is not understood (see the top of this file), the states are already the logits and the head is the identity.
    """
    head = causal_head(model)
    if head is None:
        width = inputs["input_ids"].shape[1]
        return model(**inputs, logits_to_keep=width - first).logits, nn.Identity()
    return model.get_decoder()(**inputs).last_hidden_state[:, first:], head


def causal_head(model: PreTrainedModel | PeftModel) -> OutputHead | None:
    """The verified head of a causal model, None if only its own forward computes its logits."""
    probe_BT = probe_ids(model, 4)
    probe = causal_inputs(model, probe_BT, torch.ones_like(probe_BT))
    return verified_head(
        model,
        states=lambda: model.get_decoder()(**probe).get("last_hidden_state"),
        own_logits=lambda: model(**probe).logits,
    )


def log_softmax(logits_NV: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """Log-probabilities over the vocabulary, summed in float32 at least. temperature: one, or (N, 1)."""
    logits_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))
    if isinstance(temperature, Tensor):
        logits_NV = logits_NV / temperature.to(logits_NV)
    elif temperature != 1.0:
        logits_NV = logits_NV / temperature
    return logits_NV.log_softmax(dim=-1)


def entropy(logprobs_NV: Tensor, grad: bool) -> Tensor:
    """Entropies (N,) in nats. grad: let gradients flow through them."""
    with torch.set_grad_enabled(torch.is_grad_enabled() and grad):
        # entr(p) = -p log p is 0 at p = 0, where the product of the two factors would be NaN.
        return torch.special.entr(logprobs_NV.exp()).sum(-1)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode; afterwards every module is back in the mode it was in."""
    in_training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in in_training:
            module.training = True


def _chunk_logprobs(
    head: Head,
    states_CD: Tensor,
    targets_C: Tensor,
    temperature: float,
    with_entropy: bool,
    entropy_grad: bool,
) -> tuple[Tensor, ...]:
    """The log-probabilities of the targets, and with `with_entropy` the entropies behind them."""
    logprobs_CV = log_softmax(head(states_CD), temperature)
    logprobs_C = logprobs_CV.gather(-1, targets_C[:, None]).squeeze(-1)
    if not with_entropy:
        return (logprobs_C,)
    return logprobs_C, entropy(logprobs_CV, entropy_grad)


def causal_inputs(
    model: PreTrainedModel | PeftModel, input_ids_BT: Tensor, attention_mask_BT: Tensor
) -> dict[str, Any]:
    """Keyword arguments for a causal model or its decoder: position ids are counted over the real tokens.

    Raises:
        ValueError: left padding for a model that takes no position ids.
    """
    inputs: dict[str, Any] = {
        "input_ids": input_ids_BT,
        "attention_mask": attention_mask_BT,
        "use_cache": False,
    }
    if takes_position_ids(model):
        inputs["position_ids"] = (attention_mask_BT.long().cumsum(-1) - 1).clamp(min=0)
    elif not attention_mask_BT[:, 0].all():
        raise ValueError(
            f"{model.config.model_type} models take no position_ids, so that left padding may change their "
            "log-probabilities: pad on the right"
        )
    return inputs


def takes_position_ids(model: PreTrainedModel | PeftModel) -> bool:
    return "position_ids" in inspect.signature(model.get_decoder().forward).parameters


# Whether the model's own forward agrees with our reading of its head.
_head_verified: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def verified_head(
    model: PreTrainedModel | PeftModel, states: Callable[[], Tensor | None], own_logits: Callable[[], Tensor]
) -> OutputHead | None:
    """The model's head as its configuration describes it, or None if that is not what its own forward computes.

    The two functions run the decoder and the whole model on the same few tokens; they are called once per model.
    """
    head = described_head(model)
    if model not in _head_verified:
        with evaluation_mode(model), torch.no_grad():  # dropout would make two forwards differ
            _head_verified[model] = head is not None and agrees(head, states, own_logits)
        if not _head_verified[model]:
            warnings.warn(
                f"{model.config.model_type}: the model's own logits are not what its configuration says of the output "
                "head, so its own forward computes them, for all positions of a batch at once: the log-probabilities "
                "are right, but memory grows with tokens times vocabulary; use smaller batches if it runs out",
                stacklevel=2,
            )
    return head if _head_verified[model] else None


def probe_ids(model: PreTrainedModel | PeftModel, length: int) -> Tensor:
    """Two rows of distinct tokens, as far as the vocabulary goes, on which a model is compared with itself."""
    vocabulary = model.config.get_text_config().vocab_size
    return torch.arange(2 * length, device=model.device).view(2, length) % vocabulary
