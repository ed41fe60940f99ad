"""The checks of the house: `python -m nox -s demo` runs the main job, `python -m nox -s tests` the tests.

Every session installs the tested pins of pyproject.toml into an environment of its own; torch goes in first, so that
pip keeps the build it is offered and no later requirement draws another one.
"""

import os
import re
import runpy
import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "types", "tests"]

PYPROJECT = nox.project.load_toml("pyproject.toml")
VERSION = runpy.run_path("common/src/thinker_common/_version.py")["__version__"]
METHODS = ["packages/generalthinker", "packages/spiralthinker", "packages/tinythinker"]
DISTRIBUTIONS = ["common", *METHODS]
# What a wrong version of a dependency breaks first: scores, trainers, checkpoints, settings, the command lines.
CORE_TESTS = [
    "common/tests/test_logprobs.py", "common/tests/test_scorer.py", "common/tests/test_boundary.py",
    "common/tests/test_settings.py", "common/tests/test_checkpoints.py", "common/tests/test_dependable_trl.py",
    "common/tests/test_grading.py", "common/tests/test_load.py", "common/tests/test_report.py",
    "packages/generalthinker/tests/test_trl_contract.py", "packages/generalthinker/tests/test_trainer.py",
    "packages/spiralthinker/tests/test_spiralthinker_cli.py", "packages/spiralthinker/tests/test_iteration.py",
    "packages/tinythinker/tests/test_tinythinker_cli.py", "packages/tinythinker/tests/test_reflection_trl.py",
]  # fmt: skip
# Of each method, the embedded recipe cut down to two steps.
NO_EVALUATION = ["evaluation.at_end=false", "evaluation.every_steps=null"]
TWO_STEPS = {
    "generalthinker": [
        *NO_EVALUATION, "evaluation.at_start=false", "training.max_steps=2", "training.per_device_train_batch_size=8",
        "training.num_generations=4", "generation.max_new_tokens=16",
    ],
    "spiralthinker": [*NO_EVALUATION, "stage1.max_steps=1", "training.max_steps=1", "data.limit=32"],
    "tinythinker": [
        "data.limit=16", "method.acquisition.max_steps=2", "method.reflection.iterations=0", "evaluation.limit=4"
    ],
}  # fmt: skip
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


def install_pins(session: nox.Session, *groups: str) -> None:
    for group in groups:
        session.install(*nox.project.dependency_groups(PYPROJECT, group))


def install_house(session: nox.Session, *folders: str) -> None:
    """Editable installs of our distributions, on the pins, with the pinned build backend."""
    install_pins(session, "torch", "runtime", "backend")
    session.install("--no-build-isolation", *(part for folder in folders for part in ("--editable", folder)))


@nox.session
def demo(session: nox.Session) -> None:
    """The main job: train the embedded model on a laptop, without network or GPU, in ten minutes or less."""
    install_house(session, "common", "packages/generalthinker")
    output = Path("runs/demo")
    number = 1
    while output.exists():  # a run never goes into the folder of another
        number += 1
        output = Path(f"runs/demo-{number}")
    session.run(
        "generalthinker", "train", "--recipe", "embedded", "--output", str(output), *session.posargs, env=OFFLINE
    )


@nox.session
def tests(session: nox.Session) -> None:
    """All tests. THINKER_DATA_DIR: the original benchmark files; without it the tests that read them are skipped."""
    install_house(session, *DISTRIBUTIONS)
    install_pins(session, "test")
    # Two workers with one thread each: on two cores this is faster than two threads, and timings do not wander.
    # A file stays with one worker, so that what it loads once is loaded once.
    session.run("pytest", "-n", "2", "--dist", "loadfile", *session.posargs, env={**OFFLINE, "OMP_NUM_THREADS": "1"})


@nox.session
def slow(session: nox.Session) -> None:
    """The tests that `tests` leaves out: kill loops, long parity runs, learning."""
    install_house(session, *DISTRIBUTIONS)
    install_pins(session, "test")
    session.run("pytest", "-m", "slow", "--timeout", "3600", *session.posargs, env={**OFFLINE, "OMP_NUM_THREADS": "1"})


@nox.session
def fuzz(session: nox.Session) -> None:
    """10^5 inputs for each parser of what strangers write; an hour or so."""
    install_house(session, *DISTRIBUTIONS)
    install_pins(session, "test")
    environment = {**OFFLINE, "OMP_NUM_THREADS": "1", "FUZZ_INPUTS": "100000"}
    session.run("pytest", "common/tests/test_fuzz.py", "--timeout", "7200", *session.posargs, env=environment)


@nox.session
def gpu(session: nox.Session) -> None:
    """What only a machine with GPUs can show, in minutes: the checks of `doctor --selftest`, and training over NCCL."""
    install_house(session, *DISTRIBUTIONS)
    install_pins(session, "test")
    session.run("pytest", "common/tests/test_gpu.py", *session.posargs, env=OFFLINE)


@nox.session
def lint(session: nox.Session) -> None:
    install_pins(session, "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Types, and that imports lead downwards only."""
    install_house(session, *DISTRIBUTIONS)
    install_pins(session, "types")
    session.run("mypy")
    session.run("lint-imports")


@nox.session
def build(session: nox.Session) -> None:
    """A wheel and a source distribution of each of the four into dist/."""
    install_pins(session, "build")
    build_distributions(session, Path("dist"))
    session.run("twine", "check", "--strict", *map(str, sorted(Path("dist").iterdir())))


@nox.session
@nox.parametrize("method", list(TWO_STEPS))
def smoke(session: nox.Session, method: str) -> None:
    """A method's wheel with what its metadata ask for and nothing else, in a folder without the source tree.

    SMOKE_DIST: a folder with finished wheels; without it they are built here.
    """
    install_pins(session, "torch")
    temporary = Path(session.create_tmp()).resolve()
    pins = temporary / "pins.txt"
    # Of an extra pip takes the name alone as a constraint.
    pins.write_text(
        "\n".join(re.sub(r"\[.*?\]", "", pin) for pin in nox.project.dependency_groups(PYPROJECT, "runtime"))
    )
    dist = Path(os.environ.get("SMOKE_DIST", temporary)).resolve()
    # Whole paths: of a bare `common` pip would make a wheel of the project of that name on the index.
    for folder in (Path("common"), Path("packages", method)) if dist == temporary else ():
        session.run("python", "-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(dist), str(folder.resolve()))
    wheels = [dist / f"{name}-{VERSION}-py3-none-any.whl" for name in ("thinker_common", method)]
    session.install("--constraint", str(pins), *map(str, wheels))
    session.run("python", "-m", "pip", "check")
    elsewhere = temporary / "elsewhere"
    shutil.rmtree(elsewhere, ignore_errors=True)
    elsewhere.mkdir()
    session.chdir(elsewhere)
    for command in (method, "thinker"):
        session.run(command, "--version", env=OFFLINE)
        session.run(command, "--help", env=OFFLINE, silent=True)
        session.run(command, "doctor", env=OFFLINE)
    session.run(method, "recipes", "list", env=OFFLINE)
    session.run(method, "train", "--dry-run", "--output", "run", env=OFFLINE)
    if Path("run").exists():
        session.error("--dry-run wrote a run folder")
    session.run(method, "train", "--output", "run", *TWO_STEPS[method], env={**OFFLINE, "OMP_NUM_THREADS": "1"})
    if not Path("run/model/model.safetensors").exists():
        session.error("no trained model")


@nox.session
def vendor(session: nox.Session) -> None:
    """Each method and the base copied under other names into an empty tree, without the originals; two steps each."""
    install_pins(session, "torch", "runtime")
    for method, two_steps in TWO_STEPS.items():
        arguments = ("common/scripts/try_vendored.py", method, *two_steps)
        session.run("python", *arguments, env={**OFFLINE, "OMP_NUM_THREADS": "1"})


@nox.session
def lowest(session: nox.Session) -> None:
    """The core tests with every direct dependency at the lowest version that the metadata allow."""
    lowest_versions = sorted({line for folder in DISTRIBUTIONS for line in declared_lowest(folder)})
    session.install(next(line for line in lowest_versions if line.startswith("torch==")))  # first, as everywhere
    install_pins(session, "backend", "test")
    editables = [part for folder in DISTRIBUTIONS for part in ("--editable", folder)]
    session.install("--no-build-isolation", *lowest_versions, *editables)
    session.run("python", "-m", "pip", "check")
    session.run("pytest", *(session.posargs or CORE_TESTS), env={**OFFLINE, "OMP_NUM_THREADS": "1"})


@nox.session
def docs(session: nox.Session) -> None:
    """The pages as a site in site/, built without network; a link or an anchor that leads nowhere is an error."""
    install_house(session, *DISTRIBUTIONS)
    install_pins(session, "docs")
    session.run("python", "docs/site/build.py", "--output", "site", env=OFFLINE)


def declared_lowest(folder: str) -> list[str]:
    """The dependencies of a distribution, each `name>=X,<Y` as `name==X`; those on our own left out."""
    lines = nox.project.load_toml(f"{folder}/pyproject.toml")["project"]["dependencies"]
    return [re.sub(r">=([^,;]+)(,<[^;]+)?", r"==\1", line) for line in lines if not line.startswith("thinker-")]


def build_distributions(session: nox.Session, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for distribution in DISTRIBUTIONS:
        session.run("python", "-m", "build", "--no-isolation", "--outdir", str(folder.resolve()), distribution)
