from __future__ import annotations

from itertools import pairwise

from affine import Affine
from rasterio.crs import CRS

from onboard.scene.georeference import Georeference
from onboard.scene.outline import bbox_of, geojson_of


def corners(polygon: list[list[list[float]]]) -> set[tuple[float, ...]]:
    (ring,) = polygon
    assert ring[0] == ring[-1]
    assert sum(a[0] * b[1] - b[0] * a[1] for a, b in pairwise(ring)) > 0
    return {tuple(point) for point in ring}


def test_an_outline_is_turned_counter_clockwise_and_rounded() -> None:
    geometry = geojson_of([5.0, 5.0, 6.00000001, 6.0, 5.0], [1.0, 2.0, 2.0, 1.0, 1.0])
    assert geometry["type"] == "Polygon"
    assert corners(geometry["coordinates"]) == {(5, 1), (5, 2), (6, 2), (6, 1)}
    assert bbox_of(geometry) == [5, 1, 6, 2]


def test_an_outline_over_the_antimeridian_is_cut_in_two() -> None:
    geometry = geojson_of([179.0, 179.0, -178.0, -178.0, 179.0], [10.0, 13.0, 13.0, 10.0, 10.0])
    assert geometry["type"] == "MultiPolygon"
    west, east = geometry["coordinates"]
    assert corners(west) == {(179, 10), (179, 13), (180, 13), (180, 10)}
    assert corners(east) == {(-180, 10), (-180, 13), (-178, 13), (-178, 10)}
    assert bbox_of(geometry) == [179, 10, -178, 13]


def test_a_cut_falls_where_a_slanted_side_crosses() -> None:
    geometry = geojson_of([179.0, -179.0, 179.0, 179.0], [0.0, 2.0, 4.0, 0.0])
    assert corners(geometry["coordinates"][1]) == {(-180, 1), (-179, 2), (-180, 3)}


def test_a_utm_scene_in_fiji_is_cut() -> None:
    footprint = Georeference(CRS.from_epsg(32760), Affine(1, 0, 817_500, 0, -1, 8_100_000)).footprint(4000, 3000)
    assert footprint is not None
    assert footprint["type"] == "MultiPolygon"
    west, south, east, north = bbox_of(footprint)
    assert 179.9 < west < 180
    assert -180 < east < -179.9
    assert -18 < south < north < -17
