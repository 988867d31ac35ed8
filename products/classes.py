"""Classes of a map as its file names them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MapClass:
    """One class of a map.

    Attributes:
        code: its value in the raster; 0 is no data.
        title: for people.
        colour: red, green, blue, alpha, 0 to 255.
        pixels: how many the map has; 0 where they were not counted.
    """

    code: int
    title: str
    colour: tuple[int, int, int, int]
    pixels: int = 0
