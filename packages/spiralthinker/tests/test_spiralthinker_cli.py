"""The command line says what the package has, and does no more."""

import json

import pytest

from spiralthinker import __version__, _common, cli


def ended(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        _common.run(cli.app, arguments)
    captured = capsys.readouterr()
    return caught.value.code, captured.out, captured.err


def test_help_says_what_is_missing_and_names_no_verb_of_the_method(capsys):
    code, text, _ = ended(capsys, "--help")
    assert code == 0
    assert "not implemented yet" in " ".join(text.split())
    assert [line.split()[0] for line in text.partition("Commands:\n")[2].splitlines()] == ["doctor"]


def test_version_and_doctor(capsys):
    assert ended(capsys, "--version") == (0, f"spiralthinker {__version__}\n", "")
    _, text, _ = ended(capsys, "doctor", "--json")
    assert set(json.loads(text)["distributions"]) == {"spiralthinker", "thinker-common"}


def test_training_is_no_verb(capsys):
    code, _, err = ended(capsys, "train")
    assert code == 2
    assert err.startswith("error: No such command 'train'.")
