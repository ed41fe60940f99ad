"""`doctor --selftest`: what this machine can do, found out by doing it, in minutes.

Each check is a process with a time limit, so that a crash or a hang is a failed check and not the end of the verb. What
they write goes into a temporary folder, also what DeepSpeed, Triton and vLLM compile, and the network is not used.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

_GRACE_SECONDS = 10.0  # for a check to end the ranks that it has started
_SHOWN_LINES = 20


@dataclass(frozen=True)
class Check:
    """One process to run: `command` and, as a last argument, the folder that it writes result.json into."""

    name: str
    command: Sequence[str]
    seconds: float  # the time limit
    environment: dict[str, str] = field(default_factory=dict)


@dataclass
class Outcome:
    """What a check found. `detail`: what passed, what is missing, or the reason; `log`: last lines of a failed one."""

    name: str
    result: Literal["passed", "not here", "failed"]
    detail: str
    seconds: float
    log: list[str] = field(default_factory=list)


def _check(name: str, seconds: float = 300, **environment: str) -> Check:
    return Check(name, (sys.executable, "-m", f"{__package__}.selftest_checks", name), seconds, environment)


CHECKS = (
    _check("float32"),
    _check("scores"),
    _check("bfloat16"),
    _check("sdpa"),
    _check("flash attention"),
    _check("generation"),
    _check("gloo", CUDA_VISIBLE_DEVICES=""),  # with GPUs in sight processes meet over NCCL
    _check("NCCL"),
    _check("ZeRO-3", 900),  # DeepSpeed compiles
    _check("vLLM", 600),
)


def run_check(check: Check) -> Outcome:
    """Runs one check to its end, or to that of its time."""
    start = time.monotonic()
    # Ranks that are killed may still write while it is removed.
    with tempfile.TemporaryDirectory(prefix="selftest-", ignore_cleanup_errors=True) as folder:
        output = Path(folder) / "output.txt"
        with output.open("wb") as file:
            process = subprocess.Popen(
                [*check.command, folder],
                env={**_environment(folder), **check.environment},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # all of it can be ended together
            )
            try:
                code: int | None = process.wait(check.seconds)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                _end(process)
        outcome = _outcome(check, code, Path(folder) / "result.json")
        outcome.seconds = round(time.monotonic() - start, 1)
        if outcome.result == "failed":
            lines = output.read_text(encoding="utf-8", errors="replace").splitlines()
            outcome.log = [line.rpartition("\r")[2][:500] for line in lines[-_SHOWN_LINES:]]
        return outcome


def _environment(folder: str) -> dict[str, str]:
    """This process's own, with the folders that libraries write to in `folder`, and no network."""
    places = ("TMPDIR", "XDG_CACHE_HOME", "TORCH_EXTENSIONS_DIR", "TRITON_CACHE_DIR", "VLLM_CACHE_ROOT")
    quiet = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "TQDM_DISABLE": "1"}
    return {**os.environ, **dict.fromkeys(places, folder), **quiet}


def _outcome(check: Check, code: int | None, file: Path) -> Outcome:
    if code is None:
        return Outcome(check.name, "failed", f"not done after {check.seconds:g} s", 0)
    if code < 0:
        return Outcome(check.name, "failed", f"killed by {signal.Signals(-code).name}", 0)
    if code > 0 or not file.exists():
        return Outcome(check.name, "failed", f"ended with exit code {code} and no result", 0)
    return Outcome(check.name, **json.loads(file.read_text(encoding="utf-8")), seconds=0)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the process, if it is still there, and whatever it has started."""
    if sys.platform == "win32":
        process.kill()
        process.wait()
        return
    if process.poll() is None:
        process.terminate()  # a launcher ends its ranks, which are in sessions of their own
        try:
            process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    with contextlib.suppress(ProcessLookupError):  # nothing is left of the group
        os.killpg(process.pid, signal.SIGKILL)
