"""The command line: what it refuses and how, and what it hands over."""

import ast
import inspect
import re
from pathlib import Path

import pytest

from generalthinker import _common, cli
from generalthinker.config import Settings
from thinker_common.training.sections import LoraSettings

ROOT = Path(__file__).parents[3]
RECIPES = _common.recipes.recipe_names("generalthinker")


@pytest.fixture
def ended(tmp_path, monkeypatch, capsys):
    """Runs the command line in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        with pytest.raises(SystemExit) as caught:
            _common.run(cli.app, arguments)
        captured = capsys.readouterr()
        return caught.value.code, captured.out, captured.err

    return run


def recipe_settings(name, *overrides):
    text = _common.recipes.recipe_text("generalthinker", name)
    return _common.load_settings(Settings, recipe_text=text, recipe_name=name, overrides=overrides)


# --- mistakes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--recipe", "embeded"], "unknown recipe 'embeded'; did you mean 'embedded'? (there are: embedded, gsm8k-smollm2-135m, paper-qwen2.5-1.5b)"),
        (["train", "--recipe", "embedded", "--config", "x.yaml"], "--recipe and --config exclude each other: a run has one recipe"),
        (["train", "--config", "missing.yaml"], "missing.yaml: No such file or directory"),
        (["train", "--config", "."], ".: Is a directory"),
        (["train", "method.credt=none"], "command line: unknown setting 'method.credt'; did you mean 'method.credit'?"),
        (["train", "credit=none"], "command line: unknown setting 'credit'; did you mean 'method.credit'?"),
        (["train", "method.credit=most"], "command line: method.credit = 'most': expected one of none, additive, clipped, direction_preserving, controlled, projection, rlsd"),
        (["train", "method.credit_strength=1"], "command line: method.credit_strength = 1.0: expected a number from 0 to below 1"),
        (["train", "training.num_generations=1"], "training.num_generations = 1: expected a whole number of at least 2 (a response is compared with the others of its group)"),
        (["train", "data.limit=many"], "command line: data.limit = 'many': expected a whole number or null"),
        (["train", "fast"], "'fast' is not a setting: write section.key=value, for example training.max_steps=20"),
        (["train", "--limit", "0"], "Invalid value for '--limit'"),
        (["train", "--recipy", "x"], "No such option: --recipy"),
        (["inspect", "embedded", "--question", "2 + 3?"], "--question and --answer belong together"),
        (["inspect", "embedded", "--benchmark", "chain"], "unknown benchmark 'chain'; did you mean 'chains'?"),
        (["inspect", "embedded", "--index", "1000000"], "--index 1000000: chains has 1000 problems, numbered from 0"),
        (["recipes", "show", "paper"], "unknown recipe 'paper'"),
        (["evaluate", "embedded"], "name what to evaluate on: --benchmark NAME[,NAME] or --file FILE"),
        (["evaluate", "embedded", "--benchmark", "chain"], "unknown benchmark 'chain'; did you mean 'chains'?"),
        (["evaluate", "embedded", "--benchmark", "chains", "--column", "question=q"], "--column is for --file"),
        (["evaluate", "embedded", "--file", "x.jsonl", "--column", "question"], "--column question: write FIELD=NAME, for example question=prompt"),
        (["evaluate", "embedded", "--benchmark", "chains", "--compare", "nowhere"], "nowhere: there is no chains/generations.jsonl, so nothing to compare with"),
        (["evaluate", "./no/folder", "--benchmark", "chains"], "./no/folder: there is no such folder"),
    ],
)  # fmt: skip
def test_a_mistake_is_two_lines_at_most_and_leaves_nothing_behind(ended, tmp_path, arguments, message):
    code, out, err = ended(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {message}")
    assert len(err.splitlines()) <= 2
    assert list(tmp_path.iterdir()) == []


def test_a_config_file_that_is_not_text(ended, tmp_path):
    (tmp_path / "latin.yaml").write_bytes("# für\n".encode("latin-1"))
    assert ended("train", "--config", "latin.yaml") == (2, "", "error: latin.yaml: not UTF-8 text (byte 3)\n")


def test_an_evaluation_does_not_go_into_a_folder_with_other_files(ended, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("")
    code, _, err = ended("evaluate", "embedded", "--benchmark", "chains", "--output", "run")
    assert (code, err) == (
        2, "error: output run holds another run: choose another --output or remove that folder\n"
    )  # fmt: skip


# --- what `train` hands over ----------------------------------------------------------------------------------------------


@pytest.fixture
def handed_over(monkeypatch):
    """Calls of `train`, which is replaced."""
    from generalthinker import train as module

    calls = []
    monkeypatch.setattr(module, "train", lambda settings, output, **rest: calls.append((settings, output, rest)))
    return calls


def test_options_and_overrides_reach_the_training(ended, handed_over):
    code, _, err = ended(
        "train", "--recipe", "gsm8k-smollm2-135m", "method.credit=none", "model.lora.r=8", "training.learning_rate=1e-4",
        "--seed", "3", "--limit", "5", "--data-dir", "files", "--output", "out", "--resume", "never",
    )  # fmt: skip
    assert (code, err) == (0, "")
    [(settings, output, rest)] = handed_over
    expected = recipe_settings(
        "gsm8k-smollm2-135m",
        "method.credit=none",
        "model.lora.r=8",
        "training.learning_rate=1e-4",
        "data.limit=5",
        "data.data_dir=files",
        "training.seed=3",
    )
    assert settings == expected
    assert output == Path("out")
    assert (rest["seed"], rest["resume"]) == (3, "never")


def test_without_a_recipe_the_embedded_one_runs_into_a_new_folder(ended, handed_over):
    assert ended("train")[0] == 0
    [(settings, output, rest)] = handed_over
    assert settings == recipe_settings("embedded")
    assert re.fullmatch(r"runs/embedded-\d{8}-\d{6}", str(output))
    assert (rest["seed"], rest["resume"]) == (0, "auto")


def test_a_resolved_config_runs_again_with_its_own_seed(ended, handed_over, tmp_path):
    settings = recipe_settings("embedded", "training.seed=7")
    (tmp_path / "config.yaml").write_text(_common.to_yaml(settings))
    assert ended("train", "--config", "config.yaml")[0] == 0
    assert ended("train", "--config", "config.yaml", "--seed", "8")[0] == 0
    assert [call[0] for call in handed_over] == [settings, recipe_settings("embedded", "training.seed=8")]
    assert [call[2]["seed"] for call in handed_over] == [7, 8]


# --- recipes and their page -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_loads_and_opens_with_what_it_is_and_its_command(name):
    recipe_settings(name)
    text = _common.recipes.recipe_text("generalthinker", name)
    assert _common.recipes.recipe_summary(text)
    assert f"#   generalthinker train --recipe {name} " in text


def test_the_settings_page_has_every_setting_and_no_other():
    page = ROOT / "docs" / "settings.md"
    if not page.exists():
        pytest.skip("the pages are not part of the source distribution")
    from thinker_common.training.settings import known_names

    documented = set(re.findall(r"^\| `([a-z_]+\.[a-z_.]+)` \|", page.read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert documented == {name for name in known_names(Settings) if "." in name}


def test_the_settings_page_has_the_defaults():
    page = ROOT / "docs" / "settings.md"
    if not page.exists():
        pytest.skip("the pages are not part of the source distribution")
    rows = re.findall(r"^\| `([a-z_]+\.[a-z_.]+)` \| `(.+?)` \|", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(rows) > 50  # all but the two templates, which it calls the paper's
    defaults = Settings()
    for name, stated in rows:
        *sections, key = name.split(".")
        found = defaults
        for section in sections:
            found = getattr(found, section)
            found = LoraSettings() if found is None else found
        assert _common.parse_yaml(stated, name) == getattr(found, key), name


# --- the one door to the base ---------------------------------------------------------------------------------------------


def test_every_lazy_name_exists_and_is_declared_for_type_checkers():
    for name in _common._LAZY:
        assert getattr(_common, name) is not None
    tree = ast.parse(inspect.getsource(_common))
    [declared] = [node for node in tree.body if isinstance(node, ast.If)]
    assert {node.names[0].asname for node in declared.body} == set(_common._LAZY)
    with pytest.raises(AttributeError, match="no_such_name"):
        _common.no_such_name  # noqa: B018
