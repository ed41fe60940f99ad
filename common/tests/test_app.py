"""How a command line ends: what it prints, on which stream, with which exit code."""

import errno
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Annotated

import pytest
import typer

from thinker_common.cli.app import new_app, run
from thinker_common.errors import DataError, UserError

app = new_app("example", "1.2.3", "An example.")


@app.command("fail")
def fail_command(kind: str, count: Annotated[int, typer.Option(min=1)] = 1) -> None:
    """Fails."""
    errors = {
        "user": UserError("no such thing: choose another"),
        "data": DataError("rows.jsonl, line 3, column 7: not JSON"),
        "full": OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/x/results.json"),
        "denied": PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/root/x"),
        "below": NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), "file/x"),
        "long": OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), "nnn"),
        "safetensors": Exception("Error while serializing: I/O error: No space left on device (os error 28)"),
        "interrupt": KeyboardInterrupt(),
        "bug": FileNotFoundError(errno.ENOENT, "No such file", "internal"),
    }
    raise errors[kind]


@app.command("warn")
def warn_command() -> None:
    """Warns."""
    warnings.warn("the file has 3 rows where 5 were expected;\n  say so", stacklevel=1)
    typer.echo("done")


@app.command("pass")
def pass_command() -> None:
    """Passes."""
    typer.echo("done")


def ended(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        run(app, arguments)
    captured = capsys.readouterr()
    return caught.value.code, captured.out, captured.err


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("user", "error: no such thing: choose another\n"),
        ("data", "error: rows.jsonl, line 3, column 7: not JSON\n"),
        ("full", "error: disk full: runs/x/results.json\n"),
        ("denied", "error: permission denied: /root/x\n"),
        ("below", "error: lies below a file: file/x\n"),
        ("long", "error: the name is too long: nnn\n"),
        (
            "safetensors",
            "error: disk full: Error while serializing: I/O error: No space left on device (os error 28)\n",
        ),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_exit_code_2(capsys, kind, message):
    assert ended(capsys, "fail", kind) == (2, "", message)


@pytest.mark.parametrize("arguments", [("--traceback", "fail", "user"), ("fail", "user", "--traceback")])
def test_traceback_on_request_before_or_after_the_verb(capsys, arguments):
    code, out, err = ended(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("Traceback (most recent call last):")
    assert err.endswith("\nerror: no such thing: choose another\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fial",), "No such command 'fial'. Did you mean 'fail'?"),
        (("fail",), "Missing argument 'kind'."),
        (("fail", "user", "--cuont", "1"), "No such option: --cuont (Possible options: --count)"),
        (("fail", "user", "--count", "0"), "Invalid value for '--count'"),
        (("fail", "user", "--count"), "Option '--count' requires an argument."),
        (("pass", "extra"), "Got unexpected extra argument(s) (extra)"),
    ],
)
def test_usage_errors_are_two_lines_and_exit_code_2(capsys, arguments, message):
    code, out, err = ended(capsys, *arguments)
    assert (code, out) == (2, "")
    first, second = err.splitlines()
    assert first.startswith(f"error: {message}")
    assert second == "`example --help` and `example VERB --help` say more"


def test_a_bug_is_not_presented_as_a_mistake():
    with pytest.raises(FileNotFoundError, match="internal"):
        run(app, ["fail", "bug"])


def test_interrupt_version_success_and_no_arguments(capsys):
    assert ended(capsys, "fail", "interrupt")[0] == 130
    assert ended(capsys, "--version") == (0, "example 1.2.3\n", "")
    assert ended(capsys, "pass") == (0, "done\n", "")
    code, out, err = ended(capsys)
    assert (code, err) == (0, "")
    assert "Fails." in out


@pytest.mark.filterwarnings("always::UserWarning")
def test_a_warning_is_one_line_without_source(capsys):
    message = "warning: the file has 3 rows where 5 were expected; say so\n"
    assert ended(capsys, "warn") == (0, "done\n", message)


def test_libraries_do_not_talk_where_there_is_nothing_to_say():
    pytest.importorskip("deepspeed")
    pytest.importorskip("bitsandbytes")
    script = (
        "from thinker_common.cli.app import new_app, run\n"
        "app = new_app('example', '1', '')\n"
        "@app.command()\n"
        "def use():\n"
        "    import bitsandbytes, deepspeed, tqdm\n"
        "    list(tqdm.tqdm(range(3)))\n"
        "run(app)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, "use"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Setting accelerator to CPU" not in done.stdout + done.stderr
    assert "gemm_4bit" not in done.stdout + done.stderr
    assert "3/3" not in done.stderr


def test_a_full_disk_under_the_writers_of_safetensors_and_torch(tmp_path):
    """A real disk of one megabyte, where the machine lets us mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", disk]
    if os.name != "posix" or os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this machine does not let the tests mount a small disk")
    try:
        for writer in ("safetensors.torch.save_file(weights, path)", "torch.save(weights, path)"):
            script = (
                "import sys, torch, safetensors.torch\n"
                "from thinker_common.cli.app import new_app, run\n"
                "app = new_app('example', '1', '')\n"
                "@app.command()\n"
                "def write(path: str):\n"
                "    weights = {'a': torch.zeros(1_000_000)}\n"
                f"    {writer}\n"
                "run(app)\n"
            )
            done = subprocess.run(
                [sys.executable, "-c", script, "write", disk / "weights"], capture_output=True, text=True
            )
            assert done.returncode == 2, done.stderr
            assert done.stderr.startswith("error: disk full")
            assert len(done.stderr.splitlines()) == 1
            Path(disk / "weights").unlink(missing_ok=True)
    finally:
        subprocess.run(["umount", disk], check=True)
