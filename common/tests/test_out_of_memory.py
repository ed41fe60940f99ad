"""A lack of memory, of a GPU or of the host, becomes a message that says what to lower."""

import pytest
import torch

from thinker_common.distributed.out_of_memory import OutOfMemory, naming_what_to_lower


def on_a_gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


def on_the_host() -> None:
    torch.empty(1 << 50)


def in_python() -> None:
    raise MemoryError


@pytest.mark.parametrize("ask_too_much", [on_a_gpu, on_the_host, in_python])
def test_each_kind_names_what_to_lower(ask_too_much):
    with (
        pytest.raises(OutOfMemory, match=r"^out of memory while generating 8 texts: lower batch \(now 8\)$") as raised,
        naming_what_to_lower("generating 8 texts", "batch (now 8)"),
    ):
        ask_too_much()
    assert raised.value.__cause__ is not None


def test_of_several_the_outermost_speaks():
    with (
        pytest.raises(OutOfMemory, match=r"^out of memory while recalling: lower generation\.batch$"),
        naming_what_to_lower("recalling", "generation.batch"),
        naming_what_to_lower("generating", "batch"),
    ):
        on_the_host()


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="a and b differ") as raised, naming_what_to_lower("adding", "nothing"):
        raise RuntimeError("a and b differ")
    assert not isinstance(raised.value, OutOfMemory)
