"""A raster in tiles: what is held in memory at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.uint8]
Floats = NDArray[np.float64]
SIDE: Final = 1024


@dataclass(frozen=True)
class Tile:
    """A rectangle of pixels.

    Attributes:
        number: from 0, row of tiles after row.
        top: first row of pixels; left: first column.
        height: rows; width: columns.
    """

    number: int
    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class TileData:
    """What is read of a tile.

    Attributes:
        codes: (height, width), 0 is no data.
        areas: square metres of each pixel, likewise; None where the raster has no place.
        confidence: 0 to 1 of each pixel, likewise; None where there is none.
    """

    codes: Codes
    areas: Floats | None = None
    confidence: Floats | None = None


@dataclass(frozen=True)
class Tiles:
    """A raster cut into tiles of about equal size.

    Attributes:
        height: pixels; width: likewise.
        side: of a tile, at most.
    """

    height: int
    width: int
    side: int = SIDE

    @property
    def rows(self) -> int:
        """Tiles from top to bottom."""
        return math.ceil(self.height / self.side)

    @property
    def columns(self) -> int:
        """Tiles from left to right."""
        return math.ceil(self.width / self.side)

    def __iter__(self) -> Iterator[Tile]:
        # Spread evenly: no sliver is left for the last row or column of tiles.
        tops = [self.height * row // self.rows for row in range(self.rows + 1)]
        lefts = [self.width * column // self.columns for column in range(self.columns + 1)]
        for row in range(self.rows):
            for column in range(self.columns):
                top, left = tops[row], lefts[column]
                number = row * self.columns + column
                yield Tile(number, top, left, tops[row + 1] - top, lefts[column + 1] - left)
