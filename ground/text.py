"""Text of others as a terminal may be given it."""

from __future__ import annotations

LONGEST_LINE = 1000


def visible(text: str) -> str:
    r"""One line in which every control, format and broken character is written out, like ``\x1b``.

    What comes over the link may hold escapes that colour, move or retitle a terminal, or turn the direction of text.
    """
    shown = "".join(char if char.isprintable() else _escaped(char) for char in text)
    return shown if len(shown) <= LONGEST_LINE else f"{shown[:LONGEST_LINE]}..."


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
