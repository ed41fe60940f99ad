"""Recipes and pages: what they name exists, with the defaults that they state."""

import dataclasses
import json
import re
import shlex
from pathlib import Path

import pytest

from spiralthinker import _common, cli
from spiralthinker.arguments import checked_arguments
from spiralthinker.config import MethodSettings, Settings
from spiralthinker.train import parts_of
from thinker_common.benchmarks import benchmark_module, load_benchmark

HOUSE = Path(__file__).parents[3]
PAGE = HOUSE / "docs/spiralthinker.md"
RECIPES = {
    "embedded": (5, 3),
    "gsm8k-aug-llama-3.2-1b": (5, 5),
    "prosqa-llama-3.2-1b": (5, 4),
    "prosqa-small": (5, 3),
    "strategyqa-llama-3.2-1b": (6, 3),
}


# Benchmarks of the recipes that are read from the hub, or from files of their authors.
HUB = ("gsm8k_aug", "prosqa", "strategyqa")


def settings_of(recipe: str, *overrides: str) -> Settings:
    text = _common.recipes.recipe_text("spiralthinker", recipe)
    return _common.load_settings(Settings, recipe_text=text, recipe_name=recipe, overrides=list(overrides))


def test_these_are_all_recipes(capsys):
    with pytest.raises(SystemExit):
        _common.run(cli.app, ["recipes", "list", "--json"])
    listed = json.loads(capsys.readouterr().out)
    assert set(listed) == set(RECIPES)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_opens_with_a_command_and_an_example_that_both_load(recipe):
    """All of their settings are known, for every stage, and N and K are the paper's where those are known."""
    text = _common.recipes.recipe_text("spiralthinker", recipe)
    commands = re.findall(r"^#   spiralthinker train (.+)$", text, re.MULTILINE)
    assert len(commands) == 2
    assert commands[0].startswith(f"--recipe {recipe} ")
    for command in commands:
        overrides = [argument for argument in shlex.split(command) if re.match(r"[a-z0-9_]+\.[a-z0-9_.]+=", argument)]
        settings = settings_of(recipe, *overrides)
        for part in parts_of(settings, Path("run")):
            checked_arguments(settings, part.stage)
    settings = settings_of(recipe)
    assert (settings.method.latents, settings.method.iterations) == RECIPES[recipe]
    if "llama" in recipe:
        assert len(re.findall("# open", text)) >= 5
        assert settings.model.lora is not None


class Asked(Exception):
    """The rows of a benchmark would be read now."""


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipes_commands_find_their_data(recipe, monkeypatch):
    """As far as that can be seen without the files: what the hub does not have is not asked of it."""

    def asked(*_, **__):
        raise Asked

    text = _common.recipes.recipe_text("spiralthinker", recipe)
    for command in re.findall(r"^#   spiralthinker train (.+)$", text, re.MULTILINE):
        arguments = shlex.split(command)
        overrides = [argument for argument in arguments if re.match(r"[a-z0-9_]+\.[a-z0-9_.]+=", argument)]
        if "--data-dir" in arguments:
            overrides.append(f"data.data_dir={arguments[arguments.index('--data-dir') + 1]}")
        settings = settings_of(recipe, *overrides)
        read = [(settings.data.benchmark, settings.data.split, settings.data.options)]
        evaluation = settings.evaluation
        read += [(name, evaluation.split, evaluation.options.get(name, {})) for name in evaluation.benchmarks]
        for name, split, options in read:
            if name in HUB:  # the others come with the package
                monkeypatch.setattr(benchmark_module(name), "read_rows", asked)
                with pytest.raises(Asked):
                    load_benchmark(name, split=split, data_dir=settings.data.data_dir, **options)


def test_the_page_names_every_setting_with_its_default():
    table = PAGE.read_text(encoding="utf-8").partition("## Settings of section")[2].partition("\n## ")[0]
    stated = {}
    for names, defaults in re.findall(r"^\| (`.+?`) \| (.+?) \|", table, re.MULTILINE):
        separate = re.findall("`(.+?)`", names)
        values = [value.strip("` ") for value in defaults.split(", ")]
        stated.update(zip(separate, values, strict=True))
    known = {field.name: getattr(MethodSettings(), field.name) for field in dataclasses.fields(MethodSettings)}
    assert stated.keys() == known.keys()
    for name, value in known.items():
        assert _common.parse_yaml(stated[name], name) == value or stated[name] == value, name


def test_the_commands_of_the_page_are_accepted():
    commands = re.findall(r"`spiralthinker train (method[^`]+)`", PAGE.read_text(encoding="utf-8"))
    assert len(commands) >= 6
    names = {settings_of("embedded", *command.split()).method.name for command in commands}
    assert names == {"explicit", "answer_only", "pause", "coconut", "codi", "spiral"}
