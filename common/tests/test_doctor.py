"""The verb `doctor`: it reads our own metadata, so it tells what this very installation needs."""

import json
from importlib import metadata

import pytest

from thinker_common.cli import doctor
from thinker_common.cli.app import new_app, run

app = new_app("example", "1", "An example.")
doctor.add_doctor(app, ["thinker-common"])


def output(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        run(app, ["doctor", *arguments])
    return caught.value.code, capsys.readouterr().out


@pytest.fixture
def declared(monkeypatch):
    """Replaces what the metadata declares."""

    def declare(*lines):
        monkeypatch.setattr(doctor, "requires", lambda distribution: list(lines))

    return declare


def test_names_what_is_missing_and_how_to_install_it(declared, capsys):
    declared(
        "no-such-package[extra]>=2", "torch>=999", "pyyaml>=6", "never; python_version < '3'", "x; extra == 'vllm'"
    )
    code, text = output(capsys, "--json")
    state = json.loads(text)
    assert (code, state["healthy"]) == (1, False)
    missing, old, fine = state["requirements"]
    assert (missing["problem"], missing["install"]) == (
        "not installed",
        'python -m pip install "no-such-package[extra]>=2"',
    )
    assert old["problem"] == f"{metadata.version('torch')}, which is not >=999"
    assert fine == {
        "name": "pyyaml", "accepted": ">=6", "installed": metadata.version("pyyaml"), "problem": None, "install": None
    }  # fmt: skip

    code, text = output(capsys)
    assert code == 1
    assert 'no-such-package: not installed. Install it: python -m pip install "no-such-package[extra]>=2"' in text
    assert "Everything that is required is here." not in text


def test_extras_are_named_and_not_required(declared, monkeypatch, capsys):
    declared("pyyaml>=6", "no-such-engine>=1; extra == 'vllm'", "rich; extra == 'tracking'", "x; python_version < '3'")
    monkeypatch.setattr(doctor, "_extra_names", lambda distribution: ["vllm", "tracking"])
    code, text = output(capsys, "--json")
    state = json.loads(text)
    assert (code, state["healthy"]) == (0, True)
    assert state["extras"] == {
        "vllm": {"missing": ["no-such-engine"], "install": 'python -m pip install "thinker-common[vllm]"'},
        "tracking": {"missing": [], "install": 'python -m pip install "thinker-common[tracking]"'},
    }
    code, text = output(capsys)
    assert code == 0
    assert '[vllm]        not installed: python -m pip install "thinker-common[vllm]"' in text
    assert "[tracking]    installed" in text


def test_a_complete_installation_is_healthy(declared, capsys):
    declared("pyyaml>=6")
    code, text = output(capsys)
    assert code == 0
    assert "Everything that is required is here." in text


def test_a_copy_without_metadata_is_not_called_complete(monkeypatch, capsys):
    def requires(distribution):
        raise metadata.PackageNotFoundError(distribution)

    monkeypatch.setattr(doctor, "requires", requires)
    code, text = output(capsys)
    assert code == 0
    assert "Requirements are not known" in text
    assert "Everything" not in text


def test_devices_and_hub(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    state = doctor.examine(["thinker-common"])
    assert state["offline"] is True
    assert state["devices"]["threads"] >= 1
    assert set(state["devices"]["collectives"]) <= {"nccl", "gloo"}
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert doctor.examine(["thinker-common"])["offline"] is False
