"""A signal asks for a stop; the run saves at the end of its optimiser step and then ends with a code of its own."""

import signal
from types import FrameType, TracebackType

from ..distributed.exit_codes import EXIT_SAVED

_NUMBERS = (signal.SIGTERM, signal.SIGINT)


class SavedAndStopped(SystemExit):
    """Ends the process with EXIT_SAVED: a signal came, and everything up to now is saved."""

    def __init__(self, name: str, path: str) -> None:
        super().__init__(EXIT_SAVED)
        self.message = f"{name}: saved {path} and stopped; run the same command again to go on"

    def __str__(self) -> str:
        return self.message


class StopSignals:
    """While entered, SIGTERM and SIGINT are noted instead of ending the process. Only for the main thread.

    A second SIGINT does what it did before: whoever presses Ctrl-C twice does not want to wait for the save.
    """

    def __init__(self) -> None:
        self.received: str | None = None  # name of the first signal

    def __enter__(self) -> "StopSignals":
        # What was ignored from outside stays ignored, as SIGINT is in a shell's background jobs.
        heard = [number for number in _NUMBERS if signal.getsignal(number) is not signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._note) for number in heard}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name
        if number == signal.SIGINT:
            signal.signal(number, self._before[signal.SIGINT])
