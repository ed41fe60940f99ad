"""What ranks agree on, over a real process group of three, and alone."""

import json
import os
import subprocess
import sys

import pytest

from thinker_common.distributed import ranks
from thinker_common.distributed.launch import free_port
from thinker_common.errors import UserError

SCRIPT = """
import json, sys
import torch.distributed as dist
from thinker_common.distributed import ranks
from thinker_common.errors import UserError
dist.init_process_group("gloo", init_method=sys.argv[1], rank=int(sys.argv[2]), world_size=3)
me = ranks.rank()
found = {"size": ranks.world_size(), "main": ranks.is_main()}
mine = ranks.shard(["a", "b"])  # the last rank has none
found["mine"] = mine
found["all"] = ranks.unshard(ranks.gather([item.upper() for item in mine], "items"))
found["long"] = ranks.unshard(ranks.gather(ranks.shard(range(10)), "numbers")) == list(range(10))
found["from_main"] = ranks.from_main({"chosen": me + 7}, "choice")
found["any"] = [ranks.any_rank(me == 2), ranks.any_rank(False)]
found["largest"], found["total"] = ranks.largest(me * 5), ranks.total(me + 1)
found["on_main"] = ranks.on_main(lambda: "written", "write")
def attempt(error):
    try:
        ranks.raise_together(error, "a save")
    except Exception as raised:
        return f"{type(raised).__name__}: {raised}"
found["errors"] = [attempt(None), attempt(OSError("disk full") if me == 1 else None), attempt(UserError("no such file") if me == 0 else None)]
ranks.barrier("the end")
print(json.dumps(found))
dist.destroy_process_group()
"""


def test_three_ranks(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, f"file://{tmp_path / 'store'}"]
    started = [
        subprocess.Popen([*command, str(rank)], env=environment, stdout=subprocess.PIPE, text=True) for rank in range(3)
    ]
    found = [json.loads(process.communicate(timeout=300)[0].splitlines()[-1]) for process in started]
    assert [each["main"] for each in found] == [True, False, False]
    assert [each["mine"] for each in found] == [["a"], ["b"], []], "a rank may have nothing to do"
    assert [each["on_main"] for each in found] == ["written", None, None]
    for each in found:
        assert each["size"] == 3 and each["all"] == ["A", "B"] and each["long"]
        assert each["from_main"] == {"chosen": 7}
        assert each["any"] == [True, False] and each["largest"] == 10 and each["total"] == 6
    assert [each["errors"] for each in found] == [
        [None, "RuntimeError: rank 1 failed at a save: OSError: disk full", "UserError: no such file"],
        [None, "OSError: disk full", "UserError: no such file"],
        [None, "RuntimeError: rank 1 failed at a save: OSError: disk full", "UserError: no such file"],
    ]


# Gloo's threads hold the last reference to tensors of Python's.
UNFINISHED = """
import torch, torch.distributed as dist
dist.init_process_group("gloo")
for number in range(30):
    tensor = torch.ones(200_000)
    tensor.mark = object()
    work = dist.all_reduce(tensor, async_op=True)
    if number % 2:
        work.wait()
    del tensor
work.wait()
"""


def test_a_rank_that_has_ended_its_work_ends_well(tmp_path):
    """Without `leave` about every fourth of these processes is killed by SIGABRT."""
    (tmp_path / "unfinished.py").write_text(UNFINISHED)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)]),
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "WORLD_SIZE": "2",
    }
    command = [sys.executable, "-m", "thinker_common.distributed.child", "unfinished"]
    for _ in range(5):
        port = str(free_port())
        started = [
            subprocess.Popen(command, env={**environment, "RANK": rank, "MASTER_PORT": port}) for rank in ("0", "1")
        ]
        assert [process.wait(timeout=120) for process in started] == [0, 0]


def test_alone():
    assert (ranks.rank(), ranks.world_size(), ranks.is_main()) == (0, 1, True)
    assert ranks.shard([1, 2, 3]) == [1, 2, 3] and ranks.unshard([[1, 2, 3]]) == [1, 2, 3] and ranks.unshard([]) == []
    assert ranks.gather("x", "x") == ["x"] and ranks.from_main("x", "x") == "x"
    assert ranks.any_rank(True) and not ranks.any_rank(False)
    assert ranks.largest(3) == ranks.total(3) == 3
    ranks.barrier("nobody")
    with pytest.raises(UserError, match="wrong"):
        ranks.raise_together(UserError("wrong"), "this")
