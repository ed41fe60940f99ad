"""The site: pages of docs/, what is generated from code, and the check of all links. No network.

python docs/site/build.py --output site
python docs/site/build.py --write-settings     # the tables of settings that stand in pages of docs/, in place

Generated are the tables of settings (from the dataclasses and the comments beside their fields), the reference (from
docstrings, by mkdocstrings) and the page of examples. A link to a file of the repository that is no page becomes its
path; one to a file that is not there ends the build, as do links and anchors between pages that lead nowhere.
"""

import argparse
import ast
import dataclasses
import importlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES_FROM_ELSEWHERE = {
    "README.md": "readme.md",
    ".github/CONTRIBUTING.md": "contributing.md",
    ".github/SECURITY.md": "security.md",
    "common/README.md": "packages/thinker-common.md",
    "packages/generalthinker/README.md": "packages/generalthinker.md",
    "packages/spiralthinker/README.md": "packages/spiralthinker.md",
    "packages/tinythinker/README.md": "packages/tinythinker.md",
}
METHODS = ("generalthinker", "spiralthinker", "tinythinker")
# Room of the base, or method -> its modules whose docstrings make the reference.
REFERENCE = {
    "thinker_common.likelihood": ["scorer", "logprobs", "boundary"],
    "thinker_common.models": ["load", "adapters", "chat"],
    "thinker_common.benchmarks": ["problem", "user_file", "sources"],
    "thinker_common.evaluation": ["evaluate", "grading", "statistics", "comparison"],
    "thinker_common.training": ["settings", "checkpoints", "resume"],
    "generalthinker": ["credit", "rewards", "trainer"],
    "spiralthinker": ["iteration", "alignment", "annotation", "model"],
    "tinythinker": ["stages", "reflection", "mixing", "questions"],
}
# <!-- settings of METHOD.config.CLASS: SECTION, ... --> and what stands up to the next <!-- end -->
SETTINGS = re.compile(r"(<!-- settings of (\S+)\.(\w+): (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "site", metavar="DIR")
    parser.add_argument("--write-settings", action="store_true", help="write the tables of settings into docs/ instead")
    given = parser.parse_args()
    if given.write_settings:
        for page in sorted(DOCS.glob("*.md")):
            page.write_text(with_settings(page.read_text(encoding="utf-8")), encoding="utf-8")
        return
    output = given.output.resolve()
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        problems = assemble(tree)
        if problems:
            sys.exit("\n".join(problems))
        command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(output)]
        sources = [str(ROOT / "common/src"), *(str(ROOT / f"packages/{name}/src") for name in METHODS)]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([*sources, *filter(None, sys.path)]),
            "NO_MKDOCS_2_WARNING": "1",
        }
        done = subprocess.run(command, cwd=tree, env=environment)
    if done.returncode:
        sys.exit(done.returncode)
    print(f"{len(list(output.rglob('*.html')))} pages in {output}")


def assemble(tree: Path) -> list[str]:
    """Writes mkdocs.yml and pages/ into `tree`; gives what is wrong with links to files."""
    pages = tree / "pages"
    shutil.copytree(DOCS, pages, ignore=shutil.ignore_patterns("site", "__pycache__"))
    for source, page in PAGES_FROM_ELSEWHERE.items():
        (pages / page).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / source, pages / page)
    problems = []
    homes = {ROOT / source: page for source, page in PAGES_FROM_ELSEWHERE.items()}
    for page in sorted(pages.rglob("*.md")):
        home = next((source for source, name in homes.items() if pages / name == page), DOCS / page.relative_to(pages))
        text = page.read_text(encoding="utf-8")
        if with_settings(text) != text:
            problems.append(f"{home.relative_to(ROOT)}: settings have changed, run build.py --write-settings")
        text, wrong = with_links(text, home, page, pages, homes)
        page.write_text(text, encoding="utf-8")
        problems += wrong
    (pages / "reference").mkdir()
    for method in METHODS:
        (pages / "reference" / f"settings-{method}.md").write_text(settings_page(method), encoding="utf-8")
    for name, modules in REFERENCE.items():
        body = "\n\n".join(f"::: {name}.{module}" for module in modules)
        (pages / "reference" / f"{name}.md").write_text(f"# {name}\n\n{body}\n", encoding="utf-8")
    (pages / "examples.md").write_text(examples_page(), encoding="utf-8")
    config = yaml.safe_load((DOCS / "site" / "mkdocs.yml").read_text(encoding="utf-8"))
    listed = {"Settings": [f"settings-{method}" for method in METHODS], "Reference": list(REFERENCE)}
    config["nav"] += [{title: [f"reference/{name}.md" for name in names]} for title, names in listed.items()]
    results = sorted(f"results/{path.name}" for path in (DOCS / "results").glob("*.md"))
    config["nav"] += [
        {"Results": results},
        {"Packages": sorted(p for p in homes.values() if p.startswith("packages/"))},
    ]
    (tree / "mkdocs.yml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return problems


def with_links(text: str, home: Path, page: Path, pages: Path, homes: dict[Path, str]) -> tuple[str, list[str]]:
    """A page's text with its links as the site needs them. home: where the page stands in the repository."""
    problems: list[str] = []

    def replaced(match: re.Match[str]) -> str:
        words, target = match.groups()
        if re.match(r"[a-z]+:", target) or target.startswith("#"):
            return match[0]
        file, hash_mark, anchor = target.partition("#")
        there = (home.parent / file).resolve()
        if not there.exists():
            problems.append(f"{home.relative_to(ROOT)}: {target} leads nowhere")
            return match[0]
        if there.is_dir() and there / "README.md" in homes:
            there = there / "README.md"
        elif there.is_dir() and (there / "index.md").exists():
            there = there / "index.md"
        if there in homes:
            new = pages / homes[there]
        elif there.is_relative_to(DOCS) and there.suffix in (".md", ".svg", ".png") and "site" not in there.parts:
            new = pages / there.relative_to(DOCS)
        else:
            where = f"`{there.relative_to(ROOT)}`"
            return where if words.strip("`") in where else f"{words} ({where})"
        return f"[{words}]({os.path.relpath(new, page.parent)}{hash_mark}{anchor})"

    return LINK.sub(replaced, text), problems


# --- generated pages --------------------------------------------------------------------------------------------------


def settings_page(method: str) -> str:
    """Every setting of a method: name, type, default, and the comment beside it in the source."""
    settings = importlib.import_module(f"{method}.config").Settings
    lines = [
        f"# Settings of {method}",
        "",
        "Generated from the code. How to write values: [settings](../settings.md).",
        "",
    ]
    for field in dataclasses.fields(settings):
        section = _dataclass_of(field)
        if section is None:
            lines += [
                f"## {field.name}",
                "",
                "Arguments of the trainer under its own names; defaults of this method:",
                "",
            ]
            lines += [f"    {field.name}.{key}={value}" for key, value in _default(field).items()] or ["    none"]
            lines.append("")
            continue
        lines += [f"## {field.name}", "", "| setting | type | default | |", "|---|---|---|---|"]
        lines += _rows(section, field.name)
        lines.append("")
    return "\n".join(lines)


def with_settings(text: str) -> str:
    """A page with its tables of settings as the code has them."""

    def table(match: re.Match[str]) -> str:
        head, module, cls, sections, end = match.groups()
        fields = {field.name: field for field in dataclasses.fields(getattr(importlib.import_module(module), cls))}
        lines = ["", "| setting | type | default | |", "|---|---|---|---|"]
        for name in sections.split(", "):
            section = _dataclass_of(fields[name])
            assert section is not None, f"{name} is no section"
            lines += _rows(section, name)
        return head + "\n".join(lines) + "\n\n" + end

    return SETTINGS.sub(table, text)


def _rows(cls: type, prefix: str) -> list[str]:
    comments = _comments(cls)
    rows = []
    for field in dataclasses.fields(cls):
        section = _dataclass_of(field)
        name, default = f"{prefix}.{field.name}", _default(field)
        if section is not None:
            if default is None:
                rows.append(f"| `{name}` | section | `null` | {comments.get(field.name, '')} |")
            rows += _rows(section, name)
            continue
        kind = field.type.__name__ if isinstance(field.type, type) else str(field.type).replace("typing.", "")
        kind = re.sub(r"Optional\[(.*)\]", r"\1 | None", re.sub(r"Literal\[(.*?)\]", r"\1", kind)).replace("'", "")
        shown = "null" if default is None else str(default).lower() if isinstance(default, bool) else str(default)
        cells = (f"`{name}`", kind, f"`{shown}`" if shown else "", comments.get(field.name, ""))
        rows.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return rows


def _dataclass_of(field: dataclasses.Field) -> type | None:
    hint = field.type
    if isinstance(hint, str):
        return None
    arms = [hint, *getattr(hint, "__args__", ())]
    return next((arm for arm in arms if isinstance(arm, type) and dataclasses.is_dataclass(arm)), None)


def _default(field: dataclasses.Field):
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def _comments(cls: type) -> dict[str, str]:
    """Field -> the comment at the end of its line, in the class itself or in one that it extends."""
    if not dataclasses.is_dataclass(cls):
        return {}
    module = importlib.import_module(cls.__module__)
    text = Path(module.__file__).read_text(encoding="utf-8")
    lines = text.splitlines()
    node = next(n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.ClassDef) and n.name == cls.__name__)
    found = _comments(cls.__bases__[0])
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            span = "\n".join(lines[item.lineno - 1 : item.end_lineno])
            if comment := re.search(r"  # (.+)$", span, flags=re.MULTILINE):
                found[item.target.id] = comment[1]
    return found


def examples_page() -> str:
    parts = ["# Examples", "", "Small and complete; continuous integration runs each that a CPU can run.", ""]
    for path in sorted((ROOT / "examples").iterdir()):
        if path.suffix not in (".py", ".sh", ".md"):
            continue
        text = path.read_text(encoding="utf-8").rstrip()
        if path.suffix == ".md":
            parts += [re.sub(r"^#", "##", text, flags=re.MULTILINE), ""]
        else:
            language = {".py": "python", ".sh": "bash"}[path.suffix]
            parts += [f"## {path.name}", "", f"```{language}", text, "```", ""]
    return "\n".join(parts)


if __name__ == "__main__":
    main()
