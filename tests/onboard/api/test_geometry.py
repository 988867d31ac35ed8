"""Geometries that touch, and geometries that do not."""

from __future__ import annotations

from typing import Any

import pytest

from onboard.api.geometry import shape_of


def polygon(*rings: list[tuple[float, float]]) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": [[list(point) for point in (*ring, ring[0])] for ring in rings]}


def box(west: float, south: float, east: float, north: float) -> list[tuple[float, float]]:
    return [(west, south), (east, south), (east, north), (west, north)]


SQUARE = polygon(box(0, 0, 10, 10))
WITH_HOLE = polygon(box(0, 0, 10, 10), box(2, 2, 8, 8))


@pytest.mark.parametrize(
    ("one", "other", "touch"),
    [
        (SQUARE, {"type": "Point", "coordinates": [5, 5]}, True),
        (SQUARE, {"type": "Point", "coordinates": [10, 5, 99]}, True),
        (SQUARE, {"type": "Point", "coordinates": [10.001, 5]}, False),
        (SQUARE, polygon(box(2, 2, 3, 3)), True),
        (SQUARE, polygon(box(-5, 4, 15, 5)), True),
        (SQUARE, polygon(box(10, 10, 12, 12)), True),
        (SQUARE, polygon(box(10.1, 4, 12, 12)), False),
        (SQUARE, polygon([(22, -1), (22, 22), (-1, 22)]), False),
        (WITH_HOLE, polygon(box(3, 3, 4, 4)), False),
        (WITH_HOLE, polygon(box(3, 3, 9, 4)), True),
        (SQUARE, {"type": "LineString", "coordinates": [[-1, 5], [11, 6]]}, True),
        (SQUARE, {"type": "LineString", "coordinates": [[-1, 9], [1, 11.1]]}, False),
        (SQUARE, {"type": "LineString", "coordinates": [[10, -5], [10, -0.1]]}, False),
        (SQUARE, {"type": "LineString", "coordinates": [[10, -5], [10, 3]]}, True),
        (SQUARE, {"type": "MultiPoint", "coordinates": [[20, 20], [1, 1]]}, True),
        (SQUARE, {"type": "MultiPolygon", "coordinates": [polygon(box(20, 20, 21, 21))["coordinates"]]}, False),
        (SQUARE, {"type": "GeometryCollection", "geometries": [{"type": "Point", "coordinates": [1, 1]}]}, True),
        (
            {"type": "MultiPolygon", "coordinates": [polygon(box(0, 0, 1, 1))["coordinates"], SQUARE["coordinates"]]},
            {"type": "Point", "coordinates": [0.5, 0.5]},
            True,
        ),
    ],
)
def test_geometries_touch_both_ways_round(one: dict[str, Any], other: dict[str, Any], touch: bool) -> None:
    assert shape_of(one).intersects(other) is touch
    assert shape_of(other).intersects(one) is touch


def test_many_segments_are_taken_in_portions() -> None:
    far = [[100 + 0.01 * (number % 7), 0.001 * number] for number in range(3000)]
    line = {"type": "LineString", "coordinates": [*far, [5, 5]]}
    assert shape_of(line).intersects(SQUARE)
    assert not shape_of({"type": "LineString", "coordinates": far}).intersects(SQUARE)
    points = {"type": "MultiPoint", "coordinates": [*([-1, 5] for _ in range(3000)), [5, 20], [5, 5]]}
    assert shape_of(points).intersects(SQUARE)
    assert not shape_of({**points, "coordinates": points["coordinates"][:-1]}).intersects(SQUARE)


def test_geometries_that_cross_often_are_told_by_their_borders() -> None:
    """Thousands of segments within the square's box, none of whose first positions lies inside it."""
    comb = [[-1 + 12 * (number % 2), 0.003 * number] for number in range(3000)]
    assert shape_of({"type": "LineString", "coordinates": comb}).intersects(SQUARE)
    assert not shape_of({"type": "LineString", "coordinates": [[x / 20 - 1.1, y] for x, y in comb]}).intersects(SQUARE)


@pytest.mark.parametrize(
    "geometry",
    [
        None, 1, [], {}, {"type": "Polygon"}, {"type": "Polygon", "coordinates": []},
        {"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [0, 0]]]}, {"type": "LineString", "coordinates": [[0, 0]]},
        {"type": "Point", "coordinates": [0]}, {"type": "Point", "coordinates": [0, float("nan")]},
        {"type": "Point", "coordinates": [0, True]}, {"type": "Point", "coordinates": [0, 1e300]},
        {"type": "GeometryCollection", "geometries": []}, {"type": "MultiPoint", "coordinates": 5},
    ],
)  # fmt: skip
def test_what_is_no_geometry_is_refused(geometry: Any) -> None:
    with pytest.raises(ValueError, match=r"coordinates|type|degrees|positions"):
        shape_of(geometry)


def test_collections_within_collections_have_an_end() -> None:
    geometry: dict[str, Any] = {"type": "Point", "coordinates": [0, 0]}
    for _ in range(50):
        geometry = {"type": "GeometryCollection", "geometries": [geometry]}
    with pytest.raises(ValueError, match="type"):
        shape_of(geometry)
