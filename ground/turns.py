"""Grids of longitudes beyond 180 degrees, moved by whole turns to where Web Mercator has them.

PROJ gives longitudes of -180 to 180, so GDAL finds no pixel of a grid that begins at 200, say, and only the western
part of one that crosses 180. `ground export` and the console read such a grid once for each turn.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rasterio import Affine
from rasterio.enums import ColorInterp
from rasterio.transform import array_bounds
from rasterio.vrt import WarpedVRT

_HAIR = 1e-7
"""Degrees, a centimetre: a grid that ends so little beyond the antimeridian has no second part."""


def turns_of(dataset: Any) -> tuple[int, ...]:
    """Degrees, multiples of 360, by which to move a raster; under each of them a part of it lies in -180..180.

    More than one where it crosses the antimeridian. (0,) for a raster that has no grid of degrees, and so for one that
    crosses the antimeridian in metres.
    """
    if dataset.crs is None or not dataset.crs.is_geographic or dataset.gcps[0]:
        return (0,)
    west, _, east, _ = array_bounds(dataset.height, dataset.width, dataset.transform)
    # These are no degrees: a wrong CRS, or a file that means harm.
    if not (math.isfinite(west) and math.isfinite(east) and -1000 < west < east < 1000):
        return (0,)
    first, last = math.floor((west + 180 + _HAIR) / 360), math.ceil((east - 180 - _HAIR) / 360)
    return tuple(-360 * turn for turn in range(first, max(first, last) + 1))


@contextmanager
def moved(dataset: Any, degrees: float) -> Iterator[Any]:
    """A raster whose grid of degrees is moved to the east, pixel for pixel the same; as it is for 0.

    What is no data by a mask stays so: by an alpha band that is added.
    """
    if not degrees:
        yield dataset
        return
    old = dataset.transform
    grid = Affine(old.a, old.b, old.c + degrees, old.d, old.e, old.f)
    # As rio-tiler does it by itself: else a mask would be lost, and what it hides be drawn.
    add_alpha = dataset.nodata is None and ColorInterp.alpha not in dataset.colorinterp
    with WarpedVRT(
        dataset, src_transform=grid, transform=grid, width=dataset.width, height=dataset.height, add_alpha=add_alpha
    ) as view:
        yield view
