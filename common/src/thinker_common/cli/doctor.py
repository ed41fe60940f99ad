"""The verb `doctor`: versions, devices and backends, what is missing, and the command that installs it."""

import json
import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import Json

if TYPE_CHECKING:
    from packaging.requirements import Requirement as Declared

    from .selftest import Outcome


def add_doctor(app: typer.Typer, distributions: Sequence[str]) -> None:
    """Adds the verb to a command line. `distributions`: ours, whose requirements it checks."""

    @app.command(
        "doctor",
        help="Shows versions, devices and what is missing.\n\n"
        "Names the command that installs what is missing, and exits with 1 then, or if a check of --selftest failed."
        f"\n\n\b\nExamples:\n  {app.info.name} doctor\n  {app.info.name} doctor --selftest\n"
        f"  {app.info.name} doctor --json",
    )
    def doctor(
        run_selftest: Annotated[
            bool,
            typer.Option(
                "--selftest",
                help="Also try it, in minutes: numbers, attention, generation, several processes, ZeRO-3, vLLM.",
            ),
        ] = False,
        as_json: Json = False,
    ) -> None:
        state = examine(distributions)
        if not as_json:
            _print(state)
        failed = False
        if run_selftest:
            outcomes = _run_selftest()
            state["selftest"] = [asdict(outcome) for outcome in outcomes]
            failed = any(outcome.result == "failed" for outcome in outcomes)
            if not as_json:
                _print_selftest(outcomes)
        if as_json:
            typer.echo(json.dumps(state, indent=2))
        if failed or not state["healthy"]:
            raise typer.Exit(1)


@dataclass
class Requirement:
    """One dependency as our metadata declares it. `problem` and `install` are None where it is met."""

    name: str
    accepted: str
    installed: str | None
    problem: str | None = None
    install: str | None = None


def examine(distributions: Sequence[str]) -> dict[str, Any]:
    """The state of this machine for the given distributions of ours, as plain JSON data."""
    requirements = find_requirements(distributions)
    devices = _devices()
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "distributions": {name: _installed(name) for name in distributions},
        "requirements": [asdict(requirement) for requirement in requirements],
        "extras": find_extras(distributions),
        "devices": devices,
        "offline": os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"},
        "healthy": "error" not in devices and not any(requirement.problem for requirement in requirements),
    }


def find_requirements(distributions: Sequence[str]) -> list[Requirement]:
    """What the distributions' metadata asks for, each dependency once; nothing for a copy that pip did not install."""
    found: dict[str, Requirement] = {}
    for distribution in distributions:
        for declared in _declared(distribution):
            found.setdefault(declared.name, _requirement(declared))
    return list(found.values())


def find_extras(distributions: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What can be installed besides: name of the extra -> what of it is missing, and the command that installs it."""
    extras: dict[str, dict[str, Any]] = {}
    for distribution in distributions:
        for extra in _extra_names(distribution):
            needed = [_requirement(declared) for declared in _declared(distribution, extra)]
            missing = [requirement.name for requirement in needed if requirement.problem]
            extras[extra] = {"missing": missing, "install": f'python -m pip install "{distribution}[{extra}]"'}
    return extras


def _extra_names(distribution: str) -> list[str]:
    try:
        return metadata(distribution).get_all("Provides-Extra") or []
    except PackageNotFoundError:
        return []


def _declared(distribution: str, extra: str = "") -> "Iterator[Declared]":
    """The lines of the metadata that hold on this machine: those of the extra, or without one the plain ones."""
    from packaging.requirements import Requirement as Declared

    try:
        lines = requires(distribution) or []
    except PackageNotFoundError:
        return
    for line in lines:
        declared = Declared(line)
        if _holds(declared, extra) and (not extra or not _holds(declared, "")):
            yield declared


def _holds(declared: "Declared", extra: str) -> bool:
    return declared.marker is None or declared.marker.evaluate({"extra": extra})


def _requirement(declared: "Declared") -> Requirement:
    requirement = Requirement(declared.name, str(declared.specifier), _installed(declared.name))
    if requirement.installed is None:
        requirement.problem = "not installed"
    elif not declared.specifier.contains(requirement.installed, prereleases=True):
        requirement.problem = f"{requirement.installed}, which is not {declared.specifier}"
    if requirement.problem:
        declared.marker = None
        requirement.install = f'python -m pip install "{declared}"'
    return requirement


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _devices() -> dict[str, Any]:
    """The devices torch sees and the backends for several of them; `error` if torch itself does not load."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return {"error": f"torch does not load: {error}"}
    accelerators = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        accelerators.append({"name": properties.name, "memory_gib": round(properties.total_memory / 2**30, 1)})
    collectives = []
    if torch.distributed.is_available():
        backends = {"nccl": torch.distributed.is_nccl_available, "gloo": torch.distributed.is_gloo_available}
        collectives = [name for name, available in backends.items() if available()]
    return {
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerators": accelerators,
        "cuda": torch.version.cuda,
        "bfloat16": torch.cuda.is_available() and torch.cuda.is_bf16_supported(),
        "collectives": collectives,
        # DeepSpeed compiles its optimisers when they are first used.
        "compilers": {name: shutil.which(name) is not None for name in ("g++", "ninja")},
    }


def _print(state: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    table = Table("package", "installed", "accepted", "")
    for name, installed in {"python": state["python"], **state["distributions"]}.items():
        table.add_row(name, installed or "not by pip", "", "")
    for requirement in state["requirements"]:
        mark = Text("ok", "green") if requirement["problem"] is None else Text("missing", "red")
        table.add_row(requirement["name"], requirement["installed"] or "-", requirement["accepted"], mark)
    console.print(table)

    rows = {"platform": state["platform"]}
    devices = state["devices"]
    if "error" not in devices:
        accelerators = [f"{device['name']}, {device['memory_gib']} GiB" for device in devices["accelerators"]]
        rows |= {
            "accelerators": "; ".join(accelerators) or "none, the CPU is used",
            "bfloat16": "yes" if devices["bfloat16"] else "no, float32 is used",
            "CPU": f"{devices['processors']} processors, torch uses {devices['threads']} threads",
            "collectives": ", ".join(devices["collectives"]) or "none",
            "compilers": ", ".join(f"{name}: {'yes' if has else 'no'}" for name, has in devices["compilers"].items()),
        }
    rows["hub"] = "offline (HF_HUB_OFFLINE)" if state["offline"] else "asked for what is not cached"
    for extra, facts in state["extras"].items():
        rows[f"[{extra}]"] = f"not installed: {facts['install']}" if facts["missing"] else "installed"
    for name, text in rows.items():
        typer.echo(f"{name:<14}{text}")

    if "error" in devices:
        typer.secho(devices["error"], fg="red")
    for requirement in state["requirements"]:
        if requirement["problem"]:
            typer.secho(
                f"{requirement['name']}: {requirement['problem']}. Install it: {requirement['install']}", fg="red"
            )
    if not state["requirements"]:
        typer.echo("Requirements are not known: pip did not install this copy.")
    elif state["healthy"]:
        typer.secho("Everything that is required is here.", fg="green")


def _run_selftest() -> "list[Outcome]":
    from rich.console import Console

    from .selftest import CHECKS, run_check

    outcomes = []
    with Console(stderr=True).status("") as status:  # shown at a terminal only
        for check in CHECKS:
            status.update(f"{check.name}, at most {check.seconds / 60:g} minutes")
            outcomes.append(run_check(check))
    return outcomes


def _print_selftest(outcomes: Sequence["Outcome"]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    colours = {"passed": "green", "not here": "yellow", "failed": "red"}
    table = Table("check", "result", "seconds", "")
    for outcome in outcomes:
        result = Text(outcome.result, colours[outcome.result])
        table.add_row(outcome.name, result, f"{outcome.seconds:.1f}", Text(outcome.detail))
    Console().print(table)
    for outcome in outcomes:
        if outcome.log:
            typer.echo(f"last lines of {outcome.name}:")
            for line in outcome.log:
                typer.echo(f"  {line}")
