"""Joining and leaving the process group: ranks that need no engine join here, and all of them leave here."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from .launch import in_rank
from .phases import phase

if TYPE_CHECKING:
    import torch


@contextmanager
def process_group() -> "Iterator[torch.device]":
    """Joins the ranks that a launcher started, if this process is one of them; yields the device to work on.

    Ranks may wait for one with more work for as long as it takes: a run in which none moves is ended by the supervisor.
    """
    import torch
    import torch.distributed as dist

    gpu = torch.cuda.is_available()
    if not in_rank():
        yield torch.device("cuda" if gpu else "cpu")
        return
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(device)
    with phase("meet the other ranks", patient=True):
        dist.init_process_group("nccl" if gpu else "gloo", timeout=timedelta(days=7), device_id=device if gpu else None)
    yield device
    leave()  # not after an error: it would wait for ranks that are still at work


def leave() -> None:
    """Waits for the other ranks and ends the process group, if there is one; to be called when the work is done.

    A process that ends with a group is killed by SIGABRT now and then ("terminate called without an active exception",
    pytorch#179291): a thread of Gloo's gives a tensor back to Python while the interpreter goes down.
    """
    import torch.distributed as dist

    from . import ranks

    if not dist.is_initialized():
        return
    ranks.barrier("end the process group")
    deepspeed = sys.modules.get("deepspeed.comm")
    if deepspeed is not None and deepspeed.is_initialized():
        deepspeed.destroy_process_group()  # it keeps references of its own to the groups
    else:
        dist.destroy_process_group()
