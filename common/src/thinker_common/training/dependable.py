"""A mixin that makes transformers' Trainer, and TRL's, save and resume dependably, on one rank or many.

    class MyTrainer(DependableMixin, Trainer): ...
    trainer = MyTrainer(model, args, ..., identity=RunIdentity(settings, data))
    trainer.train(resume_from_checkpoint=...)      # a path from `choose_together`

- Checkpoints are written as `checkpoints.py` says, by all ranks together: an error on one is an error on all, and the
  last good checkpoint stays.
- What a trainer holds beside weights, optimiser and random numbers goes into a file per rank (`rank_state`).
- SIGTERM and SIGINT save at the end of the optimiser step and end the process with EXIT_SAVED.
- A step whose loss or gradient is not finite is never trained on; see `nonfinite.py`.

Every private method of transformers that the package overrides stands in this file; a test names each with its
signature.
"""

import math
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from transformers import Trainer, TrainingArguments, set_seed
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.trainer_callback import TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_utils import TrainOutput
from transformers.utils import logging

from ..distributed import ranks
from ..distributed.deepspeed_config import stage_of
from ..distributed.phases import phase
from ..errors import SettingsError, UserError
from ..models.quantization import write_base_quantization
from . import checkpoints, durable
from .checkpoints import Damaged, Manifest
from .nonfinite import NonFinite, NonFiniteGuard, finite, leave_out_not_finite
from .resume import ResumePoint, RunIdentity, check_unchanged, choose
from .signals import SavedAndStopped, StopSignals
from .universal import mend_loaded

T = TypeVar("T")

# What a failed write looks like: Python's own, torch.save's and safetensors'.
_WRITE_ERRORS = (OSError, RuntimeError, SafetensorError)


class DependableMixin(Trainer):
    """To stand in front of Trainer, or of a class derived from it, among the bases.

    Args, beside the trainer's own:
        identity: what a checkpoint has to agree with before this run goes on from it.
        allow_changes: go on although settings or data are others; each is named in a warning.
        nonfinite: "stop" or "skip" a step whose loss or gradient is not finite.

    Raises:
        SettingsError: training arguments with which a run cannot be resumed, or that contradict the above.
    """

    def __init__(
        self,
        *args: Any,
        identity: RunIdentity | None = None,
        allow_changes: bool = False,
        nonfinite: NonFinite = "stop",
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        check_saving(self.args)
        self._identity = identity or RunIdentity({}, {})
        self._allow_changes = allow_changes
        assert self.args.output_dir is not None
        self._folder = Path(self.args.output_dir)
        self._guard = NonFiniteGuard(nonfinite, self._folder / "nonfinite")
        self._signals = StopSignals()
        self._staging: Path | None = None  # where transformers writes, while it saves
        self._last_good: Path | None = None
        self._distrusted: set[Path] = set()  # newer than the checkpoint that the run goes on from
        self._weight_decays: list[float] = []  # of the groups of an optimiser that is not DeepSpeed's own
        self._resumed: Manifest | None = None
        self._resumed_path: Path | None = None
        self.add_callback(_Watch(self))

    # ------------------------------------------------------------------------------------------------ what to override

    def rank_state(self) -> dict[str, Any]:
        """What this rank must find again beside weights, optimiser, schedule, data position and random numbers.

        Tensors and plain data, such as the rollout that the next steps train on. An empty dict where there is nothing,
        as on the boundary of a rollout: only then may a run go on with another number of ranks.
        """
        return {}

    def load_rank_state(self, state: dict[str, Any]) -> None:
        """Takes back what `rank_state` gave, before the first step."""

    def log_sums(self) -> dict[str, torch.Tensor]:
        """What this rank has summed up for the next row of the log, by name.

        It binds no run to its ranks: on another number of them the first one goes on with the sum over all.
        """
        return {}

    def load_log_sums(self, sums: dict[str, torch.Tensor]) -> None:
        """Takes back what `log_sums` gave, before the first step."""

    # ------------------------------------------------------------------------------------------------ training

    def train(  # type: ignore[override]  # a path only, not "whatever is newest": `choose_together` verifies that
        self, resume_from_checkpoint: str | Path | None = None, **kwargs: Any
    ) -> TrainOutput:
        """Trains; with a checkpoint, from there on, as though the run had never stopped.

        Raises:
            UserError: a checkpoint that is not this run's, or a save that failed.
            SavedAndStopped: after a signal.
        """
        self._together(lambda: self._folder.mkdir(parents=True, exist_ok=True), "make the checkpoint folder")
        if resume_from_checkpoint is not None:
            self._resumed_path = Path(resume_from_checkpoint)
            self._resumed = self._check_resumable(self._resumed_path)
            self._last_good = self._resumed_path
            self._distrusted = set(checkpoints.newer_than(self._folder, self._resumed.step))
            if self._resumed.universal:
                self.accelerator.state.deepspeed_plugin.deepspeed_config["checkpoint"] = {"load_universal": True}
        with self._signals:
            try:
                output = super().train(
                    resume_from_checkpoint=None if self._resumed_path is None else str(self._resumed_path), **kwargs
                )
            except _NothingLeft:
                output = self._finalize_training(None, 0, time.time())
        output = output._replace(training_loss=self._mean_loss())
        if self.stop_requested():
            stopped = SavedAndStopped(self._signals.received or "another rank's signal", str(self._last_good))
            if ranks.is_main():
                print(stopped, file=sys.stderr)
            raise stopped
        return output

    def stop_requested(self) -> bool:
        """Whether a signal came, on any rank; every rank has to ask."""
        return ranks.any_rank(self._signals.received is not None)

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        made = self.optimizer is None  # transformers asks again for the one that is there
        optimizer = super().create_optimizer(model)
        if isinstance(optimizer, torch.optim.Optimizer):
            self._weight_decays = [group["weight_decay"] for group in optimizer.param_groups]
            if made and self.is_deepspeed_enabled and stage_of(self.accelerator.deepspeed_plugin.deepspeed_config) == 0:
                leave_out_not_finite(optimizer)
        return optimizer

    def _prepare_inputs(self, inputs: Any) -> Any:
        prepared = super()._prepare_inputs(inputs)
        assert self.model is not None
        if self.model.training:
            self._guard.saw_batch(prepared)
        return prepared

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        self._guard.saw_loss(loss)
        return loss

    def floating_point_ops(self, inputs: Any) -> int:
        """transformers' estimate; 0, for none, under ZeRO-3, where it counts what is whole at that moment."""
        return 0 if is_deepspeed_zero3_enabled() else super().floating_point_ops(inputs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "train_loss" in logs:
            logs["train_loss"] = self._mean_loss()
        super().log(logs, start_time)

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:
        """The last thing before the optimiser's step (DeepSpeed: behind it), with the norm that all ranks share."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        left_out = self.is_deepspeed_enabled and self.accelerator.optimizer_step_was_skipped
        norm_found = math.nan if norm is None else float(norm)  # DeepSpeed tells none under ZeRO-0
        sound = (norm is None or math.isfinite(norm)) and not left_out
        losses = self._guard.losses()
        if not ranks.any_rank(not (sound and finite(losses))):
            self._guard.passed()
            return norm
        step = self.state.global_step + 1
        losses_of_ranks = ranks.gather(losses, "losses")
        self._guard.save_batches(step, ranks.rank(), losses_of_ranks, norm_found)
        ranks.barrier("save the batch")  # a rank that ends sooner would take the others with it
        if self.is_deepspeed_enabled and not left_out and (norm is None or not sound):
            raise UserError(
                f"step {step}: not finite, and DeepSpeed has trained on it. Go on from {self._last_good}; "
                "ZeRO-1 to 3 leave such a step out, in bfloat16 with bf16.check_grad_overflow = true in the DeepSpeed "
                "configuration"
            )
        if not self.is_deepspeed_enabled:
            model.zero_grad(set_to_none=True)  # the optimiser's step then changes nothing, its moments included
        self._guard.failed(step, losses_of_ranks, norm_found)
        return norm

    # ------------------------------------------------------------------------------------------------ saving

    def _get_output_dir(self, trial: Any) -> str:
        return super()._get_output_dir(trial) if self._staging is None else str(self._staging)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """A checkpoint with an adapter alone also says how its base was quantized."""
        super()._save(output_dir, state_dict)
        if output_dir is not None and self.args.should_save:
            write_base_quantization(self.model, Path(output_dir))

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """transformers and TRL write their files beside; then all ranks seal them, and rank 0 puts them in place."""
        step = self.state.global_step
        name = checkpoints.name_of(step)
        if self._last_good is not None and self._last_good.name == name:
            return  # asked for twice, as at the end of an epoch
        with phase(f"save {name}", patient=True):
            own = self.rank_state()
            logged = self._logged()
            self._on_main(lambda: checkpoints.begin(self._folder), "begin a checkpoint")
            self._write(model, trial, {"own": own, "log": logged})
            manifest = Manifest(
                step=step,
                ranks=ranks.world_size(),
                engine=self._engine(),
                examples_per_step=self._examples_per_step(),
                rank_bound=ranks.any_rank(bool(own)),
                settings=self._identity.settings,
                data=self._identity.data,
                files=self._seal(self._folder / checkpoints.PARTIAL / name),
            )
            self._on_main(lambda: checkpoints.commit(self._folder, manifest), f"put {name} in its place")
            self._last_good = self._folder / name
            self._distrusted.discard(self._last_good)
            if limit := self.args.save_total_limit:
                self._on_main(
                    lambda: checkpoints.prune(self._folder, limit, self._distrusted), "remove old checkpoints"
                )

    def _write(self, model: torch.nn.Module, trial: Any, of_rank: dict[str, Any]) -> None:
        """Every rank's files, into `.partial`."""
        name = checkpoints.name_of(self.state.global_step)
        partial = self._folder / checkpoints.PARTIAL

        def write() -> None:
            self._staging = partial
            try:
                with _no_progress_bar():
                    super(DependableMixin, self)._save_checkpoint(model, trial)
            finally:
                self._staging = None
            torch.save(of_rank, partial / name / _rank_file(ranks.rank()))

        if not self.is_deepspeed_enabled:
            self._together(write, f"write {name}")
            return
        # It waits for all ranks inside: a rank that cannot write has to end, and the launcher ends the others.
        try:
            write()
        except Exception as error:
            raise self._not_saved(error, f"write {name}") from error
        ranks.barrier(f"write {name}")

    def _seal(self, inside: Path) -> dict[str, checkpoints.FileRecord]:
        """Brings all files to the disk, and returns size and hash of each; the ranks share the hashing."""
        names = ranks.from_main(checkpoints.content_names(inside) if ranks.is_main() else [], "list the files")

        def sync_and_hash() -> dict[str, checkpoints.FileRecord]:
            if self.args.local_process_index == 0:
                checkpoints.sync_content(inside)  # a host can bring to the disk only what was written on it
            return checkpoints.record_files(inside, ranks.shard(names))

        parts = ranks.gather(self._together(sync_and_hash, f"sync {inside.name}"), "hashes")
        return {name: part[name] for name in names for part in parts if name in part}

    def _on_main(self, action: Callable[[], Any], what: str) -> None:
        self._together(action if ranks.is_main() else lambda: None, what)

    def _together(self, action: Callable[[], T], what: str) -> T:
        """Does something on this rank; where it fails on any, it is an error on all."""
        failure = None
        try:
            result = action()
        except Exception as error:
            failure = self._not_saved(error, what)
        ranks.raise_together(failure, what)
        return result

    def _not_saved(self, error: Exception, what: str) -> Exception:
        """What the user reads when a write fails. What was written goes, which may be what filled the disk."""
        if not (isinstance(error, _WRITE_ERRORS) or type(error) is Exception):  # what tokenizers raises has no class
            return error
        reason = durable.why_not_writable(self._folder) or str(error)  # torch.save knows no reasons, positions only
        if ranks.is_main():
            with suppress(OSError):
                durable.remove_tree(self._folder / checkpoints.PARTIAL)
        kept = f"{self._last_good} is complete" if self._last_good else "there is no earlier checkpoint"
        who = f"rank {ranks.rank()} on {socket.gethostname()} " if ranks.world_size() > 1 else ""
        refused = UserError(
            f"step {self.state.global_step}: {who}cannot {what}: {reason} ({kept}). Make room, or make {self._folder} "
            "writable, and run the same command again"
        )
        refused.__cause__ = error
        return refused

    def _logged(self) -> dict[str, Any]:
        """What the next rows of the log rest on, which transformers drops in a checkpoint of its own.

        own: this rank's, of the steps since the last row; all: that of all ranks, to go on with another number of them
        """
        own = {"loss": self._tr_loss.detach().cpu(), "sums": self.log_sums()}
        every = ranks.gather(own, "what is logged next")
        names = {name for one in every for name in one["sums"]}
        return {
            "total_loss": self._total_loss_scalar,
            "last_logged": self._globalstep_last_logged,
            "own": own,
            "all": {
                "loss": torch.stack([one["loss"] for one in every]).mean(),  # transformers logs a mean over the ranks
                "sums": {name: sum(one["sums"].get(name, 0) for one in every) for name in names},
            },
        }

    def _mean_loss(self) -> float:
        """Over all steps of the run, at its end; transformers divides their sum by the steps of this call alone."""
        return self._total_loss_scalar / max(self.state.global_step, 1)

    # ------------------------------------------------------------------------------------------------ resuming

    def _check_resumable(self, path: Path) -> Manifest:
        try:
            manifest = checkpoints.read_manifest(path)
        except Damaged as error:
            raise UserError(f"{path} is not a complete checkpoint: {error}") from error
        if manifest.engine != self._engine():
            raise UserError(
                f"{path} was trained with {_engine_name(manifest.engine)} and this run is with "
                f"{_engine_name(self._engine())}: their optimiser files are not the same. Go on with the former, or "
                "start a new run from the checkpoint's weights (model.name_or_path)"
            )
        if manifest.examples_per_step != self._examples_per_step():
            raise UserError(
                f"{path}: an optimiser step had {manifest.examples_per_step} examples, and would have "
                f"{self._examples_per_step()}: set training.gradient_accumulation_steps so that it is the same"
            )
        if manifest.ranks != ranks.world_size():
            if manifest.rank_bound:
                raise UserError(
                    f"{path} holds what each of {manifest.ranks} ranks was in the middle of, and this run has "
                    f"{ranks.world_size()}: go on with --gpus {manifest.ranks}, or from a checkpoint between rollouts"
                )
            if manifest.engine not in ("plain", "zero-0") and not manifest.universal:
                raise UserError(
                    f"{path} is of {manifest.ranks} ranks and this run has {ranks.world_size()}: convert it with "
                    f"`python -m {__package__}.universal {path} NEW_FOLDER` and resume from NEW_FOLDER/{path.name}"
                )
        changes = check_unchanged(manifest, self._identity)
        if changes and not self._allow_changes:
            raise UserError(f"{path} is of another run: {'; '.join(changes)}. Undo the change, or allow it")
        if changes and ranks.is_main():
            for change in changes:
                print(f"going on although {change}", file=sys.stderr)
            print(
                "the optimiser and its schedule go on as saved: a changed learning rate has no effect", file=sys.stderr
            )
        return manifest

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if self._resumed is not None and self._on_other_ranks(self._resumed):
            # Those are of other ranks; new ones, that are the same whenever this is done again.
            set_seed(self.args.seed + self._resumed.step * ranks.world_size() + ranks.rank())
        else:
            super()._load_rng_state(checkpoint)

    def _restore(self) -> None:
        """The state of this rank, and how far the log was. Called when everything else is loaded."""
        if self._resumed is None or self._resumed_path is None:
            return
        others = self._on_other_ranks(self._resumed)
        file = self._resumed_path / _rank_file(0 if others else ranks.rank())
        saved = torch.load(file, weights_only=True, map_location="cpu")
        logged = saved["log"]
        since_the_last_row = logged["all" if others else "own"]
        self._tr_loss = since_the_last_row["loss"].to(self.args.device)
        self._total_loss_scalar = logged["total_loss"]
        self._globalstep_last_logged = logged["last_logged"]
        if ranks.is_main() or not others:
            self.load_log_sums(since_the_last_row["sums"])
        if saved["own"]:
            self.load_rank_state(saved["own"])
        if self._resumed.universal and self._weight_decays:
            mend_loaded(self.model_wrapped.optimizer.optimizer, self._weight_decays)  # type: ignore[union-attr, arg-type]  # an engine here
        self._resumed_path = None
        if self.state.global_step >= self.state.max_steps:
            raise _NothingLeft

    def _on_other_ranks(self, manifest: Manifest) -> bool:
        return manifest.universal or manifest.ranks != ranks.world_size()

    def _engine(self) -> str:
        if not self.is_deepspeed_enabled:
            return "plain"
        return f"zero-{self.accelerator.state.deepspeed_plugin.zero_stage}"

    def _examples_per_step(self) -> int:
        args = self.args
        return args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size


class _NothingLeft(Exception):
    """The checkpoint is the end of the training. transformers would train one more step."""


class _Watch(TrainerCallback):
    """Lets a trainer act where transformers has a callback and no method to override."""

    def __init__(self, trainer: DependableMixin) -> None:
        self._trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._trainer._restore()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._trainer.stop_requested():
            control.should_save = True
            control.should_training_stop = True


def check_saving(args: TrainingArguments) -> None:
    """SettingsError on arguments with which a checkpoint could not be resumed or verified."""
    refused = {
        "save_only_model": args.save_only_model,
        "load_best_model_at_end": args.load_best_model_at_end,
        "push_to_hub": args.push_to_hub,
        "ignore_data_skip": args.ignore_data_skip,
        "auto_find_batch_size": args.auto_find_batch_size,
    }
    for name, value in refused.items():
        if value:
            raise SettingsError(f"training.{name} = true: a run that resumes exactly cannot have it; leave it out")
    if args.save_strategy == "best":
        raise SettingsError("training.save_strategy = 'best': expected no, steps or epoch")
    if args.save_total_limit is not None and args.save_total_limit < 1:
        raise SettingsError(f"training.save_total_limit = {args.save_total_limit}: expected at least 1")


def check_head(model: torch.nn.Module, *, ranks: int) -> None:
    """SettingsError for an output head with which ranks under ZeRO-3 would wait for each other without end.

    The head works on as many chunks of positions as a rank has tokens for, inside one call of its module
    (`likelihood.head.in_one_call`); the parts that an adapter adds to it are gathered in calls of their own.
    """
    head = model.get_output_embeddings()  # type: ignore[operator]
    if ranks > 1 and is_deepspeed_zero3_enabled() and head is not None and next(head.children(), None) is not None:
        raise SettingsError(
            "an adapter on the output head cannot be trained under ZeRO-3: leave lm_head out of "
            "model.lora.target_modules, or use --zero 2"
        )


def choose_together(folder: Path, resume: str) -> ResumePoint:
    """`resume.choose`, done by rank 0 for all; the same UserError on every rank."""

    def ask() -> ResumePoint | UserError:
        try:
            return choose(folder, resume)
        except UserError as error:
            return error

    with phase("verify checkpoints", patient=True):
        answer = ranks.from_main(ask() if ranks.is_main() else None, "checkpoint to resume from")
    if isinstance(answer, UserError):
        raise answer
    assert answer is not None
    return answer


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """transformers draws one for every weights file that it writes, into log files as well."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _rank_file(rank: int) -> str:
    return f"rank_state_{rank}.pt"


def _engine_name(engine: str) -> str:
    return "one process or DDP" if engine == "plain" else f"DeepSpeed {engine.replace('zero', 'ZeRO')}"
