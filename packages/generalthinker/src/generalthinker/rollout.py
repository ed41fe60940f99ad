"""One rollout: sampled responses as token ids, which of their tokens are reasoning, and which get a loss."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ._common import BoxSplit
from .rewards import Malformed, Reward

# B responses of a rollout (the G of one prompt stand together), T response tokens (padded on the right)

TokenIds = Sequence[int]


@dataclass(frozen=True)
class Rollout:
    """Sampled responses, and what the method needs of each.

    prompts, responses: token ids, (B,) each
    splits: where the reasoning of each response ends
    truncated: no end-of-sequence token came within the limit
    sampling_logprobs: of every response token, as the engine that sampled it gives them (vLLM); None where the policy
        itself sampled
    """

    prompts: Sequence[TokenIds]
    responses: Sequence[TokenIds]
    splits: Sequence[BoxSplit]
    truncated: Sequence[bool]
    sampling_logprobs: Sequence[Sequence[float | None]] | None = None

    @property
    def well_formed(self) -> list[bool]:
        return [split.well_formed for split in self.splits]

    @property
    def boxed(self) -> list[bool]:
        return [split.answer_text != "" or split.reason == "empty_answer" for split in self.splits]

    def behind(self, prompts: Sequence[TokenIds]) -> "Rollout":
        """The same responses behind other prompts."""
        return replace(self, prompts=prompts)

    def reasoning_ids(self, index: int) -> TokenIds:
        """The tokens of y_R of one response."""
        return self.responses[index][: self.splits[index].reasoning_length]


def reasoning_mask(rollout: Rollout) -> Tensor:
    """bool (B, T): the tokens of y_R of well-formed responses."""
    lengths_B = torch.tensor([split.reasoning_length * split.well_formed for split in rollout.splits])
    return torch.arange(_width(rollout)) < lengths_B.unsqueeze(1)


def loss_mask(rollout: Rollout, *, reward: Reward, malformed: Malformed) -> Tensor:
    """bool (B, T): the tokens that the loss covers.

    `reward: binary` looks at the response's own answer: every token. The others look at the reasoning only.
    Well-formed responses: y_R, so that the model's own answer gets no loss. Truncated ones: nothing. Otherwise
    malformed ones: every token, since what went wrong lies behind y_R. Under `exclude` malformed ones: nothing.
    """
    if reward == "binary":
        return whole_mask(rollout)
    whole_B = torch.tensor(
        [
            not ok and not cut and malformed != "exclude"
            for ok, cut in zip(rollout.well_formed, rollout.truncated, strict=True)
        ]
    )
    return reasoning_mask(rollout) | (whole_B.unsqueeze(1) & whole_mask(rollout))


def whole_mask(rollout: Rollout) -> Tensor:
    """bool (B, T): every token of every response."""
    lengths_B = torch.tensor([len(ids) for ids in rollout.responses])
    return torch.arange(_width(rollout)) < lengths_B.unsqueeze(1)


def sampling_logprobs(rollout: Rollout) -> Tensor:
    """(B, T) in nats, 0 behind the responses; NaN where the engine gave none."""
    assert rollout.sampling_logprobs is not None
    rows = [
        torch.tensor([torch.nan if value is None else value for value in row], dtype=torch.float32)
        for row in rollout.sampling_logprobs
    ]
    return pad_sequence(rows, batch_first=True)


def sampling_ratio(
    policy_BT: Tensor, sampling_BT: Tensor, mask_BT: Tensor, *, mode: str, low: float | None, high: float | None
) -> Tensor:
    """How much likelier the policy finds what another engine sampled: the weight of the loss, as TRL defines it.

    exp(log pi(y_t) - log pi_engine(y_t)), of a token or, summed under the mask, of a response. A token without a
    log-probability of the engine (NaN) counts as equally likely.

    Args:
        policy_BT, sampling_BT: log-probabilities of the response tokens. mask_BT: 1 on tokens with a loss.
        mode: sequence_mask | sequence_truncate | token_mask | token_truncate (TRL's `vllm_importance_sampling_mode`);
            truncate bounds the ratio by `low` and `high`, mask sets it to 0 outside of them. None is no bound.

    Returns:
        (B, 1) for the sequence modes, (B, T) for the others.
    """
    difference = ((policy_BT - sampling_BT) * mask_BT).nan_to_num(nan=0.0)
    level, _, bound = mode.partition("_")
    if level == "sequence":
        difference = difference.sum(dim=1, keepdim=True)
    ratio = difference.exp()
    if bound == "truncate":
        return ratio if low is None and high is None else ratio.clamp(min=low, max=high)
    outside = torch.zeros_like(ratio, dtype=torch.bool)
    if low is not None:
        outside |= ratio < low
    if high is not None:
        outside |= ratio > high
    return ratio.masked_fill(outside, 0.0)


def pad(rows: Sequence[TokenIds], side: str, pad_id: int) -> tuple[Tensor, Tensor]:
    """(ids, mask) of shape (rows, longest row), padded on `side`."""
    ids = [torch.tensor(row, dtype=torch.long) for row in rows]
    padded = pad_sequence(ids, batch_first=True, padding_value=pad_id, padding_side=side)
    mask = pad_sequence([torch.ones_like(row) for row in ids], batch_first=True, padding_side=side)
    return padded, mask


def _width(rollout: Rollout) -> int:
    return max(map(len, rollout.responses))
