"""`thinker`: the parts of the base that need no method."""

from typing import NoReturn

from .._version import __version__
from .app import new_app, run
from .benchmarks import benchmarks_app
from .doctor import add_doctor
from .evaluate import add_evaluate
from .export import add_export
from .score import add_score

app = new_app("thinker", __version__, "Answer likelihoods, benchmarks and evaluation for language models that reason.")
add_score(app)
add_evaluate(app, __package__)
app.add_typer(benchmarks_app("thinker"), name="benchmarks")
add_export(app)
add_doctor(app, ["thinker-common"])


def main() -> NoReturn:
    run(app)
