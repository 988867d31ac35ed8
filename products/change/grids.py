"""Two grids of pixels: how far the one is shifted on the other, where their pixels lie on each other."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from rasterio.transform import array_bounds

_SAME: Final = 0.01
"""Pixels by which grids may be apart and count as one."""


def offset_of(first: Any, second: Any) -> tuple[int, int] | None:
    """Row and column of the first grid at which the second's first pixel lies; None where their pixels do not match.

    Args:
        first: something with a CRS, a transform, a width and a height, like a dataset of rasterio.
        second: likewise.
    """
    if first.crs != second.crs:
        return None
    a, b = first.transform, second.transform
    # Pixels that differ a little in size drift apart over the longest side.
    longest = max(first.width, first.height, second.width, second.height)
    size = float(np.hypot(a.a, a.d))
    if max(abs(getattr(a, name) - getattr(b, name)) for name in "abde") * longest > _SAME * size:
        return None
    # Written out: versions of affine differ in the operator for it.
    apart = np.array([b.c - a.c + _whole_turn(first, second), b.f - a.f])
    column, row = np.linalg.solve(np.array([[a.a, a.b], [a.d, a.e]]), apart).tolist()
    whole = round(row), round(column)
    return whole if abs(row - whole[0]) < _SAME and abs(column - whole[1]) < _SAME else None


def _whole_turn(first: Any, second: Any) -> int:
    """Degrees by which the second is moved to the east, to lie on the first: 360 or -360 across the antimeridian.

    One place there has grids that begin at 179.99 and at -180.01 degrees.
    """
    if first.crs is None or not first.crs.is_geographic:
        return 0
    (west, east), (other_west, other_east) = _longitudes(first), _longitudes(second)
    return next((turn for turn in (0, 360, -360) if other_west + turn < east and other_east + turn > west), 0)


def _longitudes(grid: Any) -> tuple[float, float]:
    west, _, east, _ = array_bounds(grid.height, grid.width, grid.transform)
    return west, east
