"""Exact, memory-light token log-probabilities and answer scores. Imports torch, transformers and nothing of ours.

- `logprobs`: the log-probability of every token under a causal language model, without full logits
- `boundary`: where the answer in a response begins, and its tokens in that place
- `batching`: batches of similar lengths under a token budget
- `continuations`: the log-probabilities of given tokens behind given contexts, what these share read once
- `scorer`: the log-probability of given answers after given reasoning, in batches
"""

from importlib import import_module
from typing import Any

_HOME = {
    "AnswerScore": "scorer",
    "AnswerScorer": "scorer",
    "BoxSplit": "boundary",
    "Continuation": "continuations",
    "EncodedAnswer": "boundary",
    "ScoringItem": "scorer",
    "continuation_logprobs": "continuations",
    "encode_answer": "boundary",
    "split_response": "boundary",
    "token_budget_batches": "batching",
    "token_logprobs": "logprobs",
}
__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
