"""A generated Slurm script, run: what stands in for `srun` starts tasks with the variables that Slurm gives them."""

import os
import subprocess
import sys

from thinker_common.distributed.launch import slurm_script
from thinker_common.distributed.launch_settings import LaunchSettings

SRUN = f"""#!{sys.executable}
import os, subprocess, sys
options = [word for word in sys.argv[1:] if word.startswith("--")]
command = sys.argv[1 + len(options):]
given = dict(option[2:].split("=") for option in options)
nodes, per_node, tasks = (int(given[name]) for name in ("nodes", "ntasks-per-node", "ntasks"))
assert nodes * per_node == tasks and given["kill-on-bad-exit"] == "1"
assert not any(os.environ["THINKER_TOKEN"] in word for word in sys.argv)
started = [
    subprocess.Popen(command, env={{**os.environ, "SLURM_PROCID": str(task), "SLURM_LOCALID": str(task % per_node),
        "SLURM_NODEID": str(task // per_node), "SLURM_NTASKS": str(tasks), "SLURM_NTASKS_PER_NODE": str(per_node)}})
    for task in range(tasks)
]
sys.exit(max(task.wait() for task in started))
"""
# A method's command line: outside of a rank it launches itself, inside it works.
METHOD = """
import os, sys
from thinker_common.distributed.launch import in_rank, plan_launch
from thinker_common.distributed.launch_settings import LaunchSettings
if in_rank():
    from thinker_common.distributed import phases
    phases.begin("step 1")
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    with open(f"rank-{os.environ['RANK']}", "w") as file:
        print(*[os.environ[name] for name in names], *sys.argv[1:], file=file)
    sys.exit(int(sys.argv[2]) if os.environ["RANK"] == "3" else 0)
from thinker_common.distributed.supervisor import run
plan = plan_launch(LaunchSettings(launcher="slurm", nodes=2, gpus=2), "method", sys.argv[1:])
sys.exit(run(plan))
"""


def run_script(tmp_path, monkeypatch, code):
    monkeypatch.chdir(tmp_path)
    for name, text in {"srun": SRUN, "method.py": METHOD}.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "srun").chmod(0o755)
    settings = LaunchSettings(launcher="slurm", nodes=2, gpus=2, zero=2)
    script = tmp_path / "job.sbatch"
    command = [sys.executable, "-m", "method", "train", str(code), "a b"]
    script.write_text(slurm_script(settings, command, name="job", log="job-%j.log"))
    subprocess.run(["bash", "-n", script], check=True)
    kept = {name: value for name, value in os.environ.items() if name not in {"RANK", "WORLD_SIZE"}}
    environment = {
        **kept, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]),
        "SLURM_JOB_ID": "4242", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "localhost,localhost2",
        "SLURM_NTASKS_PER_NODE": "2",
    }  # fmt: skip
    return subprocess.run(["bash", script], cwd="/", env=environment, capture_output=True, text=True, timeout=120)


def test_the_script_starts_every_rank(tmp_path, monkeypatch):
    done = run_script(tmp_path, monkeypatch, 0)
    assert done.returncode == 0, done.stderr
    for rank in range(4):
        text = (tmp_path / f"rank-{rank}").read_text()
        assert text == f"{rank} {rank % 2} 4 2 localhost 29742 train 0 a b\n"


def test_a_failing_rank_ends_the_script(tmp_path, monkeypatch):
    done = run_script(tmp_path, monkeypatch, 7)
    assert done.returncode == 7, done.stderr
    assert "error: rank 3 on" in done.stderr and 'ended with exit code 7 in phase "step 1"' in done.stderr
