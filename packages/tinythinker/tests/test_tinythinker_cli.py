"""The command line says what the package has."""

import json
import subprocess
import sys

import pytest

from tinythinker import __version__, _common, cli


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
    _, text, _ = ended(capsys, "data", "--help")
    assert {"split", "teach", "build", "preview"} <= set(text.partition("Commands:\n")[2].split())


@pytest.mark.parametrize("verb", ["split", "teach", "build", "preview"])
def test_each_verb_of_data_has_examples(capsys, verb):
    code, text, _ = ended(capsys, "data", verb, "--help")
    assert code == 0 and f"tinythinker data {verb} " in text.partition("Examples:")[2]


def test_help_promises_what_the_verbs_take(capsys):
    """No checkpoint to resume at, no recipe where only the data sections are read, and `split` writes all three."""
    assert "--resume auto|never " in ended(capsys, "train", "--help")[1]
    for verb in ("teach", "build"):
        assert "sections data, teacher" in " ".join(ended(capsys, "data", verb, "--help")[1].split())
    assert "all three" in ended(capsys, "data", "split", "--help")[1]


@pytest.mark.parametrize("verb", ["train", "evaluate", "inspect"])
def test_each_verb_has_examples(capsys, verb):
    code, text, _ = ended(capsys, verb, "--help")
    assert code == 0 and f"tinythinker {verb} " in text.partition("Examples:")[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "embedded"], "name what to evaluate on"),
        (["evaluate", "embedded", "--benchmark", "facts", "--file", "x"], "exclude each other"),
        (["evaluate", "embedded", "--benchmark", "facts", "--column", "a=b"], "--column is for --file"),
        (["evaluate", "embedded", "--benchmark", "facts", "--temperature", "0"], "expected a number above 0"),
        (
            ["evaluate", "embedded", "--benchmark", "facts", "--compare", "nowhere"],
            "no folder of a finished evaluation",
        ),
        (["evaluate", "embedded", "--benchmark", "chains"], "its questions have no options"),
        (["evaluate", "./nowhere", "--benchmark", "facts", "--limit", "2"], "there is no such folder"),
        (["train", "--resume", "runs/x/checkpoint-3"], "expected auto or never"),
        (["train", "--recipe", "embeded"], "did you mean 'embedded'"),
    ],
)
def test_mistakes_end_with_code_2_and_one_line(capsys, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = ended(capsys, *arguments)
    assert code == 2 and message in err and "Traceback" not in err and not out
    assert not list(tmp_path.iterdir()), "nothing half-written stays behind"


def test_version_and_doctor(capsys):
    assert ended(capsys, "--version") == (0, f"tinythinker {__version__}\n", "")
    _, text, _ = ended(capsys, "doctor", "--json")
    assert set(json.loads(text)["distributions"]) == {"tinythinker", "thinker-common"}


def test_help_imports_neither_torch_nor_an_http_client():
    code = "import sys, tinythinker.cli; print([m for m in ('torch', 'transformers', 'datasets', 'httpx2') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
