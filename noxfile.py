"""The checks of the house: `python -m nox -s demo` runs the main job, `python -m nox -s tests` the tests.

Every session installs the tested pins of pyproject.toml into an environment of its own; torch goes in first, so that
pip keeps the build it is offered and no later requirement draws another one.
"""

import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "types", "tests"]

PYPROJECT = nox.project.load_toml("pyproject.toml")
METHODS = ["packages/generalthinker", "packages/spiralthinker", "packages/tinythinker"]
DISTRIBUTIONS = ["common", *METHODS]
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


def install_pins(session: nox.Session, *groups: str) -> None:
    for group in groups:
        session.install(*nox.project.dependency_groups(PYPROJECT, group))


def install_house(session: nox.Session, *folders: str) -> None:
    """Editable installs of our distributions, on the pins, with the pinned build backend."""
    install_pins(session, "torch", "runtime", "build")
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
    """The tests that `tests` leaves out: kill loops, long parity runs, fuzzing."""
    install_house(session, *DISTRIBUTIONS)
    install_pins(session, "test")
    session.run("pytest", "-m", "slow", "--timeout", "3600", *session.posargs, env={**OFFLINE, "OMP_NUM_THREADS": "1"})


@nox.session
def lint(session: nox.Session) -> None:
    install_pins(session, "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    install_house(session, *DISTRIBUTIONS)
    install_pins(session, "types")
    session.run("mypy")


@nox.session
def build(session: nox.Session) -> None:
    """A wheel and a source distribution of each of the four into dist/."""
    install_pins(session, "build")
    build_distributions(session, Path("dist"))


@nox.session
def smoke(session: nox.Session) -> None:
    """The built wheels in a fresh environment, used from a folder without the source tree."""
    install_pins(session, "torch", "runtime", "build")
    wheels = Path(session.create_tmp()) / "wheels"
    build_distributions(session, wheels)
    session.install("--force-reinstall", "--no-deps", *map(str, sorted(wheels.glob("*.whl"))))
    session.run("python", "-m", "pip", "check")
    elsewhere = Path(session.create_tmp()) / "elsewhere"
    shutil.rmtree(elsewhere, ignore_errors=True)
    elsewhere.mkdir()
    session.chdir(elsewhere)
    for command in ("generalthinker", "spiralthinker", "tinythinker", "thinker"):
        session.run(command, "--version", env=OFFLINE)
        session.run(command, "doctor", env=OFFLINE)
    session.run("generalthinker", "recipes", "list", env=OFFLINE)
    session.run("generalthinker", "train", "--dry-run", "--output", "run", env=OFFLINE)
    if (elsewhere / "run").exists():
        session.error("--dry-run wrote a run folder")


def build_distributions(session: nox.Session, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for distribution in DISTRIBUTIONS:
        session.run("python", "-m", "build", "--no-isolation", "--outdir", str(folder.resolve()), distribution)
