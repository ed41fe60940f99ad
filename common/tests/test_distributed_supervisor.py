"""Real processes that die, fail, hang and are told to stop, watched by the supervisor. No torch: seconds, not minutes.

`run_job` starts ranks as a launcher does, with RANK and WORLD_SIZE in the environment, each through the real worker.
The same faults inside real collectives, under the real launchers, are in test_launch_faults.py.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from thinker_common.distributed.exit_codes import EXIT_HANG, EXIT_SAVED
from thinker_common.distributed.hosts import Host
from thinker_common.distributed.launch import WORKER, LaunchPlan
from thinker_common.distributed.launch_settings import LaunchSettings
from thinker_common.distributed.supervisor import Supervisor

# What launchers do, and nothing else: one process a rank, and the first code that is not 0.
LAUNCHER = """
import os, subprocess, sys
ranks = [subprocess.Popen([sys.executable, "-m", *sys.argv[2:]], env={**os.environ, "RANK": str(r), "LOCAL_RANK": str(r)})
         for r in range(int(sys.argv[1]))]
sys.exit(max(rank.wait() for rank in ranks))
"""
JOB = """
import os, signal, sys, time
from thinker_common.distributed import phases
rank = int(os.environ["RANK"])
def forever():
    while True: time.sleep(0.05); sum(range(10))
phases.begin("load", patient=True)
"""


@pytest.fixture
def _nothing_ignored():
    """A shell starts what it puts into the background with SIGINT ignored, `nohup` with SIGHUP: the tests may be so."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def run_job(_nothing_ignored, tmp_path, monkeypatch, capfd):
    """Runs a job's source on two ranks; returns (exit code, stderr, stdout, seconds)."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    monkeypatch.setenv("WORLD_SIZE", "2")

    def run(source, *, after=None, hang_seconds=None):
        (tmp_path / "job.py").write_text(JOB + source)
        command = (sys.executable, "-c", LAUNCHER, "2", WORKER, "job")
        plan = LaunchPlan((Host("localhost", 2),), (command,), {}, (), "127.0.0.1", 1, LaunchSettings())
        if hang_seconds is not None:
            plan.settings.hang_seconds = hang_seconds  # less than a run may ask for
        supervisor = Supervisor(plan)
        if after is not None:
            threading.Thread(target=after, args=(supervisor,), daemon=True).start()
        began = time.monotonic()
        code = supervisor.run()
        seconds = time.monotonic() - began
        output = capfd.readouterr()
        for rank in supervisor.ranks.values():
            assert rank.code is not None, "no rank is left behind"
        return code, output.err, output.out, seconds

    return run


def eventually(condition, seconds=40):  # less than a hang takes
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_run_that_ends_well(run_job):
    code, err, out, _ = run_job("print(f'rank {rank} of', os.environ['WORLD_SIZE'], *sys.argv[1:])")
    assert (code, err) == (0, "")
    assert out == "rank 0 of 2\n", "only rank 0 speaks"


def test_a_killed_rank_ends_the_run_with_rank_host_phase_and_last_lines(run_job, record_property):
    code, err, _, seconds = run_job(
        "with phases.phase('step 7'):\n"
        "    if rank == 1:\n"
        "        print('about to', 'die'); os.kill(os.getpid(), signal.SIGKILL)\n"
        "    forever()"
    )
    assert code == 128 + signal.SIGKILL
    host = os.uname().nodename
    assert f"error: rank 1 on {host} was killed by SIGKILL" in err
    assert 'in phase "step 7"; the other ranks are ended' in err
    assert "last lines of rank 1:\n  about to die\n" in err
    assert seconds < 20
    record_property("killed rank, whole run", f"{seconds:.1f} s")


def test_a_killed_worker_ends_the_run_as_well(run_job):
    """Whoever takes the memory back may hit the watching process."""
    code, err, _, _ = run_job(
        "phases.begin('step 1')\ntime.sleep(1)\nif rank == 1: os.kill(os.getppid(), signal.SIGKILL)\nforever()"
    )
    assert code == 128 + signal.SIGKILL
    assert "error: rank 1 on" in err and 'in phase "step 1"' in err


def test_an_error_is_the_cause_and_not_what_follows_from_it(run_job):
    """Rank 0 loses its peer and is gone before rank 1 has finished dying."""
    code, err, _, _ = run_job(
        "import atexit, pathlib\n"
        "failed = pathlib.Path(__file__).with_name('failed')\n"
        "if rank == 1:\n"
        "    atexit.register(time.sleep, 1.0)\n"
        "    failed.touch()\n"
        "    raise ValueError('the cause')\n"
        "while not failed.exists(): time.sleep(0.01)\n"
        "time.sleep(0.5)\n"
        "raise ConnectionError('a consequence')"
    )
    assert code == 1
    assert "error: rank 1 on" in err and "ended with exit code 1" in err
    assert err.index("error: rank 1") < err.index("ValueError: the cause")


def test_the_last_lines_may_be_long_and_in_any_script(run_job):
    """Their message is the longest that a rank sends: 400 lines of 500 characters, each escaped to 12 bytes."""
    code, err, _, _ = run_job(
        "if rank == 1:\n    for _ in range(400): print('\U0001f642' * 500)\n    raise ValueError('the cause')\nforever()"
    )
    assert code == 1
    assert "error: rank 1 on" in err and "ValueError: the cause" in err


def test_a_users_mistake_is_said_once(run_job):
    code, err, _, _ = run_job("print('error: no such file', file=sys.stderr)\nsys.exit(2)")
    assert (code, err) == (2, "error: no such file\n")


def test_a_users_mistake_on_another_rank_is_shown(run_job):
    code, err, _, _ = run_job(
        "if rank == 1:\n    print('error: no such file', file=sys.stderr)\n    sys.exit(2)\nforever()"
    )
    assert code == 2
    assert "ended with exit code 2" in err and "last lines of rank 1:\n  error: no such file\n" in err


def test_a_hang_names_the_phase_and_where_each_rank_stood(run_job):
    code, err, _, seconds = run_job(
        "def wait_for_the_other(): time.sleep(1000)\n"
        "def stuck(depth=60): stuck(depth - 1) if depth else time.sleep(1000)\n"
        "phases.begin('step 3')\n"
        "stuck() if rank == 1 else wait_for_the_other()",
        hang_seconds=6,
    )
    assert code == EXIT_HANG
    assert "error: no rank has moved for 6 s: " in err and 'in phase "step 3"' in err
    assert "stood at:\n  File" in err and "in stuck" in err and "in wait_for_the_other" in err
    assert seconds < 30


def test_a_rank_that_works_is_not_a_hang(run_job):
    """One rank computes, the other waits for it, for longer than a hang takes to be seen."""
    code, err, _, _ = run_job(
        "phases.begin('step 3')\n"
        "end = time.monotonic() + 9\n"
        "if rank == 1:\n"
        "    while time.monotonic() < end: sum(range(1000))\n"
        "else:\n"
        "    time.sleep(9)",
        hang_seconds=6,
    )
    assert (code, err) == (0, "")


def test_a_patient_phase_may_stand_still(run_job):
    """Compiling takes a minute in one call, and must not be taken for a hang."""
    code, err, _, _ = run_job("with phases.phase('compile', patient=True): time.sleep(9)", hang_seconds=6)
    assert (code, err) == (0, "")


SAVING = """
def save(number, frame):
    time.sleep(1.5)  # longer than a launcher waits between two looks
    print('saved', rank, flush=True)
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
signal.signal(signal.SIGINT, save)
phases.begin('step 1')
forever()
"""


def interrupt(number, times=1):
    def after(supervisor):
        eventually(lambda: len(supervisor.ranks) == 2 and all(r.phase == "step 1" for r in supervisor.ranks.values()))
        time.sleep(0.5)
        for _ in range(times):
            os.kill(os.getpid(), number)
            time.sleep(0.7)

    return after


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_ranks_save(run_job, number):
    code, err, out, _ = run_job(SAVING, after=interrupt(number))
    assert code == EXIT_SAVED
    assert (out, err) == ("saved 0\n", "")


def test_a_second_signal_ends_the_run_at_once(run_job):
    source = SAVING.replace("time.sleep(1.5)", "time.sleep(600)")
    code, err, _, seconds = run_job(source, after=interrupt(signal.SIGTERM, times=2))
    assert code == 128 + signal.SIGTERM
    assert "interrupted again: ended without saving" in err
    assert seconds < 30


def test_a_signal_to_ranks_that_cannot_save(run_job):
    code, err, _, _ = run_job("phases.begin('step 1')\nforever()", after=interrupt(signal.SIGTERM))
    assert code == 128 + signal.SIGTERM
    assert "stopped by a signal, before anything could be saved" in err


def test_a_rank_that_dies_behind_a_signal_is_named(run_job):
    """The others may wait for it for ever: they cannot save without it."""
    source = SAVING.replace("time.sleep(1.5)", "os.kill(os.getpid(), 9) if rank == 1 else time.sleep(600)")
    code, err, _, seconds = run_job(source, after=interrupt(signal.SIGTERM))
    assert code == 128 + signal.SIGKILL
    assert "error: rank 1 on" in err and "was killed by SIGKILL" in err
    assert seconds < 30


def test_a_logout_saves_and_nohup_goes_on(run_job):
    assert run_job(SAVING, after=interrupt(signal.SIGHUP))[0] == EXIT_SAVED
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        code, err, _, _ = run_job("phases.begin('step 1')\ntime.sleep(3)", after=interrupt(signal.SIGHUP))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (code, err) == (0, "")


def test_handlers_are_put_back(run_job):
    before = signal.getsignal(signal.SIGTERM)
    run_job("pass")
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_launcher_that_fails_is_named(monkeypatch, capfd):
    command = (sys.executable, "-c", "import sys; sys.exit(255)")
    plan = LaunchPlan((Host("far", 2),), (command,), {}, (), "127.0.0.1", 1, LaunchSettings())
    assert Supervisor(plan).run() == 255
    assert "error: the launcher on far ended with exit code 255 before its ranks had started" in capfd.readouterr().err


def test_one_host_that_cannot_be_reached_is_named_at_once(monkeypatch, tmp_path, capfd):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    monkeypatch.setenv("WORLD_SIZE", "2")
    (tmp_path / "job.py").write_text(JOB + "forever()")
    there = (sys.executable, "-c", LAUNCHER, "1", WORKER, "job")
    gone = (sys.executable, "-c", "import sys; sys.exit(255)")
    hosts = (Host("127.0.0.1", 1), Host("localhost", 1))
    began = time.monotonic()
    code = Supervisor(LaunchPlan(hosts, (there, gone), {}, (), "127.0.0.1", 1, LaunchSettings())).run()
    assert code == 255 and time.monotonic() - began < 40
    assert "error: the launcher on localhost ended with exit code 255 before its ranks" in capfd.readouterr().err


@pytest.mark.skipif(not os.path.exists("/proc/self/cmdline"), reason="needs /proc")
def test_no_command_line_holds_the_token(monkeypatch, tmp_path, capfd):
    """What stands in for `ssh` stays, as `ssh` does, while the host's shell runs its command."""
    (tmp_path / "ssh").write_text('#!/bin/sh\nshift 3\ncd /\nsh -c "$1"\nexit $?\n')
    (tmp_path / "ssh").chmod(0o755)
    (tmp_path / "job.py").write_text(JOB + 'while not os.path.exists("looked"): time.sleep(0.05)\n')
    one = (
        "import os, subprocess, sys; assert not sys.stdin.read()\n"
        "ranks = {'RANK': sys.argv[1], 'LOCAL_RANK': '0', 'WORLD_SIZE': '2'}\n"
        "sys.exit(subprocess.run([sys.executable, '-m', *sys.argv[2:]], env={**os.environ, **ranks}).returncode)"
    )
    commands = tuple((sys.executable, "-c", one, rank, WORKER, "job") for rank in "01")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    hosts = (Host("localhost", 1), Host("node-2", 1))
    supervisor = Supervisor(LaunchPlan(hosts, commands, {}, (), "127.0.0.1", 1, LaunchSettings(hostfile="hosts")))
    lines = []

    def look():
        eventually(lambda: len(supervisor.ranks) == 2)
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                lines.append((process / "cmdline").read_bytes())
        (tmp_path / "looked").touch()

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    assert supervisor.run() == 0, capfd.readouterr().err
    thread.join()
    assert any(b"node-2" in line and b"THINKER_SUPERVISOR" in line for line in lines), "ssh was there to be looked at"
    assert not any(supervisor.token.encode() in line for line in lines)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_log_disk_does_not_end_the_run(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    (tmp_path / "job.py").write_text(f"print('x' * 100000)\nopen({str(tmp_path / 'end')!r}, 'w').close()")
    environment = {**os.environ, "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", WORKER, "job"]
        assert subprocess.run(command, env=environment, stdout=full, timeout=60).returncode == 0
    assert (tmp_path / "end").exists()


def test_a_reader_that_stalls_is_no_hang(tmp_path):
    """As a pager is that nobody pages: the pipe is full, and the rank goes on."""
    source = JOB + (
        "phases.begin('step 1')\n"
        "for _ in range(60): print('x' * 10_000, flush=True); time.sleep(0.1); phases.begin('step')"
    )
    (tmp_path / "job.py").write_text(source)
    script = f"""
import sys
from thinker_common.distributed.hosts import Host
from thinker_common.distributed.launch import WORKER, LaunchPlan, LaunchSettings
from thinker_common.distributed.supervisor import Supervisor
command = (sys.executable, "-c", {LAUNCHER!r}, "2", WORKER, "job")
plan = LaunchPlan((Host("localhost", 2),), (command,), {{}}, (), "127.0.0.1", 1, LaunchSettings())
plan.settings.hang_seconds = 3
sys.exit(Supervisor(plan).run())
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]), "WORLD_SIZE": "2"}
    reading, writing = os.pipe()
    try:
        done = subprocess.run(
            [sys.executable, "-c", script],
            env=environment,
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            timeout=90,
        )
    finally:
        os.close(reading)
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_stranger_is_not_taken_for_a_rank(run_job):
    """Whoever connects without the run's token, or talks nonsense, is shown the door."""
    import socket

    def after(supervisor):
        port = supervisor.listener.getsockname()[1]
        for line in (
            b'{"token": "wrong", "rank": 0, "host": "x"}\n',
            b"GET / HTTP/1.1\r\n\r\n",
            b"[]\n",
            b"[" * 50_000 + b"\n",
            b"x" * 5_000_000,
        ):
            with socket.create_connection(("127.0.0.1", port)) as stranger, contextlib.suppress(ConnectionError):
                stranger.sendall(line)
                assert stranger.recv(10) == b""
        done.append(True)

    done = []
    code, err, _, _ = run_job("time.sleep(3)", after=after)
    assert (code, err, done) == (0, "", [True])


def test_ranks_end_with_their_supervisor(tmp_path, monkeypatch):
    """kill -9 of the launching process leaves no rank behind; they are asked to save first."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    monkeypatch.setenv("WORLD_SIZE", "2")
    (tmp_path / "job.py").write_text(
        JOB
        + "def save(number, frame):\n"
        + f"    open({str(tmp_path)!r} + f'/saved-{{rank}}', 'w').close(); sys.exit(75)\n"
        + "signal.signal(signal.SIGTERM, save)\n"
        + f"open({str(tmp_path)!r} + f'/pid-{{rank}}', 'w').write(str(os.getpid()))\n"
        + "forever()"
    )
    script = f"""
import sys
from thinker_common.distributed.hosts import Host
from thinker_common.distributed.launch import WORKER, LaunchPlan, LaunchSettings
from thinker_common.distributed.supervisor import run
command = (sys.executable, "-c", {LAUNCHER!r}, "2", WORKER, "job")
run(LaunchPlan((Host("localhost", 2),), (command,), {{}}, (), "127.0.0.1", 1, LaunchSettings()))
"""
    launching = subprocess.Popen([sys.executable, "-c", script])
    eventually(lambda: len([file for file in tmp_path.glob("pid-*") if file.read_text()]) == 2)
    pids = [int(file.read_text()) for file in tmp_path.glob("pid-*")]
    launching.kill()
    launching.wait()
    eventually(lambda: len(list(tmp_path.glob("saved-*"))) == 2)

    def gone(pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 0)
            return False
        return True

    eventually(lambda: all(gone(pid) for pid in pids))
