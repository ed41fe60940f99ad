"""GeneralThinker on recorded responses is the same training on one process and on any spread of it.

What is compared: rewards and token advantages of every response, the gradient norm of every step, each parameter's
first gradient, and the change of the weights after twenty steps. The loss value is near zero whatever the gradients
are, and shows nothing.
"""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from thinker_common.models.load import load_policy

HERE = Path(__file__).parent
WORKER = HERE / "parity_generalthinker.py"
_spec = importlib.util.spec_from_file_location("parity_layouts", HERE.parents[2] / "common/tests/parity.py")
parity: Any = importlib.util.module_from_spec(_spec)
sys.modules["parity_layouts"] = parity
_spec.loader.exec_module(parity)

# A spread of each kind; the other layouts of the table are in `nox -s slow`.
QUICK = ("accumulation 1x8", "2 ranks, DDP", "2 ranks, ZeRO-3")
LAYOUTS = {**parity.LAYOUTS, **parity.MORE_LAYOUTS}
SLOW = tuple(name for name in LAYOUTS if name not in (parity.REFERENCE, *QUICK, "4 ranks, ZeRO-3"))  # groups of 4

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="DeepSpeed is for Linux"),
    pytest.mark.timeout(900),
]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference")
    parity.run(WORKER, parity.LAYOUTS[parity.REFERENCE], folder)
    return folder


COMPARED = ("reward", "answer_logprob", "credit/log_ratio_mean")  # the last one where there is a credit


def compare(folder: Path, reference: Path) -> dict[str, float]:
    """The largest differences of everything that has to agree."""
    weights = load_file(reference / "weights.safetensors")
    start = {
        name: tensor
        for name, tensor in load_policy("embedded@1", dtype="float32").state_dict().items()
        if name in weights
    }
    found = parity.difference(folder, reference, start)
    ours, theirs = (json.loads((path / "record.json").read_text()) for path in (folder, reference))
    advantages, rewards = [], []
    for step, expected in zip(ours["seen"], theirs["seen"], strict=True):
        assert step.keys() == expected.keys(), "every response is on exactly one rank"
        for key in step:
            assert len(step[key]) == len(expected[key])
            advantages += [abs(a - b) for a, b in zip(step[key], expected[key], strict=True)]
    for step, expected in zip(ours["history"], theirs["history"], strict=True):
        both = [(step[name], expected[name]) for name in COMPARED if name in expected]
        assert all((a is None) == (b is None) for a, b in both)  # a mean over nothing is null on every spread
        rewards += [abs(a - b) for a, b in both if b is not None]
    gradients = [load_file(path / "first_gradient.safetensors") for path in (folder, reference)]
    assert gradients[0].keys() == gradients[1].keys()
    return {
        "advantages": max(advantages),
        "rewards": max(rewards),
        "grad_norm": found.grad_norm_relative,
        "first_gradient": max(
            ((gradients[0][name] - g).norm() / g.norm().clamp(min=torch.finfo(g.dtype).tiny)).item()
            for name, g in gradients[1].items()
        ),
        "weight_change": found.weight_change_relative,
    }


LIMITS = {"advantages": 1e-5, "rewards": 1e-5, "grad_norm": 1e-4, "first_gradient": 1e-4, "weight_change": 1e-3}


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_the_same_training(name: str, reference: Path, tmp_path: Path, record_property: Any) -> None:
    parity.run(WORKER, LAYOUTS[name], tmp_path, *(["small-chunks"] if LAYOUTS[name].zero == 3 else []))
    found = compare(tmp_path, reference)
    record_property(
        f"generalthinker, parity, {name}", ", ".join(f"{what} {value:.1e}" for what, value in found.items())
    )
    assert {what: value for what, value in found.items() if not value <= LIMITS[what]} == {}
    engine = json.loads((tmp_path / "record.json").read_text())["engine"]
    layout = LAYOUTS[name]
    expected = "one process" if layout.ranks == 1 else "DistributedDataParallel"
    assert engine == (expected if layout.zero is None else f"DeepSpeedEngine, ZeRO-{layout.zero}")


@pytest.fixture(scope="module")
def idle_reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("idle")
    parity.run(WORKER, parity.LAYOUTS[parity.REFERENCE], folder, *IDLE)
    return folder


IDLE = ("malformed=exclude", "idle")


@pytest.mark.parametrize(
    "name", ["2 ranks, DDP", "2 ranks, ZeRO-3", pytest.param("2 ranks, ZeRO-2", marks=pytest.mark.slow)]
)
def test_a_rank_without_anything_to_train_on(
    name: str, idle_reference: Path, tmp_path: Path, record_property: Any
) -> None:
    """Of some rollouts one rank has long responses and the other only excluded ones of a token each; of some both."""
    parity.run(WORKER, LAYOUTS[name], tmp_path, *IDLE)
    found = compare(tmp_path, idle_reference)
    record_property(
        f"generalthinker, parity, {name}, idle ranks", ", ".join(f"{what} {value:.1e}" for what, value in found.items())
    )
    assert {what: value for what, value in found.items() if not value <= LIMITS[what]} == {}
    busy = json.loads((tmp_path / "record.json").read_text())["busy"]
    assert {(True, False), (False, True), (False, False)} <= set(zip(*busy, strict=True))


# What the paper trains: an adapter, on several ranks. Credit and gate are those that ask all ranks for a number.
ADAPTER = ("lora", "credit=projection", "entropy_gate=0.5")


@pytest.fixture(scope="module")
def adapter_reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    parity.run(WORKER, parity.LAYOUTS[parity.REFERENCE], folder, *ADAPTER)
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "2 ranks, ZeRO-3",
        pytest.param("2 ranks, DDP", marks=pytest.mark.slow),
        pytest.param("2 ranks, ZeRO-2", marks=pytest.mark.slow),
    ],
)
def test_an_adapter_and_a_credit_that_all_ranks_share(
    name: str, adapter_reference: Path, tmp_path: Path, record_property: Any
) -> None:
    parity.run(WORKER, LAYOUTS[name], tmp_path, *ADAPTER)
    found = compare(tmp_path, adapter_reference)
    record_property(
        f"generalthinker, parity, {name}, adapter", ", ".join(f"{what} {value:.1e}" for what, value in found.items())
    )
    assert {what: value for what, value in found.items() if not value <= LIMITS[what]} == {}
    for folder in (adapter_reference, tmp_path):
        exported_is_the_base_and_its_adapter(folder)


def exported_is_the_base_and_its_adapter(folder: Path) -> None:
    """W + alpha/r B A for every module with an adapter, W for every other weight."""
    base = load_policy("embedded@1", dtype="float32").state_dict()
    exported, adapter = load_file(folder / "model/model.safetensors"), load_file(folder / "adapter.safetensors")
    adapted = 0
    for name, weight in exported.items():
        prefix = f"base_model.model.{name.removesuffix('.weight')}"
        expected = base[name]
        if f"{prefix}.lora_A.default.weight" in adapter:
            a, b = (adapter.pop(f"{prefix}.lora_{part}.default.weight") for part in "AB")
            assert b.norm() > 0, f"{name}: the adapter is trained"
            expected = expected + 8.0 / 4 * (b @ a)
            adapted += 1
        torch.testing.assert_close(weight, expected, rtol=1e-5, atol=1e-6, msg=name)
    assert adapted and not adapter, "every weight of the adapter is in the model"


@pytest.mark.slow
def test_the_credit_of_a_peer_on_two_ranks(tmp_path: Path) -> None:
    for name in (parity.REFERENCE, "2 ranks, DDP"):
        parity.run(WORKER, LAYOUTS[name], tmp_path / name, "credit=rlsd")
    found = compare(tmp_path / "2 ranks, DDP", tmp_path / parity.REFERENCE)
    assert {what: value for what, value in found.items() if not value <= LIMITS[what]} == {}


def test_the_likelihood_of_the_answer_is_trained_under_zero3(tmp_path: Path) -> None:
    """VeriFree's second term has forward passes of its own, on as many answers as a rank has well-formed responses."""
    verifree = ("reward=probability", "credit=none", "max_tokens_per_batch=64")
    for name in (parity.REFERENCE, "2 ranks, ZeRO-3"):
        parity.run(WORKER, LAYOUTS[name], tmp_path / name, *verifree)
    found = compare(tmp_path / "2 ranks, ZeRO-3", tmp_path / parity.REFERENCE)
    # The answers have probabilities of about e^-11 here and gradients accordingly: later norms differ by 1e-4 on one
    # process too, if it only batches otherwise.
    for what in ("advantages", "first_gradient", "weight_change"):
        assert found[what] <= LIMITS[what], found


def test_a_wrong_normalisation_is_found(tmp_path: Path) -> None:
    for name in (parity.REFERENCE, "2 ranks, DDP"):
        parity.run(WORKER, parity.LAYOUTS[name], tmp_path / name, "wrong")
    found = compare(tmp_path / "2 ranks, DDP", tmp_path / parity.REFERENCE)
    for what in ("grad_norm", "first_gradient", "weight_change"):
        assert found[what] > 10 * LIMITS[what], what
