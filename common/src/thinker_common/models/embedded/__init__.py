"""The small language model that ships with the package, so that every command does something real on any machine.

Each version is a folder in Hugging Face format beside this file (`v1`, ...), with its model card, training log and
scores. A retrained model gets a new number; the old one stays, so that stored curves stay true.
"""

from importlib.resources import files
from pathlib import Path

from ...errors import UserError

VERSIONS = (1,)


def embedded_path(name: str = "embedded") -> Path:
    """The folder of `embedded` (the newest version) or `embedded@N`. UserError if there is no such version."""
    base, at, version = name.partition("@")
    assert base == "embedded", name
    number = str(VERSIONS[-1]) if not at else version
    if number not in map(str, VERSIONS):
        known = ", ".join(f"embedded@{v}" for v in VERSIONS)
        raise UserError(f"unknown model {name!r}: the embedded models are {known}")
    folder = files(__package__).joinpath(f"v{number}")
    assert isinstance(folder, Path), "the package is installed as files, not in a zip"
    return folder
