"""What `inspect` takes of the settings: the method's, by the names they have in a recipe."""

from dataclasses import dataclass, field

from .._common import SettingsError
from ..config import MethodSettings


@dataclass
class InspectSettings:
    method: MethodSettings = field(default_factory=MethodSettings)

    def __post_init__(self) -> None:
        if self.method.answers == "wrong":
            raise SettingsError(
                "method.answers = 'wrong': the control takes the answer of another problem; here there is one, so give "
                "it a wrong answer with --question and --answer"
            )
