"""The command line. Verbs parse and hand over; what they do is in modules of their own."""

from typing import NoReturn

from . import data_cli
from ._common import (
    add_doctor,
    add_train,
    new_app,
    recipes_app,
    run,
)
from ._version import __version__
from .evaluate_cli import evaluate_command
from .inspect_cli import inspect_command

app = new_app(
    "tinythinker",
    __version__,
    "TinyThinker (arXiv 2412.08024): distilling reasoning into small models: recall, analyze, summarize, reflect.",
)


TRAIN_HELP = """Trains a student in both phases; without a recipe, the embedded model on generated questions.

The recipe's settings can be changed one by one as SECTION.KEY=VALUE. The same command with the same --output goes
on where it stopped: in phase 1, in the sampling, the pairs or the training of any iteration of phase 2.

\b
Examples:
  tinythinker train
  tinythinker train --dry-run
  tinythinker train method.baseline=cot --seed 1 --output runs/cot
  tinythinker train method.reflection.iterations=0 method.acquisition.stages='[analyze, summarize]'
  tinythinker train --recipe csqa-t5-base data.rows=csqa-rows --gpus 4 --output runs/csqa
  tinythinker train --config runs/csqa/config.yaml --output runs/again
"""


add_train(app, __package__, TRAIN_HELP, resumes_at=False)


app.command("evaluate")(evaluate_command)
app.command("inspect")(inspect_command)
app.add_typer(data_cli.app, name="data")
app.add_typer(recipes_app(__package__, "tinythinker", example="embedded"), name="recipes")
add_doctor(app, ["tinythinker", "thinker-common"])


def main() -> NoReturn:
    run(app)
