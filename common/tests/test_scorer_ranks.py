"""AnswerScorer inside a ZeRO-3 engine, with ranks that have many, few and no items, scores as one process does."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("scorer_ranks.py")
specification = importlib.util.spec_from_file_location("scorer_ranks", WORKER)
worker = importlib.util.module_from_spec(specification)
specification.loader.exec_module(worker)


@pytest.mark.skipif(sys.platform != "linux", reason="DeepSpeed is for Linux")
def test_ranks_of_unequal_work_score_as_one_process(tmp_path):
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
    }  # fmt: skip
    count = len(worker.PARTS)
    started = [
        subprocess.Popen([sys.executable, WORKER, tmp_path, str(rank), str(count)], env=environment)
        for rank in range(count)
    ]
    assert [process.wait(timeout=300) for process in started] == [0] * count
    records = [json.loads((tmp_path / f"record-{rank}.json").read_text()) for rank in range(count)]
    for record in records:
        assert record["engine"] == "DeepSpeedEngine" and record["elements here"] == 0, "sharded again afterwards"
        assert record["losses"][0] == record["losses"][1], "and the engine goes on"
    assert [len(record["scores"]) for record in records] == worker.PARTS
    found = [score for record in records for score in record["scores"]]
    expected = worker.scores(*worker.model_and_tokenizer(), worker.items())
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)
