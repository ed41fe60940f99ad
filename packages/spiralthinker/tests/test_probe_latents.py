"""The probe: which latent step it reads, what that results in, and that a linear reading finds what is there."""

import importlib.util
from pathlib import Path
from types import ModuleType

import latent_models as lm
import pytest
import torch

from thinker_common.benchmarks import graphs

SCRIPT = Path(__file__).parents[1] / "scripts/probe_latents.py"


@pytest.fixture
def probe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("probe_latents", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_a_step_results_in(probe: ModuleType) -> None:
    assert probe.result_of("<<14+9=23>>") == "23"
    [problem] = graphs.generate("test", 1, size="small")
    assert probe.result_of(problem.steps[-1]) == problem.metadata["symbols"][problem.metadata["target"]]


def test_the_states_are_those_of_the_latent_step_that_is_asked_for(probe: ModuleType) -> None:
    """4, 3, 1 and 0 steps: two problems have a second latent step, which stands for their third step."""
    model = lm.latent_model().eval()
    first, second = (probe.with_latent_step(model, lm.problems(), number) for number in (0, 1))
    assert [len(found) for found in (first, second)] == [3, 2]
    assert [step for _, step in second] == [problem.steps[2] for problem in lm.problems()[:2]]
    problems = [problem for problem, _ in second]
    found = [probe.states_of(model, problems, number)["teacher"] for number in (0, 1)]
    assert found[0].shape == found[1].shape == (2, 2, 16)
    alone = probe.states_of(model, problems[1:], 1)
    torch.testing.assert_close(found[1][:, 1:], alone["teacher"], rtol=0, atol=1e-5)
    assert (found[0] - found[1]).abs().min(-1).values.max() > 1e-4


def test_a_linear_reading_finds_what_is_there_and_nothing_else(probe: ModuleType) -> None:
    draw = torch.Generator().manual_seed(0)
    results_E = torch.randint(0, 4, (400,), generator=draw)
    noise_ED = torch.randn(400, 6, generator=draw, dtype=torch.float64)
    there_ED = noise_ED + 8 * torch.nn.functional.one_hot(results_E, 6)
    train, test = slice(300), slice(300, None)
    assert probe.read_off(there_ED[train], results_E[train], there_ED[test], results_E[test], 4) > 0.98
    assert probe.read_off(noise_ED[train], results_E[train], noise_ED[test], results_E[test], 4) < 0.4
