"""A DeepSpeed checkpoint made fit for another number of ranks.

    python -m thinker_common.training.universal RUN/checkpoints/checkpoint-40 OTHER_RUN/checkpoints

ZeRO's files are one rank's slices of everything. DeepSpeed's own converter writes whole parameters and moments (a
"universal checkpoint"), which any number of ranks loads under the same ZeRO stage. This puts its result, verified and
sealed like every checkpoint, into another folder; `--resume` takes it from there. Weights, optimiser, schedule and data
position go on exactly; random numbers begin anew, so that dropout draws others.
"""

import argparse
import contextlib
import dataclasses
import io
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from ..errors import UserError
from . import checkpoints
from .checkpoints import Damaged

FIRST_RANK = "rank_state_0.pt"


def convert(checkpoint: Path, folder: Path) -> Path:
    """Writes a universal copy of `checkpoint` into `folder` and returns its path. The original stays as it is.

    Raises:
        UserError: not a complete DeepSpeed checkpoint, one from the middle of a rollout, or a folder that is not empty.
    """
    try:
        manifest = checkpoints.verify(checkpoint)
    except Damaged as error:
        raise UserError(f"{checkpoint} is not a complete checkpoint: {error}") from error
    if manifest.engine == "plain":
        raise UserError(f"{checkpoint} is not of DeepSpeed: any number of ranks loads it as it is")
    if manifest.engine == "zero-0" or manifest.universal:
        raise UserError(f"{checkpoint} holds whole parameters already; there is nothing to convert")
    if manifest.rank_bound:
        raise UserError(
            f"{checkpoint} is in the middle of a rollout, which belongs to its {manifest.ranks} ranks: convert a "
            "checkpoint between two rollouts"
        )
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty: name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    inside = checkpoints.begin(folder) / checkpoint.name
    tag = (checkpoint / "latest").read_text(encoding="utf-8").strip()
    # The slices of each rank, and its random numbers, mean nothing to another number of ranks.
    shutil.copytree(checkpoint, inside, ignore=shutil.ignore_patterns(tag, "rng_state*", checkpoints.MANIFEST))
    for path in inside.glob("rank_state_*.pt"):
        if path.name != FIRST_RANK:
            path.unlink()
    _convert(checkpoint / tag, inside / f"{tag}_universal")
    (inside / "latest_universal").write_text(f"{tag}_universal", encoding="utf-8")
    checkpoints.sync_content(inside)
    files = checkpoints.record_files(inside, checkpoints.content_names(inside))
    return checkpoints.commit(folder, dataclasses.replace(manifest, files=files, universal=True))


def mend_loaded(optimizer: torch.optim.Optimizer, weight_decays: Sequence[float]) -> None:
    """Undoes two things that DeepSpeed 0.19 does to torch's optimiser when it loads a universal checkpoint (ZeRO-3).

    It gives all groups of parameters one step counter, which each of them then counts up, and the first group's weight
    decay, so that norms and biases decay as well.
    """
    for state in optimizer.state.values():
        if isinstance(state.get("step"), torch.Tensor):
            state["step"] = state["step"].clone()
    for group, weight_decay in zip(optimizer.param_groups, weight_decays, strict=True):
        group["weight_decay"] = weight_decay


def _convert(slices: Path, whole: Path) -> None:
    """DeepSpeed's converter, whose progress goes nowhere."""
    from deepspeed.checkpoint import ds_to_universal

    arguments = argparse.Namespace(
        input_folder=str(slices),
        output_folder=str(whole),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        ds_to_universal.main(arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description="A DeepSpeed checkpoint made fit for another number of ranks.")
    parser.add_argument("checkpoint", type=Path, help="a folder checkpoint-N")
    parser.add_argument("folder", type=Path, help="the checkpoint folder to put it in: new or empty")
    arguments = parser.parse_args()
    try:
        print(convert(arguments.checkpoint, arguments.folder))
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
