"""The folder of one run: settings, environment, metrics, results, checkpoints, model and report under fixed names.

Whole files are replaced atomically (a reader sees the old content or the new, never a part), and a failed write leaves
nothing behind. `metrics.jsonl` is appended to, one complete line at a time.
"""

import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from uuid import uuid4

from .._version import __version__
from ..distributed import file_lock
from ..errors import UserError
from . import durable

_PACKAGES = (
    "torch", "transformers", "trl", "accelerate", "deepspeed", "peft", "datasets", "tokenizers", "safetensors",
    "math-verify", "numpy",
)  # fmt: skip


_HELD: dict[Path, int] = {}  # folders that this process trains in -> open handle, with a lock that ends with it


@contextmanager
def releasing_folders() -> Iterator[None]:
    """What `RunFolder.hold` takes within this is free again behind it. As a decorator: behind the call."""
    before = set(_HELD)
    try:
        yield
    finally:
        for path in _HELD.keys() - before:
            os.close(_HELD.pop(path))


class RunFolder:
    """Paths and writes of one run. `RunFolder.create` makes a new folder; the constructor touches nothing."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @classmethod
    def create(cls, path: str | os.PathLike[str]) -> "RunFolder":
        """Makes the folder. UserError as for `check_free`, or if it cannot be made."""
        folder = cls(path)
        folder.check_free()
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
        except PermissionError as error:
            raise UserError(f"output {folder.path} cannot be made: {error.strerror}") from error
        return folder

    def holds_run(self) -> bool:
        """Whether a run was begun here."""
        return (self.path / "config.yaml").is_file()

    def check_continues(self, config: str, *, allow_changes: bool = False) -> None:
        """UserError unless the run that this folder holds can go on with these settings (YAML).

        allow_changes: settings that change the numbers may differ.
        """
        # Here and not above: `--help` does without them.
        from .plain_yaml import parse_yaml
        from .resume import changed_settings, flat_settings

        held = self.path / "config.yaml"
        before = flat_settings(parse_yaml(held.read_text(encoding="utf-8"), str(held)) or {})
        changes = changed_settings(before, flat_settings(parse_yaml(config, "the settings")))
        named = "; ".join(changes[:3]) + ("; ..." if len(changes) > 3 else "")
        if (self.path / "results.json").exists():
            other = f" ({named})" if changes else ""
            raise UserError(f"output {self.path} holds another run, which is finished{other}: choose another --output")
        if changes and not allow_changes:
            raise UserError(
                f"output {self.path} holds another run ({named}): choose another --output, or go on with it anyway by "
                "--allow-changes"
            )

    def check_free(self) -> None:
        """UserError if the folder holds another run or anything else. Makes nothing, so it can be asked early."""
        try:
            held = sorted(entry.name for entry in self.path.iterdir())
        except FileNotFoundError:
            held = []
        except NotADirectoryError as error:
            raise UserError(f"output {self.path} is or lies below a file: choose another --output") from error
        except PermissionError as error:
            raise UserError(f"output {self.path} cannot be read: {error.strerror}") from error
        if "config.yaml" in held:
            raise UserError(f"output {self.path} holds another run: choose another --output or remove that folder")
        if held:
            names = ", ".join(held[:3]) + (", ..." if len(held) > 3 else "")
            raise UserError(f"output {self.path} is not empty (it holds {names}): choose another --output")

    def hold(self) -> None:
        """Keeps other processes from training in this folder until `releasing_folders` ends, or this process does.

        Raises:
            UserError: another one does: both would write, and remove, each other's checkpoints.
        """
        path = self.path.resolve()
        if os.name != "posix" or path in _HELD:  # Windows cannot open a folder for this, and does without
            return
        handle = os.open(path, os.O_RDONLY)
        other = file_lock.lock(handle)
        if other is not None:
            os.close(handle)
            raise UserError(
                f"output {self.path}: {other} is training in it: wait for its end, or choose another --output"
            )
        _HELD[path] = handle

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    def file(self, name: str) -> Path:
        """The path of a file of this run; makes nothing. UserError if the name leads out of the folder."""
        path = self.path / name
        if not path.resolve().is_relative_to(self.path.resolve()) or path.resolve() == self.path.resolve():
            raise UserError(f"{name!r} is not a name inside the run folder {self.path}")
        return path

    def write_config(self, text: str) -> None:
        """The resolved settings as YAML, re-runnable with `--config`."""
        write_atomic(self.path / "config.yaml", text)

    def write_environment(self) -> None:
        write_atomic(self.path / "environment.json", json.dumps(environment(), indent=2) + "\n")

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Adds one line to metrics.jsonl. A number that is not finite becomes null, which every JSON reader accepts."""
        line = (json.dumps(_jsonable(row), allow_nan=False) + "\n").encode()
        with open(self.metrics, "ab", buffering=0) as file:
            end = file.tell()
            try:
                rest = memoryview(line)
                while rest:
                    rest = rest[file.write(rest) :]
            except OSError as error:
                file.truncate(end)  # the part of the line that the disk still took
                error.filename = os.fspath(self.metrics)
                raise

    def read_metrics(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl; none where there is no such file."""
        if not self.metrics.exists():
            return []
        lines = self.metrics.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.endswith("}")]  # the last may have been cut by a kill

    def forget_metrics(self, after_step: int) -> list[dict[str, Any]]:
        """Drops the rows that a resumed run writes again, and returns those that stay.

        They are those of later steps, and the one with which transformers closes a training, also one that was stopped.
        """
        kept = [row for row in self.read_metrics() if row["step"] <= after_step and "train_runtime" not in row]
        if self.metrics.exists():
            write_atomic(self.metrics, "".join(json.dumps(row) + "\n" for row in kept))
        return kept

    def write_results(self, results: Mapping[str, Any]) -> None:
        write_atomic(self.path / "results.json", json.dumps(_jsonable(results), indent=2, allow_nan=False) + "\n")


def new_output(name: str) -> Path:
    """A folder below `runs/` for a run that was given none, told apart by the time."""
    return Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"


def write_atomic(path: str | os.PathLike[str], text: str) -> None:
    """Replaces the file at `path` by `text` (UTF-8), durably: after a crash it holds all of the old or all of the new.

    On failure the old file is untouched, the temporary one is removed, and the OSError carries the path.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        with open(temporary, "xb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = os.fspath(path)
        raise
    durable.sync_folder(path.parent)


def environment() -> dict[str, Any]:
    """What a run's numbers depend on: versions, source commit, platform, devices, threads.

    Names no host, user, path or environment variable.
    """
    import torch

    packages = {"thinker-common": __version__}
    for name in ("generalthinker", "spiralthinker", "tinythinker", *_PACKAGES):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "packages": packages,
        "source": source_commit(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] or ["cpu"],
    }


def source_commit() -> dict[str, Any] | None:
    """The git commit this package's source is at and whether it is changed; None where it is not in a checkout.

    Pages and results under docs/ are no source.
    """
    here = Path(__file__)
    try:
        # An installed copy may lie inside somebody else's repository: only a tracked file counts.
        _git(here.parent, "ls-files", "--error-unmatch", here.name)
        commit = _git(here.parent, "rev-parse", "HEAD").strip()
        sources = (":(top)", ":(top,exclude)docs")
        changed = bool(_git(here.parent, "status", "--porcelain", "--untracked-files=no", "--", *sources).strip())
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "changed": changed}


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", os.fspath(folder), *arguments], capture_output=True, text=True, check=True, timeout=20
    )
    return done.stdout


def _processor() -> str:
    if sys.platform == "linux":
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _jsonable(value: Any) -> Any:
    """Plain JSON data; array and tensor scalars through float(), numbers that are not finite as None."""
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    number = float(value)
    return number if math.isfinite(number) else None
