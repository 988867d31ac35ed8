"""A raster of classes as polygons are made of it: read by tiles, with its place and what its codes mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from rasterio.windows import Window

from products.polygons.place import Place, place_of
from products.polygons.tiles import Codes, Tile, TileData, Tiles

Columns = Mapping[str, Mapping[int, "int | str"]]
"""What codes mean: for each column its value for each code, all numbers or all texts."""


@dataclass(frozen=True)
class ClassRaster:
    """An open raster of classes.

    Attributes:
        tiles: in which it is read.
        place: on Earth.
        columns: of what its codes mean; codes that they lack become no polygons.
    """

    tiles: Tiles
    place: Place
    columns: Columns
    _codes: Any
    _confidence: Any = None

    @classmethod
    def of(cls, codes: Any, columns: Columns, confidence: Any = None) -> ClassRaster:
        """Of open datasets; that of the confidence has the same size."""
        return cls(Tiles(codes.height, codes.width), place_of(codes), columns, codes, confidence)

    def codes(self, tile: Tile) -> Codes:
        """Codes of a tile, (height, width), 0 where there is no data."""
        codes: Codes = self._codes.read(1, window=_window(tile))
        return codes

    def data(self, tile: Tile) -> TileData:
        """All that is known of the pixels of a tile."""
        confidence = None
        if self._confidence is not None:
            # Read by the same tiles as the classes: both rasters have one grid.
            confidence = self._confidence.read(1, window=_window(tile)).astype(np.float64) / 255
        return TileData(self.codes(tile), self.place.pixel_areas(tile), confidence)


def class_columns(classes: Mapping[int, tuple[str, str]]) -> Columns:
    """Columns of a map's polygons.

    Args:
        classes: title and colour (``#rrggbb``) by code.
    """
    return {
        "class": {code: code for code in classes},
        "name": {code: title for code, (title, _) in classes.items()},
        "color": {code: colour for code, (_, colour) in classes.items()},
    }


def _window(tile: Tile) -> Window:
    return Window(tile.left, tile.top, tile.width, tile.height)
