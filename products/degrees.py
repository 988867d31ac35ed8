"""Longitudes and latitudes of coordinates of a CRS, which some have none of: a local one, or a geocentric one."""

from __future__ import annotations

from collections.abc import Sequence

# Private, but GDAL's error comes raw through it where no way leads from one CRS to another.
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.warp import transform as warp

from products.control_points import NoPlace


def degrees_of(crs: CRS, x: Sequence[float], y: Sequence[float]) -> tuple[list[float], list[float]]:
    """Longitudes and latitudes on WGS 84; infinite where a point lies outside the CRS.

    Raises:
        NoPlace: the CRS has none.
    """
    # Two coordinates of three: PROJ would answer, with one place for all of them.
    if crs.wkt.startswith("GEOCCS"):
        raise NoPlace("its CRS is geocentric")
    try:
        longitudes, latitudes = warp(crs, "EPSG:4326", list(x), list(y))[:2]
    except (CPLE_BaseError, RasterioError) as error:
        raise NoPlace("no way leads from its CRS to longitude and latitude") from error
    return list(longitudes), list(latitudes)
