"""All that this package takes from thinker_common; the only module that names it."""

from thinker_common.cli.app import new_app, run
from thinker_common.cli.doctor import add_doctor

__all__ = ["add_doctor", "new_app", "run"]
