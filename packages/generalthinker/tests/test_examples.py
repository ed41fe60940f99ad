"""Every file in examples/ runs as it stands, on a CPU; of the launches the plans."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[3] / "examples"
PROGRAMS = sorted([*FOLDER.glob("*.py"), *FOLDER.glob("*.sh")])
SAYS = {
    "answer_likelihood.py": "nats", "likelihood_reward.py": "nats", "own_reward.py": "likelihood less length",
    "own_data.sh": "run folder", "spiral_gsm8k.sh": "run folder", "distil_recorded.sh": "exported: acquisition",
}  # fmt: skip
LAUNCHES = [
    line for line in re.findall(r"^    (.+)$", (FOLDER / "launch.md").read_text(), re.MULTILINE) if "--dry-run" in line
]


def run(command: list[str], folder: Path) -> str:
    bin_folder = Path(sys.executable).parent
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=500, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("example", PROGRAMS, ids=lambda path: path.name)
def test_example(example: Path, tmp_path: Path) -> None:
    if example.name in ("spiral_gsm8k.sh", "distil_recorded.sh"):
        pytest.importorskip("spiralthinker")
        pytest.importorskip("tinythinker")
    interpreter = "bash" if example.suffix == ".sh" else sys.executable
    assert SAYS[example.name] in run([interpreter, str(example)], tmp_path)
    assert not list(tmp_path.iterdir()), "an example leaves nothing behind"


@pytest.mark.parametrize("line", LAUNCHES)
def test_a_launch_can_be_planned(line: str, tmp_path: Path) -> None:
    """The embedded recipe in the place of the paper's, whose model is on the hub."""
    words = shlex.split(line.replace("--recipe paper-qwen2.5-1.5b", "--recipe embedded"))
    assert "--nproc_per_node" in (text := run(words, tmp_path)) or "deepspeed" in text or "srun" in text
    assert not list(tmp_path.iterdir())


def test_there_is_an_example_of_everything() -> None:
    assert {path.name for path in PROGRAMS} == set(SAYS)
    assert len(LAUNCHES) == 2
