"""Errors that are the user's to mend. A command line shows them in one or two lines and exits with 2."""

from collections.abc import Iterable


class UserError(Exception):
    """A mistake in what the user gave; the message says what is wrong and what to do about it."""


class SettingsError(UserError, ValueError):
    """A setting that is unknown, of the wrong type, or impossible."""


class DataError(UserError, ValueError):
    """A data file, row or data set that cannot be used; the message names the file, the line and the column."""


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """What ends a sentence on an unknown name: the nearest of those that exist; empty if none is near."""
    import difflib  # where a mistake was made only

    near = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def check_setting(name: str, value: object, possible: bool, accepted: str) -> None:
    """SettingsError unless possible. The message starts with the field's name, as `load_settings` expects."""
    if not possible:
        raise SettingsError(f"{name} = {value!r}: expected {accepted}")
