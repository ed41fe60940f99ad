"""Which checkpoint a run goes on from, and whether it is this run's."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from .checkpoints import Checkpoint, Damaged, Manifest, Skipped, newer_than, newest_complete, verify

# Settings that change what a run writes, how fast it is or what memory it takes, and its numbers by rounding at most.
WITHOUT_EFFECT = (
    "training.logging_",
    "training.save_",
    "training.report_to",
    "training.run_name",
    "training.disable_tqdm",
    "training.log_",
    "training.dataloader_num_workers",
    "training.dataloader_persistent_workers",
    "training.dataloader_pin_memory",
    "training.dataloader_prefetch_factor",
    "evaluation.",
    "generation.max_tokens_per_batch",
    "method.max_tokens_per_batch",
    "launch.",  # ranks and engine are compared by themselves
)


@dataclass(frozen=True)
class RunIdentity:
    """What has to be the same for a checkpoint to be this run's.

    settings: dotted name -> plain value, see `flat_settings`.
    data: name of a data set -> `data_fingerprint`.
    """

    settings: Mapping[str, Any]
    data: Mapping[str, str]


@dataclass(frozen=True)
class ResumePoint:
    """The checkpoint to go on from (None: from the start) and the ones passed over."""

    checkpoint: Checkpoint | None
    skipped: tuple[Skipped, ...] = ()

    def notices(self) -> list[str]:
        """What the user should know, one line each."""
        lines = [f"skipped {skipped.path}: {skipped.reason}" for skipped in self.skipped]
        if self.checkpoint is not None:
            lines.append(f"going on from {self.checkpoint.path} (step {self.checkpoint.manifest.step})")
        return lines


def choose(folder: Path, resume: str) -> ResumePoint:
    """The checkpoint that `resume` means: "auto" (the newest complete one in `folder`), "never", or a path.

    Reads every byte of the chosen one. One rank does that; see `choose_together`.

    Raises:
        UserError: a path that is not a complete checkpoint; "auto", and all there are were finished once and are
            damaged now; a path in `folder` older than another complete one there.
    """
    if resume == "never":
        return ResumePoint(None)
    if resume == "auto":
        checkpoint, skipped = newest_complete(folder)
        damaged = [each for each in skipped if each.path.parent == folder]
        if checkpoint is None and damaged:
            named = "; ".join(f"{each.path}: {each.reason}" for each in damaged)
            raise UserError(f"no checkpoint is complete ({named}). To begin anew, move them away")
        return ResumePoint(checkpoint, tuple(skipped))
    path = Path(resume)
    if not path.is_dir():
        raise UserError(f"--resume {resume}: there is no such folder")
    try:
        checkpoint = Checkpoint(path, verify(path))
    except Damaged as error:
        raise UserError(f"--resume {resume} is not a complete checkpoint: {error}") from error
    _check_nothing_newer(folder, checkpoint)
    return ResumePoint(checkpoint)


def check_unchanged(manifest: Manifest, now: RunIdentity) -> list[str]:
    """Names each setting and data set that differs from the checkpoint's, with both values."""
    changes = changed_settings(manifest.settings, now.settings)
    for name in sorted({*manifest.data, *now.data}):
        before, after = manifest.data.get(name, "not there"), now.data.get(name, "not there")
        if before != after:
            changes.append(f"the data {name!r} was {before} and is {after}")
    return changes


def changed_settings(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Names each flat setting with an effect on the numbers that differs, with both values."""
    names = sorted(name for name in {*before, *after} if not name.startswith(WITHOUT_EFFECT))
    shown = [(name, _shown(before, name), _shown(after, name)) for name in names]
    return [f"{name} was {old} and is {new}" for name, old, new in shown if old != new]


def flat_settings(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"model": {"dtype": "auto"}}` as `{"model.dtype": "auto"}`; values as JSON holds them."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flat_settings(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = json.loads(json.dumps(value, default=str))
    return flat


def data_fingerprint(rows: Iterable[Mapping[str, Any]]) -> str:
    """Number and SHA-256 of rows of plain data, their order included."""
    digest = hashlib.sha256()
    count = 0
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, ensure_ascii=False).encode() + b"\n")
        count += 1
    return f"{count} rows, sha256 {digest.hexdigest()}"


def _check_nothing_newer(folder: Path, chosen: Checkpoint) -> None:
    for path in newer_than(folder, chosen.manifest.step):
        raise UserError(
            f"{path} is newer than --resume {chosen.path}, and a later resume would take it: move it away first"
        )


def _shown(settings: Mapping[str, Any], name: str) -> str:
    return json.dumps(settings[name]) if name in settings else "not set"
