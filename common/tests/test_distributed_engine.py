"""The engine that trains is the one that was asked for, and the silent fall-backs are errors."""

import sys

import pytest
import torch
from transformers import TrainingArguments

from thinker_common.distributed.engine import check_engine, check_environment, engine_of, expected_engine
from thinker_common.distributed.launch_settings import LaunchSettings
from thinker_common.errors import UserError
from thinker_common.training.engine_arguments import training_arguments
from thinker_common.training.sections import ModelSettings

ZERO2, PLAIN = LaunchSettings(zero=2), LaunchSettings()
CONFIG = {"zero_optimization": {"stage": 2}}


@pytest.fixture(autouse=True)
def _rank(monkeypatch):
    for name in ("ACCELERATE_USE_CPU", "ACCELERATE_USE_DEEPSPEED", "DS_ACCELERATOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK", "0")


class Engine(torch.nn.Module):
    """What `engine_of` looks at in a DeepSpeedEngine: where its class is from, and its stage."""

    __module__ = "deepspeed.runtime.engine"

    def __init__(self, stage):
        super().__init__()
        self.stage = stage

    def zero_optimization_stage(self):
        return self.stage


def test_expected_engines():
    assert expected_engine(ZERO2, CONFIG, 8) == "DeepSpeedEngine, ZeRO-2"
    assert expected_engine(LaunchSettings(deepspeed_config="ds.json"), {}, 1) == "DeepSpeedEngine, ZeRO-0"
    assert expected_engine(PLAIN, None, 8) == "DistributedDataParallel"
    assert expected_engine(PLAIN, None, 1) == "one process"


def test_the_engine_that_was_asked_for():
    assert check_engine(Engine(2), ZERO2, CONFIG, world_size=2, launched_ranks=2) == "DeepSpeedEngine, ZeRO-2"
    assert check_engine(torch.nn.Linear(2, 2), PLAIN, None, world_size=1, launched_ranks=1) == "one process"


@pytest.mark.parametrize(
    ("wrapped", "settings", "config", "world", "message"),
    [
        (torch.nn.Linear(2, 2), ZERO2, CONFIG, 2, "ask for DeepSpeedEngine, ZeRO-2, and one process is about to train"),
        (Engine(0), ZERO2, CONFIG, 2, "ask for DeepSpeedEngine, ZeRO-2, and DeepSpeedEngine, ZeRO-0 is about to train"),
        (torch.nn.DataParallel(torch.nn.Linear(2, 2)), PLAIN, None, 1, "ask for one process, and DataParallel"),
        (torch.nn.Linear(2, 2), PLAIN, None, 2, "ask for DistributedDataParallel, and one process"),
        (Engine(2), PLAIN, None, 1, "ask for one process, and DeepSpeedEngine, ZeRO-2"),
    ],
)
def test_another_engine_is_refused(wrapped, settings, config, world, message):
    with pytest.raises(UserError, match=message):
        check_engine(wrapped, settings, config, world_size=world, launched_ranks=world)


def test_ranks_that_do_not_know_of_each_other():
    with pytest.raises(UserError, match="2 ranks were started and 1 found each other"):
        check_engine(torch.nn.Linear(2, 2), PLAIN, None, world_size=1, launched_ranks=2)


def test_ddp_is_recognised():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        wrapped = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))
        assert engine_of(wrapped) == "DistributedDataParallel"
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("settings", "variables", "use_cpu", "message"),
    [
        (ZERO2, {"ACCELERATE_USE_CPU": "true"}, True, "ACCELERATE_USE_CPU is set: .* leave DeepSpeed out"),
        (ZERO2, {"ACCELERATE_USE_FSDP": "1"}, True, "ACCELERATE_USE_FSDP is set"),
        (PLAIN, {"ACCELERATE_USE_DEEPSPEED": "true"}, True, "ACCELERATE_USE_DEEPSPEED is set"),
        (ZERO2, {}, False, "training.use_cpu = false on a machine without GPUs"),
        (ZERO2, {"DS_ACCELERATOR": "cuda"}, True, "DS_ACCELERATOR=cuda, and this machine has no GPU"),
    ],
)
def test_variables_that_would_change_the_engine(monkeypatch, settings, variables, use_cpu, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        check_environment(settings, use_cpu=use_cpu)


def test_on_a_machine_with_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(UserError, match="hide them with CUDA_VISIBLE_DEVICES="):
        check_environment(ZERO2, use_cpu=True)
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    with pytest.raises(UserError, match="DS_ACCELERATOR=cpu, and this machine has a GPU"):
        check_environment(ZERO2, use_cpu=False)


def test_deepspeed_that_cannot_be_loaded_or_was_not_launched(monkeypatch):
    check_environment(ZERO2, use_cpu=True)
    check_environment(PLAIN, use_cpu=True)
    monkeypatch.delenv("RANK")
    with pytest.raises(UserError, match="DeepSpeed needs a launcher"):
        check_environment(ZERO2, use_cpu=True)
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(UserError, match=r"DeepSpeed does not load .*pip install deepspeed"):
        check_environment(ZERO2, use_cpu=True)


def test_without_a_gpu_the_cpu_trains_also_where_transformers_would_take_another_device(monkeypatch, tmp_path):
    """As on a Mac: evaluation stays on the CPU, and sums in float64 are not possible on MPS."""
    monkeypatch.delenv("RANK")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("transformers.training_args.is_torch_mps_available", lambda: True)
    assert TrainingArguments(output_dir=str(tmp_path), report_to=[]).device.type == "mps"
    made = training_arguments(TrainingArguments, PLAIN, ModelSettings(), {"report_to": []}, output=tmp_path)
    assert made.device.type == "cpu"
