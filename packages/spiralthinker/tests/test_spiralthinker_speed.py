"""The command that measures speed, on a model of a few thousand parameters: what it counts, not how long it takes."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "scripts/measure_speed.py"


@pytest.fixture
def speed(monkeypatch: Any) -> ModuleType:
    spec = importlib.util.spec_from_file_location("spiralthinker_speed", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    monkeypatch.setattr(module.trainer, "deferred_weights", module.trainer.deferred_weights)  # the arms exchange it
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    monkeypatch.setattr(module, "MODEL", small)
    monkeypatch.setattr(module, "WORDS", 40)
    return module


def test_the_bound_and_the_goal_count_these_token_passes(speed: ModuleType) -> None:
    """By hand: prompt 60, latent step 7, text 11, latent step 7, answer 6; N = K = 5, four rows."""
    model, lengths = speed.make_model(), speed.SHAPES["gsm8k-aug"]
    simultaneous = speed.with_method(model, "simultaneous")
    plain = speed.Arm(model, lengths, 4, ragged=False, explicit=True)
    assert plain.token_passes == (4 * (60 + 3 * 11 + 6), 0)
    one = speed.Arm(model, lengths, 4, ragged=False)
    assert one.token_passes == (4 * (91 + 2 * 5 * 6), 4 * 33)
    other = speed.Arm(simultaneous, lengths, 4, ragged=False)
    assert other.token_passes == (4 * (91 + 5 * 24), 4 * 33)
    assert other.passes_of_goal == (4 * (61 + 6 * 30), 4 * 6 * 30)


def test_with_accumulation_a_step_has_all_batches(speed: ModuleType) -> None:
    model, lengths = speed.make_model(), speed.SHAPES["gsm8k-aug"]
    whole = speed.Arm(model, lengths, 4, ragged=True)
    parts = speed.Arm(model, lengths, 2, ragged=True, accumulation=2)
    assert parts.token_passes[0] == whole.token_passes[0] == 4 * (91 + 2 * 5 * 6), "ragged prompts have the same mean"
    assert parts.token_passes[1] >= whole.token_passes[1]
    for arm in (whole, parts):
        assert set(arm.step()) == {"passes", "optimiser"}


def test_a_difference_has_to_sit_at_a_near_tie(speed: ModuleType) -> None:
    gaps = [{(0, 1): 5e-5, (1, 1): 0.5}, {(0, 1): 3e-4, (1, 1): 0.4}]
    assert speed.compare([[1, 2, 3], [1, 2]], [[1, 9, 9], [1, 2]], gaps) == (1, [])
    same, unexplained = speed.compare([[1, 2, 3], [1, 2]], [[1, 2, 3], [1, 4]], gaps)
    assert same == 1
    assert unexplained == ["response 1 at token 1, the two best logits 0.4 apart"]


def test_all_responses_are_those_of_coconut_style(speed: ModuleType, capsys: Any) -> None:
    speed.generation(["gsm8k-aug"], 1, 3, None, ragged=True)
    said = capsys.readouterr().out
    assert "same outputs as Coconut-style: 3 of 3; near-ties: " in said
    # 3 steps: two latent ones of 7, a text of 11, an answer of 6
    assert "response: 31 tokens, 17 of them text, 2 latent steps; explicit chain: 39 tokens" in said
    assert re.search(r"goal: Coconut-style / ours: at least 10: .+: (met|missed)", said)
    assert re.search(r"goal: time a generated token / explicit chain's: at most 1.3: .+: (met|missed)", said)


def test_other_outputs_without_a_near_tie_are_an_error(speed: ModuleType) -> None:
    answers = speed.Answers(speed.make_model(), speed.SHAPES["gsm8k-aug"], 2, ragged=True)
    answers.ours()
    answers.found[1][20] += 1
    answers.gaps[1, 20] = 1.0
    with pytest.raises(SystemExit, match="no near-tie: response 1 at token 20"):
        answers.uncached(2)


def test_the_goals_of_training_are_said(speed: ModuleType, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setitem(speed.SHAPES, "prosqa", speed.Lengths(20, 4, 3, 3))
    speed.training(["prosqa"], 1, {"prosqa": 2}, lora=False, accumulation=1, ragged=True)
    said = capsys.readouterr().out
    assert [line.partition(":")[0] for line in said.splitlines()].count("goal") == 4
    assert "goal: sequential / plain step: at most 1.5" in said
    assert "goal: simultaneous / (1 + K passes, of the part behind alone" in said


def test_growth_has_both_schedules_in_training_and_generation(speed: ModuleType, capsys: Any, monkeypatch: Any) -> None:
    lengths = speed.Lengths(6, 3, 3, 3)
    monkeypatch.setattr(speed, "CASES", [("N = 2", lengths, {"latents": 2}), ("K = 0", lengths, {"iterations": 0})])
    torch.manual_seed(0)
    speed.growth(1, 2, 2, ragged=True)
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("| N", "| K"))]
    assert [row.count("|") for row in rows] == [9] * 4
