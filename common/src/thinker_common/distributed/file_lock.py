"""One process at a time at a file or folder. The lock ends with the process that holds it, however that ends."""

import os
from contextlib import suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]


def lock(handle: int) -> str | None:
    """Locks an open file or folder until the handle is closed; where that is impossible, who holds it ("another ...").

    Two handles exclude each other in one process as well. A file system that knows no locks lets everybody in.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        number = _holder(handle)
        return "another process" if number is None else f"another process ({number})"
    except OSError:
        return None
    return None


def _holder(handle: int) -> int | None:
    """The process that holds the lock; None where the system does not say: another host's, or not Linux."""
    held = os.fstat(handle)
    place = f"{os.major(held.st_dev):02x}:{os.minor(held.st_dev):02x}:{held.st_ino}"
    with suppress(OSError):
        for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
            _, kind, _, _, number, where, *_ = line.replace("-> ", "").split()
            if (kind, where) == ("FLOCK", place) and int(number) > 0:
                return int(number)
    return None
