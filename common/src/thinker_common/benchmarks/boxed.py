r"""The final answer of a text: the content of its last `\boxed{...}`."""

from ..likelihood.boundary import BOX, closing_brace


def last_boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{...}`, stripped; None if there is no box, or the last one is never closed.

    Braces are matched by counting, so `\boxed{\frac{1}{2}}` gives `\frac{1}{2}`. Earlier boxes do not count: "no wait"
    after a first box is a change of mind.
    """
    start = text.rfind(BOX)
    if start == -1:
        return None
    start += len(BOX)
    end = closing_brace(text, start)
    return None if end is None else text[start:end].strip()
