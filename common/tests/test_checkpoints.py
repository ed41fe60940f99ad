"""Checkpoints on disk: what is written, what is believed, what is removed. No model here; see test_resume.py."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from thinker_common.errors import UserError
from thinker_common.training import checkpoints, durable
from thinker_common.training.checkpoints import Damaged, Manifest
from thinker_common.training.resume import RunIdentity, check_unchanged, choose, data_fingerprint, flat_settings

SETTINGS = {"model.name_or_path": "embedded", "training.learning_rate": 1e-6, "training.save_steps": 10}
FILES = {"model.safetensors": b"weights" * 100, "global_step1/rank_0.pt": b"moments" * 50, "empty.json": b""}


def save(folder: Path, step: int, **changes) -> Path:
    folder.mkdir(exist_ok=True)
    inside = checkpoints.begin(folder) / checkpoints.name_of(step)
    for name, content in FILES.items():
        (inside / name).parent.mkdir(parents=True, exist_ok=True)
        (inside / name).write_bytes(content + str(step).encode() if content else content)
    checkpoints.sync_content(inside)
    values = {
        "step": step,
        "ranks": 1,
        "engine": "plain",
        "examples_per_step": 8,
        "rank_bound": False,
        "settings": SETTINGS,
        "data": {"train": "5 rows"},
        "files": checkpoints.record_files(inside, checkpoints.content_names(inside)),
    }
    return checkpoints.commit(folder, Manifest(**{**values, **changes}))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def test_a_saved_checkpoint_is_whole_and_leaves_nothing_beside(tmp_path):
    path = save(tmp_path / "run", 20)
    assert names(tmp_path / "run") == ["checkpoint-20"]
    manifest = checkpoints.verify(path)
    assert manifest.step == 20 and manifest.settings == SETTINGS
    assert sorted(manifest.files) == sorted(FILES) and manifest.files["empty.json"].size == 0


@pytest.mark.parametrize("name", [*[name for name in FILES if FILES[name]], checkpoints.MANIFEST])
def test_a_changed_byte_anywhere_is_found_and_its_file_named(tmp_path, name):
    path = save(tmp_path, 20)
    for position in (0, 7, (path / name).stat().st_size - 1):
        flip(path / name, position)
        with pytest.raises(Damaged, match=name):
            checkpoints.verify(path)
        flip(path / name, position)
    checkpoints.verify(path)


@pytest.mark.parametrize("name", [*FILES, checkpoints.MANIFEST])
def test_a_missing_or_shortened_file_is_found_and_named(tmp_path, name):
    path = save(tmp_path, 20)
    content = (path / name).read_bytes()
    (path / name).unlink()
    with pytest.raises(Damaged, match=f"{name} is missing"):
        checkpoints.verify(path)
    (path / name).write_bytes(content[:-1] if content else b"more")
    with pytest.raises(Damaged, match=name):
        checkpoints.verify(path)


def test_every_byte_of_a_manifest_is_guarded(tmp_path):
    content = (save(tmp_path, 20) / checkpoints.MANIFEST).read_bytes()
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 1
        with pytest.raises(Damaged, match=checkpoints.MANIFEST):
            Manifest.from_bytes(bytes(changed))
    newer = json.loads(content) | {"format": 3}
    with pytest.raises(Damaged, match="has format 3, and this version reads 2"):
        Manifest.from_bytes(json.dumps(newer).encode())


def test_the_newest_complete_one_is_taken_and_the_others_are_named(tmp_path):
    for step in (9, 10, 20, 30):
        save(tmp_path, step)
    flip(tmp_path / "checkpoint-30" / "model.safetensors", 5)
    (tmp_path / "checkpoint-20" / checkpoints.MANIFEST).unlink()
    (tmp_path / ".partial" / "checkpoint-40").mkdir(parents=True)
    (tmp_path / "checkpoint-best").mkdir()
    point = choose(tmp_path, "auto")
    assert point.checkpoint.path == tmp_path / "checkpoint-10", "10 is newer than 9, though not by name"
    assert [(skipped.path.name, skipped.reason) for skipped in point.skipped] == [
        ("checkpoint-40", "was being written when the run ended"),
        ("checkpoint-30", "model.safetensors is damaged: its SHA-256 is not the one in manifest.json"),
        ("checkpoint-20", "manifest.json is missing: not written to its end, or by another program"),
    ]
    assert point.notices()[-1] == f"going on from {tmp_path / 'checkpoint-10'} (step 10)"


def test_nothing_to_resume(tmp_path):
    assert choose(tmp_path / "not there", "auto").checkpoint is None
    (tmp_path / ".partial" / "checkpoint-1").mkdir(parents=True)
    point = choose(tmp_path, "auto")
    assert point.checkpoint is None and len(point.skipped) == 1, "killed in its first save: begins anew, and says so"
    save(tmp_path, 5)
    assert choose(tmp_path, "never").checkpoint is None


def test_only_damaged_ones_are_an_error_and_not_a_fresh_start(tmp_path):
    flip(save(tmp_path, 5) / "model.safetensors", 0)
    with pytest.raises(UserError, match=r"no checkpoint is complete .*checkpoint-5: model.safetensors is damaged"):
        choose(tmp_path, "auto")


def test_a_path_is_taken_or_refused(tmp_path):
    save(tmp_path, 5)
    save(tmp_path, 10)
    assert choose(tmp_path, str(tmp_path / "checkpoint-10")).checkpoint.manifest.step == 10
    assert choose(tmp_path / "another run", str(tmp_path / "checkpoint-5")).checkpoint.manifest.step == 5
    with pytest.raises(UserError, match=r"checkpoint-10 is newer than --resume .*checkpoint-5"):
        choose(tmp_path, str(tmp_path / "checkpoint-5"))
    with pytest.raises(UserError, match="there is no such folder"):
        choose(tmp_path, str(tmp_path / "checkpoint-7"))
    (tmp_path / "checkpoint-10" / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"is not a complete checkpoint: model.safetensors is missing"):
        choose(tmp_path, str(tmp_path / "checkpoint-10"))


def test_a_limit_counts_complete_ones_and_never_takes_the_last(tmp_path):
    for step in (1, 2, 3, 4):
        save(tmp_path, step)
    (tmp_path / "checkpoint-4" / "model.safetensors").write_bytes(b"cut")
    checkpoints.prune(tmp_path, 2)
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-3", "checkpoint-4"]
    checkpoints.prune(tmp_path, 1)
    assert names(tmp_path) == ["checkpoint-3", "checkpoint-4"], "the damaged one is kept to be looked at"
    assert choose(tmp_path, "auto").checkpoint.manifest.step == 3


def test_a_distrusted_one_is_neither_counted_nor_removed(tmp_path):
    """It is newer than the one that the run goes on from, and as large as it should be."""
    for step in (10, 13, 20):
        save(tmp_path, step)
    newer = checkpoints.newer_than(tmp_path, 10)
    assert [path.name for path in newer] == ["checkpoint-20", "checkpoint-13"]
    checkpoints.prune(tmp_path, 1, {tmp_path / "checkpoint-20"})
    assert names(tmp_path) == ["checkpoint-13", "checkpoint-20"]


def test_a_checkpoint_of_elsewhere_is_refused_where_a_later_resume_would_take_another(tmp_path):
    save(tmp_path / "here", 10)
    save(tmp_path / "elsewhere", 5)
    with pytest.raises(UserError, match=r"checkpoint-10 is newer than --resume .*checkpoint-5"):
        choose(tmp_path / "here", str(tmp_path / "elsewhere" / "checkpoint-5"))


def test_ranks_may_ask_at_once_why_nothing_can_be_written(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: durable.why_not_writable(tmp_path), range(400)))
    assert set(found) == {None}
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".probe-of-a-killed-rank").touch()
    checkpoints.begin(tmp_path)
    assert names(tmp_path) == [".partial"]


def test_a_damaged_folder_gives_way_to_a_new_save_of_its_step(tmp_path):
    (save(tmp_path, 5) / "model.safetensors").unlink()
    checkpoints.verify(save(tmp_path, 5))
    checkpoints.begin(tmp_path)
    assert names(tmp_path) == [".partial", "checkpoint-5"]


def test_changed_settings_and_data_are_named_with_both_values(tmp_path):
    manifest = checkpoints.verify(save(tmp_path, 5))
    assert check_unchanged(manifest, RunIdentity(SETTINGS, {"train": "5 rows"})) == []
    settings = {"model.name_or_path": "other", "training.learning_rate": 1e-6, "training.save_steps": 5, "method.x": 1}
    assert check_unchanged(manifest, RunIdentity(settings, {"train": "6 rows"})) == [
        "method.x was not set and is 1",
        'model.name_or_path was "embedded" and is "other"',
        "the data 'train' was 5 rows and is 6 rows",
    ]
    # More workers load the same rows; leaving a short last batch out does not.
    loading = {**SETTINGS, "training.dataloader_num_workers": 4, "training.dataloader_drop_last": True}
    assert check_unchanged(manifest, RunIdentity(loading, {"train": "5 rows"})) == [
        "training.dataloader_drop_last was not set and is true"
    ]


def test_settings_are_compared_as_json_holds_them(tmp_path):
    flat = flat_settings({"model": {"lora": {"r": 8}, "dtype": "auto"}, "sizes": (1, 2)})
    assert flat == {"model.lora.r": 8, "model.dtype": "auto", "sizes": [1, 2]}
    manifest = checkpoints.verify(save(tmp_path, 5, settings=flat))
    assert check_unchanged(manifest, RunIdentity(flat, {"train": "5 rows"})) == []


def test_a_data_fingerprint_sees_every_change():
    rows = [{"question": "1 + 1?", "answer": "2"}, {"question": "é", "answer": "3"}]
    assert data_fingerprint(rows).startswith("2 rows, sha256 ")
    others = [rows[::-1], rows[:1], [rows[0], {"question": "é", "answer": "4"}]]
    assert len({data_fingerprint(each) for each in [rows, *others]}) == 4
