"""File operations that survive a crash: whatever changes a checkpoint on disk goes through here.

After `sync_file` a file's content is on the disk, after `sync_folder` its name is. A rename within one file system is
atomic: after a crash there is the old name or the new one.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

PROBE = ".probe"


def make_folder(path: Path) -> None:
    """FileNotFoundError if the folder it lies in does not exist: a vanished folder is not made again."""
    path.mkdir()


def write_file(path: Path, content: bytes) -> None:
    with open(path, "xb") as file:
        file.write(content)


def sync_file(path: Path) -> None:
    _sync(path)


def sync_folder(path: Path) -> None:
    """Windows cannot open a folder for this, and does without."""
    if os.name == "posix":
        _sync(path)


def rename(old: Path, new: Path) -> None:
    """OSError if `new` is a file or a folder that is not empty."""
    os.rename(old, new)


def remove_tree(path: Path) -> None:
    shutil.rmtree(path)


def why_not_writable(folder: Path) -> str | None:
    """What the system says to a small file there; None if it can be written."""
    probe = folder / f"{PROBE}{uuid4().hex}"  # ranks may ask at the same time
    try:
        write_file(probe, bytes(1 << 16))
        sync_file(probe)
    except OSError as error:
        return "the folder has vanished" if not folder.exists() else error.strerror
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
    return None


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
