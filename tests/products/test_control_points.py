"""Which fit of control points counts, against the transform that the points were made with."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from affine import Affine
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.transform import GCPTransformer

from products.control_points import NoPlace, affine_of, transformer_of

DEGREES, UTM40 = CRS.from_epsg(4326), CRS.from_epsg(32640)
GROUNDS = {
    "north-up in degrees": (DEGREES, Affine(5e-6, 0, 55, 0, -5e-6, 25)),
    "rotated in degrees": (DEGREES, Affine(4e-6, 3e-6, 55, 3e-6, -4e-6, 25)),
    "rotated in metres": (UTM40, Affine(0.4, 0.3, 325000, 0.3, -0.4, 2780000)),
}
Places = list[tuple[float, float]]


def grid(rows: Iterable[float], columns: Iterable[float]) -> Places:
    return [(float(row), float(column)) for row in rows for column in columns]


LEAVE_OPEN: dict[str, Places] = {
    "two rows": grid((0, 260), (0, 150, 300)),
    "two columns": grid((0, 130, 260), (0, 300)),
    # GDAL has no complaint of these: rounding hides that they fix nothing, and its places lie anywhere.
    "middles of pixels in two rows": grid((0.5, 259.5), np.linspace(0.3, 299.1, 10)),
    "two slanted lines": [(row + 0.37 * col, col - 0.11 * row) for row, col in grid((0, 260), (0, 150, 300))],
    "a circle": [(130 + 100 * np.sin(turn), 150 + 100 * np.cos(turn)) for turn in range(8)],
}
NO_PLACE: dict[str, Places] = {
    "none": [],
    "one": [(0, 0)],
    "three on a row": grid((0,), (0, 100, 200)),
    "four on a slanted line": [(1.1 * step, 3.7 * step) for step in range(4)],
    "six on a slanted line": [(1.1 * step, 3.7 * step) for step in range(6)],
    "seven in one place": [(5, 5)] * 7,
}


def points_at(places: Places, ground: Affine, bent: float = 0.0) -> list[GroundControlPoint]:
    """Exact but for a bend of so many pixels in the middle of the rows."""
    return [
        GroundControlPoint(row, col, *applied(ground, col + 4 * bent * row * (260 - row) / 260**2, row))
        for row, col in places
    ]


def applied(ground: Affine, col: float, row: float) -> tuple[float, float]:
    return ground.a * col + ground.b * row + ground.c, ground.d * col + ground.e * row + ground.f


def there_and_back(points: list[GroundControlPoint], crs: CRS, ground: Affine) -> tuple[float, float]:
    """Largest errors in pixels, from pixels to the ground and from there to pixels, all over a scene of 300 x 260."""
    rows, columns = np.array(grid(np.linspace(0, 260, 9), np.linspace(0, 300, 9))).T
    true: NDArray[np.float64] = np.array([applied(ground, col, row) for row, col in zip(rows, columns, strict=True)]).T
    with transformer_of(points, crs) as transformer:
        x, y = transformer.xy(rows, columns, offset="ul")
        back_rows, back_columns = transformer.rowcol(*true, op=float)
    size = np.hypot(ground.a, ground.d)
    return (
        float(np.hypot(x - true[0], y - true[1]).max() / size),
        float(np.hypot(back_rows - rows, back_columns - columns).max()),
    )


@pytest.mark.parametrize("kind", GROUNDS)
@pytest.mark.parametrize("name", LEAVE_OPEN)
def test_points_that_leave_the_second_order_open_place_as_the_four_corners_do(name: str, kind: str) -> None:
    crs, ground = GROUNDS[kind]
    points = points_at(LEAVE_OPEN[name], ground)
    assert max(there_and_back(points, crs, ground)) < 1e-4
    assert affine_of(points, crs) is not None
    assert affine_of(points_at(grid((0, 260), (0, 300)), ground), crs) is None


@pytest.mark.parametrize("kind", GROUNDS)
@pytest.mark.parametrize("name", NO_PLACE)
def test_points_on_one_line_or_in_one_place_fix_none(name: str, kind: str) -> None:
    crs, ground = GROUNDS[kind]
    points = points_at(NO_PLACE[name], ground)
    with pytest.raises(NoPlace):
        transformer_of(points, crs)


def test_points_of_one_line_on_the_ground_fix_no_place() -> None:
    points = [
        GroundControlPoint(row, col, 55 + col * 1e-5, 25 + col * 1e-5) for row, col in grid((0, 9, 20), (0, 9, 20))
    ]
    with pytest.raises(NoPlace):
        transformer_of(points, DEGREES)


def test_points_that_are_no_numbers_fix_no_place() -> None:
    _, ground = GROUNDS["north-up in degrees"]
    points = [*points_at(LEAVE_OPEN["two rows"], ground), GroundControlPoint(1, 1, float("inf"), 25)]
    with pytest.raises(NoPlace):
        transformer_of(points, DEGREES)


@pytest.mark.parametrize("turned", [False, True])
def test_a_bend_that_the_points_show_is_kept_in_a_long_narrow_strip_too(turned: bool) -> None:
    ground = Affine(4, 3e-3, 325000, 3, -4e-3, 2780000) if turned else Affine(5, 0, 325000, 0, -5e-3, 2780000)
    points = points_at(grid((0, 130, 260), (0, 150, 300)), ground, bent=3)
    assert affine_of(points, UTM40) is None
    with transformer_of(points, UTM40) as ours, GCPTransformer(points) as gdals:
        assert np.array_equal(ours.xy([7, 130], [9, 150]), gdals.xy([7, 130], [9, 150]))
        assert np.allclose(ours.xy(130, 150, offset="ul"), applied(ground, 153, 130), atol=1e-3)


def test_errors_of_points_on_two_rows_are_spread_by_least_squares() -> None:
    _, ground = GROUNDS["rotated in metres"]
    points = points_at(LEAVE_OPEN["two rows"], ground)
    errors = np.random.default_rng(0).normal(0, 0.1, (len(points), 2))
    for point, (x, y) in zip(points, errors, strict=True):
        point.x, point.y = point.x + x, point.y + y
    terms = np.array([(point.col, point.row, 1) for point in points])
    expected = np.linalg.lstsq(terms, np.array([(point.x, point.y) for point in points]), rcond=None)[0].T
    assert np.allclose(np.array(affine_of(points, UTM40))[:6], expected.ravel(), rtol=1e-9)


def test_two_rows_across_the_antimeridian_are_neighbours() -> None:
    ground = Affine(1e-3, 0, 179.9, 0, -1e-3, 1)
    points = points_at(LEAVE_OPEN["two rows"], ground)
    for point in points:
        point.x = (point.x + 180) % 360 - 180
    affine = affine_of(points, DEGREES)
    assert affine is not None
    assert affine.almost_equals(ground, 1e-9)
