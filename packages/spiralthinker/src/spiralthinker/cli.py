"""The command line. It has no verb of the method: the method is not in the package yet."""

from typing import NoReturn

from ._common import add_doctor, new_app, run
from ._version import __version__

app = new_app(
    "spiralthinker",
    __version__,
    "SpiralThinker (arXiv 2511.08983): latent reasoning with iterated latent tokens. "
    "The method itself is not implemented yet; what exists is `doctor`.",
)
add_doctor(app, ["spiralthinker", "thinker-common"])


def main() -> NoReturn:
    run(app)
