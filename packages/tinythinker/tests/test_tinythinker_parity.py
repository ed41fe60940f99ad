"""Both phases are the same training however it is spread, for causal and encoder-decoder students."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
WORKER = HERE / "parity_tinythinker.py"
_spec = importlib.util.spec_from_file_location("parity_tinythinker", WORKER)
worker: Any = importlib.util.module_from_spec(_spec)
sys.modules["parity_tinythinker"] = worker
_spec.loader.exec_module(worker)
parity = worker.parity

LAYOUTS = {**parity.LAYOUTS, **parity.MORE_LAYOUTS}
CASES = [(phase, kind) for phase in ("acquisition", "preference") for kind in ("causal", "t5")]
# Each case in this process, and a spread over ranks of each phase; all else is in `nox -s slow`.
QUICK = [*((*case, "accumulation 1x8") for case in CASES), ("acquisition", "t5", "2 ranks, DDP")]
SLOW = [(*case, name) for case in CASES for name in LAYOUTS if name != parity.REFERENCE and (*case, name) not in QUICK]

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
def references(tmp_path_factory):
    """(phase, kind) -> the folder of one process, trained when it is first asked for."""
    folders: dict[tuple[str, str], Path] = {}

    def of(phase, kind):
        if (phase, kind) not in folders:
            folders[phase, kind] = tmp_path_factory.mktemp("reference")
            train(parity.LAYOUTS[parity.REFERENCE], folders[phase, kind], phase, kind)
        return folders[phase, kind]

    return of


def weights(kind):
    model = worker.start(kind).model
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def check(phase, kind, name, folder, references, record_property) -> None:
    layout = LAYOUTS[name]
    train(layout, folder, phase, kind)
    found = parity.difference(folder, references(phase, kind), recorded(folder, kind))
    record_property(f"parity, tinythinker, {phase}, {kind}, {name}", str(found))
    assert found.within(parity.TOLERANCE), found
    engine = json.loads((folder / "record.json").read_text())["engine"]
    expected = "one process" if layout.ranks == 1 else "DistributedDataParallel"
    assert engine == (expected if layout.zero is None else f"DeepSpeedEngine, ZeRO-{layout.zero}")


def recorded(folder, kind):
    """The weights at the start, of the names that were recorded: an engine lists tied ones once or more often."""
    from safetensors.torch import load_file

    names = load_file(folder / "weights.safetensors").keys()
    return {name: tensor for name, tensor in weights(kind).items() if name in names}


@pytest.mark.parametrize(("phase", "kind", "name"), QUICK)
def test_however_it_is_spread(phase, kind, name, tmp_path, references, record_property):
    check(phase, kind, name, tmp_path, references, record_property)


@pytest.mark.slow
@pytest.mark.parametrize(("phase", "kind", "name"), SLOW)
def test_however_else_it_is_spread(phase, kind, name, tmp_path, references, record_property):
    check(phase, kind, name, tmp_path, references, record_property)


@pytest.mark.parametrize("phase", ["acquisition", "preference"])
def test_means_of_each_forward_pass_are_found(phase, tmp_path, references):
    train(parity.Layout(accumulation=4), tmp_path, phase, "causal", "wrong")
    found = parity.difference(tmp_path, references(phase, "causal"), recorded(tmp_path, "causal"))
    assert found.loss_max > 10 * parity.TOLERANCE.loss_max, found
