"""Supervised fine-tuning is the same training however it is spread. `parity.py` has the layouts and the tolerance.

The examples fill six batches and a quarter of the seventh, so that in every epoch batches are uneven and, with eight
shares, six of them empty.
"""

import importlib.util
import json
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
import torch

from thinker_common.errors import DataError
from thinker_common.training.batches import FILLER, MicroBatches
from thinker_common.training.supervised import IGNORED, check_rows, pad_rows, target_nll

HERE = Path(__file__).parent


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


parity, tiny, worker = load("parity"), load("tiny_training"), load("parity_supervised")
WORKER = HERE / "parity_supervised.py"


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    train(parity.LAYOUTS[parity.REFERENCE], folder)
    return folder


@pytest.fixture(scope="module")
def start():
    return {name: tensor.clone() for name, tensor in worker.start().state_dict().items()}


def train(layout, folder: Path, *options: str) -> None:
    """One plain process is trained here, so that the test does not wait for another import of everything."""
    if layout.ranks == 1 and layout.zero is None:
        worker.main(json.dumps(layout.__dict__), str(folder), *options)
    else:
        parity.run(WORKER, layout, folder, *options)


def check(layout, folder: Path, reference: Path, start, record_property, name: str) -> None:
    train(layout, folder, *(["small-chunks"] if layout.zero == 3 else []))
    found = parity.difference(folder, reference, start)
    record_property(f"parity, {name}", str(found))
    assert found.within(parity.TOLERANCE), found
    engine = json.loads((folder / "record.json").read_text())["engine"]
    history = json.loads((folder / "record.json").read_text())["history"]
    assert sum("grad_norm" in row for row in history) == (0 if layout.zero == 0 else parity.STEPS)
    expected = "one process" if layout.ranks == 1 else "DistributedDataParallel"
    assert engine == (expected if layout.zero is None else f"DeepSpeedEngine, ZeRO-{layout.zero}")


@pytest.mark.parametrize("name", [name for name in parity.LAYOUTS if name != parity.REFERENCE])
def test_however_it_is_spread(name, tmp_path, reference, start, record_property):
    check(parity.LAYOUTS[name], tmp_path, reference, start, record_property, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", parity.MORE_LAYOUTS)
def test_however_else_it_is_spread(name, tmp_path, reference, start, record_property):
    check(parity.MORE_LAYOUTS[name], tmp_path, reference, start, record_property, name)


def test_a_mean_per_forward_pass_is_found(tmp_path, reference, start, record_property):
    """The wrong normalisation, with accumulation 2x4: every measure but the drift is beyond its tolerance by far."""
    train(parity.Layout(accumulation=2), tmp_path, "wrong")
    found = parity.difference(tmp_path, reference, start)
    record_property("parity, wrong normalisation", str(found))
    assert not found.within(parity.TOLERANCE)
    assert found.loss_max > 100 * parity.TOLERANCE.loss_max
    assert found.grad_norm_relative > 100 * parity.TOLERANCE.grad_norm_relative
    assert found.weight_change_relative > 10 * parity.TOLERANCE.weight_change_relative


# ------------------------------------------------------------------------------------------- the parts, by brute force


@pytest.mark.parametrize(
    ("ranks", "accumulation", "micro_batch"), [(1, 1, 8), (2, 1, 4), (1, 8, 1), (2, 4, 1), (4, 2, 1)]
)
def test_every_example_once_an_epoch_in_the_same_batches(ranks, accumulation, micro_batch):
    lengths = [len(row["input_ids"]) for row in tiny.rows()]
    per_rank = []
    for rank in range(ranks):
        batches = MicroBatches(
            lengths, micro_batch_size=micro_batch, accumulation=accumulation, rank=rank, ranks=ranks, seed=5
        )
        batches.set_epoch(2)
        per_rank.append(list(batches))
        assert len(per_rank[-1]) == len(batches) == 7 * accumulation, "as many collectives on every rank"
        assert max(map(len, per_rank[-1])) <= micro_batch
    seen = Counter(row for batches in per_rank for batch in batches for row in batch if row != FILLER)
    assert seen == Counter(range(tiny.EXAMPLES))
    steps = [
        {row for batches in per_rank for batch in batches[step * accumulation :][:accumulation] for row in batch}
        - {FILLER}
        for step in range(7)
    ]
    alone = MicroBatches(lengths, micro_batch_size=8, accumulation=1, rank=0, ranks=1, seed=5)
    alone.set_epoch(2)
    assert steps == [set(batch) for batch in alone]
    alone.set_epoch(3)
    assert steps != [set(batch) for batch in alone], "another epoch has another order"


def test_the_loss_is_the_sum_over_target_tokens():
    model = worker.start().double()
    rows = tiny.rows()[:5]
    expected = 0.0
    for row in rows:
        logits_TV = model(torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
        expected -= sum(
            logits_TV[position - 1, label]
            for position, label in enumerate(row["labels"])
            if position and label != IGNORED
        )
    found = target_nll(model, pad_rows(rows, 0), chunk_tokens=7)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "there are no rows to train on"),
        (
            [{"input_ids": [1, 2], "labels": [1, 2]}, {"input_ids": [1, 2], "labels": [2]}],
            "row 1: 2 token ids and 1 labels",
        ),
        ([{"input_ids": [1, 2], "labels": [1, IGNORED]}], "row 0: no target token behind the first token"),
    ],
)
def test_rows_that_cannot_be_trained_on_are_refused(rows, message):
    with pytest.raises(DataError, match=message):
        check_rows(rows)
