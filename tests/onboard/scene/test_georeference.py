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

from onboard.scene.footprint import bbox_of
from onboard.scene.georeference import Georeference
from onboard.scene.grid import Window
from tests.onboard.scene.products import linear_rpcs

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


@pytest.mark.parametrize("rows", [(0, 300), (0.5, 299.5)])
def test_gcps_on_two_rows_place_a_scene_as_well_as_a_transform(rows: tuple[float, float]) -> None:
    """GDAL's second order is not solvable for them, or gives any place."""
    transform = Affine(0.4, 0.3, 5e5, 0.3, -0.4, 2.8e6)
    places = [(row, column) for row in rows for column in (0.3, 150.1, 222.2, 399.7)]
    points = tuple(GroundControlPoint(row, column, *(transform @ (column, row))) for row, column in places)
    by_points, by_transform = Georeference(gcps=points, gcp_crs=UTM40), Georeference(UTM40, transform)
    footprint, expected = by_points.footprint(400, 300), by_transform.footprint(400, 300)
    assert footprint is not None
    assert expected is not None
    assert np.allclose(footprint["coordinates"], expected["coordinates"], atol=1e-7)
    assert by_points.gsd_m(400, 300) == pytest.approx(by_transform.gsd_m(400, 300), rel=1e-6)
    longitudes, latitudes = by_transform.places_in(Window(0, 0, 400, 300), 2)
    columns, rows_back = by_points.pixels_of((400, 300), longitudes.ravel().tolist(), latitudes.ravel().tolist())
    assert np.allclose(columns, [0, 200, 400] * 3, atol=1e-3)
    assert np.allclose(rows_back, np.repeat([0, 150, 300], 3), atol=1e-3)


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
    assert georeference.gsd_m(10, 10) is None


def area_by_equal_area_projection(georeference: Georeference, width: int, height: int) -> float:
    """Area in m2 of a scene's outline in an equal-area projection about its middle: PROJ's answer."""
    footprint = georeference.footprint(width, height)
    assert footprint is not None
    longitude, latitude = np.array(footprint["coordinates"][0][:-1]).mean(axis=0)
    side = np.linspace(0, 1, 500, endpoint=False)
    columns = np.concatenate([side * width, np.full(500, width), (1 - side) * width, np.zeros(500), [0]])
    rows = np.concatenate([np.zeros(500), side * height, np.full(500, height), (1 - side) * height, [0]])
    t, crs = georeference.transform, georeference.crs
    assert t is not None
    laea = f"+proj=laea +lon_0={longitude} +lat_0={latitude} +ellps=WGS84"
    x, y = warp(crs, laea, (t.a * columns + t.b * rows + t.c).tolist(), (t.d * columns + t.e * rows + t.f).tolist())
    return abs(signed_area([list(point) for point in zip(x, y, strict=True)]))


@pytest.mark.parametrize(
    ("crs", "corner", "side"),
    [
        ("EPSG:32640", (3e5, 2.8e6), 0.5), ("EPSG:32640", (5e5, 2.8e6), 0.5), ("EPSG:3857", (2.7e6, 8.4e6), 1.0),
        ("EPSG:3857", (6.1e6, 2.9e6), 30.0), ("EPSG:3395", (2.7e6, 8.4e6), 1.0), ("EPSG:3413", (2.2e6, -2.2e6), 10.0),
        ("EPSG:2263", (1e6, 2e5), 1.0), ("EPSG:3035", (4.3e6, 3.2e6), 10.0), ("EPSG:4326", (55.0, 25.0), 1e-5),
        ("EPSG:4326", (10.0, 80.0), 1e-3),
    ],
)  # fmt: skip
def test_a_pixel_is_as_large_as_it_is_on_the_ground_in_every_crs(
    crs: str, corner: tuple[float, float], side: float
) -> None:
    georeference = Georeference(CRS.from_string(crs), Affine(side, 0, corner[0], 0, -side, corner[1]))
    expected = area_by_equal_area_projection(georeference, 900, 700) / (900 * 700)
    assert georeference.pixel_area_m2(900, 700) == pytest.approx(expected, rel=1e-6)
    assert georeference.gsd_m(900, 700) == pytest.approx(math.sqrt(expected), rel=1e-6)


def test_rotated_and_south_up_scenes_are_as_large_as_others() -> None:
    plain = Georeference(UTM40, Affine(0.5, 0, 5e5, 0, -0.5, 2.8e6)).pixel_area_m2(400, 300)
    for turned in (Affine(0.3, 0.4, 5e5, 0.4, -0.3, 2.8e6), Affine(0.5, 0, 5e5, 0, 0.5, 2.8e6)):
        assert Georeference(UTM40, turned).pixel_area_m2(400, 300) == pytest.approx(plain, rel=1e-5)


def test_the_whole_earth_and_its_poles_are_no_special_places() -> None:
    earth_m2 = 510_065_621_724_088.0  # of WGS 84, from its authalic radius of 6,371,007.181 m
    whole = Georeference(CRS.from_epsg(4326), Affine(1, 0, -180, 0, -1, 90)).pixel_area_m2(360, 180)
    assert whole == pytest.approx(earth_m2 / (360 * 180), rel=1e-5)
    pole = Georeference(CRS.from_epsg(3413), Affine(1000, 0, -1e5, 0, -1000, 1e5)).pixel_area_m2(200, 200)
    assert pole == pytest.approx(1000**2 / 0.9697**2, rel=1e-3)  # the projection's scale at the pole, squared
    over = Georeference(CRS.from_epsg(4326), Affine(1e-4, 0, 179.95, 0, -1e-4, 10)).pixel_area_m2(1000, 1000)
    here = Georeference(CRS.from_epsg(4326), Affine(1e-4, 0, 10, 0, -1e-4, 10)).pixel_area_m2(1000, 1000)
    assert over == pytest.approx(here, rel=1e-9)


def test_scenes_of_control_points_have_the_area_of_their_transform() -> None:
    transform = Affine(0.5, 0, 5e5, 0, -0.5, 2.8e6)
    corners = [(row, column) for row in (0, 300) for column in (0, 400)]
    points = [GroundControlPoint(row, column, *(transform @ (column, row))) for row, column in corners]
    by_points = Georeference(gcps=tuple(points), gcp_crs=UTM40).pixel_area_m2(400, 300)
    assert by_points == pytest.approx(Georeference(UTM40, transform).pixel_area_m2(400, 300), rel=1e-5)


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


def image_of(rpcs: Any, longitudes: Any, latitudes: Any, height: float) -> tuple[Any, Any]:
    """Column and row, from corner to corner as GDAL counts, of places on the ground, by the polynomials themselves."""
    x = (longitudes - rpcs.long_off) / rpcs.long_scale
    y = (latitudes - rpcs.lat_off) / rpcs.lat_scale
    z = np.full_like(x, (height - rpcs.height_off) / rpcs.height_scale)
    one = np.ones_like(x)
    terms = np.stack([
        one, x, y, z, x * y, x * z, y * z, x**2, y**2, z**2,
        x * y * z, x**3, x * y**2, x * z**2, x**2 * y, y**3, y * z**2, x**2 * z, y**2 * z, z**3,
    ])  # fmt: skip
    line = (rpcs.line_num_coeff @ terms) / (rpcs.line_den_coeff @ terms) * rpcs.line_scale + rpcs.line_off
    sample = (rpcs.samp_num_coeff @ terms) / (rpcs.samp_den_coeff @ terms) * rpcs.samp_scale + rpcs.samp_off
    return sample + 0.5, line + 0.5


def check_outline(rpcs: Any, width: int, height: int) -> None:
    """Each point of the footprint, taken back to the image at HEIGHT_OFF, lies on the image's border."""
    footprint = Georeference(rpcs=rpcs).footprint(width, height)
    assert footprint is not None
    longitudes, latitudes = np.array(footprint["coordinates"][0]).T
    columns, rows = image_of(rpcs, longitudes, latitudes, rpcs.height_off)
    outside = [np.abs(columns), np.abs(columns - width), np.abs(rows), np.abs(rows - height)]
    assert np.min(outside, axis=0).max() < 0.2
    assert (columns.min(), columns.max()) == pytest.approx((0, width), abs=0.2)
    assert (rows.min(), rows.max()) == pytest.approx((0, height), abs=0.2)


def test_rpcs_place_a_scene_at_the_height_they_are_centred_on() -> None:
    check_outline(linear_rpcs(420, 300), 420, 300)  # 300 m up: at 0 m its columns are 60 pixels off


def test_real_rpcs_place_a_scene_at_the_height_they_are_centred_on(shared_data: Any) -> None:
    with rasterio.open(shared_data / "odd_tiffs" / "byte_rpc.tif", driver="GTiff") as source:
        rpcs = source.rpcs
    assert rpcs.height_off != 0
    # Some pixels of a scene of gigabytes: the size that the polynomials are of.
    check_outline(rpcs, round(2 * rpcs.samp_scale), round(2 * rpcs.line_scale))


def test_scenes_of_rpcs_have_an_area() -> None:
    placed = Georeference(CRS.from_epsg(4326), Affine(1e-5, 0, 55 - 210e-5, 0, -1e-5, 25 + 150e-5))
    by_rpcs = Georeference(rpcs=linear_rpcs(420, 300)).pixel_area_m2(420, 300)
    assert by_rpcs == pytest.approx(placed.pixel_area_m2(420, 300), rel=1e-4)
