"""Ranks that die or hang inside real training, under the real launchers: how soon the run ends, and what it says.

The times go into docs/results/faults-processes.md. What is watched here without torch, in seconds, is in
test_distributed_supervisor.py.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from thinker_common.training.resume import choose

pytestmark = pytest.mark.slow

LAUNCH = """
import sys
from thinker_common.distributed.launch import plan_launch
from thinker_common.distributed.launch_settings import LaunchSettings
from thinker_common.distributed.supervisor import run
launcher, zero, *arguments = sys.argv[1:]
settings = LaunchSettings(gpus=2, launcher=launcher, zero=None if zero == "none" else int(zero))
sys.exit(run(plan_launch(settings, "job", [zero, *arguments], gpus=[])))
"""
# Rank 1 writes the time into a file and does what the fault says, at the third optimiser step.
JOB = """
import os, signal, sys, threading, time
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments
from thinker_common.distributed import ranks
from thinker_common.distributed.callback import PhaseCallback
from thinker_common.distributed.deepspeed_config import RunValues, deepspeed_config
from thinker_common.distributed.launch_settings import LaunchSettings

zero, fault, folder = sys.argv[1:]
settings = LaunchSettings(zero=None if zero == "none" else int(zero))
config = deepspeed_config(settings, RunValues(2, 1, 2, 1.0, False, 1e-3, (0.9, 0.999), 1e-8, 0.0, 64, cpu=True))

def now(number=signal.SIGKILL):
    with open(f"{folder}/when", "w") as file:
        file.write(str(time.time()))
    print("last words", flush=True)
    os.kill(os.getpid(), number)

class Fault(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step != 2:
            return
        if ranks.rank() == 0:
            if fault == "killed in a collective":
                time.sleep(3600)  # so that rank 1 is inside the collective when its timer goes off
            return
        if fault == "killed in the forward pass":
            next(model.model.layers[0].modules()).register_forward_pre_hook(lambda *_: now())
        elif fault == "killed in the backward pass":
            trainer.model.model.norm.register_full_backward_hook(lambda *_: now())
        elif fault == "killed in a collective":
            threading.Timer(2.0, now).start()
            torch.distributed.all_reduce(torch.ones(1))
        elif fault == "sleeps":
            with open(f"{folder}/when", "w") as file:
                file.write(str(time.time()))
            time.sleep(3600)
        elif fault == "stopped":
            now(signal.SIGSTOP)

arguments = TrainingArguments(
    output_dir=f"{folder}/output", use_cpu=True, max_steps=100, per_device_train_batch_size=2, report_to=[],
    deepspeed=config, disable_tqdm=True, save_strategy="no", logging_strategy="no")
torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2))
rows = [{"input_ids": row, "labels": row} for row in torch.randint(0, 64, (400, 16))]
trainer = Trainer(model=model, args=arguments, train_dataset=rows, callbacks=[PhaseCallback(), Fault()])
trainer.train()
"""
KILLED = [
    ("torchrun", "none", "killed in the forward pass"),
    ("deepspeed", "none", "killed in a collective"),
    ("deepspeed", "2", "killed in the backward pass"),
    ("deepspeed", "3", "killed in a collective"),
]
HANGS = [("torchrun", "none", "stopped"), ("deepspeed", "2", "sleeps")]


@pytest.fixture
def launch_fault(tmp_path):
    """Runs the job on two ranks; returns (exit code, stderr, seconds from the fault to the message, to the end)."""

    def run(launcher, zero, fault):
        (tmp_path / "launch.py").write_text(LAUNCH)
        (tmp_path / "job.py").write_text(JOB)
        kept = {name: value for name, value in os.environ.items() if name not in {"RANK", "WORLD_SIZE"}}
        environment = {
            **kept, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)]), "OMP_NUM_THREADS": "1"
        }  # fmt: skip
        launching = subprocess.Popen(
            [sys.executable, tmp_path / "launch.py", launcher, zero, fault, str(tmp_path)],
            env=environment, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        said, errors = None, []
        for line in launching.stderr:
            errors.append(line)
            if line.startswith("error: ") and said is None:
                said = time.time()
        code = launching.wait()
        ended = time.time()
        assert said is not None, "".join(errors)
        when = float((tmp_path / "when").read_text())
        assert not left_behind(str(tmp_path)), "a process is left behind"
        return code, "".join(errors), said - when, ended - when

    return run


def left_behind(marker):
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and int(folder.name) != os.getpid():
            try:
                if marker in (folder / "cmdline").read_bytes().decode(errors="replace"):
                    found.append(folder.name)
            except OSError:
                continue
    return found


@pytest.mark.parametrize(("launcher", "zero", "fault"), KILLED)
def test_a_rank_that_is_killed(launch_fault, record_property, launcher, zero, fault):
    code, errors, message, end = launch_fault(launcher, zero, fault)
    assert code == 128 + signal.SIGKILL
    assert f"error: rank 1 on {os.uname().nodename} was killed by SIGKILL" in errors
    assert 'in phase "step 3"; the other ranks are ended' in errors
    assert "\n  last words\n" in errors
    assert message < 60 and end < 60
    record_property(
        f"{launcher}, {f'ZeRO-{zero}' if zero != 'none' else 'DDP'}, {fault}",
        f"{message:.1f} s to the message, {end:.1f} s to the end",
    )


@pytest.mark.parametrize(("launcher", "zero", "fault"), HANGS)
def test_a_rank_that_hangs(launch_fault, record_property, launcher, zero, fault):
    code, errors, message, end = launch_fault(launcher, zero, fault)
    assert code == 124
    assert "error: no rank has moved for 45 s: " in errors and 'in phase "step 3"' in errors
    assert "stood at:" in errors
    assert message < 60 and end < 75  # the end is the launchers' own, on a machine that may be busy
    record_property(
        f"{launcher}, {f'ZeRO-{zero}' if zero != 'none' else 'DDP'}, a rank {fault}",
        f"{message:.1f} s to the message, {end:.1f} s to the end",
    )


SAVING = """
import sys, time
import torch
from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback, TrainingArguments
from thinker_common.distributed import ranks
from thinker_common.distributed.callback import PhaseCallback
from thinker_common.models.load import load_tokenizer
from thinker_common.training.supervised import SupervisedTrainer
zero, fault, folder = sys.argv[1:]
class Say(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        time.sleep(0.2)
        if state.global_step == 2 and ranks.is_main():
            print("two steps", flush=True)
arguments = TrainingArguments(
    output_dir=f"{folder}/output", use_cpu=True, max_steps=10000, per_device_train_batch_size=2, report_to=[],
    disable_tqdm=True, logging_strategy="no", save_steps=10000, save_total_limit=2)
torch.manual_seed(0)
tokenizer = load_tokenizer("embedded")
model = LlamaForCausalLM(LlamaConfig(vocab_size=1024, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2))
rows = [{"input_ids": row, "labels": row} for row in torch.randint(2, 900, (40, 16)).tolist()]
SupervisedTrainer(model, arguments, rows, tokenizer, callbacks=[PhaseCallback(), Say()]).train()
"""


@pytest.mark.parametrize("launcher", ["deepspeed", "torchrun"])
def test_sigterm_saves_on_all_ranks_and_keeps_the_exit_code(tmp_path, launcher):
    (tmp_path / "launch.py").write_text(LAUNCH)
    (tmp_path / "job.py").write_text(SAVING)
    kept = {name: value for name, value in os.environ.items() if name not in {"RANK", "WORLD_SIZE"}}
    environment = {
        **kept, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)]), "OMP_NUM_THREADS": "1"
    }  # fmt: skip
    launching = subprocess.Popen(
        [sys.executable, tmp_path / "launch.py", launcher, "none", "nothing", str(tmp_path)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert "two steps\n" in iter(launching.stdout.readline, "")
    launching.send_signal(signal.SIGTERM)
    _, errors = launching.communicate(timeout=300)
    assert launching.returncode == 75, errors
    assert "SIGTERM: saved " in errors and "run the same command again to go on" in errors
    assert "error:" not in errors
    [checkpoint] = (tmp_path / "output").glob("checkpoint-*")
    assert (checkpoint / "model.safetensors").is_file()
    assert not left_behind(str(tmp_path))


def launch_saves(folder, launcher, zero, fault, **variables):
    """Runs resume_ranks.py under a launcher; returns (exit code, stderr, time of the first error's message)."""
    (folder / "launch.py").write_text(LAUNCH.replace('"job", [zero, *arguments]', '"resume_ranks", arguments'))
    kept = {name: value for name, value in os.environ.items() if name not in {"RANK", "WORLD_SIZE"}}
    search = os.pathsep.join([str(folder), str(Path(__file__).parent), *filter(None, sys.path)])
    launching = subprocess.Popen(
        [sys.executable, folder / "launch.py", launcher, zero, folder / "run", zero, fault],
        env={**kept, "PYTHONPATH": search, "OMP_NUM_THREADS": "1", **variables},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    said, errors = None, []
    for line in launching.stderr:
        errors.append(line)
        if line.startswith("error: ") and said is None:
            said = time.time()
    code = launching.wait()
    assert not left_behind(str(folder)), "a process is left behind"
    assert choose(folder / "run", "auto").checkpoint.manifest.step == 3, "the last good one"
    return code, "".join(errors), said


LAUNCHERS = [("torchrun", "none"), ("deepspeed", "2"), ("deepspeed", "3")]


@pytest.mark.parametrize(("launcher", "zero"), LAUNCHERS)
def test_a_disk_that_is_full_for_one_rank(shim, tmp_path, record_property, launcher, zero):
    began = time.perf_counter()
    code, errors, _ = launch_saves(tmp_path, launcher, zero, "full", LD_PRELOAD=str(shim))
    record_property(f"{launcher}, {zero}, disk full for one rank, whole job", f"{time.perf_counter() - began:.0f} s")
    assert code not in (0, 75)
    refused = f"step 4: rank 1 on {os.uname().nodename} cannot write checkpoint-4: No space left on device"
    assert refused in errors, errors[-3000:]
    assert 'in phase "save checkpoint-4"; the other ranks are ended' in errors, errors[-3000:]


@pytest.mark.parametrize(("launcher", "zero"), LAUNCHERS)
def test_a_rank_that_is_killed_in_a_save(tmp_path, record_property, launcher, zero):
    code, errors, said = launch_saves(tmp_path, launcher, zero, "kill")
    assert code == 128 + signal.SIGKILL
    assert f"error: rank 1 on {os.uname().nodename} was killed by SIGKILL" in errors, errors[-3000:]
    assert 'in phase "save checkpoint-4"; the other ranks are ended' in errors
    message, end = (at - float((tmp_path / "run/when").read_text()) for at in (said, time.time()))
    assert message < 60 and end < 60
    record_property(
        f"{launcher}, {f'ZeRO-{zero}' if zero != 'none' else 'DDP'}, killed in a save",
        f"{message:.1f} s to the message, {end:.1f} s to the end",
    )
