"""Texts of models and data sets on a terminal, which obeys control characters."""

import unicodedata


def printable(text: str) -> str:
    """The text without the control characters that would drive a terminal; line breaks and tabs stay."""
    return "".join(c if c in "\n\t" or unicodedata.category(c) != "Cc" else "\N{REPLACEMENT CHARACTER}" for c in text)
