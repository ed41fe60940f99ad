"""The rules of the house that a machine can check: versions, pins, floors, relative imports, start-up."""

import ast
import importlib
import re
import resource
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
METHODS = ["generalthinker", "spiralthinker", "tinythinker"]
FOLDERS = {"thinker_common": ROOT / "common", **{name: ROOT / "packages" / name for name in METHODS}}
SOURCES = {name: folder / "src" / name for name, folder in FOLDERS.items()}
# A module imports from its own floor and from those before it.
FLOORS = ["likelihood", "models", "distributed", "benchmarks", "evaluation", "training", "cli"]

if not (ROOT / "noxfile.py").exists():
    pytest.skip("these tests are about the whole repository", allow_module_level=True)


def toml(path):
    return tomllib.loads(path.read_text(encoding="utf-8"))


def imports(path, *, at_run_time_only=False):
    """(level, dotted name) of each import in a file; level 0 is absolute."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if at_run_time_only:
        tree.body = [
            node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
        ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from ((node.level, name) for name in names)


def all_modules():
    return [(name, path) for name, source in SOURCES.items() for path in sorted(source.rglob("*.py"))]


# --- versions and pins --------------------------------------------------------------------------------------------------


def test_one_version_for_all_and_exact_pins_on_the_base():
    versions = {}
    for name, source in SOURCES.items():
        scope = {}
        exec((source / "_version.py").read_text(), scope)
        versions[name] = scope["__version__"]
    assert len(set(versions.values())) == 1, versions
    for name in METHODS:
        dependencies = toml(FOLDERS[name] / "pyproject.toml")["project"]["dependencies"]
        assert f"thinker-common=={versions[name]}" in dependencies
        for extra, lines in toml(FOLDERS[name] / "pyproject.toml")["project"]["optional-dependencies"].items():
            assert lines == [f"thinker-common[{extra}]=={versions[name]}"]


def test_tested_pins_meet_every_declared_range_and_every_dependency_is_pinned():
    groups = toml(ROOT / "pyproject.toml")["dependency-groups"]
    pins = {}
    for line in [*groups["torch"], *groups["runtime"]]:
        requirement = Requirement(line)
        [specifier] = requirement.specifier
        assert specifier.operator == "=="
        pins[requirement.name] = specifier.version
    for folder in FOLDERS.values():
        for line in toml(folder / "pyproject.toml")["project"]["dependencies"]:
            declared = Requirement(line)
            if declared.name != "thinker-common":
                assert declared.specifier.contains(pins[declared.name]), f"{folder.name}: {line}, {pins[declared.name]}"


def test_every_import_from_outside_is_a_declared_dependency():
    known = {"yaml": "pyyaml", "math_verify": "math-verify"}
    for name, folder in FOLDERS.items():
        project = toml(folder / "pyproject.toml")["project"]
        extras = [line for lines in project["optional-dependencies"].values() for line in lines]
        declared = {Requirement(line).name for line in (*project["dependencies"], *extras)}
        # Come with a declared one, which pins them for its own sake.
        brought = {
            "thinker_common",
            "markupsafe",
            "packaging",
            "huggingface_hub",
            "pydantic",
            "sympy",
            "latex2sympy2_extended",
            "tqdm",
        }
        for path in sorted(SOURCES[name].rglob("*.py")):
            for level, module in imports(path):
                top = module.partition(".")[0]
                if level == 0 and top not in sys.stdlib_module_names and top not in brought:
                    assert known.get(top, top) in declared, f"{path.relative_to(ROOT)} imports {top}"


def test_each_distribution_is_complete():
    for name, folder in FOLDERS.items():
        for file in ("pyproject.toml", "README.md", "LICENSE", f"src/{name}/py.typed"):
            assert (folder / file).exists(), f"{name}: {file}"
        assert (folder / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


def test_nothing_else_at_the_top_level():
    listed = subprocess.run(["git", "-C", ROOT, "ls-files"], capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    allowed = {
        ".ci", ".github", ".gitignore", "LICENSE", "README.md", "common", "docs", "examples", "noxfile.py", "packages",
        "pyproject.toml",
    }  # fmt: skip
    assert {line.partition("/")[0] for line in listed.stdout.splitlines()} <= allowed


def test_readme_and_ci_say_the_same():
    line = "python -m pip install nox && python -m nox -s tests"
    assert f"\n    {line}\n" in (ROOT / "README.md").read_text()
    assert (ROOT / ".ci" / "run").read_text().rstrip().endswith(f"\n{line}")


# --- imports --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "path"), all_modules(), ids=lambda value: getattr(value, "stem", value))
def test_imports_keep_to_the_house(name, path):
    where = path.relative_to(ROOT)
    others = [other for other in SOURCES if other != name]
    for level, module in imports(path):
        top = module.partition(".")[0]
        assert level or top != name, f"{where} names its own package: imports inside a package are relative"
        if level == 0 and top in others:
            assert (top, path.name) == ("thinker_common", "_common.py") and name != "thinker_common", (
                f"{where}: {module}"
            )


def test_no_text_of_the_base_names_its_modules_by_a_fixed_name():
    """In a copy under another name a message would name a module that is not there."""
    for path in sorted(SOURCES["thinker_common"].rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        alone = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in alone:
                assert "thinker_common" not in node.value, f"{path.relative_to(ROOT)}:{node.lineno}: {node.value}"


def test_each_floor_of_the_base_imports_from_itself_and_below_only():
    base = SOURCES["thinker_common"]
    for floor, room in enumerate(FLOORS):
        for path in sorted((base / room).rglob("*.py")):
            depth = len(path.relative_to(base).parts)  # 2 for room/module.py: two dots lead to the base itself
            for level, module in imports(path, at_run_time_only=True):
                if level == depth:
                    target = module.partition(".")[0]
                    allowed = [*FLOORS[: floor + 1], *([] if room == "likelihood" else ["errors", "_version"])]
                    assert target in allowed, f"{path.relative_to(ROOT)} imports {target}"
                if room == "likelihood" and level == 0:
                    top = module.partition(".")[0]
                    assert top in {"torch", "transformers", *sys.stdlib_module_names}, f"{path.name} imports {top}"


# --- start-up -------------------------------------------------------------------------------------------------------------

HEAVY = {"torch", "transformers", "trl", "accelerate", "deepspeed", "peft", "datasets", "numpy", "matplotlib", "sympy"}
COMMANDS = {"thinker": "thinker_common.cli.main", **{name: f"{name}.cli" for name in METHODS}}


def python(script, *arguments):
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def verbs(command):
    text = python(f"from {COMMANDS[command]} import main; main()", "--help")
    return re.findall(r"^  ([a-z]+)  ", text[text.index("Commands:") :], flags=re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_verb_loads_nothing_heavy_and_shows_examples(command):
    found = verbs(command)
    assert "doctor" in found
    for verb in found:
        script = (
            f"import sys\nfrom {COMMANDS[command]} import main\n"
            "try:\n    main()\nexcept SystemExit:\n    print('loaded', *sorted({n.partition('.')[0] for n in sys.modules}))"
        )
        text, _, loaded = python(script, verb, "--help").partition("loaded ")
        assert not HEAVY & set(loaded.split()), (verb, HEAVY & set(loaded.split()))
        if verb != "recipes":  # a group of verbs
            assert f"Examples:\n    {command} {verb}" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_help_answers_within_350_milliseconds(command, record_property):
    seconds = []
    for _ in range(7):
        start = child_seconds()
        python(f"from {COMMANDS[command]} import main; main()", "--help")
        seconds.append(child_seconds() - start)
    record_property(f"{command} --help", f"{min(seconds):.2f} s, best of {len(seconds)}")
    # Processor time, and the best of several: other work on the machine must not fail the test.
    assert min(seconds) <= 0.35


def child_seconds():
    """Processor time of all finished child processes."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@pytest.mark.parametrize("name", ["thinker_common", *METHODS])
def test_import_has_no_heavy_side_effect(name):
    script = f"import sys, {name}\nprint(*sorted({{n.partition('.')[0] for n in sys.modules}}))"
    assert not HEAVY & set(python(script).split())


@pytest.mark.parametrize("name", ["thinker_common", "generalthinker"])
def test_every_exported_name_exists(name):
    package = importlib.import_module(name)
    for exported in package.__all__:
        assert getattr(package, exported) is not None
    assert set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match="no_such_name"):
        package.no_such_name  # noqa: B018


@pytest.mark.parametrize("name", METHODS)
def test_every_name_taken_from_the_base_is_there(name):
    """Names of `_common` are loaded on first use, which neither an import nor the type checker tries."""
    taken = {
        alias.name
        for path in SOURCES[name].rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module == "_common" and node.level
        for alias in node.names
    }
    assert taken
    common = importlib.import_module(f"{name}._common")
    assert not [each for each in sorted(taken) if not hasattr(common, each)]
