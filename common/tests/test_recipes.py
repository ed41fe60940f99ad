"""Shipped recipes: found by name, listed, shown, copied."""

import json

import pytest

from thinker_common.cli.app import new_app, run
from thinker_common.cli.recipes import recipes_app
from thinker_common.errors import UserError
from thinker_common.training.recipes import recipe_names, recipe_text


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "shipped_for_test" / "recipes"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    (folder / "small.yaml").write_text("# A small one.\nmethod: {}\n")
    (folder / "large.yaml").write_text("# A large one.\nmethod: {}\n")
    (folder / "notes.txt").write_text("not a recipe")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return "shipped_for_test"


def output(package, capsys, *arguments):
    app = new_app("example", "1", "An example.")
    app.add_typer(recipes_app(package, "example", example="small"), name="recipes")
    with pytest.raises(SystemExit) as caught:
        run(app, ["recipes", *arguments])
    captured = capsys.readouterr()
    return caught.value.code, captured.out, captured.err


def test_names_and_text(package):
    assert recipe_names(package) == ["large", "small"]
    assert recipe_text(package, "small") == "# A small one.\nmethod: {}\n"
    for name in ("smal", "../notes", "small.yaml", ""):
        with pytest.raises(UserError, match=r"^unknown recipe '.*\(there are: large, small\)$"):
            recipe_text(package, name)


def test_list_and_show(package, capsys):
    assert output(package, capsys, "list") == (0, "large  A large one.\nsmall  A small one.\n", "")
    assert json.loads(output(package, capsys, "list", "--json")[1]) == {
        "large": "A large one.",
        "small": "A small one.",
    }
    assert output(package, capsys, "show", "small")[1] == "# A small one.\nmethod: {}\n"
    assert output(package, capsys, "show", "smal") == (
        2, "", "error: unknown recipe 'smal'; did you mean 'small'? (there are: large, small)\n"
    )  # fmt: skip


def test_copy_never_overwrites(package, capsys, tmp_path):
    assert output(package, capsys, "copy", "small")[:2] == (0, "wrote small.yaml\n")
    (tmp_path / "small.yaml").write_text("mine")
    code, _, err = output(package, capsys, "copy", "small")
    assert (code, err) == (2, "error: small.yaml exists already: name another file with --to\n")
    assert (tmp_path / "small.yaml").read_text() == "mine"
    assert output(package, capsys, "copy", "small", "--to", "no/where.yaml")[2] == "error: no is not a folder\n"
    assert output(package, capsys, "copy", "small", "--to", "other.yaml")[0] == 0
    assert (tmp_path / "other.yaml").read_text() == recipe_text(package, "small")
