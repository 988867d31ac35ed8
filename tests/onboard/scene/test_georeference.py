"""Where a scene lies and how large its pixels are, against PROJ and known figures."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.warp import transform as warp

from onboard.scene.georeference import Georeference
from onboard.scene.outline import bbox_of

UTM40 = CRS.from_epsg(32640)


def signed_area(ring: list[list[float]]) -> float:
    return sum(a[0] * b[1] - b[0] * a[1] for a, b in pairwise(ring)) / 2


@pytest.mark.parametrize(
    "transform",
    [Affine(0.5, 0, 5e5, 0, -0.5, 2.8e6), Affine(0.5, 0, 5e5, 0, 0.5, 2.8e6), Affine(0.3, 0.4, 5e5, 0.4, -0.3, 2.8e6)],
    ids=["north-up", "south-up", "rotated"],
)
def test_a_footprint_is_a_closed_ring_through_the_corners_counter_clockwise(transform: Affine) -> None:
    footprint = Georeference(UTM40, transform).footprint(400, 300)
    assert footprint is not None
    (ring,) = footprint["coordinates"]
    assert ring[0] == ring[-1]
    assert signed_area(ring) > 0
    x, y = zip(*(transform @ corner for corner in [(0, 0), (400, 0), (400, 300), (0, 300)]), strict=True)
    for corner in zip(*warp(UTM40, "EPSG:4326", x, y), strict=True):
        assert min(math.dist(corner, point) for point in ring) < 2e-7


def test_gcps_place_a_scene_as_well_as_a_transform() -> None:
    transform = Affine(0.5, 0, 5e5, 0, -0.5, 2.8e6)
    points = []
    for row, column in [(0, 0), (0, 400), (300, 0), (300, 400)]:
        x, y = transform @ (column, row)
        points.append(GroundControlPoint(row, column, x, y))
    by_points = Georeference(gcps=tuple(points), gcp_crs=UTM40).footprint(400, 300)
    by_transform = Georeference(UTM40, transform).footprint(400, 300)
    assert by_points is not None
    assert by_transform is not None
    assert np.allclose(by_points["coordinates"], by_transform["coordinates"], atol=1e-7)


def test_gcps_on_both_sides_of_the_antimeridian_are_neighbours() -> None:
    places = [(0, 0, 179.9, 1), (0, 400, -179.9, 1), (300, 0, 179.9, 0.9), (300, 400, -179.9, 0.9)]
    points = tuple(GroundControlPoint(row, column, x, y) for row, column, x, y in places)
    footprint = Georeference(gcps=points, gcp_crs=CRS.from_epsg(4326)).footprint(400, 300)
    assert footprint is not None
    assert bbox_of(footprint) == pytest.approx([179.9, 0.9, -179.9, 1])


@pytest.mark.parametrize(
    "facts", [{}, {"transform": Affine(1, 0, 0, 0, -1, 9)}, {"gcps": (GroundControlPoint(0, 0, 1, 2),)}],
    ids=["nothing", "no CRS", "GCPs without CRS"],
)  # fmt: skip
def test_what_lies_nowhere_known_has_no_footprint_and_no_area(facts: dict[str, Any]) -> None:
    georeference = Georeference(**facts)
    assert georeference.footprint(10, 10) is None
    assert georeference.pixel_area_m2(10, 10) is None
    assert georeference.gsd_m is None


def test_a_projected_pixel_counts_in_metres_whatever_the_unit() -> None:
    metres = Georeference(UTM40, Affine(0.5, 0, 5e5, 0, -0.5, 2.8e6))
    feet = Georeference(CRS.from_epsg(2263), Affine(1, 0, 1e6, 0, -1, 2e5))  # New York, US survey feet
    assert metres.pixel_area_m2(10, 10) == 0.25
    assert metres.gsd_m == 0.5
    assert feet.pixel_area_m2(10, 10) == pytest.approx((1200 / 3937) ** 2, rel=1e-9)


@pytest.mark.parametrize("latitude", [0.0, 25.0, -45.0, 70.0])
def test_a_geographic_pixel_is_as_large_as_an_equal_area_projection_says(latitude: float) -> None:
    side, count = 1e-5, 1000
    georeference = Georeference(CRS.from_epsg(4326), Affine(side, 0, 55, 0, -side, latitude))
    x, y = warp(
        "EPSG:4326", "+proj=laea +lon_0=55.005 +lat_0=" + str(latitude - 0.005) + " +ellps=WGS84",
        [55, 55 + side * count, 55 + side * count, 55, 55],
        [latitude, latitude, latitude - side * count, latitude - side * count, latitude],
    )  # fmt: skip
    plane = abs(signed_area([list(point) for point in zip(x, y, strict=True)])) / count**2
    assert georeference.pixel_area_m2(count, count) == pytest.approx(plane, rel=1e-5)


def test_rpcs_place_a_scene(shared_data: Any) -> None:
    with rasterio.open(shared_data / "odd_tiffs" / "byte_rpc.tif", driver="GTiff") as source:
        rpcs, size = source.rpcs, (source.width, source.height)
    footprint = Georeference(rpcs=rpcs).footprint(*size)
    assert footprint is not None
    longitudes, latitudes = np.array(footprint["coordinates"][0]).T
    assert abs(longitudes - rpcs.long_off).max() < 2 * rpcs.long_scale
    assert abs(latitudes - rpcs.lat_off).max() < 2 * rpcs.lat_scale
