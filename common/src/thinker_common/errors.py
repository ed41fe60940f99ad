"""Errors that are the user's to mend. A command line shows them in one or two lines and exits with 2."""


class UserError(Exception):
    """A mistake in what the user gave; the message says what is wrong and what to do about it."""


class SettingsError(UserError, ValueError):
    """A setting that is unknown, of the wrong type, or impossible."""


class DataError(UserError, ValueError):
    """A data file, row or data set that cannot be used; the message names the file, the line and the column."""
