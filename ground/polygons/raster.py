"""A raster of classes as polygons are made of it: read by tiles, with its place and what its codes mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.windows import Window

from ground.errors import GroundError
from ground.export.maps import legend_of, opened
from ground.heads import confidence_name
from ground.polygons.place import Place, place_of
from ground.polygons.tiles import Codes, Tile, TileData, Tiles

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

    def codes(self, tile: Tile) -> Codes:
        """Codes of a tile, (height, width), 0 where there is no data."""
        codes: Codes = self._codes.read(1, window=_window(tile))
        return codes

    def data(self, tile: Tile) -> TileData:
        """All that is known of the pixels of a tile."""
        confidence = None
        if self._confidence is not None:
            confidence = self._confidence.read(1, window=_window(tile)).astype(np.float64) / 255
        return TileData(self.codes(tile), self.place.pixel_areas(tile), confidence)


@contextmanager
def opened_map(path: Path) -> Iterator[ClassRaster]:
    """A map, with the confidence that lies beside it.

    Raises:
        AskedWrong: it is no map of classes. GroundError: it cannot be read, or its confidence is another map's.
    """
    beside = path.with_name(confidence_name(path.name))
    with opened(path) as dataset:
        legend = [item for item in legend_of(dataset, path) if item.code]
        columns: Columns = {
            "class": {item.code: item.code for item in legend},
            "name": {item.code: item.title for item in legend},
            "color": {item.code: "#{:02x}{:02x}{:02x}".format(*item.colour[:3]) for item in legend},
        }
        raster = ClassRaster(Tiles(dataset.height, dataset.width), place_of(dataset), columns, dataset)
        if not beside.is_file():
            yield raster
            return
        with opened(beside) as confidence:
            if confidence.shape != dataset.shape:
                raise GroundError(f"{beside}: is not of this map, its size is another; fetch it again or remove it")
            yield ClassRaster(raster.tiles, raster.place, columns, dataset, confidence)


@contextmanager
def opened_raster(path: Path, columns: Columns) -> Iterator[ClassRaster]:
    """Another raster of codes, by what they mean; codes that no column names become no polygons.

    Raises:
        GroundError: it cannot be read.
    """
    with opened(path) as dataset:
        yield ClassRaster(Tiles(dataset.height, dataset.width), place_of(dataset), columns, dataset)


def _window(tile: Tile) -> Window:
    return Window(tile.left, tile.top, tile.width, tile.height)
