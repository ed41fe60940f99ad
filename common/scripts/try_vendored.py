"""The promise of vendoring as a trial: copies of a method and of the base under other names train by themselves.

python common/scripts/try_vendored.py tinythinker data.limit=16 method.acquisition.max_steps=2

An empty folder gets `lab/vendored/base` (thinker_common) and `lab/vendored/method`; the one line that
changes is the name of the base in the method's `_common.py`. A finder on the path of every process of the trial refuses
the original names, so that a copy that reaches for them fails. Then it trains, on one process and on two ranks that the
launcher starts.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
ORIGINALS = ("thinker_common", "generalthinker", "spiralthinker", "tinythinker")
IGNORED = shutil.ignore_patterns("__pycache__")
# Python runs it in every process that has its folder on the path, before anything else.
BLOCK = f"""
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ORIGINALS!r}:
            raise ModuleNotFoundError(f"{{name}} is blocked: a vendored copy must not need it")

sys.meta_path.insert(0, Blocked())
"""


def vendor(method: str, tree: Path) -> None:
    """Copies the base and a method into `tree` as `lab.vendored.base` and `lab.vendored.method`."""
    home = tree / "lab" / "vendored"
    shutil.copytree(ROOT / "common/src/thinker_common", home / "base", ignore=IGNORED)
    shutil.copytree(ROOT / f"packages/{method}/src/{method}", home / "method", ignore=IGNORED)
    for package in (home, home.parent):
        (package / "__init__.py").touch()
    common = home / "method" / "_common.py"
    common.write_text(
        common.read_text(encoding="utf-8").replace("thinker_common", "lab.vendored.base"), encoding="utf-8"
    )
    (tree / "sitecustomize.py").write_text(BLOCK, encoding="utf-8")


def environment(tree: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(tree)}


def run(tree: Path, *arguments: str) -> None:
    print("$ python", *arguments, flush=True)
    subprocess.run([sys.executable, *arguments], cwd=tree, env=environment(tree), check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=ORIGINALS[1:])
    parser.add_argument("settings", nargs="*", metavar="SECTION.KEY=VALUE", help="what makes the run short")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        vendor(given.method, tree)
        importing = [sys.executable, "-c", "import thinker_common"]
        refused = subprocess.run(importing, cwd=tree, env=environment(tree), stderr=subprocess.DEVNULL)
        assert refused.returncode, "the originals can be imported: the trial would show nothing"
        command = ["-m", "lab.vendored.method"]
        run(tree, *command, "--version")
        for output, ranks in (("one", []), ("two", ["--gpus", "2"])):
            run(tree, *command, "train", "--output", output, *ranks, *given.settings)
            assert (tree / output / "model/model.safetensors").exists(), "no trained model"
    print(f"{given.method}: a vendored copy trains, on one process and on two ranks", flush=True)


if __name__ == "__main__":
    main()
