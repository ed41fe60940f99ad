"""The command line says what the package has."""

import json

import pytest

from spiralthinker import __version__, _common, cli


def ended(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        _common.run(cli.app, arguments)
    captured = capsys.readouterr()
    return caught.value.code, captured.out, captured.err


def test_help_names_the_verbs(capsys):
    code, text, _ = ended(capsys, "--help")
    assert code == 0
    verbs = {line.split()[0] for line in text.partition("Commands:\n")[2].splitlines()}
    assert {"train", "evaluate", "inspect", "data", "recipes", "doctor"} <= verbs


def test_version_and_doctor(capsys):
    assert ended(capsys, "--version") == (0, f"spiralthinker {__version__}\n", "")
    _, text, _ = ended(capsys, "doctor", "--json")
    assert set(json.loads(text)["distributions"]) == {"spiralthinker", "thinker-common"}


def test_a_users_mistake_ends_with_a_line(capsys):
    code, _, err = ended(capsys, "train", "--recipe", "embeded", "--dry-run")
    assert code == 2
    assert "did you mean 'embedded'" in err
    code, _, err = ended(capsys, "train", "--recipe", "embedded", "--config", "mine.yaml")
    assert code == 2
    assert "exclude each other" in err


def test_recipes_are_listed(capsys):
    code, text, _ = ended(capsys, "recipes", "list")
    assert code == 0
    assert text.startswith("embedded")
