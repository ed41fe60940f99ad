"""The verb `export`: an adapter merged into its base computes the same, and nothing half-made is ever left."""

import errno
import json
import os
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from thinker_common.cli.app import run
from thinker_common.cli.main import app
from thinker_common.evaluation.score_file import read_scores
from thinker_common.models.embedded import embedded_path
from thinker_common.models.load import load_policy, load_tokenizer


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A base model and two adapters for it: one with its tokenizer, one as PEFT alone saves it."""
    place = tmp_path_factory.mktemp("models")
    base, tokenizer = load_policy("embedded"), load_tokenizer("embedded")
    base.save_pretrained(place / "base")
    tokenizer.save_pretrained(place / "base")
    torch.manual_seed(1)
    config = LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM")
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(place / "base"), config)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)  # a trained one: a fresh adapter changes nothing
    adapted.save_pretrained(place / "bare")
    shutil.copytree(place / "bare", place / "adapter")
    tokenizer.save_pretrained(place / "adapter")
    return place


@pytest.fixture
def export(capsys):
    """Runs the verb: (exit code, stdout, error lines)."""

    def call(*arguments):
        with pytest.raises(SystemExit) as caught:
            run(app, ["export", *map(str, arguments)])
        captured = capsys.readouterr()
        errors = [line for line in captured.err.splitlines() if "error: " in line]  # libraries draw bars on stderr
        return caught.value.code, captured.out, "\n".join(errors)

    return call


def logits(model):
    """In float64, so that what differs is in the weights."""
    ids = torch.arange(40).view(2, 20)
    with torch.no_grad():
        return model.double().eval()(ids).logits


@pytest.mark.parametrize("name", ["adapter", "bare"])
def test_the_merged_model_computes_what_the_adapter_does(export, folders, tmp_path, name):
    out = tmp_path / "new" / "exported"
    assert export(folders / name, out) == (0, f"exported: {out}\n", "")
    base = AutoModelForCausalLM.from_pretrained(folders / "base")
    plain = logits(base)
    expected = logits(PeftModel.from_pretrained(base, folders / "bare"))
    merged = logits(AutoModelForCausalLM.from_pretrained(out))
    assert (merged - expected).abs().max() < 1e-5
    assert (merged - plain).abs().max() > 0.1
    held = {path.name for path in out.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= held
    assert not any("adapter" in file for file in held)
    text = r"the answer is \boxed{5}"
    assert AutoTokenizer.from_pretrained(out)(text) == AutoTokenizer.from_pretrained(folders / "base")(text)
    assert [path.name for path in out.parent.iterdir()] == ["exported"]


def test_an_adapter_scores_as_its_export_does(export, folders, tmp_path):
    assert export(folders / "bare", tmp_path / "out")[0] == 0
    (tmp_path / "rows.jsonl").write_text('{"prompt": "2 + 3 =", "answers": [" 5", " 6"]}\n')
    sums = {}
    for model in (folders / "bare", tmp_path / "out", folders / "base"):
        output = tmp_path / f"{model.name}.jsonl"
        with pytest.raises(SystemExit, match="0"):
            run(app, ["score", str(tmp_path / "rows.jsonl"), "--model", str(model), "--output", str(output)])
        sums[model.name] = [scored["sum"] for scored in read_scores(output)[1][0]["scores"]]
    assert sums["bare"] == pytest.approx(sums["out"], abs=1e-4)
    assert sums["bare"] != pytest.approx(sums["base"], abs=1e-2)


def test_a_run_folder_gives_its_trained_model(export, folders, tmp_path):
    run_folder = tmp_path / "run"
    shutil.copytree(folders / "base", run_folder / "model")
    (run_folder / "config.yaml").write_text("model: {}\n")
    assert export(run_folder, tmp_path / "out")[0] == 0
    exported, trained = (AutoModelForCausalLM.from_pretrained(f) for f in (tmp_path / "out", run_folder / "model"))
    assert torch.equal(logits(exported), logits(trained))
    shutil.rmtree(run_folder / "model")
    code, out, err = export(run_folder, tmp_path / "again")
    assert (code, out) == (2, "")
    assert err == f"error: {run_folder}: this run has not written a model yet; export one of its checkpoints/"
    assert not (tmp_path / "again").exists()


def test_the_embedded_model_becomes_an_ordinary_folder(export, tmp_path):
    assert export("embedded", tmp_path / "small")[0] == 0
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "small")
    shipped = AutoModelForCausalLM.from_pretrained(embedded_path(), dtype=torch.float32)  # they ship in half precision
    assert torch.equal(logits(exported), logits(shipped))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weights_are_of_the_type_asked_for(export, folders, tmp_path, dtype):
    assert export(folders / "adapter", tmp_path / "out", "--dtype", dtype)[0] == 0
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == dtype
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == getattr(torch, dtype)


def test_an_empty_folder_is_filled_and_a_full_one_refused(export, folders, tmp_path):
    (tmp_path / "out").mkdir()
    assert export(folders / "base", tmp_path / "out")[0] == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    code, out, err = export(folders / "base", tmp_path / "out")
    assert (code, out) == (2, "")
    assert err == f"error: {tmp_path / 'out'}: this folder is not empty; remove it or export to another"
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}


def test_a_disk_that_fills_up_leaves_nothing(export, folders, tmp_path, monkeypatch):
    import transformers.modeling_utils
    from safetensors import SafetensorError

    def save(tensors, filename, metadata=None):
        with open(filename, "wb") as file:
            file.write(b"the first part")
        raise SafetensorError(f"I/O error: {os.strerror(errno.ENOSPC)} (os error {errno.ENOSPC})")

    monkeypatch.setattr(transformers.modeling_utils, "safe_save_file", save)
    out = tmp_path / "out"
    assert export(folders / "base", out) == (2, "", f"error: disk full: {out}")
    assert list(tmp_path.iterdir()) == []
