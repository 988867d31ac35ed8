"""Assumptions about a scene where its file says nothing: shown on the terminal and in the item."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Assumption:
    """One of them.

    Attributes:
        about: "bands", "nodata", "alpha", "collar" or "pages".
        text: what was assumed and why, in words.
        option: of the command line, which says otherwise; empty where there is none.
    """

    about: str
    text: str
    option: str = ""

    def __str__(self) -> str:
        return f"{self.text}; say otherwise with {self.option}" if self.option else self.text
