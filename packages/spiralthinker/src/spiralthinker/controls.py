"""Controls at test time: do the latents carry the computation? If they do, a model without its own ones is worse.

    shuffled   each response reads the latents of another one that takes a latent step at the same time. Where there is
               no other, it reads its own in reverse order (one that is read alone stays).
    zeroed     zeros in their place

The last iteration's latents are exchanged, which are what the rest of the response sees; in autoregressive decoding
each one as it is written. Without iterations (K = 0, pause tokens) there is nothing to exchange.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ._common import SettingsError
from .generation import LatentGenerator, Response

# B rows, N latents, D hidden size

Control = Literal["shuffled", "zeroed"]


@dataclass(frozen=True)
class Exchange:
    """An `Intervention` of generation. at: the iteration whose latents are exchanged, None for all."""

    control: Control
    at: int | None

    def __call__(self, latents_BND: Tensor, iteration: int, takers: Sequence[Response | None]) -> Tensor:
        if self.at is not None and iteration != self.at:
            return latents_BND
        if self.control == "zeroed":
            return torch.zeros_like(latents_BND)
        rows = torch.tensor([place for place, taker in enumerate(takers) if taker is not None])
        changed = latents_BND.clone()
        changed[rows] = latents_BND[rows].flip(1) if len(rows) == 1 else latents_BND[rows.roll(1)]
        return changed

    def __str__(self) -> str:
        return self.control


def exchange(generator: LatentGenerator, control: Control) -> None:
    """Makes the generator's responses those of the control.

    Raises:
        SettingsError: a model whose latents are its tokens' own embeddings, whatever it reads.
    """
    autoregressive = generator.decoding == "autoregressive"
    if not autoregressive and generator.iterations == 0:
        raise SettingsError(f"control = {control}: expected at least one iteration (K = 0 has no latents of its own)")
    generator.intervene = Exchange(control, None if autoregressive else generator.iterations)
