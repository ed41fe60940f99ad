"""A command line whose mistakes read well: one or two lines on stderr and exit code 2 for what the user can mend.

Exit codes: 0 done, 1 a bug (with a traceback), 2 the user's mistake or a disk that is full or not writable,
130 interrupted.
"""

import errno
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from ..errors import UserError

# What is wrong with a place that the user named, in words to act on.
_DISK = {
    errno.ENOSPC: "disk full",
    errno.EDQUOT: "disk quota used up",
    errno.EROFS: "file system is read-only",
    errno.EACCES: "permission denied",
    errno.ENOTDIR: "lies below a file",
    errno.ENAMETOOLONG: "the name is too long",
}


def new_app(name: str, version: str, summary: str) -> typer.Typer:
    """A Typer application with `--version` and `--traceback`; verbs are added with `@app.command()`."""
    # Markup would swallow the square brackets of settings such as [q_proj, v_proj].
    app = typer.Typer(
        name=name, help=summary, rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False
    )

    def show_version(asked: bool) -> None:
        if asked:
            typer.echo(f"{name} {version}")
            raise typer.Exit

    @app.callback()
    def _options(
        version: Annotated[
            bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version and exit.")
        ] = False,
        traceback: Annotated[
            bool, typer.Option("--traceback", help="Show where an error arose; accepted after a verb as well.")
        ] = False,
    ) -> None:
        pass  # `run` acts on --traceback, before anything is parsed

    return app


def run(app: typer.Typer, arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command line and exits. `arguments` defaults to the process's own."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    show_traceback = "--traceback" in given
    given = [argument for argument in given if argument != "--traceback"]
    _quieten_libraries()
    warnings.showwarning = _show_warning  # type: ignore[assignment]  # which needs only the first argument
    try:
        # Not standalone: Typer then hands its usage errors over, and returns 130 for an interrupt.
        code = app(given or ["--help"], prog_name=app.info.name, standalone_mode=False)
    except UserError as error:
        _fail(str(error), show_traceback)
    except typer.TyperException as error:
        _fail(
            f"{error.format_message()}\n`{app.info.name} --help` and `{app.info.name} VERB --help` say more",
            show_traceback,
        )
    except Exception as error:
        trouble = _disk_trouble(error)
        if trouble is None:
            raise
        _fail(trouble, show_traceback)
    sys.exit(code if isinstance(code, int) else 0)


def _quieten_libraries() -> None:
    """Leaves stderr to what the user has to know. It works on libraries that are imported later."""
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
    # On every machine without a GPU it warns that there is none.
    logging.getLogger("DeepSpeed").addFilter(lambda record: "Setting accelerator to CPU" not in record.getMessage())
    # Where bitsandbytes is installed PEFT imports it. It looks for a package with a kernel that is left out here (see
    # `models.quantization.keep_gradients`), and makes torch import what torch itself has deprecated.
    logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(
        lambda record: "Failed to load CPU gemm_4bit_forward" not in record.getMessage()
    )
    warnings.filterwarnings("ignore", "`torch.jit.script_method` is deprecated", DeprecationWarning)
    # TRL still reads the old name of a property of transformers: nothing that a user could change.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)


def _show_warning(message: Warning | str, *_where: object) -> None:
    """One line on stderr; which line of the source warns does not help a user."""
    typer.secho("warning: ", fg="yellow", err=True, nl=False)
    typer.echo(" ".join(str(message).split()), err=True)


def _disk_trouble(error: Exception) -> str | None:
    """What to tell the user if the error comes from a disk that is full or not writable, else None."""
    if isinstance(error, OSError):
        place = f": {error.filename}" if error.filename else ""
        return f"{_DISK[error.errno]}{place}" if error.errno in _DISK else None
    # The writers of safetensors and torch raise errors of their own, which only their text tells apart.
    if os.strerror(errno.ENOSPC) in str(error):
        return f"disk full: {error}"
    if isinstance(error, RuntimeError) and "inline_container" in str(error) and "unexpected pos" in str(error):
        return "disk full: a checkpoint could not be written"
    return None


def _fail(message: str, show_traceback: bool) -> NoReturn:
    if show_traceback:
        traceback.print_exc()
    typer.secho("error: ", fg="red", err=True, nl=False)
    typer.echo(message, err=True)
    sys.exit(2)
