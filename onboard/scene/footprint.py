"""Outlines as GeoJSON wants them: within -180..180, counter-clockwise, cut at the antimeridian, closed round a pole.

Source: RFC 7946, sections 3.1.6, 3.1.9, 5.2 and 5.3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

Ring = list[list[float]]
# Half a pixel of a coarse global grid whose outer rows are centred on the poles: so far one may hang over.
_OVERHANG = 2.5
# Grids count from -180 or from 0, and a scene at their end may go on; what lies further out is metres, say.
_FURTHEST = 540.0
# A point nearer to a pole (0.1 m) has no longitude to go by.
_POLE = 90 - 1e-6
_DIGITS = 7  # a centimetre


class Unlocated(Exception):
    """A scene has no outline on Earth; says why, as what is wrong with it."""


def geojson_of(
    longitudes: Sequence[float], latitudes: Sequence[float], *, inside: tuple[float, float]
) -> dict[str, Any]:
    """A Polygon, or a MultiPolygon of the parts west and east of the antimeridian.

    Round a pole it is a Polygon that reaches from -180 to 180 and up to the pole, as plotted by longitude and latitude;
    over all longitudes without a pole within it is the band between the outermost latitudes.

    Args:
        longitudes: degrees of a closed ring of points not more than half a turn apart; each may be off by whole turns.
        latitudes: degrees.
        inside: longitude and latitude of a point within: of a ring round the Earth it tells which pole is within.

    Raises:
        Unlocated: these are no places on Earth.
    """
    _check([*longitudes, inside[0]], [*latitudes, inside[1]])
    ring = _unwrapped(longitudes, [min(90.0, max(-90.0, latitude)) for latitude in latitudes])
    # A ring whose ends lie a turn apart goes round the Earth: a pole is within.
    if abs(ring[-1][0] - ring[0][0]) > 180:
        return _polygon(_with_pole(ring, inside))
    west, east = min(point[0] for point in ring), max(point[0] for point in ring)
    if east - west >= 360:
        south, north = min(point[1] for point in ring), max(point[1] for point in ring)
        return _polygon([[-180.0, south], [180.0, south], [180.0, north], [-180.0, north]])
    if east <= 180:
        return _polygon(ring)
    beyond = [[longitude - 360, latitude] for longitude, latitude in _clipped(ring, 180.0, keep_west=False)]
    parts = _clipped(ring, 180.0, keep_west=True), beyond
    return {"type": "MultiPolygon", "coordinates": [[_finished(part)] for part in parts]}


def bbox_of(geometry: Mapping[str, Any]) -> list[float]:
    """West, south, east, north; west is the larger number where the outline crosses the antimeridian."""
    polygons = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
    latitudes = [point[1] for polygon in polygons for point in polygon[0]]
    west = min(point[0] for point in polygons[0][0])
    east = max(point[0] for point in polygons[-1][0])
    return [west, min(latitudes), east, max(latitudes)]


def _check(longitudes: Sequence[float], latitudes: Sequence[float]) -> None:
    if not (np.isfinite(longitudes).all() and np.isfinite(latitudes).all()):
        raise Unlocated("parts of its outline lie nowhere on Earth")
    furthest = max(longitudes, key=abs), max(latitudes, key=abs)
    if abs(furthest[0]) > _FURTHEST or abs(furthest[1]) > 90 + _OVERHANG:
        raise Unlocated(f"its coordinates are no degrees: longitudes to {furthest[0]:g}, latitudes to {furthest[1]:g}")


def _unwrapped(longitudes: Sequence[float], latitudes: Sequence[float]) -> Ring:
    """The closed ring without jumps by whole turns, its westernmost point in -180..180, to a centimetre.

    Round the Earth its ends lie a turn apart. A ring that touches a pole in one point goes along the pole there, from
    the longitude before to the one after: PROJ gives the point itself any longitude.
    """
    points = list(zip(longitudes, latitudes, strict=True))
    polar = [place for place, (_, latitude) in enumerate(points[:-1]) if abs(latitude) > _POLE]
    if len(polar) == 1:
        points = points[polar[0] + 1 : -1] + points[: polar[0]]
    # Rounded before anything is cut: a scene that ends a hair beyond the antimeridian is not cut in two.
    unwrapped = np.unwrap([longitude for longitude, _ in points], period=360).round(_DIGITS)
    unwrapped -= 360 * np.floor((unwrapped.min() + 180) / 360)
    ring = [[round(x, _DIGITS), round(y, _DIGITS)] for x, (_, y) in zip(unwrapped.tolist(), points, strict=True)]
    if len(polar) == 1:
        pole = math.copysign(90.0, latitudes[polar[0]])
        ring = [[ring[0][0], pole], *ring, [ring[-1][0], pole], [ring[0][0], pole]]
    return ring


def _with_pole(ring: Ring, inside: tuple[float, float]) -> Ring:
    """The area between a ring round the Earth and the pole on the side of `inside`, from -180 to 180 degrees."""
    if ring[-1][0] < ring[0][0]:
        ring = ring[::-1]
    border = np.interp(inside[0], [point[0] for point in ring], [point[1] for point in ring], period=360)
    pole = 90.0 if inside[1] > border else -90.0
    # Three turns, of which the cuts leave one: the ring may begin anywhere, and run back a little on its way.
    turns = [[longitude + turn, latitude] for turn in (-360, 0, 360) for longitude, latitude in ring]
    closed = [[turns[0][0], pole], *turns, [turns[-1][0], pole], [turns[0][0], pole]]
    return _clipped(_clipped(closed, -180.0, keep_west=False), 180.0, keep_west=True)


def _polygon(ring: Ring) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": [_finished(ring)]}


def _finished(ring: Ring) -> Ring:
    """Closed, counter-clockwise, to a centimetre, no point twice in a row."""
    rounded = [[round(longitude, _DIGITS), round(latitude, _DIGITS)] for longitude, latitude in ring]
    # Rounding can make neighbours equal; a ring of which fewer than three points are left has no extent.
    points = [point for previous, point in pairwise([rounded[-1], *rounded]) if point != previous]
    if len(points) < 3:
        raise Unlocated("its outline has no extent")
    points.append(points[0])
    if sum(a[0] * b[1] - b[0] * a[1] for a, b in pairwise(points)) < 0:
        points.reverse()
    return points


def _clipped(ring: Ring, border: float, *, keep_west: bool) -> Ring:
    """One side of a meridian, closed. Source: Sutherland, Hodgman, "Reentrant Polygon Clipping", 1974, for one edge."""

    def inside(point: list[float]) -> bool:
        return point[0] <= border if keep_west else point[0] >= border

    clipped: Ring = []
    for start, end in pairwise(ring):
        if inside(start) != inside(end):
            share = (border - start[0]) / (end[0] - start[0])
            clipped.append([border, start[1] + share * (end[1] - start[1])])
        if inside(end):
            clipped.append(end)
    return [*clipped, clipped[0]]
