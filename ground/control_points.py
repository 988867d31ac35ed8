"""Warping of maps by their control points."""

from __future__ import annotations

from typing import Any

from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.warp import calculate_default_transform

from products.control_points import affine_of


def warp_options(dataset: Any, crs: Any) -> dict[str, Any]:
    """What rasterio's `WarpedVRT` takes to warp an open raster by its control points, which name a CRS.

    Args:
        dataset: with control points and no transform.
        crs: that it is warped to.

    Raises:
        NoPlace: its points fix no place.
    """
    points, points_crs = dataset.gcps
    affine = affine_of(points, points_crs)
    if affine is None:
        return {"src_crs": points_crs}
    # rasterio 1.4.4 takes control points before a transform that it is given, unless the grid is given as well.
    corners = [
        GroundControlPoint(row, col, *_applied(affine, col, row), z=0.0)
        for row in (0, dataset.height)
        for col in (0, dataset.width)
    ]
    transform, width, height = calculate_default_transform(points_crs, crs, dataset.width, dataset.height, gcps=corners)
    return {"src_crs": points_crs, "src_transform": affine, "transform": transform, "width": width, "height": height}


def _applied(affine: Affine, col: float, row: float) -> tuple[float, float]:
    # Written out: versions of affine differ in the operator for it.
    return affine.a * col + affine.b * row + affine.c, affine.d * col + affine.e * row + affine.f
