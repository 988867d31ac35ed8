"""What changed between two maps: a raster of class to class, and how much of each there is."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import rasterio
import rasterio.shutil
from rasterio.windows import Window

from ground.change.pairs import Pair
from ground.export.maps import GDAL_OPTIONS
from ground.export.rasters import COG_OPTIONS, add_attribute_table
from products.change.counting import UNCHANGED, ChangeCount, Changes, Transition, transitions
from products.classes import MapClass
from products.polygons.tiles import Codes

_GREY: Final = (225, 225, 225, 255)


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
    count = ChangeCount(pair.classes, has_areas=pair.place.equal_area is not None)
    # With control points or RPCs, where the maps have these: nothing is resampled.
    options: dict[str, Any] = {
        "width": pair.tiles.width, "height": pair.tiles.height, "count": 1, "dtype": "uint8", "nodata": 0,
        "tiled": True, "compress": "lzw", "bigtiff": "if_safer", **pair.georeference,
    }  # fmt: skip
    code_of = _codes(pair.classes, table)
    # Through a plain GeoTIFF: GDAL's COG driver copies a whole raster and cannot be written tile by tile.
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


def _codes(classes: tuple[MapClass, ...], table: tuple[Transition, ...]) -> Codes:
    """Code of changes for each pair of classes, (256, 256)."""
    # A table, so that a tile takes one look-up. What no pair names, no data in either map, stays 0.
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
