"""The workflows say what exists: sessions of the noxfile, actions pinned to commits, no credentials where files are built."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
if not WORKFLOWS:
    pytest.skip("these tests are about the whole repository", allow_module_level=True)


def load(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def steps(workflow):
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def sessions():
    text = (ROOT / "noxfile.py").read_text(encoding="utf-8")
    return set(re.findall(r"@nox\.session\n(?:@nox\.parametrize.*\n)?def (\w+)\(", text))


def named_sessions(workflow):
    for job in workflow["jobs"].values():
        for step in job["steps"]:
            for name in re.findall(r"nox -s (\S+|\$\{\{[^}]*\}\})(?:\s|$)", step.get("run", "")):
                yield from job["strategy"]["matrix"]["session"] if name.startswith("${{") else [name]


def test_there_are_the_four():
    assert {path.stem for path in WORKFLOWS} >= {"ci", "slow", "release", "docs"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_session_exists(path):
    named = set(named_sessions(load(path)))
    assert named and named <= sessions()


def test_ci_runs_what_a_change_has_to_pass():
    ci = load(ROOT / ".github/workflows/ci.yml")
    assert set(named_sessions(ci)) >= {"lint", "types", "tests", "build", "smoke", "vendor", "lowest", "docs"}
    assert ci["jobs"]["tests"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]


def test_the_slow_tests_run_weekly_and_by_hand_and_end():
    slow = load(ROOT / ".github/workflows/slow.yml")
    when = slow[True]  # which is how YAML 1.1 reads `on`
    assert set(when) == {"schedule", "workflow_dispatch"}
    [schedule] = when["schedule"]
    minute, hour, day, month, weekday = schedule["cron"].split()
    assert (day, month) == ("*", "*") and all(field.isdecimal() for field in (minute, hour, weekday))
    [job] = slow["jobs"].values()
    assert list(named_sessions(slow)) == ["slow"] and job["timeout-minutes"] <= 180
    pytest_settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]
    assert job["strategy"]["matrix"]["tests"] == pytest_settings["ini_options"]["testpaths"]
    assert job["steps"][-1]["run"].endswith("nox -s slow -- ${{ matrix.tests }}")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_to_commits_and_permissions_are_small(path):
    workflow = load(path)
    assert workflow["permissions"] == {"contents": "read"}
    for step in steps(workflow):
        if "uses" in step:
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step["uses"]), step["uses"]
        if "checkout" in step.get("uses", ""):
            assert step["with"]["persist-credentials"] is False
    assert "secrets." not in path.read_text(), "nothing is published with a stored key"


def test_a_release_is_built_without_credentials_tried_and_published_base_first():
    jobs = load(ROOT / ".github/workflows/release.yml")["jobs"]
    assert "permissions" not in jobs["build"] and "permissions" not in jobs["try"]
    assert set(jobs["publish-base"]["needs"]) == {"build", "try"}
    assert jobs["publish-methods"]["needs"] == "publish-base"
    for name in ("publish-base", "publish-methods"):
        assert jobs[name]["permissions"] == {"id-token": "write"}
        publish = jobs[name]["steps"][-1]
        assert publish["uses"].startswith("pypa/gh-action-pypi-publish@") and publish["with"] == {"attestations": True}
        assert not any("checkout" in step.get("uses", "") for step in jobs[name]["steps"]), "no code runs here"


def test_the_publishing_action_knows_the_metadata_that_is_built():
    """hatchling writes metadata 2.5 from 1.32 on; the action's twine accepts it from 1.14.2 on, and refuses it before."""
    named = re.findall(
        r"pypa/gh-action-pypi-publish@\w+ # v([\d.]+)", (ROOT / ".github/workflows/release.yml").read_text()
    )
    assert len(named) == 2
    assert min(tuple(map(int, version.split("."))) for version in named) >= (1, 14, 2)


def test_forms_and_citation_are_yaml():
    for path in [*(ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"), ROOT / ".github" / "CITATION.cff"]:
        assert isinstance(load(path), dict)
    version = load(ROOT / ".github" / "CITATION.cff")["version"]
    shown = subprocess.run(
        [sys.executable, "-c", "import thinker_common as t; print(t.__version__)"], capture_output=True, text=True
    )
    assert shown.stdout.strip() == version
