"""The script that compares rewards on the same responses."""

import importlib.util
import math
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts/compare_rewards.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("compare_rewards", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["compare_rewards"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_shares_of_a_group_by_hand(script):
    agrees = script.Group([True, True, False, False], [1.0, 1.0, -1.0, -1.0], 1.0)
    assert (script.shared(agrees), script.among_wrong(agrees), script.the_worst(agrees)) == (1.0, 0.0, 0.25)
    # Squares about the mean 0: 14 in all, of which 8 are between -3 and 1, both wrong.
    spread = script.Group([True, True, False, False], [2.0, 0.0, -3.0, 1.0], 1.0)
    assert script.shared(spread) == pytest.approx(1 - (2 + 8) / 14)
    assert script.among_wrong(spread) == pytest.approx(8 / 14)
    assert script.the_worst(spread) == pytest.approx(9 / 14)
    assert (script.above_zero(spread, True), script.above_zero(spread, False)) == (0.5, 0.5)
    assert (script.in_order(agrees), script.in_order(spread)) == (1.0, 0.75)
    assert script.in_order(script.Group([True, False, False], [0.5, 0.5, -1.0], 1.0)) == 0.75
    assert math.isnan(script.shared(script.Group([True, False], [0.0, 0.0], 0.0)))


def test_all_rewards_see_the_same_responses(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["compare_rewards.py", "--problems", "3", "--samples", "4"])
    script.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("3 groups of 4;")
    rewards = [line.split("|")[1].strip() for line in lines if line.startswith("|")][2:]
    assert rewards == ["likelihood", "binary", "mean_probability", "probability"]
