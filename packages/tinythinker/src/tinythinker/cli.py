"""The command line. It has no verb of the method: the method is not in the package yet."""

from typing import NoReturn

from ._common import add_doctor, new_app, run
from ._version import __version__

app = new_app(
    "tinythinker",
    __version__,
    "TinyThinker (arXiv 2412.08024): distilling reasoning into small models. "
    "The method itself is not implemented yet; what exists is `doctor`.",
)
add_doctor(app, ["tinythinker", "thinker-common"])


def main() -> NoReturn:
    run(app)
