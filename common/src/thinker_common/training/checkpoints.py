"""Checkpoints on disk: written beside, sealed with a manifest, put in place by one rename, verified before use.

    checkpoints/
        checkpoint-20/          transformers' own files, a state per rank, and manifest.json
        .partial/checkpoint-30/ being written; never used
        .removed/checkpoint-10/ being deleted; never used

A folder `checkpoint-N` appears under its name when every file in it is on the disk and counted in its manifest. A kill,
a full disk or a lost connection at any instant leaves the checkpoints before it as they were.

Nothing here knows of torch or of other ranks; see `dependable.py` for who calls what when.
"""

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import durable

MANIFEST = "manifest.json"
PARTIAL = ".partial"
_NAME = re.compile(r"checkpoint-(\d+)")
REMOVED = ".removed"
FORMAT = 2

_HASH_THREADS = 4  # hashing leaves the interpreter lock, and disks like a few readers


class Damaged(Exception):
    """A folder that is not a complete checkpoint; the message names the part and what is wrong with it."""


@dataclass(frozen=True)
class FileRecord:
    size: int  # bytes
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint holds and which run it belongs to."""

    step: int
    ranks: int
    engine: str  # plain (one process or DDP, whose files are the same) | zero-0 ... zero-3
    examples_per_step: int
    rank_bound: bool  # whether some rank's own state fits only the same number of ranks
    settings: Mapping[str, Any]  # dotted name -> value
    data: Mapping[str, str]  # name of a data set -> fingerprint
    files: Mapping[str, FileRecord]  # path inside the checkpoint -> record
    universal: bool = False  # DeepSpeed's whole parameters, for any number of ranks; see universal.py

    def to_bytes(self) -> bytes:
        body = {"format": FORMAT, **asdict(self)}
        return (json.dumps({**body, "sha256": _digest(body)}, indent=1) + "\n").encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> "Manifest":
        """Damaged, unless these are the bytes that `to_bytes` made."""
        try:
            body = json.loads(content)
            if body["format"] != FORMAT:
                raise Damaged(f"{MANIFEST} has format {body['format']}, and this version reads {FORMAT}")
            del body["format"], body["sha256"]
            files = {name: FileRecord(**record) for name, record in body.pop("files").items()}
            manifest = cls(**body, files=files)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Damaged(f"{MANIFEST} is damaged: {error}") from error
        if manifest.to_bytes() != content:
            raise Damaged(f"{MANIFEST} is damaged: its own SHA-256 does not match")
        return manifest


@dataclass(frozen=True)
class Checkpoint:
    path: Path
    manifest: Manifest


@dataclass(frozen=True)
class Skipped:
    path: Path
    reason: str


# ------------------------------------------------------------------------------------------------------------- writing


def begin(folder: Path) -> Path:
    """The empty folder in which the next checkpoint is written; what was left half-written or half-removed goes.

    OSError where nothing can be written, FileNotFoundError if `folder` is not there.
    """
    for leftover in (folder / PARTIAL, folder / REMOVED):
        if leftover.exists():
            durable.remove_tree(leftover)
    for probe in folder.glob(f"{durable.PROBE}*"):
        probe.unlink(missing_ok=True)
    durable.make_folder(folder / PARTIAL)
    return folder / PARTIAL


def name_of(step: int) -> str:
    return f"checkpoint-{step}"


def content_names(checkpoint: Path) -> list[str]:
    """Paths of all files inside a checkpoint but its manifest, sorted, with forward slashes."""
    names = (path.relative_to(checkpoint).as_posix() for path in checkpoint.rglob("*") if path.is_file())
    return sorted(name for name in names if name != MANIFEST)


def sync_content(checkpoint: Path) -> None:
    """Brings every file and folder inside to the disk. On several hosts each has to do this for its own writes."""
    for name in content_names(checkpoint):
        durable.sync_file(checkpoint / name)
    for path in checkpoint.rglob("*"):
        if path.is_dir():
            durable.sync_folder(path)


def record_files(checkpoint: Path, names: Iterable[str]) -> dict[str, FileRecord]:
    """Size and SHA-256 of files inside a checkpoint."""
    names = list(names)
    with ThreadPoolExecutor(_HASH_THREADS) as pool:
        return dict(zip(names, pool.map(lambda name: _record(checkpoint / name), names), strict=True))


def commit(folder: Path, manifest: Manifest) -> Path:
    """Seals the checkpoint in `.partial` and puts it in its place, durably.

    An older folder of that name gives way: it is one that was found damaged, or the run would have begun behind it.
    """
    name = name_of(manifest.step)
    partial = folder / PARTIAL / name
    durable.write_file(partial / MANIFEST, manifest.to_bytes())
    durable.sync_file(partial / MANIFEST)
    durable.sync_folder(partial)
    if (folder / name).exists():
        _set_aside(folder, folder / name)
    durable.rename(partial, folder / name)
    durable.sync_folder(folder)
    durable.remove_tree(folder / PARTIAL)
    return folder / name


def prune(folder: Path, keep: int, distrusted: Collection[Path] = ()) -> None:
    """Removes complete checkpoints but the newest `keep` (at least 1). Damaged ones are neither counted nor removed.

    distrusted: those that the run was not gone on from although they are newer. Only sizes are looked at here, so that
        one with a changed byte would take the place of a sound one.
    """
    assert keep >= 1
    complete = [path for path in committed(folder) if path not in distrusted and _seems_complete(path)]
    for path in complete[keep:]:
        _set_aside(folder, path)
    if (folder / REMOVED).exists():
        durable.remove_tree(folder / REMOVED)


def _set_aside(folder: Path, path: Path) -> None:
    """Out of sight in one step: a checkpoint that is being deleted never looks like a damaged one."""
    if not (folder / REMOVED).exists():
        durable.make_folder(folder / REMOVED)
    durable.rename(path, folder / REMOVED / path.name)


# ------------------------------------------------------------------------------------------------------------- reading


def verify(path: Path) -> Manifest:
    """The manifest of a checkpoint whose every part is there and unchanged. Damaged names the part that is not."""
    manifest = read_manifest(path)
    _check_sizes(path, manifest)
    now = record_files(path, manifest.files)
    for name, record in manifest.files.items():
        if now[name] != record:
            raise Damaged(f"{name} is damaged: its SHA-256 is not the one in {MANIFEST}")
    return manifest


def read_manifest(path: Path) -> Manifest:
    try:
        return Manifest.from_bytes((path / MANIFEST).read_bytes())
    except FileNotFoundError as error:
        raise Damaged(f"{MANIFEST} is missing: not written to its end, or by another program") from error


def committed(folder: Path) -> list[Path]:
    """The folders `checkpoint-N`, newest first."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=_step_of, reverse=True)


def _step_of(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def newer_than(folder: Path, step: int) -> list[Path]:
    """The folders `checkpoint-N` of a later step."""
    return [path for path in committed(folder) if _step_of(path) > step]


def newest_complete(folder: Path) -> tuple[Checkpoint | None, list[Skipped]]:
    """The newest checkpoint that is complete, and those that were passed over, newest first."""
    skipped = []
    if (folder / PARTIAL).is_dir():
        skipped += [Skipped(path, "was being written when the run ended") for path in (folder / PARTIAL).iterdir()]
    for path in committed(folder):
        try:
            return Checkpoint(path, verify(path)), skipped
        except Damaged as error:
            skipped.append(Skipped(path, str(error)))
    return None, skipped


def _check_sizes(path: Path, manifest: Manifest) -> None:
    for name, record in manifest.files.items():
        try:
            size = (path / name).stat().st_size
        except FileNotFoundError as error:
            raise Damaged(f"{name} is missing") from error
        if size != record.size:
            raise Damaged(f"{name} has {size} bytes instead of {record.size}")


def _seems_complete(path: Path) -> bool:
    """Whether the manifest is sound and every file there in full size; contents are not read."""
    try:
        _check_sizes(path, read_manifest(path))
    except Damaged:
        return False
    return True


def _record(path: Path) -> FileRecord:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return FileRecord(size=file.tell(), sha256=digest)


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
