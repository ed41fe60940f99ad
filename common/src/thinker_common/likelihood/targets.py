"""Which position predicts which scored tokens, and their log-probabilities, a chunk of positions at a time.

One position may predict several tokens: those with which the options of a question begin, for one.

Shape legend: B rows, K columns from the first that predicts something, N predicting positions of all rows, C those of
one chunk, S scored tokens, Q those of them that stand for a set of tokens, M tokens of such a set, D hidden size, V
vocabulary size.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .head import Head, in_one_call
from .logprobs import CHUNK_TOKENS, entropy, log_softmax


@dataclass
class Targets:
    """Scored tokens of a batch, in the order in which they were added.

    positions: (row, column, temperature) that predict something, each once.
    predicted_at: for each scored token, which of the positions predicts it.
    token_ids: the scored tokens.
    standing_for: by scored token, the set of tokens whose summed probability counts in its place.
    """

    positions: dict[tuple[int, int, float], int] = field(default_factory=dict)
    predicted_at: list[int] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    standing_for: dict[int, tuple[int, ...]] = field(default_factory=dict)

    def add(
        self,
        row: int,
        columns: Sequence[int],
        token_ids: Sequence[int],
        last: tuple[int, ...] | None,
        temperature: float = 1.0,
    ) -> None:
        """Tokens that are predicted at these columns of a row; `last`: the set that the last one stands for, if any."""
        for column, token_id in zip(columns, token_ids, strict=True):
            self.predicted_at.append(self.positions.setdefault((row, column, temperature), len(self.positions)))
            self.token_ids.append(token_id)
        if last is not None:
            self.standing_for[len(self.token_ids) - 1] = last

    @property
    def first_column(self) -> int:
        return min(column for _, column, _ in self.positions)

    def logprobs(self, states_BKD: Tensor, head: Head) -> Tensor:
        """logprobs_S, float32 at least. `states_BKD`: the columns from `first_column` on."""
        return self.measure(states_BKD, head)[0]

    def measure(
        self, states_BKD: Tensor, head: Head, *, with_entropy: bool = False, entropy_grad: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """(logprobs_S, entropies_S), the latter None if not asked for; without `entropy_grad` constants."""
        device = states_BKD.device
        places = [(row, column - self.first_column) for row, column, _ in self.positions]
        rows_N, columns_N = torch.tensor(places, device=device).unbind(-1)
        states_ND = states_BKD[rows_N, columns_N]
        temperatures = [temperature for _, _, temperature in self.positions]

        by_position = sorted(range(len(self.token_ids)), key=self.predicted_at.__getitem__)
        predicted_at = [self.predicted_at[s] for s in by_position]

        def in_chunks(head: Head, states_ND: Tensor) -> tuple[Tensor, ...]:
            chunks = []
            for start in range(0, len(states_ND), CHUNK_TOKENS):
                end = start + CHUNK_TOKENS
                tokens = by_position[bisect_left(predicted_at, start) : bisect_left(predicted_at, end)]
                arguments = (
                    head,
                    states_ND[start:end],
                    _divisors(temperatures[start:end]),
                    torch.tensor([self.predicted_at[s] - start for s in tokens], device=device),
                    torch.tensor([self.token_ids[s] for s in tokens], device=device),
                    self._sets(tokens, device),
                    with_entropy,
                    entropy_grad,
                )
                if torch.is_grad_enabled():
                    chunks.append(checkpoint(_measure_chunk, *arguments, use_reentrant=False))
                else:
                    chunks.append(_measure_chunk(*arguments))
            return tuple(map(torch.cat, zip(*chunks, strict=True)))

        order_S = torch.tensor(by_position, device=device).argsort()
        logprobs_S, *entropies = (values_S[order_S] for values_S in in_one_call(head, in_chunks, states_ND))
        return logprobs_S, entropies[0] if entropies else None

    def _sets(self, tokens: list[int], device: torch.device) -> list[tuple[Tensor, Tensor]]:
        """Each distinct set that some of the tokens stand for: (which of the tokens do, the set)."""
        members: dict[tuple[int, ...], list[int]] = {}
        for place, s in enumerate(tokens):
            if s in self.standing_for:
                members.setdefault(self.standing_for[s], []).append(place)
        return [
            (torch.tensor(places, device=device), torch.tensor(ids, device=device)) for ids, places in members.items()
        ]


def _divisors(temperatures: list[float]) -> Tensor | None:
    """(C, 1), None where all of them are 1."""
    if all(temperature == 1.0 for temperature in temperatures):
        return None
    return torch.tensor(temperatures, dtype=torch.float64)[:, None]


def _measure_chunk(
    head: Head,
    states_CD: Tensor,
    temperatures_C1: Tensor | None,
    predicted_at_S: Tensor,
    token_ids_S: Tensor,
    sets: list[tuple[Tensor, Tensor]],
    with_entropy: bool,
    entropy_grad: bool,
) -> tuple[Tensor, ...]:
    """The log-probabilities of the tokens, and with `with_entropy` the entropies behind them."""
    logprobs_CV = log_softmax(head(states_CD), 1.0 if temperatures_C1 is None else temperatures_C1)
    logprobs_S = logprobs_CV[predicted_at_S, token_ids_S]
    for places_Q, ids_M in sets:
        mass_Q = logprobs_CV[predicted_at_S[places_Q, None], ids_M].logsumexp(-1)
        logprobs_S = logprobs_S.index_copy(0, places_Q, mass_Q)
    return (logprobs_S, entropy(logprobs_CV, entropy_grad)[predicted_at_S]) if with_entropy else (logprobs_S,)
