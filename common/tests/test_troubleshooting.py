"""Every message of docs/troubleshooting.md is what the command above it prints."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "troubleshooting.md"
if not PAGE.exists():
    pytest.skip("this test is about the whole repository", allow_module_level=True)
SHOWN = re.findall(r"^    \$ (.+)\n    (error: .+)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)


def test_there_are_messages_of_all_three_methods():
    assert len(SHOWN) >= 16
    assert {command.split()[0] for command, _ in SHOWN} == {"generalthinker", "spiralthinker", "tinythinker"}
    assert PAGE.read_text(encoding="utf-8").count("error: ") == len(SHOWN)


@pytest.mark.parametrize(("command", "message"), SHOWN, ids=[command for command, _ in SHOWN])
def test_a_message_is_as_shown(command, message, tmp_path, monkeypatch, capfd):
    name, *arguments = shlex.split(command)
    cli = pytest.importorskip(f"{name}.cli")
    import transformers.utils.logging

    monkeypatch.setattr(transformers.utils.logging, "_tqdm_active", False)  # as where stderr is no terminal
    monkeypatch.chdir(tmp_path)
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"{name}._common").run(cli.app, arguments)
    assert ended.value.code == 2
    assert capfd.readouterr().err == f"{message}\n"
    assert not list(tmp_path.iterdir())
