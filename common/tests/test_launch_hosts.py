"""Two hosts on one machine: network namespaces, each with an address of its own, joined by a bridge.

The launching process lives in a third namespace. What stands in for `ssh` enters a host's namespace and runs there what
sshd would; everything else is real: the hostfile, the launchers, the addresses, the connections, the deaths.
"""

import os
import subprocess
import sys
import time

import pytest

SETUP = """
set -e
mount -t tmpfs none /run
mkdir /run/netns
ip link set lo up
ip link add hosts type bridge
ip addr add 10.77.0.254/24 dev hosts
ip link set hosts up
for number in 1 2; do
    ip netns add 10.77.0.$number
    ip link add port$number type veth peer name eth0 netns 10.77.0.$number
    ip link set port$number master hosts up
    nsenter --net=/run/netns/10.77.0.$number sh -ec "ip link set lo up; ip addr add 10.77.0.$number/24 dev eth0; ip link set eth0 up"
done
exec "$@"
"""
SSH = """#!/bin/sh
[ "$1" = -o ] && shift 2
host=$1
shift
exec nsenter --net=/run/netns/$host unshare --uts sh -c "hostname node-${host##*.}; cd /; $*"
"""
LAUNCH = """
import sys
from thinker_common.distributed.launch import plan_launch
from thinker_common.distributed.launch_settings import LaunchSettings
from thinker_common.distributed.supervisor import run
hostfile, launcher, module, *arguments = sys.argv[1:]
plan = plan_launch(LaunchSettings(hostfile=hostfile, launcher=launcher), module, arguments, gpus=[])
print(*plan.lines(), sep="\\n", flush=True)
sys.exit(run(plan))
"""
COLLECTIVE = """
import os, signal, socket, sys, time
import torch.distributed as dist
from thinker_common.distributed import phases, ranks
dist.init_process_group("gloo")
places = ranks.gather((ranks.rank(), socket.gethostname(), open("/proc/net/fib_trie").read().count("10.77.0.1\\n") > 0), "places")
if ranks.is_main():
    print(places, flush=True)
if "kill" in sys.argv:
    with phases.phase("step 3"):
        if ranks.rank() == 1:
            print("last words", flush=True)
            with open(sys.argv[2], "w") as file:
                file.write(str(time.time()))
            os.kill(os.getpid(), signal.SIGKILL)
        ranks.barrier("never")
dist.destroy_process_group()
"""
TRAINING = """
import socket, sys
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments
from thinker_common.distributed import ranks
from thinker_common.distributed.deepspeed_config import RunValues, deepspeed_config
from thinker_common.distributed.engine import check_engine, check_environment
from thinker_common.distributed.launch_settings import LaunchSettings
settings = LaunchSettings(zero=2)
check_environment(settings, use_cpu=True)
config = deepspeed_config(settings, RunValues(2, 1, 2, 1.0, False, 1e-3, (0.9, 0.999), 1e-8, 0.0, 32, cpu=True))
arguments = TrainingArguments(
    output_dir=sys.argv[1], use_cpu=True, max_steps=3, per_device_train_batch_size=2, learning_rate=1e-3, report_to=[],
    deepspeed=config, disable_tqdm=True, save_strategy="no", logging_steps=1)
torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2))
rows = [{"input_ids": row, "labels": row} for row in torch.randint(0, 64, (12, 16))]
trainer = Trainer(model=model, args=arguments, train_dataset=rows)
trainer.train()
engine = check_engine(trainer.model_wrapped, settings, config, world_size=ranks.world_size(), launched_ranks=2)
total = sum(p.double().sum().item() for p in trainer.model.parameters())
print(ranks.gather((socket.gethostname(), engine, total), "end"), flush=True) if ranks.is_main() else ranks.gather((socket.gethostname(), engine, total), "end")
"""

ENTER = ["unshare", "--user", "--map-root-user", "--net", "--mount"]


@pytest.fixture(scope="module")
def _namespaces(tmp_path_factory):
    setup = tmp_path_factory.mktemp("hosts") / "setup.sh"
    setup.write_text(SETUP)
    try:
        done = subprocess.run([*ENTER, "sh", setup, "true"], capture_output=True, text=True, timeout=60)
    except FileNotFoundError as error:
        pytest.skip(f"no network namespaces: {error.filename} is not installed")
    if done.returncode:
        pytest.skip(f"network namespaces are not permitted here: {done.stderr.strip()[-200:]}")


@pytest.fixture
def on_two_hosts(_namespaces, tmp_path):
    """Runs a job's source on the two hosts; returns the finished process, with stdout and stderr."""

    def run(launcher, source, *arguments, hosts="10.77.0.1 slots=1\n10.77.0.2 slots=1\n"):
        for name, text in {"setup.sh": SETUP, "launch.py": LAUNCH, "job.py": source, "ssh": SSH}.items():
            (tmp_path / name).write_text(text)
        (tmp_path / "ssh").chmod(0o755)
        (tmp_path / "hosts").write_text(hosts)
        environment = {
            **{name: value for name, value in os.environ.items() if name not in {"RANK", "WORLD_SIZE"}},
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)]),
            "GLOO_SOCKET_IFNAME": "eth0",
            "OMP_NUM_THREADS": "1",
            "DS_ACCELERATOR": "cpu",
        }
        return subprocess.run(
            [*ENTER, "sh", tmp_path / "setup.sh", sys.executable, tmp_path / "launch.py", tmp_path / "hosts", launcher,
             "job", *arguments],
            env=environment, capture_output=True, text=True, timeout=560,
        )  # fmt: skip

    return run


@pytest.mark.slow
def test_ranks_on_two_hosts_find_each_other(on_two_hosts):
    done = on_two_hosts("torchrun", COLLECTIVE)
    assert done.returncode == 0, done.stderr
    assert "hosts: 10.77.0.1 (1 rank), 10.77.0.2 (1 rank)\n" in done.stdout
    assert "[(0, 'node-1', True), (1, 'node-2', False)]" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "deepspeed"])
def test_a_hostfile_of_one_other_host(launcher, on_two_hosts):
    done = on_two_hosts(launcher, COLLECTIVE, hosts="10.77.0.2 slots=2\n")
    assert done.returncode == 0, done.stderr
    assert "hosts: 10.77.0.2 (2 ranks)\n" in done.stdout
    assert "[(0, 'node-2', False), (1, 'node-2', False)]" in done.stdout


@pytest.mark.slow
def test_deepspeed_trains_on_the_hosts_of_a_hostfile(on_two_hosts, tmp_path):
    done = on_two_hosts("deepspeed", TRAINING, str(tmp_path / "output"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "--no_ssh --node_rank 1 --master_addr 10.77.0.1" in done.stdout
    [(host, engine, total), (other_host, other_engine, other_total)] = eval(done.stdout.strip().splitlines()[-1])
    assert (host, other_host) == ("node-1", "node-2")
    assert engine == other_engine == "DeepSpeedEngine, ZeRO-2"
    assert total == other_total


@pytest.mark.slow
def test_a_death_on_another_host_is_reported_on_both(on_two_hosts, tmp_path, record_property):
    done = on_two_hosts("torchrun", COLLECTIVE, "kill", str(tmp_path / "when"))
    seconds = time.time() - float((tmp_path / "when").read_text())
    assert done.returncode == 137, done.stderr
    message = "error: rank 1 on node-2 was killed by SIGKILL"
    # By the launching process, and by a worker on either host.
    assert done.stderr.count(message) == 3, done.stderr
    assert 'in phase "step 3"' in done.stderr
    assert "\n  last words\n" in done.stderr
    assert seconds < 60
    record_property("torchrun, two hosts, killed before a collective", f"{seconds:.1f} s to the end on both")
