"""Stopping and going on: bit-exact at every step, or refused with the reason."""

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from thinker_common.errors import SettingsError, UserError
from thinker_common.training.dependable import choose_together
from thinker_common.training.signals import SavedAndStopped, StopSignals

HERE = Path(__file__).parent
STEPS = 10  # seven make an epoch


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tiny = load("tiny_training")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """(folder with a checkpoint of every step, weights at the end, log)."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    trainer = tiny.trainer(folder, cls=tiny.Noting, max_steps=STEPS)
    output = trainer.train()
    assert output.training_loss == output.metrics["train_loss"]
    return folder, tiny.weights(trainer), logged(trainer)


def logged(trainer) -> list[dict[str, float]]:
    """Every row, the closing one included, without the times."""
    times = ("train_runtime", "train_samples_per_second", "train_steps_per_second")
    return [{name: row[name] for name in row if name not in times} for row in trainer.state.log_history]


def test_a_damaged_checkpoint_of_the_right_size_does_not_cost_the_good_one(tmp_path):
    """Found when resuming; a save at an earlier step must not take it for the newest."""
    tiny.trainer(tmp_path, max_steps=4, save_steps=2).train()
    weights = tmp_path / "checkpoint-4" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    point = choose_together(tmp_path, "auto")
    assert point.checkpoint.manifest.step == 2
    resumed = tiny.trainer(tmp_path, max_steps=3, save_steps=3, save_total_limit=1)
    resumed.train(resume_from_checkpoint=point.checkpoint.path)
    assert choose_together(tmp_path, "auto").checkpoint.manifest.step == 3
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-4"]


@pytest.mark.parametrize("step", range(1, STEPS))
def test_resume_is_bit_exact_at_every_step(uninterrupted, tmp_path, step):
    folder, weights, log = uninterrupted
    resumed = tiny.trainer(tmp_path, cls=tiny.Noting, max_steps=STEPS)
    output = resumed.train(resume_from_checkpoint=folder / f"checkpoint-{step}")
    assert torch.equal(tiny.weights(resumed), weights)
    assert logged(resumed) == log, "the log of a window that the stop fell into included"
    assert output.training_loss == log[-1]["train_loss"]


def test_figures_of_the_log_are_means_by_their_units_and_sums(uninterrupted):
    *rows, closing = uninterrupted[2]
    assert [row["step"] for row in rows] == [3, 6, 9]
    for row in rows:
        assert row["cross_entropy"] == pytest.approx(row["loss"], rel=0.02), "steps have different numbers of targets"
    epoch = sum(len(row["input_ids"]) for row in tiny.rows())
    assert rows[0]["tokens"] + rows[1]["tokens"] < epoch < sum(row["tokens"] for row in rows)
    assert closing["train_loss"] == pytest.approx(sum(row["loss"] for row in rows) / 3, rel=0.05)


def test_another_seed_of_dropout_would_show(uninterrupted, tmp_path):
    folder, weights, _ = uninterrupted
    resumed = tiny.trainer(tmp_path, max_steps=STEPS)
    resumed._load_rng_state = lambda checkpoint: torch.manual_seed(0)
    resumed.train(resume_from_checkpoint=folder / "checkpoint-5")
    assert not torch.equal(tiny.weights(resumed), weights)


def test_a_finished_run_is_not_trained_further(uninterrupted, tmp_path):
    folder, weights, log = uninterrupted
    resumed = tiny.trainer(tmp_path, max_steps=STEPS)
    output = resumed.train(resume_from_checkpoint=folder / f"checkpoint-{STEPS}")
    assert output.global_step == STEPS and torch.equal(tiny.weights(resumed), weights)
    assert logged(resumed) == log


def test_the_limit_holds_while_training_and_the_last_one_is_resumable(tmp_path):
    trainer = tiny.trainer(tmp_path, max_steps=5, save_steps=1, save_total_limit=2)
    trainer.train()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-4", "checkpoint-5"]
    assert choose_together(tmp_path, "auto").checkpoint.manifest.step == 5


# ------------------------------------------------------------------------------------------- what a rank holds besides


class Rollouts(tiny.SupervisedTrainer):
    """Every third step draws a random factor that three steps train with, as a rollout would be."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if self.state.global_step % 3 == 0 or not hasattr(self, "factor"):
            self.factor = torch.rand(())
        return super().compute_loss(model, inputs, num_items_in_batch=num_items_in_batch) * self.factor

    def rank_state(self):
        return {} if self.state.global_step % 3 == 0 else {"factor": self.factor}

    def load_rank_state(self, state):
        self.factor = state["factor"]


@pytest.mark.parametrize("step", [3, 4, 5])
def test_a_rank_finds_its_own_state_again(tmp_path, step):
    whole = tiny.trainer(tmp_path / "whole", cls=Rollouts, max_steps=8)
    whole.train()
    resumed = tiny.trainer(tmp_path / "resumed", cls=Rollouts, max_steps=8)
    resumed.train(resume_from_checkpoint=tmp_path / "whole" / f"checkpoint-{step}")
    assert torch.equal(tiny.weights(resumed), tiny.weights(whole))


# ------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {"training.learning_rate": 0.1}}, "training.learning_rate was 0.001 and is 0.1"),
        ({"data": tiny.rows(51)}, "the data 'train' was 50 rows, sha256 .* and is 51 rows, sha256"),
        ({"gradient_accumulation_steps": 4}, "an optimiser step had 8 examples, and would have 16"),
    ],
)
def test_another_run_is_refused(uninterrupted, tmp_path, changes, message):
    other = tiny.trainer(tmp_path, **changes)
    with pytest.raises(UserError, match=message):
        other.train(resume_from_checkpoint=uninterrupted[0] / "checkpoint-5")


def test_changes_are_possible_when_allowed_and_named(uninterrupted, tmp_path, capsys):
    data = [*tiny.rows()[1:], tiny.rows()[0]]
    other = tiny.trainer(tmp_path, settings={"data.seed": 1}, data=data, allow_changes=True, max_steps=STEPS)
    other.train(resume_from_checkpoint=uninterrupted[0] / "checkpoint-5")
    told = capsys.readouterr().err
    assert "going on although data.seed was not set and is 1" in told and "the data 'train' was 50 rows" in told
    assert "a changed learning rate has no effect" in told
    assert not torch.equal(tiny.weights(other), uninterrupted[1])


def test_a_checkpoint_of_transformers_alone_is_refused(uninterrupted, tmp_path):
    (tmp_path / "checkpoint-5").mkdir()
    with pytest.raises(UserError, match=r"not a complete checkpoint: manifest.json is missing"):
        tiny.trainer(tmp_path).train(resume_from_checkpoint=tmp_path / "checkpoint-5")


@pytest.mark.parametrize(
    ("argument", "value"),
    [("save_only_model", True), ("ignore_data_skip", True), ("save_total_limit", 0)],
)
def test_arguments_that_break_the_promise_are_refused(tmp_path, argument, value):
    with pytest.raises(SettingsError, match=f"training.{argument} = "):
        tiny.trainer(tmp_path, **{argument: value})


# ------------------------------------------------------------------------------------------- signals


class Signalled(tiny.SupervisedTrainer):
    """Gets a signal in the middle of its fourth step."""

    signal = signal.SIGTERM

    def training_step(self, *args, **kwargs):
        if self.state.global_step == 3:
            os.kill(os.getpid(), self.signal)
        return super().training_step(*args, **kwargs)


@pytest.fixture
def heard():
    """A shell's background jobs ignore SIGINT, and the tests may run in one."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_ends_with_its_own_code(uninterrupted, tmp_path, capsys, monkeypatch, number):
    monkeypatch.setattr(Signalled, "signal", number)
    before = signal.getsignal(number)
    # Without two signals: the second SIGINT of an accumulated step would end it at once.
    trainer = tiny.trainer(
        tmp_path, cls=Signalled, max_steps=STEPS, save_strategy="no",
        per_device_train_batch_size=8, gradient_accumulation_steps=1,
    )  # fmt: skip
    with pytest.raises(SavedAndStopped) as stopped:
        trainer.train()
    assert stopped.value.code == 75
    assert f"{number.name}: saved {tmp_path / 'checkpoint-4'} and stopped" in capsys.readouterr().err
    assert signal.getsignal(number) is before
    resumed = tiny.trainer(
        tmp_path, max_steps=STEPS, save_strategy="no", per_device_train_batch_size=8, gradient_accumulation_steps=1
    )
    resumed.train(resume_from_checkpoint=choose_together(tmp_path, "auto").checkpoint.path)
    assert resumed.state.global_step == STEPS


def test_what_is_ignored_stays_ignored(heard):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
    assert signals.received is None and signal.getsignal(signal.SIGINT) is signal.SIG_IGN


@pytest.mark.usefixtures("heard")
def test_a_second_interrupt_ends_at_once(tmp_path):
    class Twice(Signalled):
        signal = signal.SIGINT  # sent by both forward passes of the step

    with pytest.raises(KeyboardInterrupt):
        tiny.trainer(tmp_path, cls=Twice).train()
    assert choose_together(tmp_path, "auto").checkpoint.manifest.step == 3


def test_a_process_that_is_told_to_stop_exits_with_75(tmp_path):
    """SIGTERM from outside, at whatever instant it comes."""
    process = subprocess.Popen(
        [sys.executable, HERE / "tiny_training.py", tmp_path, "5000"], stderr=subprocess.PIPE, text=True
    )
    try:
        while not (tmp_path / "checkpoint-3").exists():
            assert process.poll() is None, process.stderr.read()
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 75 and "SIGTERM: saved " in errors
    point = choose_together(tmp_path, "auto")
    assert point.checkpoint.manifest.step >= 3 and not point.skipped


# ------------------------------------------------------------------------------------------- numbers that are not finite


class Overflowing(tiny.SupervisedTrainer):
    """The loss of the second forward pass of step 3 is not a number; `bad_steps` more follow."""

    bad_steps = 1

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss = super().compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
        bad = 2 <= self.state.global_step < 2 + self.bad_steps and len(self._guard._losses) == 1
        return loss * float("nan") if bad else loss


def test_a_loss_that_is_not_a_number_stops_before_the_weights_are_touched(tmp_path):
    trainer = tiny.trainer(tmp_path, cls=Overflowing)
    with pytest.raises(
        UserError, match=r"step 3: the loss of rank 0 is \[\d\.\d+, nan\]; the batch is in .*nonfinite. The"
    ):
        trainer.train()
    assert bool(tiny.weights(trainer).isfinite().all())
    saved = torch.load(tmp_path / "nonfinite" / "step-3-rank-0.pt", weights_only=True)
    assert [sorted(batch) for batch in saved["batches"]] == [["attention_mask", "counts", "input_ids", "labels"]] * 2
    assert choose_together(tmp_path, "auto").checkpoint.manifest.step == 2


def test_such_a_step_can_be_left_out(tmp_path):
    trainer = tiny.trainer(tmp_path, cls=Overflowing, nonfinite="skip", max_steps=4, save_steps=1)
    trainer.train()
    two, three, four = (torch.load(tmp_path / f"checkpoint-{n}" / "optimizer.pt", weights_only=True) for n in (2, 3, 4))
    assert all(torch.equal(two["state"][0][name], three["state"][0][name]) for name in ("step", "exp_avg"))
    assert four["state"][0]["step"] == 3, "of four steps one changed nothing"
    assert bool(tiny.weights(trainer).isfinite().all())
    assert (tmp_path / "nonfinite" / "step-3-rank-0.pt").exists()


def test_not_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(Overflowing, "bad_steps", 1000)
    trainer = tiny.trainer(tmp_path, cls=Overflowing, nonfinite="skip", max_steps=100, save_strategy="no")
    with pytest.raises(UserError, match="10 steps in a row were left out: it is not the batch"):
        trainer.train()
    assert trainer.state.global_step == 11


def test_a_gradient_that_is_not_finite_under_a_loss_that_is(tmp_path):
    class Exploding(tiny.SupervisedTrainer):
        def training_step(self, *args, **kwargs):
            loss = super().training_step(*args, **kwargs)
            if self.state.global_step == 2:
                self.model.lm_head.weight.grad[0, 0] = float("inf")
            return loss

    trainer = tiny.trainer(tmp_path, cls=Exploding)
    with pytest.raises(UserError, match="step 3: the norm of the gradient is inf; the batch is in"):
        trainer.train()
    assert bool(tiny.weights(trainer).isfinite().all())
