"""The ledger of a study: what it keeps, what it refuses, and the statistics of its tables."""

import json
import sys
import time
from pathlib import Path

import pytest

from thinker_common.training import study


def record(cell: str, seed: int, **figures: object) -> study.Record:
    return {"cell": cell, "seed": seed, "settings": ["a=1"], **figures}


def test_a_ledger_keeps_what_was_appended(tmp_path: Path) -> None:
    path = tmp_path / "data" / "study.jsonl"
    ledger = study.Ledger(path)
    ledger.append(record("a", 2, loss=0.123456789, curve=[1.00004, float("nan")]))
    ledger.append(record("a", 1))
    again = study.Ledger(path)
    assert [kept["seed"] for kept in again["a"]] == [1, 2]
    assert again["a"][1] == record("a", 2, loss=0.1235, curve=[1.0, None])
    assert ("a" in again, "b" in again, again["b"]) == (True, False, [])
    assert again.has("a", 1, ["a=1"]) and not again.has("a", 3, ["a=1"]) and not again.has("b", 1, None)


def test_half_a_line_is_removed_and_the_cell_runs_again(tmp_path: Path) -> None:
    path = tmp_path / "study.jsonl"
    study.Ledger(path).append(record("a", 1))
    whole = path.read_text()
    path.write_text(whole + json.dumps(record("ä", 2), ensure_ascii=False)[:-4])
    ledger = study.Ledger(path)
    assert path.read_text() == whole
    ledger.append(record("ä", 2))
    assert study.Ledger(path).has("ä", 2, ["a=1"])


def test_other_settings_and_second_results_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.jsonl"
    ledger = study.Ledger(path)
    ledger.append(record("a", 1))
    with pytest.raises(SystemExit, match=r"a, seed 1 was made with other settings: take another --results"):
        ledger.has("a", 1, ["a=2"])
    with pytest.raises(SystemExit, match=r"two results of a, seed 1"):
        ledger.append(record("a", 1))
    assert len(path.read_text().splitlines()) == 1
    path.write_text(path.read_text() * 2)
    with pytest.raises(SystemExit, match=r"two results of a, seed 1"):
        study.Ledger(path)


@pytest.mark.parametrize("n", [0, 1, 3, 4, 5, 500])
def test_answers_pack_and_unpack(n: int) -> None:
    correct = {f"p{i:03d}": i % 3 == 1 for i in range(n)}
    packed = study.pack_answers(dict(reversed(correct.items())))
    assert study.unpack_answers(packed) == [int(right) for right in correct.values()]
    assert len(packed["right"]) == -(-n // 4)


def test_a_paired_row_against_figures_by_hand() -> None:
    def answers(right: set[int]) -> study.Record:
        return study.pack_answers({f"p{i}": i in right for i in range(10)})

    ones = [answers({0, 1, 2, 3}), answers({0, 1, 2, 3, 4, 5, 6, 7})]
    others = [answers({0, 1, 2}), answers({0, 1, 2, 3, 4})]
    # 10 and 30 points: mean 20, deviation 14.1, half width of the t interval 12.706 * 14.14 / sqrt(2)
    row = study.paired_row("one - other", ones, others)
    assert row.startswith("| one - other | 2 | +20.0 ± 14.1 | -107.1 to +147.1 |")
    assert row.endswith("| 1, 0.25 |"), "McNemar: 1 of 1, and 3 of 3 in the same direction"
    assert study.paired_row("x", ones[:1], others[:1]).startswith("| x | 1 | +10.0 |  |"), "one seed has no interval"
    with pytest.raises(ValueError, match="different problems"):
        study.paired_row("x", ones[:1], [study.pack_answers({"q": True})])


def test_a_command_that_fails_names_its_log(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "cell-1.log"
    study.run_command([sys.executable, "-c", "import os; print(os.environ['OMP_NUM_THREADS'])"], log)
    assert log.read_text() == "1\n"
    with pytest.raises(SystemExit, match=r"cell-1 ended with code 3: see .*cell-1\.log"):
        study.run_command([sys.executable, "-c", "raise SystemExit(3)"], log)


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        (None, "unknown"),
        ({"commit": "0123456789abcdef", "changed": False}, "0123456"),
        ({"commit": "0123456789abcdef", "changed": True}, "0123456-dirty"),
    ],
)
def test_the_commit_of_a_cell(monkeypatch, source, shown):
    monkeypatch.setattr(study, "source_commit", lambda: source)
    assert study.current_commit() == shown


def conduct(*options: str, ran: list[str]) -> None:
    parser = study.command_line("A study.", results=Path("x.jsonl"), work=Path("runs/x"), groups=["main", "more"])
    study.conduct(
        parser.parse_args(options),
        missing=lambda: ["a-1", "b-1", "a-2"],
        run=ran.append,
        tables=lambda: "the tables",
        prepare=lambda cells: ran.append(f"prepare {len(cells)}"),
    )


@pytest.mark.parametrize(
    ("options", "ran", "printed"),
    [
        ([], ["prepare 3", "a-1", "b-1", "a-2"], "the tables\n"),
        (["--at-most", "2"], ["prepare 2", "a-1", "b-1"], "the tables\n"),
        (["--plan", "--at-most", "2"], [], "2 cells: a-1, b-1\n"),
        (["--table"], [], "the tables\n"),
    ],
)
def test_what_the_options_of_a_study_do(capsys, options, ran, printed):
    found: list[str] = []
    conduct(*options, ran=found)
    assert (found, capsys.readouterr().out) == (ran, printed)


def test_a_cell_that_fails_ends_the_study() -> None:
    ran = []

    def run(cell: str) -> None:
        ran.append(cell)
        if cell == "a-0":
            raise SystemExit(f"{cell} ended")
        time.sleep(0.05)

    with pytest.raises(SystemExit, match="a-0 ended"):
        study.conduct(
            study.command_line("", results=Path("x"), work=Path("x"), groups=["main"]).parse_args([]),
            missing=lambda: [f"a-{number}" for number in range(20)],
            run=run,
            tables=lambda: "",
        )
    assert len(ran) < 20, "those that wait are not begun"
