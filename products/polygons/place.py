"""Where the pixels of a map lie on Earth: coordinates of their corners, and their areas on the ellipsoid.

Polygons are traced in pixels and each of their points is placed, so that a map with control points or rational
polynomials is not resampled first: no class changes, and borders stay shared.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.transform import RPCTransformer
from rasterio.warp import transform as warp

from products.control_points import NoPlace, transformer_of
from products.degrees import degrees_of
from products.polygons.tiles import Floats, Tile

Points = NDArray[np.float64]
_DEGREES: Final = "EPSG:4326"
_CELL: Final = 64
"""Pixels along the side of the cells that areas are taken from; within one they count as equal."""


@dataclass(frozen=True)
class Place:
    """A map's place.

    Attributes:
        kind: ``grid``, ``control points``, ``rational polynomials``, or ``pixels`` where it has none.
        crs: of the coordinates; None where none is known.
        coordinates: of points (n, 2): column and minus row of the map's pixels, corners being whole numbers.
        equal_area: a CRS of equal areas around the map; None where areas cannot be told.
    """

    kind: str
    crs: CRS | None
    coordinates: Callable[[Points], Points]
    equal_area: str | None

    def pixel_areas(self, tile: Tile) -> Floats | None:
        """Square metres on WGS 84 of each pixel of a tile, (height, width); None where they cannot be told.

        By an equal-area projection around the map, in cells of 64 pixels a side.
        Source: J. P. Snyder, "Map projections: a working manual", 1987, Lambert azimuthal equal-area, by PROJ.
        """
        if self.equal_area is None or self.crs is None:
            return None
        rows, columns = _steps(tile.height), _steps(tile.width)
        across, down = np.meshgrid(columns + tile.left, rows + tile.top)
        x, y = self.coordinates(np.column_stack([across.ravel(), -down.ravel()]).astype(np.float64)).T
        # On an equal-area projection flat quadrilaterals have the ground's area, whatever the map's own CRS shows.
        easting, northing = (
            np.reshape(part, across.shape) for part in warp(self.crs, self.equal_area, x.tolist(), y.tolist())[:2]
        )
        areas = _quadrilaterals(easting, northing) / np.outer(np.diff(rows), np.diff(columns))
        return np.repeat(np.repeat(areas, np.diff(rows), axis=0), np.diff(columns), axis=1)


_NOWHERE: Final = Place("pixels", None, lambda pixels: pixels, None)


def place_of(dataset: Any) -> Place:
    """The place of an open map: by its transform, else by control points, else by rational polynomials.

    A map that has none of them, or points that fix no place, keeps pixels as coordinates, rows downwards from 0: so
    programs draw it.
    """
    points, points_crs = dataset.gcps
    if not dataset.transform.is_identity:
        place = Place("grid", dataset.crs, _by_affine(dataset.transform), None)
    elif points and points_crs is not None:
        try:
            place = Place("control points", points_crs, _by(transformer_of(points, points_crs)), None)
        except NoPlace:
            return _NOWHERE
    elif dataset.rpcs is not None:
        # At the height that the polynomials are centred on, as the map's own footprint.
        height = repr(float(dataset.rpcs.height_off))
        by_polynomials = RPCTransformer(dataset.rpcs, RPC_HEIGHT=height, RPC_PIXEL_ERROR_THRESHOLD="0.001")
        place = Place("rational polynomials", CRS.from_string(_DEGREES), _by(by_polynomials), None)
    else:
        return _NOWHERE
    return Place(place.kind, place.crs, place.coordinates, _equal_area(place, dataset.width, dataset.height))


def grid_place(crs: CRS, transform: Any, width: int, height: int) -> Place:
    """The place of a raster on a grid of a CRS, without a file of it."""
    place = Place("grid", crs, _by_affine(transform), None)
    return Place(place.kind, crs, place.coordinates, _equal_area(place, width, height))


def _by_affine(transform: Any) -> Callable[[Points], Points]:
    # Of column and minus row.
    matrix = np.array([[transform.a, -transform.b], [transform.d, -transform.e]])
    origin = np.array([transform.c, transform.f])
    return lambda points: points @ matrix.T + origin


def _by(transformer: Any) -> Callable[[Points], Points]:
    def coordinates(points: Points) -> Points:
        x, y = transformer.xy((-points[:, 1]).tolist(), points[:, 0].tolist(), offset="ul")
        return np.column_stack([np.asarray(x, np.float64), np.asarray(y, np.float64)])

    return coordinates


def _equal_area(place: Place, width: int, height: int) -> str | None:
    """A projection of equal areas around the middle of the map; None where its corners do not lie on Earth."""
    if place.crs is None:
        return None
    corners = np.array([(width / 2, -height / 2), (0, 0), (width, 0), (width, -height), (0, -height)], np.float64)
    try:
        with warnings.catch_warnings():
            # Corners that lie nowhere are answered below, not on the terminal.
            warnings.simplefilter("ignore")
            x, y = place.coordinates(corners).T
            longitudes, latitudes = degrees_of(place.crs, x.tolist(), y.tolist())
    except (NoPlace, RasterioError):
        return None
    if not np.isfinite([longitudes, latitudes]).all() or max(map(abs, latitudes)) > 90:
        return None
    return f"+proj=laea +lat_0={latitudes[0]!r} +lon_0={longitudes[0]!r} +datum=WGS84 +units=m +type=crs"


def _steps(pixels: int) -> NDArray[np.int64]:
    """Borders of cells along a tile's side."""
    return np.append(np.arange(0, pixels, _CELL), pixels)


def _quadrilaterals(x: Floats, y: Floats) -> Floats:
    """Areas of the cells of a mesh: half the cross product of the diagonals."""
    down_x, down_y = x[1:, 1:] - x[:-1, :-1], y[1:, 1:] - y[:-1, :-1]
    up_x, up_y = x[:-1, 1:] - x[1:, :-1], y[:-1, 1:] - y[1:, :-1]
    areas: Floats = np.abs(down_x * up_y - down_y * up_x) / 2
    return areas
