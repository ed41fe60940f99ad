"""What the progress bar tells a person who looks at it."""

import pytest

from thinker_common.evaluation.progress import progress_bar


@pytest.mark.parametrize("seconds_a_step", [2, 90])
def test_it_says_how_long_is_left_however_long_a_step_takes(seconds_a_step, monkeypatch, capsys):
    now = 0.0
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr("rich.console.monotonic", lambda: now)
    with progress_bar("training") as update:
        for step in range(1, 5):
            now = step * seconds_a_step
            update(step, 10, f"reward -{step}")
    left = {2: "0:00:12", 90: "0:09:00"}[seconds_a_step]
    assert left in capsys.readouterr().err


def test_where_nobody_looks_a_line_a_minute(monkeypatch, capsys):
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with progress_bar("training") as update:
        for step in range(1, 9):
            now = 25.0 * step
            update(step, 8, f"reward -{step}")
    assert capsys.readouterr().err.splitlines() == [
        "training: 3 of 8 reward -3", "training: 6 of 8 reward -6"
    ]  # fmt: skip


def test_what_is_quick_writes_nothing(capsys):
    with progress_bar("chains") as update:
        update(1, 1)
    assert capsys.readouterr().err == ""
