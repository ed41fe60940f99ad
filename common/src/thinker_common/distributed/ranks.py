"""Who am I, and what do all ranks agree on. One process without a process group is rank 0 of 1 everywhere here.

Two rules keep ranks together: every collective is reached by all of them, also by one whose share is empty, and what
rank 0 does alone contains none. `largest` says how many rounds all of them go, `raise_together` keeps an error on one
from leaving the others in a wait, and a phase name on every wait says who is late when a run hangs.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from ..errors import UserError
from .phases import phase

T = TypeVar("T")


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    return rank() == 0


def shard(items: Sequence[T]) -> list[T]:
    """This rank's items, every `world_size`-th: each item is on exactly one rank, and a rank may get none."""
    return list(items[rank() :: world_size()])


def unshard(shards: Sequence[Sequence[T]]) -> list[T]:
    """The items in their order again, from what `shard` gave to each rank."""
    items: list[T] = []
    for turn in range(max(map(len, shards), default=0)):
        items.extend(part[turn] for part in shards if turn < len(part))
    return items


def gather(value: Any, what: str) -> list[Any]:
    """Every rank's value (anything that pickles), in rank order, on every rank. `what` names the phase."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    with phase(f"gather {what}"):
        dist.all_gather_object(values, value)
    return values


def from_main(value: T, what: str) -> T:
    """Rank 0's value on every rank."""
    if world_size() == 1:
        return value
    values = [value]
    with phase(f"receive {what}"):
        dist.broadcast_object_list(values, src=0, device=_device())
    return values[0]


def barrier(what: str) -> None:
    """Waits until every rank is here. `what` names the phase."""
    if world_size() > 1:
        with phase(f"wait for all: {what}"):
            dist.barrier()


def any_rank(flag: bool) -> bool:
    """Whether the flag is set on any rank; the same answer on all, so that they can act on it together."""
    return _reduce(int(flag), dist.ReduceOp.MAX) > 0


def largest(count: int) -> int:
    """The largest of the ranks' numbers: how many rounds all of them go when each round has a collective."""
    return _reduce(count, dist.ReduceOp.MAX)


def smallest(count: int) -> int:
    """The smallest of the ranks' numbers: whose turn it is where each says what it would do."""
    return _reduce(count, dist.ReduceOp.MIN)


def total(count: int) -> int:
    """The sum of the ranks' numbers, e.g. the tokens that a loss is divided by."""
    return _reduce(count, dist.ReduceOp.SUM)


def raise_together(error: Exception | None, what: str) -> None:
    """Raises on every rank if any has an error, so that none waits for one that gave up.

    The rank with the error raises it. The others raise a RuntimeError that names the rank and quotes the error, or for
    a mistake of the user's the same UserError, so that all ranks end with its exit code.
    """
    errors = gather(None if error is None else (type(error).__name__, str(error), isinstance(error, UserError)), what)
    if error is not None:
        raise error
    for failed, found in enumerate(errors):
        if found is not None:
            kind, text, is_users = found
            raise UserError(text) if is_users else RuntimeError(f"rank {failed} failed at {what}: {kind}: {text}")


def on_main(action: Callable[[], T], what: str) -> T | None:
    """What rank 0 alone does, while the others wait: its result there, None on them, its error on all."""
    result = error = None
    if is_main():
        try:
            result = action()
        except Exception as failure:
            error = failure
    raise_together(error, what)
    return result


def _reduce(number: int, operation: Any) -> int:
    if world_size() == 1:
        return number
    tensor = torch.tensor(number, dtype=torch.int64, device=_device())
    dist.all_reduce(tensor, op=operation)
    return int(tensor.item())


def _device() -> torch.device:
    """Where the process group's tensors have to be: NCCL knows the GPU only."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
