"""`doctor --selftest`: its checks pass here, see what is wrong, and neither a crash nor a hang ends the verb."""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch

from thinker_common.cli import doctor, selftest, selftest_checks
from thinker_common.cli.app import new_app, run
from thinker_common.cli.selftest import CHECKS, Check, run_check

PASS = "import json, sys; open(sys.argv[1] + '/result.json', 'w').write(json.dumps({'result': 'passed', 'detail': 'well'}))"
MISSING = PASS.replace("passed", "not here").replace("well", "needs a GPU")
app = new_app("example", "1", "An example.")
doctor.add_doctor(app, ["thinker-common"])


def python(code, seconds=60.0):
    return Check("example", (sys.executable, "-c", code), seconds)


# --- the checks ----------------------------------------------------------------------------------------------------------


def test_every_check_that_is_run_exists_and_the_other_way_round():
    assert [check.name for check in CHECKS] == list(selftest_checks.CHECKS)


@pytest.mark.parametrize("name", ["float32", "scores", "bfloat16", "sdpa"])
def test_passes_here(name):
    assert selftest_checks.CHECKS[name]()


def test_a_check_is_run_as_a_process_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    outcome = run_check(CHECKS[0])
    assert (outcome.result, outcome.log) == ("passed", []), outcome
    assert "gradient norm" in outcome.detail and outcome.seconds > 0
    assert not list(tmp_path.iterdir()), "nothing is left on the disk"


@pytest.mark.slow
@pytest.mark.timeout(1000)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_every_check_passes_here_or_says_what_it_needs(check, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    outcome = run_check(check)
    needs = {"flash attention", "NCCL", "vLLM", *([] if sys.platform == "linux" else ["ZeRO-3"])}
    assert outcome.result == "passed" or (check.name in needs and outcome.detail.startswith("needs ")), outcome
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="about a machine without a GPU")
@pytest.mark.parametrize(("name", "missing"), [("flash attention", "a GPU of CUDA"), ("NCCL", "two GPUs of CUDA")])
def test_says_what_is_missing(name, missing, tmp_path):
    selftest_checks.main(name, str(tmp_path))
    assert json.loads((tmp_path / "result.json").read_text()) == {"result": "not here", "detail": f"needs {missing}"}


# --- what is wrong is seen ------------------------------------------------------------------------------------------------


def damaged(change):
    """`load_policy` whose every other model is changed."""
    load, calls = selftest_checks.load_policy, []

    def load_policy(*arguments, **options):
        model = load(*arguments, **options)
        calls.append(model)
        if len(calls) % 2 == 0:
            with torch.no_grad():
                change(model.get_decoder().norm.weight)
        return model

    return load_policy


@pytest.mark.parametrize("name", ["bfloat16", "sdpa"])
def test_sees_that_two_ways_of_computing_differ(name, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(selftest_checks, "load_policy", damaged(lambda weight: weight.mul_(1.3)))
    selftest_checks.main(name, str(tmp_path))
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["result"] == "failed" and "differ by" in result["detail"]
    assert "Traceback" in capsys.readouterr().err


def test_what_is_no_number_is_near_to_nothing():
    with pytest.raises(selftest_checks.CheckFailedError, match="two lists differ by nan"):
        selftest_checks._near([1.0, float("nan"), 1.0], [1.0, 1.0, 1.0], 0.1, "two lists")


def test_sees_a_loss_that_is_no_number(monkeypatch):
    load = selftest_checks.load_policy

    def broken(*arguments, **options):
        model = load(*arguments, **options)
        model.get_decoder().norm.weight.data.fill_(float("inf"))
        return model

    monkeypatch.setattr(selftest_checks, "load_policy", broken)
    with pytest.raises(selftest_checks.CheckFailedError, match="loss is nan"):
        selftest_checks.float32()


def test_sees_a_score_that_is_not_the_full_softmax(monkeypatch):
    exact = selftest_checks.log_softmax
    monkeypatch.setattr(selftest_checks, "log_softmax", lambda logits: exact(logits, temperature=1.01))
    with pytest.raises(selftest_checks.CheckFailedError, match=r"the full softmax differ by .+ 0\.0001 is allowed"):
        selftest_checks.scores()


def test_sees_a_model_that_does_not_generate_what_its_card_says(monkeypatch):
    class Result:
        @staticmethod
        def to_dict():
            return {"accuracy": 0.35, "boxed_rate": 1.0}

    monkeypatch.setattr("thinker_common.evaluation.evaluate.evaluate", lambda *arguments, **options: Result)
    with pytest.raises(
        selftest_checks.CheckFailedError, match="accuracy of 1,000 chains and the one on the model's card"
    ):
        selftest_checks.generation()


def test_an_unexpected_error_is_named_with_its_type(monkeypatch, tmp_path):
    def broken():
        raise ImportError("libcudart.so: cannot open shared object file\nand more")

    monkeypatch.setitem(selftest_checks.CHECKS, "float32", broken)
    selftest_checks.main("float32", str(tmp_path))
    result = json.loads((tmp_path / "result.json").read_text())
    assert result == {"result": "failed", "detail": "ImportError: libcudart.so: cannot open shared object file"}


# --- crashes and hangs ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize(
    ("code", "reason", "last_line"),
    [
        ("import os, sys; print('before', flush=True); os.abort()", "killed by SIGABRT", "before"),
        ("import sys; sys.exit('no such library')", "ended with exit code 1 and no result", "no such library"),
        ("print('fine')", "ended with exit code 0 and no result", "fine"),
        ("import time; print('waiting', flush=True); time.sleep(60)", "not done after 2 s", "waiting"),
    ],
    ids=["crash", "error", "no result", "hang"],
)
def test_a_check_that_does_not_come_back_has_failed(code, reason, last_line, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    outcome = run_check(python(code, seconds=2))
    assert (outcome.result, outcome.detail, outcome.log[-1]) == ("failed", reason, last_line)
    assert outcome.seconds < 20
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="process groups")
def test_a_hang_ends_with_all_that_the_check_has_started(tmp_path, monkeypatch):
    note = tmp_path / "pid"
    code = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)'])\n"
        f"open({str(note)!r}, 'w').write(str(child.pid))\n"
        "time.sleep(300)"
    )
    monkeypatch.setattr(selftest, "_GRACE_SECONDS", 0.5)
    assert run_check(python(code, seconds=5)).detail == "not done after 5 s"
    for _ in range(100):
        if not running(int(note.read_text())):
            return
        time.sleep(0.1)
    pytest.fail("what the check had started is still running")


def running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")  # an orphan that nobody has waited for yet is over
    return not (status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z")


# --- the verb -------------------------------------------------------------------------------------------------------------


def verb(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        run(app, ["doctor", *arguments])
    return caught.value.code, capsys.readouterr().out


@pytest.fixture
def checks(monkeypatch):
    """The checks that the verb runs. All requirements are met, whatever is installed."""
    monkeypatch.setattr(doctor, "requires", lambda distribution: ["pyyaml>=6"])
    return lambda *codes: monkeypatch.setattr(selftest, "CHECKS", [python(code) for code in codes])


def test_the_verb_shows_every_outcome_and_ends_with_1_if_a_check_failed(checks, capsys):
    checks(PASS, "import os, sys; print('the reason', flush=True); os._exit(3)", MISSING)
    code, text = verb(capsys, "--selftest")
    assert code == 1
    rows = [line for line in text.splitlines() if "example" in line and "last lines" not in line]
    assert [row.split("│")[2].strip() for row in rows] == ["passed", "failed", "not here"]
    assert "needs a GPU" in rows[2]
    assert text.endswith("last lines of example:\n  the reason\n")


def test_what_is_not_here_is_no_failure(checks, capsys):
    checks(PASS, MISSING)
    code, text = verb(capsys, "--selftest", "--json")
    outcomes = json.loads(text)["selftest"]
    assert code == 0
    assert [(outcome["result"], outcome["detail"]) for outcome in outcomes] == [
        ("passed", "well"),
        ("not here", "needs a GPU"),
    ]


def test_without_the_option_nothing_is_tried(checks, capsys):
    checks("import sys; sys.exit(1)")
    code, text = verb(capsys, "--json")
    assert code == 0 and "selftest" not in json.loads(text)
