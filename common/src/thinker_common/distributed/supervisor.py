"""Runs a launch plan: starts its commands, watches every rank, ends all of them when one fails, dies or hangs.

The workers of all hosts connect here (`worker` says what goes over the connections). So a rank that dies is known when
the system closes its files, on whichever host; a rank's phase, host and last lines are at hand for the message; and a
signal reaches the training processes, which may save, without the launchers in between, which would kill them.

A run hangs when no rank has moved for `hang_seconds`: those that wait for another do not move, so one that works is
enough to show that it goes on. While a rank is in a patient phase (loading, compiling, saving) the limit is
`patience_seconds`. A host that is not heard of for 45 seconds counts as lost.
"""

import contextlib
import itertools
import json
import os
import secrets
import selectors
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from ..errors import UserError
from .exit_codes import EXIT_HANG, EXIT_SAVED, of_signal
from .launch import LaunchPlan, is_this_host, remote_command
from .worker import SUPERVISOR, TOKEN, heard_signals

_TICK_SECONDS = 0.5
_SETTLE_SECONDS = 1.0  # ranks that lose a peer fail at once as well: the cause is looked for among all of these
_END_SECONDS = 20.0  # until the launchers themselves are killed
_IDLE_SECONDS = 5.0  # the same when every rank has ended
_LOST_SECONDS = 45.0
_SHOWN_LINES = 20
_NOT_SAVED = "stopped by a signal, before anything could be saved\n"
_LONGEST_LINE = 1 << 22  # bytes; a rank's last lines are its longest message, 2.4 MB where all of it has to be escaped


def run(plan: LaunchPlan) -> int:
    """Runs the plan to its end and returns its exit code; what went wrong is on stderr then.

    0: every rank ended well. EXIT_SAVED: stopped by a signal, after saving. EXIT_HANG: ended because nothing moved.
    128 + number: a rank was killed by a signal, or the run was interrupted before it could save. Otherwise the code of
    the rank that failed, 2 for a mistake of the user's.
    """
    return Supervisor(plan).run()


@dataclass
class Rank:
    """What is known of one rank."""

    number: int
    host: str
    connection: socket.socket
    phase: str = "start"
    patient: bool = True
    moved: float = field(default_factory=time.monotonic)
    heard: float = field(default_factory=time.monotonic)
    code: int | None = None  # as subprocess has it: negative for a signal
    ended: float | None = None  # or about to be, by an error
    lines: list[str] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        return self.code not in (None, 0, EXIT_SAVED)

    def __str__(self) -> str:
        return f"rank {self.number} on {self.host}"


class Supervisor:
    """One run of a plan. `report` holds the error message, once there is one."""

    def __init__(self, plan: LaunchPlan) -> None:
        self.plan = plan
        self.ranks: dict[int, Rank] = {}
        self.launchers: list[subprocess.Popen[bytes]] = []
        self.received: list[int] = []  # signals
        self.passed_on = 0  # of them
        self.code: int | None = None
        self.report = ""
        self.token = secrets.token_hex(16)
        self.selector = selectors.DefaultSelector()
        self.parts: dict[socket.socket, bytes] = {}
        self.listener = socket.create_server(("127.0.0.1" if plan.local else "", 0), backlog=1024)
        self.selector.register(self.listener, selectors.EVENT_READ)

    def run(self) -> int:
        before = {
            number: signal.signal(number, lambda number, _: self.received.append(number)) for number in heard_signals()
        }
        try:
            self._start()
            began = time.monotonic()
            while self.code is None and not self._over():
                self._listen()
                self._pass_signals_on()
                self._judge(began)
            return self._finish()
        finally:
            self._stop_launchers()
            self.listener.close()
            for rank in self.ranks.values():
                rank.connection.close()
            for number, handler in before.items():
                signal.signal(number, handler)

    # ---------------------------------------------------------------------------------------------------- starting

    def _start(self) -> None:
        environment = {SUPERVISOR: f"{self._address()}:{self.listener.getsockname()[1]}", TOKEN: self.token}
        environment |= self.plan.environment
        own = {name: value for name, value in os.environ.items() if name not in self.plan.removed} | environment
        for host, command in zip(self.plan.hosts, self.plan.commands, strict=False):
            # srun and this machine's launcher start their ranks themselves.
            remote = self.plan.settings.hostfile is not None and not is_this_host(host.name)
            if remote:
                command = tuple(remote_command(host.name, command, environment))
            stdin = subprocess.PIPE if remote else subprocess.DEVNULL
            try:
                # A session of its own: an interrupt at the terminal is for this process, which passes it on in order.
                launcher = subprocess.Popen(command, env=own, stdin=stdin, start_new_session=True)
            except OSError as error:
                raise UserError(f"{command[0]} cannot be started: {error.strerror}") from error
            self.launchers.append(launcher)
            if launcher.stdin is not None:
                with contextlib.suppress(BrokenPipeError), launcher.stdin:  # its early end is noticed later
                    launcher.stdin.write(f"{self.token}\n".encode())

    def _address(self) -> str:
        """This machine's address as the first host of the run sees it."""
        if self.plan.local:
            return "127.0.0.1"
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.connect((self.plan.master_addr, 9))  # sends nothing
                return str(probe.getsockname()[0])
        except OSError as error:
            raise UserError(
                f"host {self.plan.master_addr} is not known here ({error.strerror}): correct the hostfile, or name an "
                "address with launch.master_addr"
            ) from error

    # ---------------------------------------------------------------------------------------------------- listening

    def _listen(self) -> None:
        for key, _ in self.selector.select(_TICK_SECONDS):
            if key.fileobj is self.listener:
                connection, _ = self.listener.accept()
                self.selector.register(connection, selectors.EVENT_READ)
                self.parts[connection] = b""
            else:
                assert isinstance(key.fileobj, socket.socket)
                self._read(key.fileobj)

    def _read(self, connection: socket.socket) -> None:
        try:
            block = connection.recv(65536)
        except OSError:
            block = b""
        rank = next((rank for rank in self.ranks.values() if rank.connection is connection), None)
        if not block:
            self.selector.unregister(connection)
            if rank is None:
                connection.close()
            elif rank.code is None:  # its worker died, and with it the rank
                rank.code, rank.ended = -signal.SIGKILL, rank.ended or time.monotonic()
            return
        *lines, rest = (self.parts[connection] + block).split(b"\n")
        self.parts[connection] = rest
        if len(rest) > _LONGEST_LINE:
            lines.append(b"")  # not one of ours
        for line in lines:
            try:
                message = json.loads(line)
                rank = self._welcome(message, connection) if rank is None else self._note(rank, message)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                rank = None
            if rank is None:  # not one of ours
                self.selector.unregister(connection)
                connection.close()
                return

    def _welcome(self, message: dict[str, Any], connection: socket.socket) -> Rank | None:
        if not secrets.compare_digest(str(message["token"]), self.token):
            return None
        number = int(message["rank"])
        if number in self.ranks or not 0 <= number < self.plan.world_size:
            return None
        rank = Rank(number, str(message["host"]), connection)
        self.ranks[number] = rank
        if self.code is not None:  # it started while the run was ended
            self._tell_rank(rank, end="", dump=False)
        return rank

    @staticmethod
    def _note(rank: Rank, message: dict[str, Any]) -> Rank:
        now = time.monotonic()
        rank.heard = now
        if "failing" in message:
            rank.ended = now
            return rank
        rank.phase = str(message["phase"])
        if "exit" in message:
            rank.code, rank.ended, rank.lines = int(message["exit"]), rank.ended or now, list(message["lines"])
        else:
            rank.patient = bool(message["patient"])
            if message["moved"]:
                rank.moved = now
        return rank

    # ---------------------------------------------------------------------------------------------------- judging

    def _over(self) -> bool:
        if len(self.ranks) == self.plan.world_size and all(rank.code is not None for rank in self.ranks.values()):
            return True
        return all(launcher.poll() is not None for launcher in self.launchers)

    def _pass_signals_on(self) -> None:
        """The first signal lets the ranks save; a second one ends them as they are."""
        for number in self.received[self.passed_on :]:
            self.passed_on += 1
            if self.passed_on == 1:
                self._tell(signal=signal.Signals(number).name)
            elif self.code is None:
                self._end("interrupted again: ended without saving\n", of_signal(number))

    def _judge(self, began: float) -> None:
        """Decides whether the run has to end."""
        if self.code is not None:
            return
        now = time.monotonic()
        settings = self.plan.settings
        failed = [rank for rank in self.ranks.values() if rank.failed]
        first = min((rank.ended or now for rank in failed), default=now)
        if failed and self._by_signal(failed):  # the others may be saving, or wait for them in vain
            if first < now - _END_SECONDS:
                self._end(_NOT_SAVED, of_signal(self.received[0]))
            return
        if first < now - _SETTLE_SECONDS:
            self._end_after_failure(failed)
            return
        if len(self.ranks) < self.plan.world_size:
            if any(launcher.poll() for launcher in self.launchers) and not self.received:
                self._end(*self._launcher_failed())
            elif now - began > settings.patience_seconds:
                missing = sorted(set(range(self.plan.world_size)) - set(self.ranks))
                self._end(f"error: ranks {missing} have not started in {settings.patience_seconds} s\n", EXIT_HANG)
            return
        running = [rank for rank in self.ranks.values() if rank.code is None]
        lost = next((rank for rank in running if now - rank.heard > _LOST_SECONDS), None)
        if lost is not None:
            self._end(
                f'error: {lost} has not been heard of for {_LOST_SECONDS:.0f} s, in phase "{lost.phase}"\n', EXIT_HANG
            )
            return
        limit = settings.patience_seconds if any(rank.patient for rank in running) else settings.hang_seconds
        if running and now - max(max(rank.moved, rank.ended or 0.0) for rank in self.ranks.values()) > limit:
            self._end_after_hang(running, limit)

    def _by_signal(self, failed: list[Rank]) -> bool:
        """Whether one of them ended by the signal that stops the run: it was not yet where it could save."""
        stops = {signal.SIGTERM if number == signal.SIGHUP else number for number in self.received}
        return any(rank.code in (-number, of_signal(number)) for rank in failed for number in stops)

    def _end_after_failure(self, failed: list[Rank]) -> None:
        # A rank that was killed did not fail because of another, unless a launcher told it to end; else the first to
        # fail is the cause.
        cause = min(failed, key=lambda rank: (rank.code == -signal.SIGTERM, not (rank.code or 0) < 0, rank.ended))
        assert cause.code is not None
        if cause.code < 0:
            code, how = of_signal(-cause.code), f"was killed by {signal.Signals(-cause.code).name}"
            if cause.code == -signal.SIGKILL:
                how += " (somebody's kill -9, or the system was out of memory)"
        else:
            code, how = cause.code, f"ended with exit code {cause.code}"
        text = f'error: {cause} {how} in phase "{cause.phase}"; the other ranks are ended\n'
        if code == 2 and any(rank.number == 0 and rank.code == 2 for rank in failed):
            text = ""  # a mistake of the user's, which rank 0 has explained
        elif cause.number != 0 or not self.plan.local:
            text += _last_lines(cause)
        self._end(text, code)

    def _end_after_hang(self, running: list[Rank], limit: float) -> None:
        phases = defaultdict(list)
        for rank in running:
            phases[rank.phase].append(rank)
        where = "; ".join(f'{_listed(ranks)} in phase "{phase}"' for phase, ranks in phases.items())
        self._end(f"error: no rank has moved for {limit:.0f} s: {where}\n", EXIT_HANG, dump=True)

    def _end(self, text: str, code: int, *, dump: bool = False) -> None:
        """Ends every rank; the text appears here and, on several hosts, on each of them."""
        self.code, self.report = code, text
        sys.stderr.write(text)
        sys.stderr.flush()
        self._tell(end="" if self.plan.local else text, dump=dump)
        end = time.monotonic() + _END_SECONDS
        while not self._over() and time.monotonic() < end:
            self._listen()
        if dump:
            stacks = _stacks(list(self.ranks.values()))
            self.report += stacks
            sys.stderr.write(stacks)

    def _tell(self, **message: Any) -> None:
        for rank in self.ranks.values():
            self._tell_rank(rank, **message)

    @staticmethod
    def _tell_rank(rank: Rank, **message: Any) -> None:
        with contextlib.suppress(OSError):  # its worker has ended
            rank.connection.sendall(json.dumps(message).encode() + b"\n")

    # ---------------------------------------------------------------------------------------------------- the end

    def _finish(self) -> int:
        """The exit code, when every rank or every launcher has ended."""
        end = time.monotonic() + 2 * _TICK_SECONDS  # last words that are still on their way
        while time.monotonic() < end and any(rank.code is None for rank in self.ranks.values()):
            self._listen()
        if self.code is not None:
            return self.code
        codes = [rank.code for rank in self.ranks.values()]
        failed = [rank for rank in self.ranks.values() if rank.failed]
        if failed and self._by_signal(failed):
            sys.stderr.write(_NOT_SAVED)
            return of_signal(self.received[0])
        if failed:
            self._end_after_failure(failed)
            assert self.code is not None
            return self.code
        if len(codes) < self.plan.world_size or None in codes:
            if self.received:
                return of_signal(self.received[0])
            text, code = self._launcher_failed()
            sys.stderr.write(text)
            return code
        return EXIT_SAVED if EXIT_SAVED in codes else 0

    def _launcher_failed(self) -> tuple[str, int]:
        """What to say of a launcher that gave up before its ranks had started, such as an `ssh` that reached nobody."""
        for host, launcher in zip(self.plan.hosts, self.launchers, strict=False):
            code = launcher.poll()
            if code:
                command = shlex.join(launcher.args[:6] if isinstance(launcher.args, (list, tuple)) else [])
                text = f"error: the launcher on {host.name} ended with exit code {code} before its ranks had started: "
                return f"{text}{command} ...\n", max(code, 1)
        return "error: the launchers ended, and not every rank had started\n", 1

    def _stop_launchers(self) -> None:
        """Waits for the launchers, which end when their ranks have; kills what is left."""
        ended = [rank.code is not None for rank in self.ranks.values()]
        idle = len(ended) == self.plan.world_size and all(ended)
        end = time.monotonic() + (_IDLE_SECONDS if idle else _END_SECONDS)
        for launcher in self.launchers:
            try:
                launcher.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(launcher.pid, signal.SIGKILL)
                launcher.wait()


def _last_lines(rank: Rank) -> str:
    if not rank.lines:
        return ""
    shown = "".join(f"  {line}\n" for line in rank.lines[-_SHOWN_LINES:])
    return f"last lines of rank {rank.number}:\n{shown}"


def _stacks(ranks: list[Rank]) -> str:
    """Where the ranks stood, one stack for those at one place; the fewest first, who are the likelier cause."""
    places: dict[tuple[str, ...], list[Rank]] = defaultdict(list)
    for rank in ranks:
        start = next((i for i, line in enumerate(rank.lines) if line.startswith(("Thread 0x", "Current thread"))), None)
        places[() if start is None else tuple(_main_thread(rank.lines[start:]))].append(rank)
    text = ""
    for stack, there in sorted(places.items(), key=lambda place: len(place[1])):
        lines = "".join(f"  {line.strip()}\n" for line in stack[:_SHOWN_LINES]) or "  (it printed no stack)\n"
        text += f"{_listed(there)} stood at:\n{lines}"
    return text


def _main_thread(lines: list[str]) -> list[str]:
    """The frames of the thread that faulthandler prints last, the first that was started."""
    frames: list[str] = []
    for line in lines:
        if line.startswith(("Thread 0x", "Current thread")):
            frames = []
        elif line.startswith("  File"):
            frames.append(line)
    return list(itertools.takewhile(lambda frame: "<frozen runpy>" not in frame, frames))


def _listed(ranks: list[Rank]) -> str:
    """`rank 0 on a, rank 1 on b`, at most eight of them."""
    named = ", ".join(str(rank) for rank in ranks[:8])
    return named if len(ranks) <= 8 else f"{named} and {len(ranks) - 8} more"
