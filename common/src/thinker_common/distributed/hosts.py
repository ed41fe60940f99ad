"""Hosts of a run: DeepSpeed's hostfile, and the devices of this machine."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError

_LINE = re.compile(r"(\S+)\s+slots=(\d+)\s*(?:#.*)?")


@dataclass(frozen=True)
class Host:
    """A machine and how many ranks run on it."""

    name: str
    ranks: int


def read_hostfile(path: str) -> list[Host]:
    """The hosts that a file names, in its order; `ranks` is the number of its slots.

    Raises:
        UserError: a file that cannot be read or names no host, a line that is not `NAME slots=N`, a host given twice.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"hostfile {path}: {getattr(error, 'strerror', None) or 'not UTF-8 text'}") from error
    hosts: dict[str, Host] = {}
    for number, line in enumerate(lines, start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None or int(match[2]) < 1 or match[1].startswith("-"):
            raise UserError(f"{path}, line {number}: expected `NAME slots=N`, got {line!r}")
        if match[1] in hosts:
            raise UserError(f"{path}, line {number}: {match[1]} is given twice")
        hosts[match[1]] = Host(match[1], int(match[2]))
    if not hosts:
        raise UserError(f"hostfile {path} names no host: write a line `NAME slots=N` for each")
    return list(hosts.values())


def visible_gpus() -> list[str]:
    """The GPUs that a process started here may use, by the names CUDA_VISIBLE_DEVICES has for them; [] without any."""
    import torch

    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named[:count] if named else [str(index) for index in range(count)]
