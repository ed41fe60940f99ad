"""Keeps one rank: starts its process, passes its output on, and tells the supervisor how it is and how it ended.

`python -m <this package>.worker MODULE ARGUMENTS`, started by a launcher once for each rank. It loads nothing heavy, so
that it answers whatever its rank does. One connection leads to the supervisor, a JSON object a line: from here the
rank, its phase and whether it moves, and its end with its last lines; from there `signal`, which is passed on to the
rank, and `end`, which ends it. A lost connection ends the rank as well: nobody is left who would.
"""

import collections
import json
import os
import queue
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from . import phases
from .exit_codes import EXIT_SAVED, of_signal

SUPERVISOR, TOKEN = "THINKER_SUPERVISOR", "THINKER_TOKEN"
KEPT_LINES = 400  # the stacks of a hang are long, and the main thread's comes last
_TICK_SECONDS = 0.5
_GRACE_SECONDS = 3.0  # for a rank that ends by itself when another one failed
_DUMP_SECONDS = 1.0  # for a rank that hangs to print its stacks
_WAITING_BYTES = 1 << 26  # of output that its reader has not taken yet
_ORPHAN_SECONDS = 60.0  # for a rank whose supervisor is gone to save


def main() -> None:
    _ranks_from_slurm()
    sys.exit(Worker(sys.argv[1:]).run())


def _ranks_from_slurm() -> None:
    """`srun` has its own names for what the other launchers set."""
    if "RANK" in os.environ or "SLURM_PROCID" not in os.environ:
        return
    os.environ["RANK"] = os.environ["SLURM_PROCID"]
    os.environ["LOCAL_RANK"] = os.environ["SLURM_LOCALID"]
    os.environ["WORLD_SIZE"] = os.environ["SLURM_NTASKS"]
    os.environ["LOCAL_WORLD_SIZE"] = os.environ["SLURM_NTASKS_PER_NODE"].partition("(")[0]


class Worker:
    """One rank's process and the connection to the supervisor."""

    def __init__(self, command: Sequence[str]) -> None:
        self.rank = int(os.environ["RANK"])
        self.lines: collections.deque[str] = collections.deque(maxlen=KEPT_LINES)
        self.phase, self.patient, self.moved = "start", True, True
        self.deadline: float | None = None  # when the rank is killed
        self.signalled, self.dumping = False, False
        self.parts: dict[int, bytes] = {}  # what came of a line whose end is still to come
        self.selector = selectors.DefaultSelector()
        self.output = Output()
        self.supervisor = self._connect()
        for number in heard_signals():
            signal.signal(number, lambda number, _: self._pass_on(number))
        self.child = self._start(command)

    def _connect(self) -> socket.socket | None:
        if SUPERVISOR not in os.environ:
            return None
        host, _, port = os.environ[SUPERVISOR].rpartition(":")
        connection = socket.create_connection((host, int(port)), timeout=30)
        connection.settimeout(None)
        self.selector.register(connection, selectors.EVENT_READ, self._hear)
        return connection

    def _start(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        """The rank's process. Rank 0's output is the run's; that of the others is kept for an error message."""
        reading, writing = os.pipe()
        environment = {**os.environ, phases.PIPE: str(writing)}
        for name in (SUPERVISOR, TOKEN):
            environment.pop(name, None)
        terminal = self.rank == 0 and sys.stderr.isatty()  # its progress bars need the terminal itself
        child = subprocess.Popen(
            [sys.executable, "-u", "-m", f"{__package__}.child", *command],
            env=environment,
            pass_fds=[writing],
            stdin=subprocess.DEVNULL,
            stdout=None if terminal else subprocess.PIPE,
            stderr=None if terminal else subprocess.PIPE,
        )
        os.close(writing)
        self.selector.register(reading, selectors.EVENT_READ, self._read_phase)
        if child.stdout is not None and child.stderr is not None:
            self.selector.register(child.stdout.fileno(), selectors.EVENT_READ, self._read_output)
            self.selector.register(child.stderr.fileno(), selectors.EVENT_READ, self._read_errors)
        self._say(token=os.environ.get(TOKEN), rank=self.rank, host=socket.gethostname())
        return child

    def run(self) -> int:
        """Until the rank ends; returns the exit code that the launcher sees."""
        told, told_phase = 0.0, ""
        while self.child.poll() is None:
            for key, _ in self.selector.select(_TICK_SECONDS):
                key.data(key.fd)
            if self.deadline is not None and time.monotonic() > self.deadline:
                self.child.kill()
            if self.phase != told_phase or time.monotonic() - told > phases.SAMPLE_SECONDS:
                self._say(phase=self.phase, patient=self.patient, moved=self.moved)
                self.moved, told, told_phase = False, time.monotonic(), self.phase
        self._drain()
        code = self.child.returncode
        self._say(exit=code, phase=self.phase, lines=list(self.lines))
        if code not in (0, EXIT_SAVED):
            self._wait_for_the_account()
        self.output.finish(_GRACE_SECONDS)
        if self.supervisor is not None:
            return 0  # a launcher takes any other code for a crash, and kills ranks that may be saving
        return of_signal(-code) if code < 0 else code

    def _wait_for_the_account(self) -> None:
        """Until the supervisor has said what ended the run: it is to stand in the output of every host."""
        end = time.monotonic() + _GRACE_SECONDS
        while self.supervisor is not None and self.deadline is None and time.monotonic() < end:
            for key, _ in self.selector.select(_TICK_SECONDS):
                key.data(key.fd)

    # -------------------------------------------------------------------------------------------------- from the rank

    def _read_phase(self, pipe: int) -> None:
        for line in self._lines_of(pipe):
            kind, _, name = line.partition(" ")
            if kind in ("phase", "patient"):
                self.phase, self.patient, self.moved = name, kind == "patient", True
            elif kind == "moved":
                self.moved = True
            elif kind == "failed":
                self._say(failing=True)

    def _read_output(self, pipe: int) -> None:
        self._pass_output(pipe, 1)

    def _read_errors(self, pipe: int) -> None:
        self._pass_output(pipe, 2)

    def _pass_output(self, pipe: int, target: int) -> None:
        self.lines.extend(line.rpartition("\r")[2][:500] for line in self._lines_of(pipe, target))

    def _lines_of(self, pipe: int, target: int | None = None) -> list[str]:
        """The complete lines that have come; everything of rank 0 is passed on to `target` at once."""
        block = os.read(pipe, 65536)
        if target is not None and self.rank == 0 and not self.dumping:
            self.output.write(target, block)
        if not block:
            self.selector.unregister(pipe)
        whole, newline, rest = (self.parts.get(pipe, b"") + block).rpartition(b"\n")
        self.parts[pipe] = rest[-65536:]
        return [line.decode(errors="replace") for line in whole.split(b"\n")] if newline else []

    def _drain(self) -> None:
        """What the rank still wrote before it ended. A process that it left behind may keep the pipes open."""
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            ready = [key for key, _ in self.selector.select(0) if key.fileobj is not self.supervisor]
            if not ready:
                return
            for key in ready:
                key.data(key.fd)

    # -------------------------------------------------------------------------------------------------- the supervisor

    def _say(self, **message: Any) -> None:
        if self.supervisor is not None:
            try:
                self.supervisor.sendall(json.dumps(message).encode() + b"\n")
            except OSError:
                self._lose()

    def _hear(self, _: int) -> None:
        assert self.supervisor is not None
        try:
            block = self.supervisor.recv(65536)
        except OSError:
            block = b""
        if not block:
            self._lose()
            return
        *lines, self.parts[-1] = (self.parts.get(-1, b"") + block).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "signal" in message:
                self._pass_on(signal.Signals[message["signal"]])
            if "end" in message:
                self._end(message["end"], dump=message["dump"])

    def _end(self, why: str, *, dump: bool) -> None:
        if why and self._first_here():
            self.output.write(2, why.encode())
        if dump:
            self.dumping = True  # its stacks go into the supervisor's message
            self.child.send_signal(signal.SIGUSR1)
        self.deadline = time.monotonic() + (_DUMP_SECONDS if dump else _GRACE_SECONDS)

    def _lose(self) -> None:
        assert self.supervisor is not None
        self.selector.unregister(self.supervisor)
        self.supervisor.close()
        self.supervisor = None
        if self.child.poll() is None and self.deadline is None:
            self.output.write(2, f"rank {self.rank}: the launching process is gone; ending\n".encode())
            self.child.send_signal(signal.SIGTERM)
            self.deadline = time.monotonic() + _ORPHAN_SECONDS

    def _pass_on(self, number: int) -> None:
        """A signal for the rank, once: launchers and schedulers repeat theirs, and a second one would stop a save."""
        if not self.signalled:
            self.signalled = True
            self.child.send_signal(signal.SIGTERM if number == signal.SIGHUP else number)  # on which ranks save

    def _first_here(self) -> bool:
        return os.environ.get("LOCAL_RANK", "0") == "0"


class Output:
    """Passes output on from a thread of its own, in order.

    A reader that stalls, such as a pager, must not keep a rank from being heard of: a run that is well would count as
    one that hangs. What does not fit into `_WAITING_BYTES` is dropped.
    """

    def __init__(self) -> None:
        self._blocks: queue.SimpleQueue[tuple[int, bytes] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting = 0  # bytes
        self._thread = threading.Thread(target=self._pass_on, daemon=True)
        self._thread.start()

    def write(self, target: int, block: bytes) -> None:
        """target: a file descriptor"""
        with self._lock:
            if self._waiting + len(block) > _WAITING_BYTES:
                return
            self._waiting += len(block)
        self._blocks.put((target, block))

    def finish(self, seconds: float) -> None:
        """Waits until all of it is written, so long at most."""
        self._blocks.put(None)
        self._thread.join(seconds)

    def _pass_on(self) -> None:
        while (item := self._blocks.get()) is not None:
            _write_all(*item)
            with self._lock:
                self._waiting -= len(item[1])


def heard_signals() -> list[signal.Signals]:
    """Those that stop a run. What was ignored from outside stays ignored, as SIGHUP is under nohup."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    return [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]


def _write_all(target: int, block: bytes) -> None:
    """Writes to a file descriptor; a reader that has gone away, or a full disk, is no reason to stop."""
    rest = memoryview(block)
    try:
        while rest:
            rest = rest[os.write(target, rest) :]
    except OSError:
        pass


if __name__ == "__main__":
    main()
