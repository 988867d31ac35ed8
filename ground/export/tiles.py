"""Map tiles: an MBTiles of palette PNGs in Web Mercator, and a PMTiles made of it.

Each zoom is warped from the classes, not from colours: no tile has a colour that is no class. Below the map's own
resolution a pixel takes the class that most of its ground has.
Source: MBTiles 1.3; OGC Two Dimensional Tile Matrix Set, WebMercatorQuad; PMTiles 3 by the package pmtiles.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rasterio import Affine
from rasterio.enums import Resampling
from rasterio.io import MemoryFile
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds
from rasterio.windows import Window

from ground.control_points import warp_options
from ground.errors import AskedWrong
from ground.export.maps import ExportedMap, classes_of, opened
from ground.turns import moved, turns_of
from products.classes import MapClass
from products.control_points import NoPlace
from products.degrees import degrees_of

SIDE: Final = 256
HALF: Final = math.pi * 6378137.0
"""Half the width of Web Mercator's world, metres."""
DEEPEST_ZOOM: Final = 24
MERCATOR: Final = "EPSG:3857"
OTHERS: Final = "use --format png or cog8"
"""What is left for a map of which there can be no tiles."""
_COARSER = 0.8
"""A pixel of the deepest zoom is at most 1 / 0.8 of the map's own: one zoom deeper has four times the bytes."""
_WIDEST = 16
"""Times as many or as few pixels as the map that it may have in Web Mercator: GDAL's warp of a map in metres
across the antimeridian spans the world, or has no pixels."""


@dataclass(frozen=True)
class TileRange:
    """Tiles of one zoom that a map lies in; rows from the north, ends included."""

    zoom: int
    west: int
    north: int
    east: int
    south: int

    @property
    def size(self) -> float:
        """Metres of Web Mercator a pixel."""
        return 2 * HALF / (SIDE << self.zoom)

    @property
    def transform(self) -> Affine:
        """Of a raster of all these tiles."""
        edge = SIDE * self.size
        return Affine(self.size, 0, -HALF + self.west * edge, 0, -self.size, HALF - self.north * edge)

    @property
    def columns(self) -> int:
        """Tiles from west to east."""
        return self.east - self.west + 1

    @property
    def rows(self) -> int:
        """Tiles from north to south."""
        return self.south - self.north + 1


def write_mbtiles(exported: ExportedMap, target: Path) -> None:
    """Writes the map's tiles; those without a class are left out.

    Raises:
        GroundError: the map cannot be read, or has no place. sqlite3.Error, RasterioError, OSError: writing failed.
    """
    with opened(exported.path) as dataset:
        classes = classes_of(dataset, exported.path)
        if not any(item.pixels for item in classes if item.code):
            raise AskedWrong(f"{exported.path}: has no pixel of any class, so no tile", OTHERS)
        sides, size = _sides(dataset, exported)
        zooms = list(_zooms(sides, size))
        levels = dataset.overviews(1)
    with closing(sqlite3.connect(target)) as base:
        # "MPBX", by which file(1) and SQLite know an MBTiles (MBTiles 1.3).
        base.execute("PRAGMA application_id = 0x4d504258")
        base.execute("CREATE TABLE metadata (name TEXT PRIMARY KEY, value TEXT)")
        base.execute(
            "CREATE TABLE tiles (zoom_level INTEGER, tile_column INTEGER, tile_row INTEGER, tile_data BLOB, "
            "PRIMARY KEY (zoom_level, tile_column, tile_row))"
        )
        base.executemany("INSERT INTO metadata VALUES (?, ?)", _metadata(exported, classes, sides, zooms))
        for part in (part for parts in zooms for part in parts):
            rows = _tiles(exported, part, classes, _level(levels, part.tiles.size / size))
            base.executemany("INSERT INTO tiles VALUES (?, ?, ?, ?)", rows)
        # Whatever else may keep GDAL from finding the map's pixels: a file without tiles is no export.
        if not base.execute("SELECT count(*) FROM tiles").fetchone()[0]:
            raise AskedWrong(f"{exported.path}: no pixel of it lies in Web Mercator, so no tile", OTHERS)
        base.commit()


def write_pmtiles(exported: ExportedMap, target: Path) -> None:
    """Writes the same tiles as PMTiles: one file that viewers read in ranges over HTTP.

    Raises:
        ModuleNotFoundError: the package pmtiles is not installed. Others: see :func:`write_mbtiles`.
    """
    from pmtiles.convert import mbtiles_to_pmtiles

    tiles = target.with_suffix(".mbtiles")
    write_mbtiles(exported, tiles)
    mbtiles_to_pmtiles(str(tiles), str(target), maxzoom=None)
    # Else it would go into place beside the target, as all files of this folder do.
    tiles.unlink()


@dataclass(frozen=True)
class Side:
    """A part of a map: one side of the antimeridian, or all of a map that does not cross it.

    Attributes:
        degrees: by which the map's grid is moved to the east, to lie where Web Mercator has it.
        bounds: west, south, east, north in Web Mercator, metres, within its world.
    """

    degrees: int
    bounds: tuple[float, float, float, float]


@dataclass(frozen=True)
class ZoomPart:
    """Tiles of one zoom, and by how many degrees the map is moved to be read for them, once for each."""

    tiles: TileRange
    turns: tuple[int, ...]


def _sides(dataset: Any, exported: ExportedMap) -> tuple[list[Side], float]:
    """The map's parts in Web Mercator, and the size of a pixel there, metres."""
    is_placed = dataset.crs is not None and not dataset.transform.is_identity
    try:
        options = _on_earth(dataset) if is_placed else _by_points(dataset)
    except NoPlace as error:
        raise AskedWrong(f"{exported.path}: {error}, tiles need one", OTHERS) from error
    turns = turns_of(dataset)
    with ExitStack() as stack:
        middle, source = 0.0, dataset
        if turns != (0,):
            # Measured in the middle of the world, where GDAL sees the grid whole, and moved back: sizes are the same.
            grid = dataset.transform
            middle = grid.c + grid.a * dataset.width / 2 + grid.b * dataset.height / 2
            source = stack.enter_context(moved(dataset, -middle))
        warped = stack.enter_context(WarpedVRT(source, crs=MERCATOR, **options))
        # Told by what GDAL proposes: nothing else says beforehand that a map goes over the edge of Web Mercator.
        is_plausible = 1 / _WIDEST <= warped.width * warped.height / (dataset.width * dataset.height) <= _WIDEST
        west, south, east, north = warped.bounds
        size = float(warped.res[0])
    sides = []
    for degrees in turns:
        east_by = (middle + degrees) / 180 * HALF
        # GDAL's bounds may reach beyond the world by a part of a pixel, or a map's by more: that is cut.
        bounds = (max(west + east_by, -HALF), max(south, -HALF), min(east + east_by, HALF), min(north, HALF))
        if bounds[0] < bounds[2] and bounds[1] < bounds[3]:
            sides.append(Side(degrees, bounds))
    if not is_plausible or not sides:
        raise AskedWrong(
            f"{exported.path}: crosses the antimeridian or lies at a pole, where Web Mercator has no room for it",
            OTHERS,
        )
    return sides, size


def _on_earth(dataset: Any) -> dict[str, Any]:
    """Nothing to be told to the warper.

    Raises:
        NoPlace: its grid lies nowhere on Earth.
    """
    west, north = dataset.transform.c, dataset.transform.f
    try:
        degrees_of(dataset.crs, [west], [north])
    except NoPlace as error:
        raise NoPlace(f"has no place on Earth ({error})") from error
    return {}


def _by_points(dataset: Any) -> dict[str, Any]:
    """How it is warped by its control points.

    Raises:
        NoPlace: it has none on Earth, or they fix no place.
    """
    points, points_crs = dataset.gcps
    if not points or points_crs is None:
        raise NoPlace("has no grid or control points on Earth")
    return warp_options(dataset, MERCATOR)


def _zooms(sides: Sequence[Side], size: float) -> Iterator[list[ZoomPart]]:
    """From the zoom of the map's own resolution down to that in which it fits into few tiles."""
    deepest = min(DEEPEST_ZOOM, max(0, math.ceil(math.log2(2 * HALF / SIDE / size * _COARSER))))
    for zoom in range(deepest, -1, -1):
        parts = _merged([ZoomPart(_range(side.bounds, zoom), (side.degrees,)) for side in sides])
        yield parts
        # One on either side of the antimeridian: further down a small map has no pixel left.
        if all(part.tiles.columns * part.tiles.rows == 1 for part in parts):
            return


def _merged(parts: list[ZoomPart]) -> list[ZoomPart]:
    """The same, or one part of all where they share tiles, as the two sides of the antimeridian do in low zooms."""
    ranges = sorted((part.tiles for part in parts), key=lambda tiles: tiles.west)
    if all(before.east < after.west for before, after in pairwise(ranges)):
        return parts
    tiles = replace(ranges[0], east=max(each.east for each in ranges))
    return [ZoomPart(tiles, tuple(degrees for part in parts for degrees in part.turns))]


def _range(bounds: tuple[float, float, float, float], zoom: int) -> TileRange:
    edge, last = 2 * HALF / 2**zoom, 2**zoom - 1
    west, south, east, north = bounds
    # An edge that lies on a border between two tiles is within the map, whatever its last bits say.
    columns = (math.floor((west + HALF) / edge + 1e-9), math.ceil((east + HALF) / edge - 1e-9) - 1)
    rows = (math.floor((HALF - north) / edge + 1e-9), math.ceil((HALF - south) / edge - 1e-9) - 1)
    (first_column, last_column), (first_row, last_row) = (
        (min(max(first, 0), last), min(max(end, first, 0), last)) for first, end in (columns, rows)
    )
    return TileRange(zoom, first_column, first_row, last_column, last_row)


def _level(levels: Sequence[int], factor: float) -> int | None:
    """Number of the coarsest overview that is still finer than the tiles; None for the map itself."""
    finer = [number for number, level in enumerate(levels) if level <= factor]
    return finer[-1] if finer else None


def _tiles(
    exported: ExportedMap, part: ZoomPart, classes: Sequence[MapClass], level: int | None
) -> Iterator[tuple[int, int, int, bytes]]:
    """Zoom, column, row from the south, PNG."""
    # From an overview: full resolution would be decoded anew for each zoom.
    at = {} if level is None else {"overview_level": level}
    palette = {item.code: item.colour for item in classes}
    tiles = part.tiles
    with ExitStack() as stack:
        source = stack.enter_context(opened(exported.path, **at))
        if source.gcps[0]:
            # rasterio warps control points to a grid that it chooses itself, not to one that is given.
            options = _by_points(source)
            source = stack.enter_context(WarpedVRT(source, crs=MERCATOR, src_nodata=0, nodata=0, **options))
        views = [
            stack.enter_context(
                WarpedVRT(
                    stack.enter_context(moved(source, degrees)), crs=MERCATOR, transform=tiles.transform,
                    width=tiles.columns * SIDE, height=tiles.rows * SIDE,
                    resampling=Resampling.mode, src_nodata=0, nodata=0,
                )
            )
            for degrees in part.turns
        ]  # fmt: skip
        for row in range(tiles.rows):
            for column in range(tiles.columns):
                window = Window(column * SIDE, row * SIDE, SIDE, SIDE)
                codes = views[0].read(1, window=window)
                for view in views[1:]:
                    codes = np.where(codes, codes, view.read(1, window=window))
                # Viewers draw nothing where a tile is missing, and most of a slanted map's rectangle is empty.
                if codes.any():
                    # MBTiles counts rows from the south, viewers and TileRange from the north.
                    from_south = 2**tiles.zoom - 1 - (tiles.north + row)
                    yield tiles.zoom, tiles.west + column, from_south, _png(codes, palette)


def _png(codes: NDArray[np.uint8], palette: dict[int, tuple[int, int, int, int]]) -> bytes:
    with MemoryFile() as memory:
        with memory.open(driver="PNG", width=SIDE, height=SIDE, count=1, dtype="uint8", nodata=0, zlevel=9) as picture:
            picture.write(codes, 1)
            picture.write_colormap(1, palette)
        return bytes(memory.read())


def _metadata(
    exported: ExportedMap,
    classes: Sequence[MapClass],
    sides: Sequence[Side],
    zooms: Sequence[Sequence[ZoomPart]],
) -> list[tuple[str, str]]:
    # Of two sides these are the whole world's: MBTiles has no bounds whose west is the larger number.
    bounds = [
        min(side.bounds[0] for side in sides), min(side.bounds[1] for side in sides),
        max(side.bounds[2] for side in sides), max(side.bounds[3] for side in sides),
    ]  # fmt: skip
    west, south, east, north = transform_bounds(MERCATOR, "EPSG:4326", *bounds)
    # In the middle of the wider side: between both sides lies the other half of the world.
    widest = max(sides, key=lambda side: side.bounds[2] - side.bounds[0]).bounds
    middle = (widest[0] + widest[2]) / 2 / HALF * 180
    legend = [
        {"value": item.code, "title": item.title, "color": "#{:02x}{:02x}{:02x}".format(*item.colour[:3])}
        for item in classes
        if item.code
    ]
    deepest, coarsest = zooms[0][0].tiles.zoom, zooms[-1][0].tiles.zoom
    return [
        ("name", exported.name), ("format", "png"), ("type", "overlay"), ("version", "1"),
        ("description", "Land cover"), ("bounds", f"{west:.7f},{south:.7f},{east:.7f},{north:.7f}"),
        ("center", f"{middle:.7f},{(south + north) / 2:.7f},{coarsest}"),
        ("minzoom", str(coarsest)), ("maxzoom", str(deepest)), ("classes", json.dumps(legend)),
    ]  # fmt: skip
