from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
from affine import Affine
from hypothesis import assume, given
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.warp import transform as warp

from onboard.scene.footprint import Unlocated, bbox_of, geojson_of
from onboard.scene.georeference import Georeference

WGS84 = CRS.from_epsg(4326)
ARCTIC, ANTARCTIC = CRS.from_epsg(3995), CRS.from_epsg(3031)
EQUAL_AREA_NORTH = CRS.from_epsg(6931)
"""EASE-Grid 2.0 North: its usual square reaches over the equator at its corners."""
SIDE = 1000
"""Pixels along each side of the scenes here."""


def corners(polygon: list[list[list[float]]]) -> set[tuple[float, ...]]:
    (ring,) = polygon
    assert ring[0] == ring[-1]
    assert sum(a[0] * b[1] - b[0] * a[1] for a, b in pairwise(ring)) > 0
    return {tuple(point) for point in ring}


def footprint(crs: CRS, transform: Affine) -> dict[str, Any]:
    geometry, why = Georeference(crs, transform).footprint_or_reason(SIDE, SIDE)
    assert geometry is not None, why
    return geometry


def covers(geometry: dict[str, Any], longitude: float, latitude: float) -> bool:
    """By the rule of odd and even, in the plane of longitude and latitude, as readers of GeoJSON do it."""
    polygons = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
    latitude = max(-89.9999999, min(89.9999999, latitude))  # the pole itself is an edge
    crossings = 0
    for (x, y), (to_x, to_y) in (side for polygon in polygons for side in pairwise(polygon[0])):
        if (y > latitude) != (to_y > latitude):
            crossings += longitude < x + (latitude - y) / (to_y - y) * (to_x - x)
    return crossings % 2 == 1


def place(crs: CRS, transform: Affine, across: float, down: float) -> tuple[float, float]:
    """Longitude in -180..180 and latitude of a place in a scene, by its shares of the sides."""
    x, y = transform @ (across * SIDE, down * SIDE)
    (longitude,), (latitude,) = warp(crs, WGS84, [x], [y])
    return (longitude + 180) % 360 - 180, latitude


def check(crs: CRS, transform: Affine, geometry: dict[str, Any]) -> None:
    """What lies well within the scene lies in the geometry and in its box, what lies well beside it does not."""
    west, south, east, north = bbox_of(geometry)
    assert -180 <= west <= 180
    assert -180 <= east <= 180
    for across in (0.1, 0.3, 0.5, 0.7, 0.9):
        for down in (0.1, 0.3, 0.5, 0.7, 0.9):
            longitude, latitude = place(crs, transform, across, down)
            assert covers(geometry, longitude, latitude), (across, down, longitude, latitude)
            assert south <= latitude <= north
            assert west <= longitude <= east if west <= east else longitude >= west or longitude <= east
    for across, down in ((-0.2, 0.4), (1.2, 0.6), (0.4, -0.2), (0.6, 1.2), (-0.2, 1.2), (1.2, -0.2)):
        assert not covers(geometry, *place(crs, transform, across, down)), (across, down)


def test_an_outline_is_turned_counter_clockwise_and_rounded() -> None:
    geometry = geojson_of([5.0, 5.0, 6.00000001, 6.0, 5.0], [1.0, 2.0, 2.0, 1.0, 1.0], inside=(5.5, 1.5))
    assert geometry["type"] == "Polygon"
    assert corners(geometry["coordinates"]) == {(5, 1), (5, 2), (6, 2), (6, 1)}
    assert bbox_of(geometry) == [5, 1, 6, 2]


def test_an_outline_over_the_antimeridian_is_cut_in_two() -> None:
    geometry = geojson_of([179.0, 179.0, -178.0, -178.0, 179.0], [10.0, 13.0, 13.0, 10.0, 10.0], inside=(180.5, 11.0))
    assert geometry["type"] == "MultiPolygon"
    west, east = geometry["coordinates"]
    assert corners(west) == {(179, 10), (179, 13), (180, 13), (180, 10)}
    assert corners(east) == {(-180, 10), (-180, 13), (-178, 13), (-178, 10)}
    assert bbox_of(geometry) == [179, 10, -178, 13]


def test_a_cut_falls_where_a_slanted_side_crosses() -> None:
    geometry = geojson_of([179.0, -179.0, 179.0, 179.0], [0.0, 2.0, 4.0, 0.0], inside=(180.0, 2.0))
    assert corners(geometry["coordinates"][1]) == {(-180, 1), (-179, 2), (-180, 3)}


def test_a_utm_scene_in_fiji_is_cut() -> None:
    footprint = Georeference(CRS.from_epsg(32760), Affine(1, 0, 817_500, 0, -1, 8_100_000)).footprint(4000, 3000)
    assert footprint is not None
    assert footprint["type"] == "MultiPolygon"
    west, south, east, north = bbox_of(footprint)
    assert 179.9 < west < 180
    assert -180 < east < -179.9
    assert -18 < south < north < -17


@given(
    west=st.floats(-180, 180), north=st.floats(-60, 80), pixel=st.floats(1e-5, 0.015),
    turn=st.floats(-30, 30), offset=st.sampled_from([-360, 0, 360]), south_up=st.booleans(),
)  # fmt: skip
def test_a_scene_in_degrees_is_outlined_from_whichever_meridian_they_count(
    west: float, north: float, pixel: float, turn: float, offset: int, south_up: bool
) -> None:
    lie = Affine.rotation(turn) @ Affine.scale(pixel, pixel if south_up else -pixel)
    transform = Affine.translation(west, north) @ lie
    assume(all(abs((transform @ (x * SIDE, y * SIDE))[1]) < 89 for x in (-0.2, 1.2) for y in (-0.2, 1.2)))
    assume(abs(west + offset) < 520)
    check(WGS84, transform, footprint(WGS84, Affine.translation(offset, 0) @ transform))


def test_degrees_past_the_antimeridian_are_cut_and_those_from_0_to_360_are_moved() -> None:
    assert bbox_of(footprint(WGS84, Affine(0.64e-3, 0, 179.8, 0, -0.64e-3, 10))) == [179.8, 9.36, -179.56, 10]
    assert bbox_of(footprint(WGS84, Affine(0.64e-3, 0, 200, 0, -0.64e-3, 10))) == [-160, 9.36, -159.36, 10]


@pytest.mark.parametrize("nearly", [180 - 1e-9, 180 + 1e-9, -180 - 1e-9, -180 + 1e-9])
def test_less_than_a_centimetre_past_the_antimeridian_is_not_cut_off(nearly: float) -> None:
    eastwards = footprint(WGS84, Affine(1e-3, 0, nearly, 0, -1e-3, 10))
    westwards = footprint(WGS84, Affine(1e-3, 0, nearly - 1, 0, -1e-3, 10))
    assert (eastwards["type"], bbox_of(eastwards)) == ("Polygon", [-180, 9, -179, 10])
    assert (westwards["type"], bbox_of(westwards)) == ("Polygon", [179, 9, 180, 10])


@given(first=st.integers(-1800, 1800), tenths=st.integers(1801, 3599))
def test_a_scene_over_more_than_half_the_longitudes_covers_these_and_no_others(first: int, tenths: int) -> None:
    transform = Affine(tenths / 10 / SIDE, 0, first / 10, 0, -0.04, 20)
    geometry = footprint(WGS84, transform)
    for share in (0.01, 0.3, 0.5, 0.7, 0.99):
        assert covers(geometry, *place(WGS84, transform, share, 0.5))
    middle_of_the_gap = (1 + 3600 / tenths) / 2
    assert not covers(geometry, *place(WGS84, transform, middle_of_the_gap, 0.5))


@pytest.mark.parametrize("first", [-180.0, 0.0, -0.125, 20.0])
@pytest.mark.parametrize("span", [360.0, 360.25, 400.0])
def test_a_scene_over_all_longitudes_is_the_band_from_180_to_180(first: float, span: float) -> None:
    geometry = footprint(WGS84, Affine(span / SIDE, 0, first, 0, -0.1, 70))
    assert geometry["type"] == "Polygon"
    assert corners(geometry["coordinates"]) == {(-180, -30), (180, -30), (180, 70), (-180, 70)}


def test_a_global_grid_that_hangs_over_the_poles_by_half_a_pixel_ends_there() -> None:
    geometry = footprint(WGS84, Affine(360 / SIDE, 0, -0.125, 0, -180.25 / SIDE, 90.125))
    assert bbox_of(geometry) == [-180, -90, 180, 90]


def test_a_world_map_in_metres_is_the_whole_band() -> None:
    half = 20_037_508.342789244
    geometry = footprint(CRS.from_epsg(3857), Affine(2 * half / SIDE, 0, -half, 0, -2 * half / SIDE, half))
    assert bbox_of(geometry) == pytest.approx([-180, -85.05, 180, 85.05], abs=0.01)


@given(
    crs=st.sampled_from([ARCTIC, ANTARCTIC]), pixel=st.floats(10, 3000), turn=st.floats(0, 360),
    across=st.floats(-1, 2), down=st.floats(-1, 2),
)  # fmt: skip
def test_a_scene_near_or_around_a_pole_is_outlined_with_what_it_covers(
    crs: CRS, pixel: float, turn: float, across: float, down: float
) -> None:
    # On a side of the scene the pole lies within by chance: that side is a chord, longer than it is far from the pole.
    inside = 0.1 < across < 0.9 and 0.1 < down < 0.9
    assume(inside or not (-0.1 < across < 1.1 and -0.1 < down < 1.1))
    transform = Affine.rotation(turn) @ Affine.scale(pixel, -pixel) @ Affine.translation(-across * SIDE, -down * SIDE)
    geometry = footprint(crs, transform)
    check(crs, transform, geometry)
    box = bbox_of(geometry)
    whole = (box[0], box[2], box[3] if crs == ARCTIC else -box[1]) == (-180, 180, 90)
    assert whole == inside
    if inside:
        assert geometry["type"] == "Polygon"


@pytest.mark.parametrize("quarter", range(4))
@pytest.mark.parametrize("crs", [ARCTIC, ANTARCTIC])
def test_a_tile_with_its_corner_at_the_pole_covers_a_quarter_of_the_longitudes(crs: CRS, quarter: int) -> None:
    transform = Affine.rotation(90 * quarter) @ Affine.scale(100, -100)
    geometry = footprint(crs, transform)
    check(crs, transform, geometry)
    west, south, east, north = bbox_of(geometry)
    assert (east - west) % 360 == pytest.approx(90)
    assert 90 in (north, -south)


def test_which_pole_is_within_is_told_by_the_middle_and_not_by_the_nearer_one() -> None:
    transform = Affine(18_000, 0, -9e6, 0, -18_000, 9e6)
    box = bbox_of(footprint(EQUAL_AREA_NORTH, transform))
    assert box[1] < -80  # at the corners
    assert (box[0], box[2], box[3]) == (-180, 180, 90)
    assert covers(footprint(EQUAL_AREA_NORTH, transform), 12.0, 50.0)


@pytest.mark.parametrize("turn", [-360, 0, 360])
def test_the_point_within_may_be_counted_from_another_meridian(turn: int) -> None:
    ring = [0.0, 90.0, 180.0, -90.0, 0.0], [50.0, -20.0, -50.0, -20.0, 50.0]
    assert bbox_of(geojson_of(*ring, inside=(180.0 + turn, -30.0))) == [-180, -50, 180, 90]
    assert bbox_of(geojson_of(*ring, inside=(180.0 + turn, -70.0))) == [-180, -90, 180, 50]


@pytest.mark.parametrize(
    ("transform", "why"),
    [
        (Affine(0.5, 0, 500_000, 0, -0.5, 2_800_000), "no degrees"),
        (Affine(0.1, 0, 0, 0, -0.1, 93), "no degrees"),
        (Affine(1, 0, 400, 0, -0.1, 10), "no degrees"),
        (Affine(1e-13, 0, 55, 0, -1e-13, 25), "no extent"),
    ],
)
def test_what_cannot_be_degrees_of_a_place_on_earth_is_none(transform: Affine, why: str) -> None:
    assert Georeference(WGS84, transform).footprint(SIDE, SIDE) is None
    assert why in Georeference(WGS84, transform).footprint_or_reason(SIDE, SIDE)[1]


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_what_lies_nowhere_is_said_to(number: float) -> None:
    with pytest.raises(Unlocated, match="nowhere on Earth"):
        geojson_of([0.0, 1.0, number, 0.0], [0.0, 1.0, 2.0, 0.0], inside=(0.5, 0.5))
