"""An earlier map on the grid of a later one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from rasterio.windows import Window

from products.polygons.tiles import Codes


@dataclass(frozen=True)
class AlignedMap:
    """An open map, read by rows of another grid whose pixels lie on its own.

    Attributes:
        dataset: of the map.
        offset: row and column of the map at which the grid's first pixel lies.
        width: of the grid, pixels.
    """

    dataset: Any
    offset: tuple[int, int]
    width: int

    def overlap(self, height: int) -> int:
        """Pixels that the map and the grid have in common, for a grid of so many rows."""
        rows, columns = self._span(0, height), self._columns()
        return max(0, rows[1] - rows[0]) * max(0, columns[1] - columns[0])

    def rows(self, first: int, count: int) -> Codes:
        """Codes of rows of the grid, (count, width); 0 where the map has no pixel.

        Raises:
            RasterioError: they cannot be read.
        """
        # Ground that the earlier map does not show is no data there: not counted, but coded where it has a class now.
        codes: Codes = np.zeros((count, self.width), np.uint8)
        (top, bottom), (left, right) = self._span(first, count), self._columns()
        if bottom > top and right > left:
            window = Window(left, top, right - left, bottom - top)
            row, column = top - self.offset[0] - first, left - self.offset[1]
            codes[row : row + bottom - top, column : column + right - left] = self.dataset.read(1, window=window)
        return codes

    def _span(self, first: int, count: int) -> tuple[int, int]:
        """Rows of the map, from and to, under rows of the grid."""
        top = self.offset[0] + first
        return max(0, top), min(self.dataset.height, top + count)

    def _columns(self) -> tuple[int, int]:
        return max(0, self.offset[1]), min(self.dataset.width, self.offset[1] + self.width)
