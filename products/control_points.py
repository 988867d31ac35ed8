"""Where ground control points place a raster: GDAL's polynomial, or an affine fit where they do not fix that one.

GDAL takes a polynomial of the second order from six points on. Points on two lines leave it open, as do those of every
conic: GDAL then says that it is not solvable, or, where rounding hides that, gives places millions of pixels away.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from affine import Affine
from numpy.typing import NDArray

# Private, but GDAL's errors come raw through it from what fits control points.
from rasterio._err import CPLE_BaseError
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.transform import AffineTransformer, GCPTransformer

Floats = NDArray[np.float64]
_SECOND_ORDER: Final = 6
"""Points from which on GDAL takes the second order, whose terms are six (GDALCreateGCPTransformer, order 0)."""
_FLAT: Final = 1e-6
"""Points closer to a straight line than this part of their extent fix no place: a tenth of a pixel in 100,000."""
_OPEN: Final = 1e-4
"""Smallest singular value over the largest, of the terms of the second order at the points. Below it a point that is
wrong by a tenth of a pixel moves others by hundreds; six points of which three lie on each of two rows have 1e-16,
points all over a scene 0.05 and more."""


class NoPlace(ValueError):
    """There is no place on Earth: control points are too few or on one line, or a CRS has none."""


def transformer_of(points: Sequence[GroundControlPoint], crs: CRS) -> Any:
    """A rasterio transformer between pixels and the coordinates of control points.

    Args:
        points: in any order. In degrees they may lie on both sides of the antimeridian: see :func:`without_jump`.
        crs: of the points.

    Raises:
        NoPlace: they fix none.
    """
    affine = affine_of(points, crs)
    return GCPTransformer(without_jump(points, crs)) if affine is None else AffineTransformer(affine)


def affine_of(points: Sequence[GroundControlPoint], crs: CRS) -> Affine | None:
    """The affine transform that counts instead of GDAL's polynomial; None where that one is fixed by the points.

    It is the one of least squares, from the corner of a pixel (column, row) to coordinates.

    Raises:
        NoPlace: they fix none.
    """
    if not np.isfinite([(point.col, point.row, point.x, point.y) for point in points]).all():
        raise NoPlace("control points that are no numbers fix no place")
    near = without_jump(points, crs)
    pixels = np.array([(point.col, point.row) for point in near], np.float64).reshape(-1, 2)
    ground = np.array([(point.x, point.y) for point in near], np.float64).reshape(-1, 2)
    # Of two points GDAL makes a transform without rotation.
    if len(near) > 2:
        # Both ways: GDAL fits a polynomial each from pixels and to pixels.
        even = _evened(pixels), _evened(ground)
        if len(near) >= _SECOND_ORDER and not all(_fixes_second_order(part) for part in even):
            return _least_squares(pixels, ground)
    try:
        GCPTransformer(near).close()
    except CPLE_BaseError as error:
        if len(near) < _SECOND_ORDER:
            raise NoPlace(f"{len(near)} control points fix no place") from error
        return _least_squares(pixels, ground)
    return None


def without_jump(points: Sequence[GroundControlPoint], crs: CRS) -> list[GroundControlPoint]:
    """Control points in degrees without the jump at the antimeridian: a polynomial would go round the Earth for it."""
    longitudes = np.array([point.x for point in points])
    if not crs.is_geographic or not len(points) or np.ptp(longitudes) <= 180:
        return list(points)
    near = longitudes[0] + (longitudes - longitudes[0] + 180) % 360 - 180
    return [
        GroundControlPoint(point.row, point.col, x, point.y, point.z)
        for point, x in zip(points, near.tolist(), strict=True)
    ]


def _evened(places: Floats) -> Floats:
    """Places (n, 2) about their middle, as wide along one axis as along the other.

    Raises:
        NoPlace: they lie on one line.
    """
    centred = places - places.mean(axis=0)
    extent = np.abs(centred).max(axis=0)
    if extent.all():
        axes, widths, _ = np.linalg.svd(centred / extent, full_matrices=False)
        if widths[1] > _FLAT * widths[0]:
            # By their own axes: a long narrow strip is no less good to fit, however it is turned.
            return np.asarray(axes / np.abs(axes).max(axis=0), np.float64)
    raise NoPlace(f"{len(places)} control points on one line fix no place")


def _fixes_second_order(places: Floats) -> bool:
    x, y = places.T
    widths = np.linalg.svd(np.column_stack([np.ones_like(x), x, y, x * x, x * y, y * y]), compute_uv=False)
    return bool(widths[-1] > _OPEN * widths[0])


def _least_squares(pixels: Floats, ground: Floats) -> Affine:
    # About their middles: squares of metres of UTM leave no digits for pixels.
    middle, origin = pixels.mean(axis=0), ground.mean(axis=0)
    matrix = np.linalg.lstsq(pixels - middle, ground - origin, rcond=None)[0].T
    left, top = origin - matrix @ middle
    (a, b), (d, e) = matrix.tolist()
    affine = Affine(a, b, float(left), d, e, float(top))
    if affine.is_degenerate:
        raise NoPlace(f"{len(pixels)} control points contradict each other")
    return affine
