"""`thinker`: the parts of the base that need no method."""

from typing import NoReturn

from .._version import __version__
from .app import new_app, run
from .doctor import add_doctor
from .evaluate import add_evaluate

app = new_app("thinker", __version__, "Answer likelihoods, benchmarks and evaluation for language models that reason.")
add_evaluate(app)
add_doctor(app, ["thinker-common"])


def main() -> NoReturn:
    run(app)
