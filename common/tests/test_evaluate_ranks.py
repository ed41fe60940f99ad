"""Evaluations that several ranks share out: the rows and figures of one process, whatever a kill leaves behind."""

import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from thinker_common.errors import UserError
from thinker_common.evaluation import shares
from thinker_common.evaluation.generations import GenerationsFile, rank_file, rank_files, read_generations, row_key
from thinker_common.models.load import load_tokenizer

WORKER = Path(__file__).with_name("evaluate_ranks.py")
specification = importlib.util.spec_from_file_location("evaluate_ranks", WORKER)
worker = importlib.util.module_from_spec(specification)
specification.loader.exec_module(worker)

ROUNDING = 1e-4  # nats; other batches round otherwise


ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}


def start(folder, count, *options, **streams):
    return [
        subprocess.Popen([sys.executable, WORKER, folder, str(rank), str(count), *options], env=ENVIRONMENT, **streams)
        for rank in range(count)
    ]


@pytest.fixture(scope="module")
def evaluations():
    return worker.Evaluations()


@pytest.fixture(scope="module", params=["whole", "sharded", pytest.param("sharded offload", marks=pytest.mark.slow)])
def by_two_ranks(request, tmp_path_factory):
    """The folder, and what each of the ranks found, with the whole model on each or half of every weight."""
    if request.param != "whole" and sys.platform != "linux":
        pytest.skip("DeepSpeed is for Linux")
    folder = tmp_path_factory.mktemp("ranks")
    assert [process.wait(timeout=300) for process in start(folder, 2, *request.param.split())] == [0, 0]
    return folder, [json.loads((folder / f"record-{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def by_one_process(tmp_path_factory, evaluations):
    return json.loads(json.dumps(evaluations.all_kinds(tmp_path_factory.mktemp("one"))))


def near(value):
    """The same with room for rounding in every number that is not whole."""
    if isinstance(value, dict):
        return {name: near(item) for name, item in value.items()}
    if isinstance(value, list):
        return [near(item) for item in value]
    return pytest.approx(value, abs=ROUNDING) if isinstance(value, float) else value


# --- several ranks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["greedy", "sampled, in memory", "fewer problems than ranks", "ranked", "fewer ranked than ranks"]
)
def test_two_ranks_return_what_one_process_returns(by_two_ranks, by_one_process, kind):
    """Texts are equal without exception: with this model no near-tie of two tokens turns on the batch."""
    _, (first, second) = by_two_ranks
    assert first[kind] == second[kind], "both ranks have all of it"
    assert [row_key(row) for row in first[kind]["rows"]] == [row_key(row) for row in by_one_process[kind]["rows"]]
    assert first[kind]["rows"] == near(by_one_process[kind]["rows"])
    assert first[kind]["figures"] == near(by_one_process[kind]["figures"])


@pytest.mark.parametrize(
    ("name", "kind"), [("greedy", "greedy"), ("one", "fewer problems than ranks"), ("ranked",) * 2]
)
def test_the_file_holds_the_rows_of_both_ranks(by_two_ranks, name, kind):
    folder, (record, _) = by_two_ranks
    _, rows = read_generations(folder / f"{name}.jsonl")
    assert sorted(rows, key=row_key) == sorted(record[kind]["rows"], key=row_key)
    assert rank_files(folder / f"{name}.jsonl") == []


def test_what_a_rank_holds(by_two_ranks, evaluations, request):
    _, records = by_two_ranks
    sharded = "sharded" in request.node.callspec.id
    whole = sum(parameter.numel() for parameter in evaluations.model.parameters())
    assert all((record["elements here"] < 0.1 * whole) == sharded for record in records)


def test_an_error_on_one_rank_is_one_on_all_and_loses_no_row(by_two_ranks, evaluations):
    folder, records = by_two_ranks
    assert [record["errors"][0] for record in records] == ["UserError: out of memory: lower something"] * 2
    assert len(rank_files(folder / "failed.jsonl")) == 1
    asked = []
    evaluations.evaluate(3, output=folder / "failed.jsonl", progress=lambda done, total: asked.append((done, total)))
    assert asked == [(3, 3)] and rank_files(folder / "failed.jsonl") == []


def test_an_error_before_the_first_pass_is_one_on_all(by_two_ranks):
    _, records = by_two_ranks
    assert [record["errors"][3] for record in records] == ["UserError: nobody reads the progress"] * 2


@pytest.mark.skipif(sys.platform != "linux", reason="DeepSpeed is for Linux")
def test_an_error_in_the_middle_of_a_sharded_pass_is_told(tmp_path):
    """The other rank waits for weights that never come; where a supervisor watches, it ends that one."""
    processes = start(tmp_path, 2, "sharded", "broken", stderr=subprocess.PIPE, text=True)
    try:
        _, errors = processes[1].communicate(timeout=200)
    finally:
        processes[0].kill()
        processes[0].communicate()
    assert processes[1].returncode == 2
    assert re.search("error: rank 1 on .*: out of memory while generating.*lower max_tokens_per_batch", errors)


@pytest.mark.skipif(sys.platform != "linux", reason="DeepSpeed is for Linux")
def test_a_sharded_encoder_and_decoder(tmp_path):
    """In batches that differ between the ranks: a decoder reads the encoder's states in its first step alone."""
    torch.manual_seed(3)
    tokenizer = load_tokenizer("embedded")
    sizes = {"d_model": 48, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "initializer_factor": 3.0}
    start_id = {"decoder_start_token_id": 0, "eos_token_id": tokenizer.eos_token_id}
    T5ForConditionalGeneration(T5Config(vocab_size=len(tokenizer), **sizes, **start_id)).save_pretrained(
        tmp_path / "t5"
    )
    tokenizer.save_pretrained(tmp_path / "t5")
    rows = {}
    for name, options in (("one", ()), ("two", ("--gpus", "2", "--zero", "3"))):
        command = [
            sys.executable, "-m", "thinker_common.cli", "evaluate", str(tmp_path / "t5"), "--benchmark", "chains",
            "--limit", "5", "--max-new-tokens", "12", "--max-tokens-per-batch", "150", "--output", str(tmp_path / name),
            "--json", *options,
        ]  # fmt: skip
        done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr[-4000:]
        assert json.loads(done.stdout)["benchmarks"]["chains"]["n"] == 5, "DeepSpeed writes nothing to stdout"
        _, rows[name] = read_generations(tmp_path / name / "chains/generations.jsonl")
    assert any(row["text"] for row in rows["one"])
    assert sorted(rows["two"], key=row_key) == near(sorted(rows["one"], key=row_key))


def test_ranks_that_were_given_different_evaluations(by_two_ranks):
    _, records = by_two_ranks
    for record in records:
        assert "rank 0 and rank 1: seed was 0 and is 1. Every host needs the same" in record["errors"][1]


def test_a_rank_without_memory_says_who_and_where_it_was_on_all(by_two_ranks):
    _, records = by_two_ranks
    for record in records:
        assert re.search(
            rf"rank 1 on {re.escape(socket.gethostname())}, in the phase 'evaluate chains': out of memory while "
            r"generating: lower max_tokens_per_batch \(now 8192\) .* max_new_tokens \(now 48\)",
            record["errors"][2],
        )


@pytest.mark.slow
def test_kills_on_three_and_on_two_ranks_lose_and_repeat_no_row(tmp_path, evaluations):
    for count in (3, 2):
        started = start(tmp_path, count, "slowly")
        before = [line for file in files(tmp_path) for line in whole_lines(file)]
        while len([line for file in files(tmp_path) for line in whole_lines(file)]) < len(before) + 3:
            assert all(process.poll() is None for process in started)
            time.sleep(0.05)
        for process in started:
            process.send_signal(signal.SIGKILL)
        assert [process.wait() for process in started] == [-signal.SIGKILL] * count
        (tmp_path / "store").unlink()
    assert rank_files(tmp_path / "rows.jsonl"), "the kills came before the end"
    survived = {line for file in files(tmp_path) for line in whole_lines(file)}
    result = evaluations.slowly(tmp_path, 0)
    lines = whole_lines(tmp_path / "rows.jsonl")
    assert survived <= set(lines) and len(lines) == len(set(lines)) == 1 + 16
    assert rank_files(tmp_path / "rows.jsonl") == []
    (tmp_path / "whole").mkdir()
    assert result.rows == near(evaluations.slowly(tmp_path / "whole", 0).rows)


def files(folder):
    return [path for path in (folder / "rows.jsonl", *rank_files(folder / "rows.jsonl")) if path.exists()]


def whole_lines(path):
    return path.read_bytes().split(b"\n")[:-1]


# --- what ranks leave behind -------------------------------------------------------------------------------------------

SETTINGS = {"model": "m", "seed": 0}


def row(index):
    return {"id": f"p{index}", "sample": 0, "text": f"text {index}"}


def left_behind(path, indices, settings=SETTINGS, torn=b""):
    with GenerationsFile(path, settings) as file:
        file.append([row(index) for index in indices])
    with open(path, "ab") as file:
        file.write(torn)


def go_on(path, wanted=range(10)):
    """(what had to be made, all rows)"""
    made = []

    def make(share, append):
        for index in share:
            made.append(index)
            append([row(index)])

    rows = shares.all_rows(
        list(wanted),
        make,
        key=lambda index: (f"p{index}", 0),
        length=lambda index: index % 3,
        output=path,
        settings=SETTINGS,
        progress=None,
        name="numbers",
        model=None,
    )
    return made, rows


@pytest.fixture
def killed(tmp_path):
    """The file of an evaluation on four ranks that were killed: one torn row, one file without a row, one row twice."""
    path = tmp_path / "a [b]" / "rows.jsonl"
    left_behind(path, [0, 3])
    left_behind(rank_file(path, 1), [1, 4], torn=b'{"id": "p7", "sa')
    left_behind(rank_file(path, 2), [3, 2])
    rank_file(path, 11).write_bytes(b'{"settings": {"mo')
    return path


def test_rank_files_are_taken_over_whatever_the_number_of_ranks(killed):
    made, rows = go_on(killed)
    assert sorted(made) == [5, 6, 7, 8, 9] and rows == [row(index) for index in range(10)]
    assert made == sorted(made, key=lambda index: -(index % 3)), "longest first"
    assert sorted(map(row_key, read_generations(killed)[1])) == sorted(map(row_key, rows))
    assert list(killed.parent.iterdir()) == [killed]


def test_a_kill_in_the_taking_over_repeats_nothing(killed, monkeypatch):
    """Before each removal of a rank's file, and within each write."""
    for method, cls in (("unlink", Path), ("_write", GenerationsFile)):
        whole = getattr(cls, method)

        def die(self, *arguments, whole=whole, method=method):
            if method == "_write" and arguments[0]:
                self._file.write(json.dumps(arguments[0][0]).encode()[:9])
            raise KeyboardInterrupt

        monkeypatch.setattr(cls, method, die)
        with pytest.raises(KeyboardInterrupt):
            go_on(killed)
        monkeypatch.setattr(cls, method, whole)
    made, rows = go_on(killed)
    assert sorted(made) == [5, 6, 7, 8, 9] and rows == [row(index) for index in range(10)]
    assert len(read_generations(killed)[1]) == 10


def test_a_rank_file_of_other_settings_is_refused_and_left_alone(killed):
    left_behind(rank_file(killed, 3), [5], settings={**SETTINGS, "seed": 1})
    with pytest.raises(UserError, match=r"rows.rank-3.jsonl was written under other settings: seed was 1 and is 0"):
        go_on(killed)
    assert read_generations(rank_file(killed, 3))[1] == [row(5)]


PRIVATE = """
import sys
import torch.distributed as dist
from thinker_common.evaluation import shares
folder, rank = sys.argv[1], int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
rows = shares.all_rows(
    list(range(10)),
    lambda share, append: [append([{"id": f"p{index}", "sample": 0, "text": f"text {index}"}]) for index in share],
    key=lambda index: (f"p{index}", 0),
    length=lambda index: index,
    output=f"{folder}/host-{rank}/rows.jsonl",
    settings={"model": "m", "seed": 0},
    progress=None,
    name="numbers",
    model=None,
)
assert len(rows) == 10
dist.destroy_process_group()
"""


@pytest.mark.parametrize("settings", [SETTINGS, {**SETTINGS, "seed": 1}])
def test_nothing_stays_behind_on_a_host_with_a_folder_of_its_own(tmp_path, settings):
    """What a killed run left there is out of rank 0's reach, whatever its settings were."""
    left_behind(rank_file(tmp_path / "host-1" / "rows.jsonl", 1), range(10), settings)
    started = [
        subprocess.Popen([sys.executable, "-c", PRIVATE, tmp_path, str(rank)], env=ENVIRONMENT) for rank in range(2)
    ]
    assert [process.wait(timeout=120) for process in started] == [0, 0]
    assert list((tmp_path / "host-1").iterdir()) == []
    assert [path.name for path in (tmp_path / "host-0").iterdir()] == ["rows.jsonl"]
    found, rows = read_generations(tmp_path / "host-0" / "rows.jsonl")
    assert found == SETTINGS and sorted(map(row_key, rows)) == [(f"p{index}", 0) for index in range(10)]
