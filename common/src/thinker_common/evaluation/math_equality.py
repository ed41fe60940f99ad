"""Mathematical equality by math-verify, in a worker process under a wall-clock limit that this side keeps.

math-verify's own limit is a signal: it needs the main thread, cancels the caller's alarms, and does not interrupt C
code.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from typing import Any, Literal

from ..errors import UserError

Verdict = Literal["equal", "different", "timed_out"]

TIME_LIMIT = 10.0  # seconds for one comparison; a usual one takes milliseconds
START_LIMIT = 120.0  # seconds for a worker to import its libraries, on a busy machine


class MathVerifier:
    """A worker process that compares two answers; started at the first comparison, and again after one that hung.

    Safe to share between threads; comparisons then wait for each other.
    """

    def __init__(self, time_limit: float = TIME_LIMIT) -> None:
        self.time_limit = time_limit
        self._lock = threading.Lock()
        self._worker: subprocess.Popen[str] | None = None
        self._replies: queue.Queue[str] = queue.Queue()

    def compare(self, gold: str, prediction: str, absolute: float = 0.0, relative: float = 0.0) -> Verdict:
        """Whether `prediction` is the same value as `gold`, both LaTeX without delimiters.

        absolute, relative: how far a number may be from the gold, the latter as a share of it

        "timed_out": no verdict within the limit, or the worker died of the attempt (memory).
        Raises UserError when math-verify does not work in this installation.
        """
        request = {
            "gold": gold,
            "prediction": prediction,
            "absolute": absolute,
            "relative": relative,
            "seconds": round(self.time_limit) + 10,
        }
        with self._lock:
            try:
                self._send(request)
            except BrokenPipeError:  # it died since it was looked at, and not of this request, which it never got
                self._stop()
                self._send(request)
            reply = self._reply(self.time_limit)
            if reply is None:
                self._stop()
                return "timed_out"
        return "equal" if reply["equal"] else "different"

    def close(self) -> None:
        """End the worker; the next comparison starts another."""
        with self._lock:
            self._stop()

    def _send(self, request: dict[str, Any]) -> None:
        if self._worker is None or self._worker.poll() is not None:
            self._start()
        assert self._worker is not None and self._worker.stdin is not None
        print(json.dumps(request), file=self._worker.stdin, flush=True)

    def _start(self) -> None:
        # The module is found as this one was: under whatever name the package has, on this process's path.
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
            self._worker = subprocess.Popen(
                [sys.executable, "-m", f"{__package__}.math_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                encoding="ascii",
                env={**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"},
            )
            self._replies = queue.Queue()
            threading.Thread(target=_forward, args=(self._worker.stdout, self._replies), daemon=True).start()
            greeting = self._reply(START_LIMIT)
            if greeting is not None and greeting["ready"]:
                return
            self._stop()
            log.seek(0)
            problem = greeting["problem"] if greeting is not None else (log.read().strip() or "it did not start")
        raise UserError(
            f"mathematics cannot be graded, math-verify fails its self-test ({problem.splitlines()[-1]}); "
            "most often its ANTLR runtime does not fit: pip install 'math-verify[antlr4_13_2]'"
        )

    def _reply(self, seconds: float) -> dict[str, Any] | None:
        """The worker's next line; None when it takes longer than `seconds` or has died."""
        try:
            line = self._replies.get(timeout=seconds)
        except queue.Empty:
            return None
        return json.loads(line) if line else None

    def _stop(self) -> None:
        if self._worker is not None:
            self._worker.kill()
            self._worker.wait()
            with contextlib.suppress(OSError):  # an unsent request goes down with the pipe
                self._worker.stdin.close()  # type: ignore[union-attr]
            self._worker = None


def _forward(lines: Any, replies: queue.Queue[str]) -> None:
    """Move a worker's lines into a queue, which unlike a pipe can be waited for with a limit; "" is its end."""
    with lines:
        for line in lines:
            replies.put(line)
    replies.put("")


@functools.lru_cache(maxsize=1)
def _verifier_of(process_id: int) -> MathVerifier:
    # By process: a fork must not talk into its parent's pipe.
    verifier = MathVerifier()
    atexit.register(verifier.close)
    return verifier


def self_test() -> None:
    """Start this process's worker, which first compares 1 with 1; UserError when math-verify does not work here."""
    compare("1", "1")


@functools.lru_cache(maxsize=1 << 16)
def compare(gold: str, prediction: str, absolute: float = 0.0, relative: float = 0.0) -> Verdict:
    """`MathVerifier.compare` with this process's own worker; a pair is compared once."""
    return _verifier_of(os.getpid()).compare(gold, prediction, absolute, relative)
