"""Text from outside, such as names and files of locations, made fit to be shown or to stand in generated source."""

from __future__ import annotations

LONGEST = 1000
"""Characters of a message."""


def shortened(text: str, limit: int = LONGEST) -> str:
    """Text fit to be shown: its middle left out where it is long, characters that would not print as their escapes."""
    if len(text) > limit:
        text = f"{text[: limit // 2]} ... {text[-limit // 2 :]}"
    return printable(text, kept="\n")


def printable(text: str, kept: str = "\n\t") -> str:
    """Text that can do nothing to a terminal: characters that would not print, but for those ``kept``, as their escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in kept else ascii(c)[1:-1] for c in text)


def comment(text: str) -> str:
    """Text that stays a comment to the end of its line in Python and in CUDA C: printable ASCII, and no backslash before the line's end."""
    shown = "".join(c if " " <= c <= "~" else ascii(c)[1:-1] for c in text)
    return f"{shown[:-1]}\\x5c" if shown.endswith("\\") else shown
