"""Two ranks: stopped by a signal on one of them, resumed bit-exactly; killed in a save, the last good one stays."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from thinker_common.training.checkpoints import Damaged, verify
from thinker_common.training.resume import choose

WORKER = Path(__file__).with_name("resume_ranks.py")


# Rank 1 alone has a loss that is not a number; one run skips the step, one stops before it.
NOT_FINITE = {
    "message": "step 3: the loss of rank 1",
    "finite": True,
    "steps": [6, 2],
    "batches": ["step-3-rank-1.pt", "step-3-rank-1.pt"],
}


def torchrun(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node=2",
            WORKER,
            folder,
            *arguments,
        ],
        env={**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=400,
    )


@pytest.mark.parametrize("zero", ["none", *(pytest.param(stage, marks=pytest.mark.slow) for stage in "01"), "2", "3"])
def test_a_signal_on_one_rank_saves_all_and_the_resume_is_bit_exact(tmp_path, zero):
    done = torchrun(tmp_path, zero)
    assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads((tmp_path / "record.json").read_text())
    states = [name for name in record.pop("files") if "rank" in name]
    assert {"rank_state_0.pt", "rank_state_1.pt"} <= set(states)
    assert record.items() >= {"code": 75, "step": 4, "rank_bound": True, "equal": True, "logs": True}.items()
    assert record.items() >= NOT_FINITE.items()
    if zero in "123":
        assert "global_step4/zero_pp_rank_1_mp_rank_00_optim_states.pt" in states
    saved = tmp_path / "run" / "checkpoint-4"
    files = verify(saved).files
    assert {"model.safetensors", "trainer_state.json", "rng_state_1.pth"} <= set(files)
    for name in files:
        content = (saved / name).read_bytes()
        (saved / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(Damaged, match=re.escape(f"{name} is damaged")):
            verify(saved)
        (saved / name).write_bytes(content)
    verify(saved)


@pytest.mark.parametrize("zero", ["none", pytest.param("3", marks=pytest.mark.slow)])
def test_a_rank_killed_in_a_save_ends_the_job_and_leaves_the_last_good_one(tmp_path, zero, record_property):
    began = time.perf_counter()
    done = torchrun(tmp_path, zero, "kill")
    record_property(f"rank killed in a save ({zero}), whole job", f"{time.perf_counter() - began:.0f} s")
    assert done.returncode != 0 and "Signal 9 (SIGKILL)" in done.stderr
    point = choose(tmp_path, "auto")
    assert point.checkpoint.manifest.step == 3
    assert [each.path.name for each in point.skipped] in ([], ["checkpoint-4"]), "rank 0 may still have tidied up"
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == [f"checkpoint-{step}" for step in (1, 2, 3)]
    shutil.rmtree(tmp_path)
