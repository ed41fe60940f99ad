"""Running out of memory, on a GPU or on the host, as an error that says who, doing what, and what to lower."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..errors import UserError
from . import phases, ranks

_CPU_ALLOCATOR = "DefaultCPUAllocator"  # torch has no class for what it cannot get from the host


class OutOfMemory(UserError):
    """The message names the settings to lower."""


@contextmanager
def naming_what_to_lower(doing: str, lower: str) -> Iterator[None]:
    """A lack of memory inside, as OutOfMemory. Of several around each other the outermost one says what to lower.

    doing: "generating 8 responses", ...
    lower: settings, with their values now
    """
    try:
        yield
    except (RuntimeError, MemoryError, OutOfMemory) as error:
        if not is_out_of_memory(error):
            raise
        who = ""
        if ranks.world_size() > 1:
            who = f"rank {ranks.rank()} on {socket.gethostname()}, in the phase {phases.current()!r}: "
        raise OutOfMemory(f"{who}out of memory while {doing}: lower {lower}") from error


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError, OutOfMemory)):
        return True
    return isinstance(error, RuntimeError) and _CPU_ALLOCATOR in str(error)
