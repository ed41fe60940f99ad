"""Iterated latent tokens: SpiralThinker, arXiv 2511.08983.

A latent step is `<bol> <latent> x N <eol>`. The model reads it K + 1 times. Each time but the first, the input
embeddings at the `<latent>` positions are what the last layer had there the time before, brought back to the size of
an embedding by the latent adapter g:

    e^(k) = g( h^(L, k-1) ),  k = 1..K        g(h) = RMSNorm( h + W2 SiLU(W1 h) ) * target_rms

    h^(L, k)     the last layer's states at the latents when the model reads e^(k); e^(0): the embedding of `<latent>`
    target_rms   root mean square of the entries of the pretrained embeddings

Two schedules, which differ only in which latent steps are refined together:

    sequential     one after the other: step 1 is at K before anything behind it is read. Decoding with a cache does
                   just this. Each iteration reads N + 1 positions: the latents and `<eol>`.
    simultaneous   all at once: at iteration k step 2 sees step 1 as it is at iteration k. Each iteration reads from the
                   first latent to the last `<eol>`.

A third one is that of the baselines Coconut (arXiv 2412.06769) and CODI (arXiv 2502.21074):

    autoregressive  one latent after the other, each read once: its input embedding is what the last layer had at the
                    token before it. There are no iterations, K = 0.

Nothing before the first of the latents that are refined is read again: its keys and values serve every iteration, and
gradients flow through them. Nothing behind the last `<eol>` is read before iteration K.

Departures from the paper, or choices where its account (as published in digests) says nothing; settings but for 3:
 1. The write goes to the same positions (`shift` 0); 1 writes to the next position, as Coconut, CODI and PCCoT do.
 2. W2 is zero at the start, so that g begins as the normalisation alone (or random: `adapter_start`); RMSNorm has a
    gain, which begins at one.
 3. K + 1 readings: K iterations after the first.
 4. Cross-entropy is on the last reading (`every_reading`: on all of them, simultaneous only).
 5. Gradients flow through all K iterations (`through_iterations`: or the states that g reads are constants).
 6. The schedule: the account describes the simultaneous one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

# B rows, T columns of the whole, S columns of a reading, N latents, C kept columns, L layers, D hidden size, A adapter,
# R latent steps (rounds of a batch)

Schedule = Literal["sequential", "simultaneous", "autoregressive"]
AdapterStart = Literal["normalisation", "random"]
SCHEDULES: tuple[Schedule, ...] = ("sequential", "simultaneous", "autoregressive")


class LatentAdapter(nn.Module):
    """g: from the last layer's states at latents to their next input embeddings, (..., D) to (..., D).

    width: A, of the hidden layer; the paper's is not known, D is our default
    target_rms: of the embeddings that the model was pretrained with
    start: normalisation makes W2 zero, so that g is the normalisation alone at first; random leaves W2 as linear layers
        begin
    """

    def __init__(
        self, hidden_size: int, width: int, target_rms: float, *, start: AdapterStart = "normalisation"
    ) -> None:
        super().__init__()
        self.inner = nn.Linear(hidden_size, width, bias=False)
        self.outer = nn.Linear(width, hidden_size, bias=False)
        self.norm = nn.RMSNorm(hidden_size, eps=1e-6)
        self.register_buffer("target_rms", torch.tensor(target_rms))
        if start == "normalisation":
            nn.init.zeros_(self.outer.weight)

    @property
    def width(self) -> int:
        """A."""
        return self.inner.out_features

    def forward(self, states: Tensor) -> Tensor:
        states = states.to(self.inner.weight.dtype)
        return self.norm(states + self.outer(silu(self.inner(states)))) * self.target_rms


class Past(NamedTuple):
    """Keys and values of all columns read so far: for each layer two tensors (B, heads, columns, head size)."""

    layers: tuple[tuple[Tensor, Tensor], ...]
    length: int

    def upto(self, column: int) -> Past:
        """The columns before `column`."""
        return Past(tuple((keys[:, :, :column], values[:, :, :column]) for keys, values in self.layers), column)

    def detach(self) -> Past:
        return Past(tuple((keys.detach(), values.detach()) for keys, values in self.layers), self.length)


class Reading(NamedTuple):
    """What the model had at the columns it read.

    states_BSD: of the last layer; kept_LBCD: of every layer, at the columns asked for; past: up to here, empty if final
    """

    states_BSD: Tensor
    kept_LBCD: Tensor
    past: Past


class Read(Protocol):
    """Reads the columns behind `past` (None: from the first), by their input embeddings.

    keep: of these columns, counted from the first of the reading, the states of all layers
    final: nothing is read behind them
    """

    def __call__(
        self, embeds_BSD: Tensor, past: Past | None, *, keep: Sequence[int] = (), final: bool = False
    ) -> Reading: ...


@dataclass(frozen=True)
class Iterated:
    """All of a batch after its iterations.

    readings: the last layer's states (B, T, D) of the readings that the cross-entropy is on; one, unless every reading
    written_KRBND: the last layer's states that g reads, to write the latents of iteration 1..K, of each latent step
        (R of them); None without iterations
    eol_KLBCD: every layer's states at the C `<eol>` columns, readings 0..K (K + 1 of them)
    prefix: the keys and values before the first `<bol>`, None without latent steps
    """

    readings: tuple[Tensor, ...]
    eol_KLBCD: Tensor | None
    prefix: Past | None
    written_KRBND: Tensor | None = None


def iterate(
    read: Read,
    embeds_BTD: Tensor,
    blocks: Sequence[int],
    refine: Callable[[Tensor], Tensor],
    *,
    latents: int,
    iterations: int,
    schedule: Schedule,
    shift: int = 0,
    through_iterations: bool = True,
    every_reading: bool = False,
) -> Iterated:
    """Reads a batch whose latent steps stand at the same columns in every row.

    Args:
        read: the model.
        embeds_BTD: input embeddings of all columns, those of the `<latent>` token at latents.
        blocks: the column of each latent step's `<bol>`, ascending; N latents and `<eol>` follow it.
        refine: g.
        latents, iterations: N and K.
    """
    if schedule == "autoregressive":
        return _one_at_a_time(read, embeds_BTD, blocks, refine, latents=latents, through=through_iterations)
    assert not every_reading or schedule == "simultaneous", "a step that is at K has no earlier iteration to read on"
    together = [[bol] for bol in blocks]
    if blocks and (schedule == "simultaneous" or iterations == 0):
        together = [list(blocks)]
    done: list[Tensor] = []  # last states of the columns that are final
    eols: list[Tensor] = []  # (K + 1, L, B, C, D) of each group
    written: list[Tensor] = []  # (K, C, B, N, D) of each group
    readings: list[Tensor] = []
    prefix = past = None
    begin = 0
    for group in together:
        first = group[0] + 1  # the first latent: from here on columns are read again
        end = group[-1] + latents + 2
        if iterations == 0 or every_reading:
            end = embeds_BTD.shape[1]
        eol_columns = [bol + latents + 1 - first for bol in group]
        spots = [slice(bol + 1 - first, bol + 1 - first + latents) for bol in group]

        whole = read(embeds_BTD[:, begin:end], past, keep=[first - begin + column for column in eol_columns])
        before = whole.past.upto(first)
        if prefix is None:
            prefix = whole.past.upto(first - 1)
        done.append(whole.states_BSD[:, : first - begin])
        bol_state = whole.states_BSD[:, first - begin - 1 : first - begin]
        reading = whole._replace(states_BSD=whole.states_BSD[:, first - begin :])
        kept = [reading.kept_LBCD]
        sources: list[Tensor] = []  # (C, B, N, D) of each iteration
        for _ in range(iterations):
            if every_reading:
                readings.append(torch.cat([*done, reading.states_BSD], dim=1))
            states = torch.cat([bol_state, reading.states_BSD], dim=1)  # so that a shift has a state to its left
            sources.append(torch.stack([states[:, s.start + 1 - shift : s.stop + 1 - shift] for s in spots]))
            span = embeds_BTD[:, first:end].clone()
            for spot, source in zip(spots, sources[-1] if through_iterations else sources[-1].detach(), strict=True):
                span[:, spot] = refine(source).to(span.dtype)
            reading = read(span, before, keep=eol_columns)
            kept.append(reading.kept_LBCD)
        done.append(reading.states_BSD)
        eols.append(torch.stack(kept))
        if iterations:
            written.append(torch.stack(sources))
        past, begin = reading.past, end
    if begin < embeds_BTD.shape[1]:
        done.append(read(embeds_BTD[:, begin:], past, final=True).states_BSD)
    readings.append(torch.cat(done, dim=1))
    return Iterated(
        tuple(readings),
        torch.cat(eols, dim=3) if eols else None,
        prefix,
        torch.cat(written, dim=1) if written else None,
    )


def _one_at_a_time(
    read: Read,
    embeds_BTD: Tensor,
    blocks: Sequence[int],
    refine: Callable[[Tensor], Tensor],
    *,
    latents: int,
    through: bool,
) -> Iterated:
    """The autoregressive schedule: N + 1 readings a latent step, its `<eol>` read with what follows."""
    done: list[Tensor] = []
    eols: list[Tensor] = []
    prefix = past = None
    begin = 0
    for end in [*(bol + 1 for bol in blocks), embeds_BTD.shape[1]]:
        final = end == embeds_BTD.shape[1]
        reading = read(embeds_BTD[:, begin:end], past, keep=[0] if past is not None else [], final=final)
        if past is not None:
            eols.append(reading.kept_LBCD)
        done.append(reading.states_BSD)
        past, begin = reading.past, end
        if final:
            break
        if prefix is None:
            prefix = past.upto(end - 1)
        for _ in range(latents):
            state = reading.states_BSD[:, -1:]
            reading = read(refine(state if through else state.detach()).to(embeds_BTD.dtype), past)
            done.append(reading.states_BSD)
            past, begin = reading.past, begin + 1
    return Iterated((torch.cat(done, dim=1),), torch.cat(eols, dim=2)[None] if eols else None, prefix)
