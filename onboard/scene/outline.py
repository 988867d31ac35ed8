"""Outlines as GeoJSON wants them: counter-clockwise, and cut where they cross the antimeridian.

Source: RFC 7946, sections 3.1.6, 3.1.9 and 5.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

Ring = list[list[float]]


class Unlocated(Exception):
    """A scene has no outline on Earth; says why, as what is wrong with it."""


def geojson_of(longitudes: Sequence[float], latitudes: Sequence[float]) -> dict[str, Any]:
    """A Polygon, or a MultiPolygon of the parts west and east of the antimeridian.

    Args:
        longitudes: degrees within -180..180 of a closed ring of points less than half a turn apart, around no pole.
        latitudes: degrees.

    Raises:
        Unlocated: these are no places on Earth.
    """
    if not (np.isfinite(longitudes).all() and np.isfinite(latitudes).all()):
        raise Unlocated("parts of its outline lie nowhere on Earth")
    if max(longitudes) - min(longitudes) <= 180:
        ring = [[longitude, latitude] for longitude, latitude in zip(longitudes, latitudes, strict=True)]
        return {"type": "Polygon", "coordinates": [_finished(ring)]}
    ring = [[longitude % 360, latitude] for longitude, latitude in zip(longitudes, latitudes, strict=True)]
    west, east = _clipped(ring, 180.0, keep_west=True), _clipped(ring, 180.0, keep_west=False)
    east = [[longitude - 360, latitude] for longitude, latitude in east]
    return {"type": "MultiPolygon", "coordinates": [[_finished(west)], [_finished(east)]]}


def bbox_of(geometry: Mapping[str, Any]) -> list[float]:
    """West, south, east, north; west is the larger number where the outline crosses the antimeridian."""
    polygons = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
    latitudes = [point[1] for polygon in polygons for point in polygon[0]]
    west = min(point[0] for point in polygons[0][0])
    east = max(point[0] for point in polygons[-1][0])
    return [west, min(latitudes), east, max(latitudes)]


def _finished(ring: Ring) -> Ring:
    """Closed, counter-clockwise, to a centimetre."""
    points = [[round(longitude, 7), round(latitude, 7)] for longitude, latitude in ring]
    if points[0] != points[-1]:
        points.append(points[0])
    if sum(a[0] * b[1] - b[0] * a[1] for a, b in pairwise(points)) < 0:
        points.reverse()
    return points


def _clipped(ring: Ring, border: float, *, keep_west: bool) -> Ring:
    """One side of a meridian. Source: Sutherland, Hodgman, "Reentrant Polygon Clipping", 1974, for one edge."""

    def inside(point: list[float]) -> bool:
        return point[0] <= border if keep_west else point[0] >= border

    kept: Ring = []
    for start, end in pairwise(ring):
        if inside(start) != inside(end):
            share = (border - start[0]) / (end[0] - start[0])
            kept.append([border, start[1] + share * (end[1] - start[1])])
        if inside(end):
            kept.append(end)
    return kept
