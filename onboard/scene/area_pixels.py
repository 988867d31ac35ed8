"""Polygons in degrees on the pixels of a scene, and their areas on the ellipsoid.

A polygon is first cut to the scene's surroundings: polynomials and projections are not asked for places far away.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onboard.scene.footprint import Unlocated
from onboard.scene.georeference import Georeference
from onboard.scene.grid import Window

Reals = NDArray[np.float64]
Ring = Sequence[tuple[float, float]]
# Semi-axis in metres and square of the eccentricity of WGS 84. Source: NIMA TR8350.2.
_A, _E2 = 6_378_137.0, 6.694379990141e-3
_STEPS = 64
"""Parts of the surroundings' longer side; an edge has one at most: a straight line in degrees may be a curve here."""
_CELLS = 32
_MARGIN = 0.1
"""Of the scene's extent in degrees that is kept around it."""


@dataclass(frozen=True)
class PixelPolygon:
    """A part of an area.

    Attributes:
        rings: columns and rows (N, 2) in pixel corners; the first is the outer one, the others are holes.
    """

    rings: tuple[Reals, ...]


def polygons_on(
    georeference: Georeference, size: tuple[int, int], polygons: Iterable[Sequence[Ring]]
) -> list[PixelPolygon]:
    """What of these polygons lies on a scene or right beside it.

    Args:
        georeference: of the scene.
        size: width and height, pixels.
        polygons: rings of (longitude, latitude) in degrees; longitudes may count from anywhere.

    Raises:
        Unlocated: the scene has no place, or no way leads from degrees to its pixels.
    """
    west, south, east, north = _surroundings(georeference, size)
    longest = max(east - west, north - south) / _STEPS
    parts = []
    for polygon in polygons:
        rings = [_from_greenwich(ring) for ring in polygon]
        # Degrees count from any meridian. The surroundings are less than a turn wide: each place lies in them once,
        # and no part of an area counts twice.
        for turn in (-360, 0, 360) if east - west < 360 else (0,):
            # Holes go with their outer ring: they were moved by themselves.
            moved = [ring + np.array([turn + _turn(ring, rings[0]), 0.0]) for ring in rings]
            cut = [_clipped(ring, (west, south, east, north)) for ring in moved]
            if len(cut[0]) >= 3:
                pixels = [_to_pixels(georeference, size, _dense(ring, longest)) for ring in cut if len(ring) >= 3]
                parts.append(PixelPolygon(tuple(pixels)))
    return parts


def polygon_area_m2(polygon: Sequence[Ring]) -> float:
    """Area on WGS 84 of a polygon whose edges are straight in degrees, less its holes.

    Source: Snyder, "Map Projections: A Working Manual", 1987, 3-12 (the authalic latitude's q).
    """
    # Half a degree at most from point to point: between two points the area is summed as if q were linear.
    areas = [abs(_ring_area(_dense(_from_greenwich(ring), 0.5))) for ring in polygon]
    return max(0.0, areas[0] - sum(areas[1:]))


def _surroundings(georeference: Georeference, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """West, south, east, north of a scene and a little more; the whole turn for a scene round a pole."""
    # A mesh and not the outline alone: round a pole the outline does not reach the northernmost place.
    longitudes, latitudes = georeference.places_in(Window(col=0, row=0, width=size[0], height=size[1]), _CELLS)
    if not (np.isfinite(longitudes).all() and np.isfinite(latitudes).all()):
        raise Unlocated("parts of it lie nowhere on Earth")
    unwrapped = np.unwrap(np.unwrap(longitudes, axis=1, period=360), axis=0, period=360)
    west, east = float(unwrapped.min()), float(unwrapped.max())
    south, north = float(latitudes.min()), float(latitudes.max())
    if east - west > 180:  # a pole lies within, or it is the world
        west, east = -360.0, 360.0
        south, north = (-90.0, north) if south < -north else (south, 90.0)
    margin = _MARGIN * max(min(east - west, 90.0), north - south)
    return west - margin, max(-90.0, south - margin), east + margin, min(90.0, north + margin)


def _to_pixels(georeference: Georeference, size: tuple[int, int], ring: Reals) -> Reals:
    columns, rows = georeference.pixels_of(size, ring[:, 0].tolist(), ring[:, 1].tolist())
    # PROJ and GDAL answer with infinity where a place has no pixel.
    pixels = np.stack([columns, rows], axis=1)
    if not np.isfinite(pixels).all():
        raise Unlocated("no way leads from longitude and latitude to its pixels")
    return pixels


def _from_greenwich(ring: Ring) -> Reals:
    """(N, 2), moved by whole turns so that its first point lies in -180..180."""
    points: Reals = np.array(ring, dtype=np.float64)
    points[:, 0] -= 360 * math.floor((points[0, 0] + 180) / 360)
    return points


def _turn(ring: Reals, outer: Reals) -> float:
    """Whole turns, in degrees, that bring a ring beside its outer one."""
    return 360.0 * round(float(outer[:, 0].mean() - ring[:, 0].mean()) / 360)


def _dense(ring: Reals, longest: float) -> Reals:
    """The ring with further points on edges that are longer than this, in degrees."""
    points = []
    for start, end in pairwise([*ring, ring[0]]):
        parts = max(1, math.ceil(float(np.abs(end - start).max()) / longest)) if longest > 0 else 1
        # 2,000 points an edge bound the work whatever an area's file says.
        points.append(start + (end - start) * (np.arange(min(parts, 2000)) / min(parts, 2000))[:, None])
    return np.concatenate(points)


def _clipped(ring: Reals, box: tuple[float, float, float, float]) -> Reals:
    """What of a ring lies in a box. Source: Sutherland, Hodgman, "Reentrant Polygon Clipping", 1974."""
    west, south, east, north = box
    for axis, border, keeps_low in ((0, west, False), (0, east, True), (1, south, False), (1, north, True)):
        kept: list[Reals] = []
        for start, end in pairwise([*ring, ring[0]] if len(ring) else []):
            inside = [(point[axis] <= border) == keeps_low or point[axis] == border for point in (start, end)]
            if inside[0] != inside[1]:
                kept.append(start + (end - start) * ((border - start[axis]) / (end[axis] - start[axis])))
            if inside[1]:
                kept.append(end)
        ring = np.array(kept).reshape(-1, 2)
    return ring


def _ring_area(ring: Reals) -> float:
    closed = np.concatenate([ring, ring[:1]])
    q = _authalic(np.radians(closed[:, 1]))
    steps = np.diff(np.radians(closed[:, 0]))
    return float(_A**2 / 2 * np.sum(steps * (q[1:] + q[:-1]) / 2))


def _authalic(latitudes: Any) -> Reals:
    e, sine = math.sqrt(_E2), np.sin(latitudes)
    q: Reals = (1 - _E2) * (sine / (1 - _E2 * sine**2) - np.log((1 - e * sine) / (1 + e * sine)) / (2 * e))
    return q
