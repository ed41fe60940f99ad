"""What this rank is doing, told to the process that watches it, so that an error message can name it.

The watching process (`worker`) leaves the number of a pipe in the environment. A line `phase NAME` goes down that pipe
when a phase begins, `patient NAME` for one in which a single call may take long (loading, compiling, saving), and every
two seconds `moved` or `still`: whether a sample of the main thread shows that it got on; and `failed` when an error
ends the rank, before the other ranks can fail for want of it. Without a watcher all of this does nothing.
"""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

PIPE = "THINKER_PHASE_PIPE"  # number of the pipe's file descriptor
SAMPLE_SECONDS = 2.0
_LEAST_CPU_SHARE = 0.05  # of a processor: a rank that only waits uses less

_current = "patient start"


def begin(name: str, *, patient: bool = False) -> None:
    """Says that `name` begins; it lasts until the next phase. `patient`: one call of it may take minutes."""
    global _current
    _current = f"{'patient' if patient else 'phase'} {' '.join(name.split())}"
    _tell(_current)


@contextmanager
def phase(name: str, *, patient: bool = False) -> Iterator[None]:
    """The phase `name`, and afterwards the one before it again. An error leaves the name standing, to be reported."""
    before = _current
    begin(name, patient=patient)
    yield
    kind, _, text = before.partition(" ")
    begin(text, patient=kind == "patient")


def current() -> str:
    """The phase that this rank is in."""
    return _current.partition(" ")[2]


def fail() -> None:
    """Says that an error is about to end this rank."""
    _tell("failed")


def report_movement() -> None:
    """Starts the thread that samples the main thread. The process ends with its watcher."""
    if PIPE in os.environ:
        threading.Thread(target=_sample, args=(threading.main_thread().ident,), name="phases", daemon=True).start()


def _sample(thread: int) -> None:
    position, used = _position(thread), time.process_time()
    while True:
        time.sleep(SAMPLE_SECONDS)
        before, position = position, _position(thread)
        used_before, used = used, time.process_time()
        # A rank on a CPU may compute for minutes inside one call; one on a GPU waits actively, so that only its
        # position tells.
        worked = not _on_gpu() and used - used_before > _LEAST_CPU_SHARE * SAMPLE_SECONDS
        if not _tell("moved" if position != before or worked else "still"):
            os._exit(1)  # the watcher is gone, and with it whoever could end this rank


def _position(thread: int) -> tuple[tuple[int, int], ...]:
    """Where the thread is: code object and instruction of each frame."""
    frame = sys._current_frames().get(thread)
    position = []
    while frame is not None:
        position.append((id(frame.f_code), frame.f_lasti))
        frame = frame.f_back
    return tuple(position)


def _on_gpu() -> bool:
    torch = sys.modules.get("torch")
    try:
        return torch is not None and bool(torch.cuda.is_initialized())
    except AttributeError:  # it is still being imported
        return False


def _tell(line: str) -> bool:
    """Whether somebody listens. One write of a short line is atomic."""
    if PIPE not in os.environ:
        return False
    try:
        os.write(int(os.environ[PIPE]), line.encode()[:400] + b"\n")
    except OSError:
        return False
    return True
