"""What changed between two maps: a raster of class to class, and how much of each there is."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.windows import Window

from ground.change.pairs import Pair
from ground.export.maps import GDAL_OPTIONS, MapClass
from ground.export.rasters import COG_OPTIONS, add_attribute_table
from ground.polygons.tiles import Codes, Floats

UNCHANGED: Final = 1
"""Code of pixels of one class in both maps; 0 is no data in one of them."""
_GREY: Final = (225, 225, 225, 255)


@dataclass(frozen=True)
class Transition:
    """From one class to another.

    Attributes:
        code: in the raster of changes.
        before: class of the older map; after: of the newer.
        colour: red, green, blue, alpha.
    """

    code: int
    before: MapClass
    after: MapClass
    colour: tuple[int, int, int, int]

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.before.title} to {self.after.title}"


@dataclass(frozen=True)
class Changes:
    """How much went from class to class, classes in the order of the pair's.

    Attributes:
        classes: K of them.
        pixels: (K, K), from row to column.
        areas: square metres, likewise; None where the maps have no place.
        no_data: pixels without a class in one of the maps.
    """

    classes: tuple[MapClass, ...]
    pixels: NDArray[np.int64]
    areas: NDArray[np.float64] | None
    no_data: int

    @property
    def changed(self) -> int:
        """Pixels whose class is another."""
        return int(self.pixels.sum() - np.trace(self.pixels))

    @property
    def compared(self) -> int:
        """Pixels that have a class in both."""
        return int(self.pixels.sum())


def transitions(classes: tuple[MapClass, ...]) -> tuple[Transition, ...]:
    """All changes from one of the classes to another, with codes from 2 on; the same codes for the same classes."""
    pairs = [(before, after) for before in classes for after in classes if before.code != after.code]
    return tuple(
        Transition(UNCHANGED + 1 + number, before, after, _blend(before.colour, after.colour))
        for number, (before, after) in enumerate(pairs)
    )


def write_changes(pair: Pair, target: Path, tags: Mapping[str, str]) -> Changes:
    """Writes the raster of changes as a COG with palette, names and attribute table.

    Args:
        pair: open.
        target: of the raster.
        tags: provenance.

    Raises:
        RasterioError, OSError: it cannot be written. GroundError: a map cannot be read.
    """
    table = transitions(pair.classes)
    legend = _legend(table)
    count = _Count(pair)
    options: dict[str, Any] = {
        "width": pair.tiles.width, "height": pair.tiles.height, "count": 1, "dtype": "uint8", "nodata": 0,
        "tiled": True, "compress": "lzw", "bigtiff": "if_safer", **pair.georeference,
    }  # fmt: skip
    code_of = _codes(pair.classes, table)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder, rasterio.Env(**GDAL_OPTIONS):
        plain = Path(folder) / "changes.tif"
        with rasterio.open(plain, "w", "GTiff", **options) as file:
            file.write_colormap(1, {item.code: item.colour for item in legend})
            file.update_tags(**tags, **{f"CLASS_{item.code}": item.title for item in legend})
            for tile in pair.tiles:
                before, after = pair.read(tile)
                file.write(code_of[before, after], 1, window=Window(tile.left, tile.top, tile.width, tile.height))
                count.add(before, after, pair.place.pixel_areas(tile))
        rasterio.shutil.copy(plain, target, driver="COG", **COG_OPTIONS)
    changes = count.changes()
    add_attribute_table(target, _counted(legend, table, changes))
    return changes


class _Count:
    """Pixels and areas of pairs of classes, tile after tile."""

    def __init__(self, pair: Pair) -> None:
        self._classes, self._has_place = pair.classes, pair.place.equal_area is not None
        self._number = np.zeros(256, np.int64)  # 0 is no data
        self._number[[item.code for item in pair.classes]] = np.arange(1, len(pair.classes) + 1)
        self._size = len(pair.classes) + 1
        self._pixels = np.zeros(self._size**2, np.int64)
        self._areas = np.zeros(self._size**2)

    def add(self, before: Codes, after: Codes, areas: Floats | None) -> None:
        """Adds the pixels of a tile, with the area of each."""
        cells = (self._number[before] * self._size + self._number[after]).ravel()
        self._pixels += np.bincount(cells, minlength=self._size**2)
        if areas is not None:
            self._areas += np.bincount(cells, areas.ravel(), self._size**2)

    def changes(self) -> Changes:
        """What was added so far."""
        shape = self._size, self._size
        pixels, areas = self._pixels.reshape(shape), self._areas.reshape(shape)
        known = pixels[1:, 1:]
        no_data = int(pixels.sum() - known.sum())
        return Changes(self._classes, known, areas[1:, 1:] if self._has_place else None, no_data)


def _codes(classes: tuple[MapClass, ...], table: tuple[Transition, ...]) -> Codes:
    """Code of changes for each pair of classes, (256, 256)."""
    codes = np.zeros((256, 256), np.uint8)
    for item in classes:
        codes[item.code, item.code] = UNCHANGED
    for transition in table:
        codes[transition.before.code, transition.after.code] = transition.code
    return codes


def _legend(table: tuple[Transition, ...]) -> tuple[MapClass, ...]:
    first = MapClass(0, "no data in one of the maps", (0, 0, 0, 0)), MapClass(UNCHANGED, "unchanged", _GREY)
    return first + tuple(MapClass(item.code, item.title, item.colour) for item in table)


def _counted(legend: tuple[MapClass, ...], table: tuple[Transition, ...], changes: Changes) -> tuple[MapClass, ...]:
    number = {item.code: at for at, item in enumerate(changes.classes)}
    pixels = {item.code: int(changes.pixels[number[item.before.code], number[item.after.code]]) for item in table}
    pixels |= {0: changes.no_data, UNCHANGED: changes.compared - changes.changed}
    return tuple(replace(item, pixels=pixels[item.code]) for item in legend)


def _blend(before: tuple[int, int, int, int], after: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """What the ground is now, with a quarter of what it was: pairs that end in one class differ."""
    red, green, blue = (round(0.25 * old + 0.75 * new) for old, new in zip(before[:3], after[:3], strict=True))
    return red, green, blue, 255
