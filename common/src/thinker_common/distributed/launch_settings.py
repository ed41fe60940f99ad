"""The section `launch` of a recipe, and what `--gpus --nodes --hostfile --zero --offload --launcher` change in it."""

from dataclasses import dataclass, field
from typing import Literal

from ..errors import SettingsError, check_setting


@dataclass
class LaunchSettings:
    """How many processes train, where, and what DeepSpeed shards between them."""

    gpus: int | None = None  # processes a host, one a GPU (without GPUs: CPU processes); null: every GPU there is
    nodes: int | None = None  # hosts; null: every one in hostfile, else this one
    hostfile: str | None = None  # DeepSpeed's format: a line `NAME slots=N` for each host
    zero: Literal[0, 1, 2, 3] | None = None  # DeepSpeed's ZeRO stage; null: no DeepSpeed (DDP, or one plain process)
    offload: bool = False  # ZeRO keeps the optimiser (stage 3: the parameters too) in the host's memory
    launcher: Literal["deepspeed", "torchrun", "slurm"] = "deepspeed"
    deepspeed_config: str | None = None  # a DeepSpeed JSON of your own in place of zero and offload
    master_addr: str | None = None  # how the hosts reach the first of them; null: by its name in hostfile
    master_port: int | None = None  # null: a free one on one host, 29500 on several
    slurm_options: list[str] = field(default_factory=list)  # for sbatch, e.g. ["--partition=gpu", "--time=24:00:00"]
    hang_seconds: int = 45  # a run in which no rank moves for so long is ended
    patience_seconds: int = 1800  # the same while loading, compiling and saving, where one call may take long

    def __post_init__(self) -> None:
        for name in ("gpus", "nodes"):
            value = getattr(self, name)
            check_setting(name, value, value is None or value >= 1, "a whole number of at least 1")
        check_setting(
            "master_port", self.master_port, self.master_port is None or 0 < self.master_port < 65536, "1 to 65535"
        )
        for name in ("hostfile", "deepspeed_config", "master_addr"):
            value = getattr(self, name)
            check_setting(name, value, value is None or bool(value.strip()), "a name, or null")
        for option in self.slurm_options:
            check_setting(
                "slurm_options", option, option.startswith("-") and "\n" not in option, "options, such as --time=1:00"
            )
        check_setting("hang_seconds", self.hang_seconds, self.hang_seconds >= 10, "at least 10")
        check_setting(
            "patience_seconds",
            self.patience_seconds,
            self.patience_seconds >= self.hang_seconds,
            "at least hang_seconds",
        )
        if self.offload and self.zero in (None, 0):
            raise SettingsError(
                f"offload = true: expected zero = 1, 2 or 3 with it (zero is {'null' if self.zero is None else 0})"
            )
        if self.deepspeed_config is not None and (self.zero is not None or self.offload):
            raise SettingsError(
                f"deepspeed_config = {self.deepspeed_config!r}: the file says what is sharded; "
                "leave zero and offload out"
            )
        if self.launcher == "slurm" and self.hostfile is not None:
            raise SettingsError("hostfile is not for launcher = slurm: Slurm chooses the hosts")
        if self.launcher != "slurm" and self.hostfile is None and (self.nodes or 1) > 1:
            raise SettingsError(
                f"nodes = {self.nodes}: name the hosts in a hostfile (a line `NAME slots=N` each), "
                "or use launcher = slurm"
            )

    @property
    def uses_deepspeed(self) -> bool:
        return self.zero is not None or self.deepspeed_config is not None
