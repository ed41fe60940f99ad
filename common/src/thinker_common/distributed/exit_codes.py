"""Exit codes of a run, so that a scheduler or a script can tell what to do next."""

EXIT_SAVED = (
    75  # stopped by a signal, after saving: run the same command again and it goes on (sysexits.h: EX_TEMPFAIL)
)
EXIT_HANG = 124  # no rank moved any more, or a rank was not heard of (as timeout(1) exits)


def of_signal(number: int) -> int:
    """The code a shell gives for a process that a signal ended, e.g. 137 for SIGKILL."""
    return 128 + number
