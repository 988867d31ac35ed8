"""Two maps pixel upon pixel: which pixel of the one lies on which of the other, or why none does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rasterio import Affine
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from ground.errors import AskedWrong
from ground.export.maps import legend_of, opened
from products.change.grids import offset_of
from products.classes import MapClass
from products.polygons.place import Place, place_of
from products.polygons.tiles import Codes, Tile, Tiles

# 16 x 15 pairs, and codes for no data and unchanged: 242 of 256.
MOST_CLASSES: Final = 16
"""Their pairs fit in a raster of 8 bits."""
_PLACED: Final = {"control points": "control points", "rational polynomials": "RPCs"}


@dataclass(frozen=True)
class Pair:
    """Two maps, open, and what they have in common.

    Attributes:
        classes: of both, no data left out.
        tiles: of the common pixels.
        place: of the common pixels, counted from their own first.
        georeference: of a raster of the common pixels, as rasterio takes it.
        resampled: whether the newer was warped.
    """

    classes: tuple[MapClass, ...]
    tiles: Tiles
    place: Place
    georeference: dict[str, Any]
    resampled: bool
    _before: Any
    _after: Any
    _offsets: tuple[tuple[int, int], tuple[int, int]]

    def read(self, tile: Tile) -> tuple[Codes, Codes]:
        """Codes before and after of a tile, (height, width) each."""
        before, after = (
            source.read(1, window=Window(tile.left + left, tile.top + top, tile.width, tile.height))
            for source, (top, left) in zip((self._before, self._after), self._offsets, strict=True)
        )
        return before, after


@contextmanager
def opened_pair(before: Path, after: Path, *, resample: bool = False, same_pixels: bool = False) -> Iterator[Pair]:
    """Two maps of one place.

    Args:
        before: the older map; its grid is the pair's.
        after: the newer.
        resample: warps the newer onto the older's grid, the nearest pixel's class, where their grids differ.
        same_pixels: takes maps of one size pixel by pixel, whatever they say of their place.

    Raises:
        AskedWrong: their classes differ, or no pixel of the one is known to lie on one of the other.
        GroundError: one cannot be read.
    """
    with ExitStack() as stack:
        first, second = (stack.enter_context(opened(path)) for path in (before, after))
        classes = _common_classes(legend_of(first, before), legend_of(second, after), before, after)
        if same_pixels:
            if first.shape != second.shape:
                raise AskedWrong(
                    f"the maps are of {_size(first)} and {_size(second)} pixels: they have not the same pixels",
                    "leave --same-pixels out, or map two scenes on one grid",
                )
            yield _pair(classes, first, second, (0, 0), (0, 0), first.shape)
            return
        # The order of these checks is that of the remedies: a place at all, then a grid, then the same grid.
        _check_geometry(first, before)
        _check_geometry(second, after)
        if _georeference(first)["kind"] != "grid" or _georeference(second)["kind"] != "grid":
            if first.shape != second.shape or not _same_points(first, second):
                raise AskedWrong(*_level_1(before, first if _georeference(first)["kind"] != "grid" else second))
            yield _pair(classes, first, second, (0, 0), (0, 0), first.shape)
            return
        offset = offset_of(first, second)
        if offset is None:
            if not resample:
                raise AskedWrong(_difference(first, second), "--resample warps AFTER onto BEFORE's grid, nearest pixel")
            second = stack.enter_context(
                # Nearest: any other way would mix codes to those of other classes. 0 beside the map is no data.
                WarpedVRT(
                    second, crs=first.crs, transform=first.transform, width=first.width, height=first.height,
                    resampling=Resampling.nearest, src_nodata=0, nodata=0,
                )
            )  # fmt: skip
            offset = (0, 0)
        yield _overlap(classes, first, second, offset)


def _common_classes(
    first: tuple[MapClass, ...], second: tuple[MapClass, ...], before: Path, after: Path
) -> tuple[MapClass, ...]:
    tables = [{item.code: item.title for item in legend if item.code} for legend in (first, second)]
    if tables[0] != tables[1]:
        named = [", ".join(f"{code} {title}" for code, title in table.items()) for table in tables]
        raise AskedWrong(
            f"the maps have different classes: {before} has {named[0]}; {after} has {named[1]}",
            "map both scenes with one model",
        )
    if len(tables[0]) > MOST_CLASSES:
        raise AskedWrong(
            f"the maps have {len(tables[0])} classes: their pairs do not fit in 8 bits",
            f"compare maps of at most {MOST_CLASSES} classes",
        )
    return tuple(item for item in first if item.code)


def _check_geometry(dataset: Any, path: Path) -> None:
    georeference = _georeference(dataset)
    if georeference["kind"] == "pixels" or (georeference["kind"] == "grid" and dataset.crs is None):
        raise AskedWrong(
            f"{path}: has no place on Earth, so nothing says which pixels belong together",
            "--same-pixels compares pixel by pixel, where both scenes are known to lie on one grid",
        )


def _level_1(path: Path, dataset: Any) -> tuple[str, str]:
    placed = _PLACED[_georeference(dataset)["kind"]]
    return (
        f"{path}: it or the other map is placed by {placed}, without orthorectification: relief and pointing shift "
        f"its pixels by tens of metres from pass to pass, and that would count as change",
        "orthorectify both scenes and map them anew; --same-pixels compares scenes that were registered to each other",
    )


def _georeference(dataset: Any) -> dict[str, Any]:
    """Kind, and what rasterio takes to write it."""
    points, points_crs = dataset.gcps
    # rasterio gives the identity where a file has no transform.
    if not dataset.transform.is_identity:
        return {"kind": "grid", "crs": dataset.crs, "transform": dataset.transform}
    if points and points_crs is not None:
        return {"kind": "control points", "crs": points_crs, "gcps": points}
    if dataset.rpcs is not None:
        return {"kind": "rational polynomials", "rpcs": dataset.rpcs}
    return {"kind": "pixels"}


def _same_points(first: Any, second: Any) -> bool:
    """Whether control points or polynomials of both are one: one image, mapped twice."""
    one, other = _georeference(first), _georeference(second)
    if one["kind"] != other["kind"]:
        return False
    # Exactly equal: both maps copied them from one scene.
    if one["kind"] == "rational polynomials":
        return bool(one["rpcs"].to_gdal() == other["rpcs"].to_gdal())
    places = [[(point.row, point.col, point.x, point.y) for point in kind["gcps"]] for kind in (one, other)]
    return one["crs"] == other["crs"] and places[0] == places[1]


def _difference(first: Any, second: Any) -> str:
    if first.crs != second.crs:
        return f"the maps lie in {_crs(first)} and {_crs(second)}"
    sizes = [float(np.hypot(item.transform.a, item.transform.d)) for item in (first, second)]
    # Less is rounding: over 10,000 pixels a hundredth of one, as products/change/grids.py allows.
    if abs(sizes[0] - sizes[1]) > 1e-6 * sizes[0]:
        return f"the maps have pixels of {sizes[0]:g} and {sizes[1]:g} units of {_crs(first)}"
    return "the pixels of the maps do not lie on each other: their grids are turned, or apart by parts of a pixel"


def _crs(dataset: Any) -> str:
    return str(dataset.crs.to_string())[:60]


def _overlap(classes: tuple[MapClass, ...], first: Any, second: Any, offset: tuple[int, int]) -> Pair:
    # The offset is where the second's first pixel lies on the first; it is negative above and left of it.
    top, left = max(0, offset[0]), max(0, offset[1])
    height = min(first.height, offset[0] + second.height) - top
    width = min(first.width, offset[1] + second.width) - left
    if height <= 0 or width <= 0:
        raise AskedWrong("the maps do not overlap", "give two maps of one place")
    return _pair(classes, first, second, (top, left), (top - offset[0], left - offset[1]), (height, width))


def _pair(
    classes: tuple[MapClass, ...],
    first: Any,
    second: Any,
    before: tuple[int, int],
    after: tuple[int, int],
    shape: tuple[int, int],
) -> Pair:
    place = place_of(first)
    georeference = {key: value for key, value in _georeference(first).items() if key != "kind"}
    if "transform" in georeference:
        # Written out, as in products/change/grids.py: versions of affine differ in the operator for it.
        a, b, c, d, e, f = tuple(georeference["transform"])[:6]
        georeference["transform"] = Affine(
            a, b, c + a * before[1] + b * before[0], d, e, f + d * before[1] + e * before[0]
        )

    def moved(points: NDArray[np.float64]) -> NDArray[np.float64]:
        # Rows count downwards as negative numbers: see Place.coordinates.
        return place.coordinates(points + np.array([before[1], -before[0]], np.float64))

    return Pair(
        classes, Tiles(*shape), Place(place.kind, place.crs, moved, place.equal_area), georeference,
        isinstance(second, WarpedVRT), first, second,
        (before, after),
    )  # fmt: skip


def _size(dataset: Any) -> str:
    return f"{dataset.width} x {dataset.height}"
