"""The command line. Verbs parse and hand over; what they do is in modules of their own."""

from typing import NoReturn

from . import data_cli
from ._common import add_doctor, new_app, run
from ._version import __version__

app = new_app(
    "tinythinker",
    __version__,
    "TinyThinker (arXiv 2412.08024): distilling reasoning into small models. Training is not implemented yet; what "
    "exists is `data`, which makes the training rows, and `doctor`.",
)
app.add_typer(data_cli.app, name="data")
add_doctor(app, ["tinythinker", "thinker-common"])


def main() -> NoReturn:
    run(app)
