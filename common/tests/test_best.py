"""The best weights of a run: kept, found again, and never those of a step that the run has forgotten."""

from pathlib import Path

import torch
from torch import nn

from thinker_common.training.best import BestWeights


def model(value: float) -> nn.Module:
    made = nn.Linear(2, 1, bias=False)
    nn.init.constant_(made.weight, value)
    return made


def test_the_first_of_the_best_is_kept(tmp_path: Path) -> None:
    best = BestWeights(tmp_path / "best.safetensors", [])
    assert [best.offer(model(step), step, score) for step, score in ((10, 0.2), (20, 0.5), (30, 0.5), (40, 0.3))] == [
        True, True, False, False,
    ]  # fmt: skip
    assert best.step == 20
    assert torch.equal(best.load()["weight"], torch.full((1, 2), 20.0))


def test_a_run_that_goes_on_knows_its_best(tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    BestWeights(path, []).offer(model(20), 20, 0.5)
    history = [{"step": 20, "validation/accuracy": 0.5}, {"step": 25}]
    again = BestWeights(path, history)
    assert (again.step, again.score) == (20, 0.5)
    assert not again.offer(model(30), 30, 0.4)
    assert again.offer(model(30), 30, 0.6) and again.load()["weight"][0, 0] == 30


def test_weights_of_a_forgotten_step_are_not_taken_for_the_best(tmp_path: Path) -> None:
    """Step 25 was best, and the run goes on from step 20: the file is not that of 20, nor will 25 be the same."""
    path = tmp_path / "best.safetensors"
    first = BestWeights(path, [])
    first.offer(model(20), 20, 0.4)
    first.offer(model(25), 25, 0.5)
    again = BestWeights(path, [{"step": 20, "validation/accuracy": 0.4}])
    assert again.step == 0
    assert again.offer(model(26), 26, 0.3)
    assert again.step == 26 and again.load()["weight"][0, 0] == 26
    path.unlink()
    assert BestWeights(path, [{"step": 26, "validation/accuracy": 0.3}]).step == 0
