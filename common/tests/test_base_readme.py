"""The README of the base: its commands run as they are printed, in their order, and its Python does too."""

import shlex
import subprocess
from pathlib import Path

import pytest

from thinker_common.cli.app import run
from thinker_common.cli.main import app

README = Path(__file__).parents[1] / "README.md"


def code():
    """The indented lines of the README."""
    return [line[4:] for line in README.read_text(encoding="utf-8").splitlines() if line.startswith("    ")]


def test_every_command_runs_as_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    commands = [line for line in code() if line.startswith(("thinker ", "echo "))]
    assert sum(command.startswith("thinker ") for command in commands) >= 6
    for command in commands:
        if command.startswith("echo "):
            subprocess.run(["bash", "-c", command], check=True)
            continue
        with pytest.raises(SystemExit) as caught:  # in this process: one import of torch for all of them
            run(app, shlex.split(command)[1:])
        captured = capsys.readouterr()
        assert caught.value.code == 0, (command, captured.err)
        assert captured.out, command
    made = {entry.name for entry in tmp_path.iterdir()}
    assert made == {"rows.jsonl", "rows.scores.jsonl", "mine.jsonl", "exported", "runs"}


def test_the_python_runs_as_printed(capsys):
    lines = code()
    first = lines.index("from thinker_common import AnswerScorer, ScoringItem, load_policy, load_tokenizer")
    last = next(number for number, line in enumerate(lines) if number > first and line.startswith("print("))
    exec("\n".join(lines[first : last + 1]), {})
    five, minus_five = map(float, capsys.readouterr().out.strip("[]\n").split(","))
    assert five > minus_five
