"""The mixin in front of TRL's trainers, and the private methods of transformers that it stands on."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import Trainer
from transformers.trainer_callback import PrinterCallback
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer

from thinker_common.models.load import load_policy, load_tokenizer
from thinker_common.training.dependable import DependableMixin, choose_together

QUIET = {
    "report_to": "none",
    "disable_tqdm": True,
    "dataloader_pin_memory": False,
    "use_cpu": True,
    "bf16": False,
    "logging_steps": 1,
    "save_strategy": "steps",
    "save_steps": 1,
    "per_device_train_batch_size": 2,
    "learning_rate": 1e-4,
    "max_steps": 5,
}


class DependableDPO(DependableMixin, DPOTrainer):
    pass


class DependableGRPO(DependableMixin, GRPOTrainer):
    """Saves what a rollout's later steps train on; TRL's own checkpoint forgets it."""

    def rank_state(self) -> dict[str, Any]:
        return {"step": self._step, "rollout": self._buffered_inputs}

    def load_rank_state(self, state: dict[str, Any]) -> None:
        self._step, self._buffered_inputs = state["step"], state["rollout"]

    def _send_telemetry(self) -> None:
        pass


def dpo(folder: Path) -> DependableDPO:
    words = ["one", "two", "three", "four", "five", "six"]
    rows = [{"prompt": f"Say {word}:", "chosen": f" {word}", "rejected": " no"} for word in words * 3]
    return DependableDPO(
        model=load_policy("embedded"),
        args=DPOConfig(output_dir=str(folder), **QUIET),
        train_dataset=Dataset.from_list(rows),
        processing_class=load_tokenizer("embedded"),
    )


class ForgetfulGRPO(DependableGRPO):
    def load_rank_state(self, state: dict[str, Any]) -> None:
        pass


def grpo(folder: Path, cls: type[DependableGRPO] = DependableGRPO) -> DependableGRPO:
    """A rollout feeds two optimiser steps, so that every other step is in the middle of one."""
    return cls(
        model=load_policy("embedded"),
        reward_funcs=lambda completions, **_: [float(len(text) % 7) for text in completions],
        args=GRPOConfig(
            output_dir=str(folder),
            num_generations=2,
            steps_per_generation=2,
            max_completion_length=8,
            beta=0.0,
            **QUIET,
        ),
        train_dataset=Dataset.from_list([{"prompt": f"What is {number} + 1?"} for number in range(12)]),
        processing_class=load_tokenizer("embedded"),
    )


def weights(trainer: Any) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


@pytest.mark.parametrize("make", [dpo, grpo])
def test_a_trainer_of_trl_resumes_bit_exactly(tmp_path, make):
    whole = make(tmp_path / "whole")
    whole.remove_callback(PrinterCallback)
    start = weights(whole)
    whole.train()
    assert not torch.equal(weights(whole), start)
    assert choose_together(tmp_path / "whole", "auto").checkpoint.manifest.step == 5
    for step in (2, 3):  # for GRPO the boundary of a rollout, and the middle of one
        resumed = make(tmp_path / f"from {step}")
        resumed.remove_callback(PrinterCallback)
        resumed.train(resume_from_checkpoint=tmp_path / "whole" / f"checkpoint-{step}")
        assert torch.equal(weights(resumed), weights(whole)), f"resumed at step {step}"


def test_without_its_rollout_a_resume_in_the_middle_of_it_trains_on_another(tmp_path):
    whole = grpo(tmp_path / "whole")
    whole.train()
    resumed = grpo(tmp_path / "resumed", ForgetfulGRPO)
    resumed.train(resume_from_checkpoint=tmp_path / "whole" / "checkpoint-3")
    assert not torch.equal(weights(resumed), weights(whole))


# Every private method of transformers that dependable.py overrides or calls, with its parameters. A change of these in a
# new version of transformers fails here and nowhere else.
PRIVATE = {
    "_get_output_dir": ["self", "trial"],
    "_save": ["self", "output_dir", "state_dict"],
    "_save_checkpoint": ["self", "model", "trial"],
    "_load_rng_state": ["self", "checkpoint"],
    "_prepare_inputs": ["self", "inputs"],
    "_get_grad_norm": ["self", "model", "grad_norm"],
    "_finalize_training": ["self", "trial", "num_train_samples", "start_time"],
}
ATTRIBUTES = ("_tr_loss", "_total_loss_scalar", "_globalstep_last_logged")


@pytest.mark.parametrize("name", PRIVATE)
def test_private_methods_are_what_the_mixin_was_written_against(name):
    assert list(inspect.signature(getattr(Trainer, name)).parameters) == PRIVATE[name]


def test_the_list_of_private_methods_is_complete():
    own = {name for name in vars(DependableMixin) if name.startswith("_") and not name.startswith("__")}
    assert {name for name in own if name in vars(Trainer)} == set(PRIVATE) - {"_finalize_training"}, "which is called"
    source = inspect.getsource(Trainer._inner_training_loop)
    assert all(f"self.{name} = " in source for name in ATTRIBUTES), "set before on_train_begin, where they are restored"
    assert source.index("self._globalstep_last_logged") < source.index("on_train_begin")
