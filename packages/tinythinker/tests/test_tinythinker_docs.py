"""The commands that README and the page on data print run as printed, save for those that ask an endpoint or train."""

import json
import os
import re
import shlex
from pathlib import Path

import pytest
from tiny_run import saved_student
from tiny_students import LENGTHS

from tinythinker import _common, cli
from tinythinker.student import Form, write_form

HOUSE = Path(__file__).parents[3]
README = HOUSE / "packages/tinythinker/README.md"
PAGE = HOUSE / "docs/tinythinker-data.md"


def commands(path):
    return re.findall(r"^    tinythinker (.+?)(?:  +#.*)?$", path.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("page", ["tinythinker.md", "tinythinker-data.md"])
def test_the_tables_of_settings_are_those_of_the_code(page, monkeypatch):
    monkeypatch.syspath_prepend(str(HOUSE / "docs/site"))
    import build

    text = (HOUSE / "docs" / page).read_text(encoding="utf-8")
    assert "<!-- settings of tinythinker.config" in text
    assert build.with_settings(text) == text, "python docs/site/build.py --write-settings"


def asks_an_endpoint(command):
    return command.startswith("data teach") and "teacher.kind" not in command and "--dry-run" not in command


def quickly(command):
    """What takes a trained student takes a tiny one, and few questions; what trains is planned."""
    if command.startswith("evaluate"):
        return f"{command} --limit 1 --samples 2"
    if command.startswith("inspect"):
        return f"{command} --samples 1"
    return f"{command} --dry-run" if command == "train" or command.startswith("train data.train_file") else command


@pytest.mark.parametrize("path", [README, PAGE], ids=["README", "page"])
def test_the_commands_run_as_printed(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"^    (\{.+\})$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    question, reply = (json.loads(example) for example in examples)
    # Others beside it, since a single question cannot be divided into splits.
    others = [question | {"id": f"other-{n}", "question": f"{n}: {question['question']}"} for n in range(30)]
    Path("mine.jsonl").write_text("".join(json.dumps(one) + "\n" for one in [question, *others]))
    Path("recorded.jsonl").write_text(json.dumps({**reply, "reply": reply["reply"].replace("...", "x")}) + "\n")
    data = os.environ.get("THINKER_DATA_DIR")
    trained = Path("runs/embedded/model")
    saved_student(trained)
    write_form(trained, Form(chat_template="none", generation=LENGTHS))
    ran = 0
    for command in commands(path):
        if asks_an_endpoint(command) or (" DIR " in command and not data):
            continue
        if "csqa-t5-base" in command or "=DIR" in command:  # a student on the hub, rows of the original files
            continue
        arguments = [data if argument == "DIR" else argument for argument in shlex.split(quickly(command))]
        with pytest.raises(SystemExit) as caught:
            _common.run(cli.app, arguments)
        assert caught.value.code == 0, (command, capsys.readouterr().err)
        ran += 1
    assert ran >= 4


def test_the_commands_that_ask_an_endpoint_are_accepted(tmp_path, monkeypatch, capsys):
    """With `--dry-run`, and on the embedded questions where the data set is not at hand."""
    monkeypatch.chdir(tmp_path)
    asking = [command for command in commands(PAGE) if asks_an_endpoint(command)]
    assert len(asking) == 2
    for command in asking:
        command = re.sub(r"--benchmark \w+( --data-dir DIR)?", "--benchmark facts --limit 2", command)
        with pytest.raises(SystemExit) as caught:
            _common.run(cli.app, [*shlex.split(command), "--dry-run"])
        assert caught.value.code == 0, capsys.readouterr().err
