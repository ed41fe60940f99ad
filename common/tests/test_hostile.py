"""Hostile data through all four command lines: no script of it runs in a real browser, nothing leaves the folder that
the user named, and a key of the environment stands in no file.
"""

import contextlib
import importlib
import json
import os
import pickle
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from thinker_common.errors import UserError
from thinker_common.models.embedded import embedded_path
from thinker_common.models.load import load_policy
from thinker_common.training.run_folder import RunFolder

SECRET = "hf_planted0secret0in0the0environment"
HOSTILE = (
    "</pre></title><script>document.title = 'script ran'</script><img src=x onerror=\"document.title='script ran'\">"
    "<svg onload=\"document.title='script ran'\"> {{ 7 * 7 }} &lt;script&gt; \u202e"
)
COMMANDS = {"thinker": ("thinker_common.cli.app", "thinker_common.cli.main")} | {
    name: (f"{name}._common", f"{name}.cli") for name in ("generalthinker", "spiralthinker", "tinythinker")
}
NO_EVALUATION = ["evaluation.at_start=false", "evaluation.every_steps=null"]


def call(command, *arguments):
    """Runs a command line in this process; its exit code."""
    runner, app = map(importlib.import_module, COMMANDS[command])
    with pytest.raises(SystemExit) as ended:
        runner.run(app.app, list(map(str, arguments)))
    return ended.value.code


# --- pages and secrets --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What all four write of hostile questions, with keys in the environment."""
    folder = tmp_path_factory.mktemp("hostile")
    questions = [{"question": f"{i}? {HOSTILE}", "answer": f"{i}", "steps": [f"{i}+0={i}", "so"]} for i in range(24)]
    options = [{"question": f"{i}? {HOSTILE}", "options": [f"a {HOSTILE}", "b"], "answer": "A"} for i in range(4)]
    for name, rows in (("questions", questions), ("options", options)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    keys = ("HF_TOKEN", "WANDB_API_KEY", "OPENAI_API_KEY", "TEACHER_KEY")
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder):
        for key in keys:
            patch.setenv(key, SECRET)
        assert call("thinker", "evaluate", "embedded", "--file", "questions.jsonl", "--max-new-tokens", 8, "--output", "evaluated") == 0  # fmt: skip
        assert call(
            "generalthinker", "train", "--output", "general", "data.train_file=questions.jsonl", *NO_EVALUATION,
            "evaluation.at_end=false", "training.max_steps=1", "training.per_device_train_batch_size=8",
            "training.num_generations=4", "generation.max_new_tokens=8",
        ) == 0  # fmt: skip
        asked = ("--max-new-tokens", 8, "--samples", 2, "--page", "credit.html")
        assert call("generalthinker", "inspect", "embedded", "--question", HOSTILE, "--answer", HOSTILE, *asked) == 0
        assert call("generalthinker", "inspect", "general", "--page", "curves.html") == 0
        assert call(
            "spiralthinker", "train", "--output", "spiral", "data.train_file=questions.jsonl", *NO_EVALUATION,
            "evaluation.at_end=false", "stage1.max_steps=1", "training.max_steps=1",
        ) == 0  # fmt: skip
        shown = ("--step", HOSTILE, "--answer", HOSTILE, "--max-new-tokens", 8, "--page", "latents.html")
        assert call("spiralthinker", "inspect", "spiral/model", HOSTILE, *shown) == 0
        assert call(
            "tinythinker", "train", "--output", "tiny", "data.limit=8", "method.acquisition.max_steps=1",
            "method.reflection.iterations=0", "evaluation.limit=2",
        ) == 0  # fmt: skip
        assert call("tinythinker", "evaluate", "embedded", "--file", "options.jsonl", "--output", "chosen") == 0
        look = ("--options", f"{HOSTILE}|b", "--answer", "A", "--samples", 1, "--page", "look.html")
        assert call("tinythinker", "inspect", "embedded", "--question", HOSTILE, *look) == 0
    return folder


def test_every_page_is_text_in_a_real_browser(runs, tmp_path):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    pages = sorted(runs.rglob("*.html"))
    assert len(pages) >= 9, pages
    for page in pages:
        source = page.read_text(encoding="utf-8")
        assert "Content-Security-Policy" in source and "default-src 'none'" in source, page
        assert "<script" not in source, page
    held = {page.name for page in pages if "&lt;script&gt;document.title" in page.read_text(encoding="utf-8")}
    assert held >= {"credit.html", "latents.html", "look.html", "report.html"}, "pages that show the hostile text"
    if chromium is None:
        pytest.skip("no Chromium on PATH")
    flags = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--dump-dom",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
    ]  # fmt: skip
    for number, page in enumerate(pages):
        command = [chromium, *flags, f"--user-data-dir={tmp_path / str(number)}", page.as_uri()]
        done = subprocess.run(command, capture_output=True, timeout=120)
        assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
        dom = done.stdout.decode()
        assert re.search(r"<title>(.*?)</title>", dom)[1] != "script ran", page
        assert not re.search(r"<script|<img[^>]*onerror|<svg[^>]*onload", dom), page


def test_a_key_of_the_environment_is_in_no_file(runs):
    files = [path for path in runs.rglob("*") if path.is_file()]
    assert any(path.name == "environment.json" for path in files)
    for path in files:
        assert SECRET.encode() not in path.read_bytes(), path


# --- names and links ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../out", "/etc/passwd", "a/../../out", ".", "", "model/../../x"])
def test_a_name_inside_a_run_stays_inside(tmp_path, name):
    with pytest.raises(UserError, match="is not a name inside the run folder"):
        RunFolder(tmp_path / "run").file(name)


def test_a_link_out_of_the_run_is_not_followed(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is not a name inside the run folder"):
        RunFolder(tmp_path / "run").file("link/metrics.jsonl")


@pytest.mark.parametrize(
    "name", ["$(touch pwned)", "; touch pwned", "`touch pwned`", "-rf", "a b'c\"d", "名\u202e", "%n%s"]
)
def test_a_run_may_have_any_name_and_none_is_a_command(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    pytest.importorskip("generalthinker")
    code = call("generalthinker", "train", "--dry-run", f"--output=runs/{name}", "--gpus", 2, "--launcher", "slurm")
    script = capsys.readouterr().out.partition("script for sbatch:\n\n")[2]
    assert code == 0 and not list(tmp_path.iterdir()), "a dry run writes nothing"
    checked = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    assert f"runs/{name}" in shlex.split(script, comments=True), "one word of the shell, whatever it holds"


# --- weights ------------------------------------------------------------------------------------------------------------


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("pickle_was_run",))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors", "adapter_model.bin"])
def test_a_pickle_is_not_loaded_under_any_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    folder = Path("model")
    shutil.copytree(embedded_path(), folder)
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps({"w": Bomb()}))
    with pytest.raises(UserError):
        load_policy(str(folder))
    assert not Path("pickle_was_run").exists()


def test_a_link_in_the_place_of_weights_is_read_as_weights_and_nothing_else(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(embedded_path(), folder)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("/etc/passwd")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_policy(str(folder))
