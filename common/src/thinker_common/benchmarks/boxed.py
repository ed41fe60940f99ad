r"""The final answer of a text: the content of its last `\boxed{...}`."""

OPENING = r"\boxed{"


def last_boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{...}`, stripped; None if there is no box, or the last one is never closed.

    Braces are matched by counting, so `\boxed{\frac{1}{2}}` gives `\frac{1}{2}`. Earlier boxes do not count: "no wait"
    after a first box is a change of mind.
    """
    start = text.rfind(OPENING)
    if start == -1:
        return None
    start += len(OPENING)
    depth = 1
    for end in range(start, len(text)):
        if text[end] == "{":
            depth += 1
        elif text[end] == "}":
            depth -= 1
            if depth == 0:
                return text[start:end].strip()
    return None
