"""A stage is the same training however it is spread: cross-entropy, alignment and sigma count over the whole batch."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
WORKER = HERE / "parity_spiralthinker.py"
_spec = importlib.util.spec_from_file_location("parity_spiralthinker", WORKER)
worker: Any = importlib.util.module_from_spec(_spec)
sys.modules["parity_spiralthinker"] = worker
_spec.loader.exec_module(worker)
parity = worker.parity

# A spread of each kind; the other layouts of the table are in `nox -s slow`.
QUICK = ("accumulation 1x8", "activation checkpointing", "2 ranks, DDP")
LAYOUTS = {**parity.LAYOUTS, **parity.MORE_LAYOUTS}
SLOW = tuple(name for name in LAYOUTS if name not in (parity.REFERENCE, *QUICK))

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="DeepSpeed is for Linux"),
    pytest.mark.timeout(900),
]


def train(layout, folder: Path, *options: str) -> None:
    """One plain process is trained here, so that the test does not wait for another import of everything."""
    if layout.ranks == 1 and layout.zero is None:
        worker.main(json.dumps(layout.__dict__), str(folder), *options)
    else:
        parity.run(WORKER, layout, folder, *options)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    train(parity.LAYOUTS[parity.REFERENCE], folder)
    return folder


@pytest.fixture(scope="module")
def start():
    return {name: tensor.clone() for name, tensor in worker.start().base.state_dict().items()}


def check(name: str, folder: Path, reference: Path, start, record_property) -> None:
    layout = LAYOUTS[name]
    train(layout, folder)
    found = parity.difference(folder, reference, start)
    record_property(f"parity, spiralthinker, {name}", str(found))
    assert found.within(parity.TOLERANCE), found
    engine = json.loads((folder / "record.json").read_text())["engine"]
    expected = "one process" if layout.ranks == 1 else "DistributedDataParallel"
    assert engine == (expected if layout.zero is None else f"DeepSpeedEngine, ZeRO-{layout.zero}")


@pytest.mark.parametrize("name", QUICK)
def test_however_it_is_spread(name, tmp_path, reference, start, record_property):
    check(name, tmp_path, reference, start, record_property)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_however_else_it_is_spread(name, tmp_path, reference, start, record_property):
    check(name, tmp_path, reference, start, record_property)


OTHERS = ["teacher=frozen", "schedule=simultaneous", "name=coconut", "name=codi", "spell_weight=0.5", "sigma=feature"]


@pytest.mark.parametrize("options", [[option] for option in OTHERS], ids=OTHERS)
def test_other_settings_too(options, tmp_path, start):
    for name, layout in (("whole", parity.LAYOUTS[parity.REFERENCE]), ("parts", parity.Layout(accumulation=4))):
        train(layout, tmp_path / name, *options)
    found = parity.difference(tmp_path / "parts", tmp_path / "whole", start)
    assert found.within(parity.TOLERANCE), found


def test_stage_1_too(tmp_path, start):
    """With few tokens a forward pass, of which the gradients must not be deferred where they are computed again."""
    train(parity.LAYOUTS[parity.REFERENCE], tmp_path / "whole", "explicit")
    train(parity.Layout(accumulation=8, activation_checkpointing=True), tmp_path / "parts", "explicit")
    found = parity.difference(tmp_path / "parts", tmp_path / "whole", start)
    assert found.within(parity.TOLERANCE), found


def test_a_sigma_of_each_forward_pass_is_found(tmp_path, reference, start):
    train(parity.Layout(accumulation=4), tmp_path, "wrong")
    found = parity.difference(tmp_path, reference, start)
    assert found.loss_max > 10 * parity.TOLERANCE.loss_max, found


TRACED = {
    "ZeRO-3": parity.Layout(ranks=2, zero=3),
    "ZeRO-3, accumulation, activation checkpointing": parity.Layout(
        ranks=2, accumulation=4, zero=3, activation_checkpointing=True
    ),
    "ZeRO-3, 4 ranks": parity.Layout(ranks=4, zero=3),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["spiral", "coconut", "codi"])
@pytest.mark.parametrize("layout", TRACED.values(), ids=TRACED)
def test_all_ranks_call_the_same_collectives_in_the_same_order(layout, name, tmp_path):
    """The batches are uneven, and some ranks have no latent step or nothing at all; every parameter is gathered anew."""
    parity.run(WORKER, layout, tmp_path, "trace", f"name={name}")
    calls = [(tmp_path / f"collectives-{rank}.txt").read_text() for rank in range(layout.ranks)]
    assert calls[0].count("all_gather_into_tensor") > 20 * 40
    assert all(other == calls[0] for other in calls[1:])
