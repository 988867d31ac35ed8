"""Whether GeoJSON geometries touch, in the plane of longitude and latitude.

Footprints of maps are split at the antimeridian, as RFC 7946 asks for, so the plane is enough.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

# N segments against M are arrays of N x M: in blocks of so many, memory has a bound.
_SEGMENTS_AT_ONCE = 1024
# A body of 64 KiB has room for more nested collections than Python's stack has.
_DEEPEST_COLLECTION = 4
_DEGREES, _HEIGHT = 360, 1e9


@dataclass(frozen=True)
class Shape:
    """A geometry taken apart.

    Attributes:
        segments: (N, 4) as x1, y1, x2, y2 in degrees: edges of lines and rings; a point is a segment of no length.
        starts: (P, 2), a position of each line, ring and point.
        polygons: of each polygon the segments of all its rings, (M, 4).
    """

    segments: NDArray[np.float64]
    starts: NDArray[np.float64]
    polygons: tuple[NDArray[np.float64], ...] = ()

    @cached_property
    def box(self) -> tuple[float, float, float, float]:
        """West, south, east, north of all of it."""
        west, south, east, north = _box(self.segments).tolist()
        return west, south, east, north

    def intersects(self, geometry: Any) -> bool:
        """Whether it shares a point with a GeoJSON geometry, borders included; not with None."""
        if geometry is None:
            return False
        other = shape_of(geometry)
        if not _touch(_box(self.segments), _box(other.segments)).all():
            return False
        # Where no borders touch, a line or ring lies inside a polygon as a whole or not at all: one position tells.
        return (
            _segments_touch(_near(self.segments, other.segments), _near(other.segments, self.segments))
            or _any_inside(self.starts, other.polygons)
            or _any_inside(other.starts, self.polygons)
        )


def shape_of(geometry: Any) -> Shape:
    """A GeoJSON geometry of any type.

    Raises:
        ValueError: it is none; says why.
    """
    lines, polygons = [], []
    for kind, coordinates in _single(geometry, _DEEPEST_COLLECTION):
        if kind == "Polygon":
            rings = [_line(ring, 4) for ring in _listed(coordinates)]
            polygons.append(np.concatenate(rings))
            lines += rings
        elif kind == "LineString":
            lines.append(_line(coordinates, 2))
        else:
            point = _position(coordinates)
            lines.append(np.array([[*point, *point]]))
    if not lines:
        raise ValueError("it has no coordinates")
    return Shape(np.concatenate(lines), np.array([line[0, :2] for line in lines]), tuple(polygons))


def plain_geometry(geometry: Any) -> dict[str, Any]:
    """What counts of a geometry that :func:`shape_of` takes: its types and coordinates, no further members."""
    if geometry["type"] == "GeometryCollection":
        return {"type": geometry["type"], "geometries": [plain_geometry(part) for part in geometry["geometries"]]}
    return {"type": geometry["type"], "coordinates": geometry["coordinates"]}


def _single(geometry: Any, depth: int) -> Iterator[tuple[str, Any]]:
    """Points, lines and polygons of a geometry, each by its type and coordinates."""
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    if kind == "GeometryCollection" and depth:
        for part in _listed(geometry.get("geometries")):
            yield from _single(part, depth - 1)
    elif kind in ("MultiPoint", "MultiLineString", "MultiPolygon"):
        for coordinates in _listed(geometry.get("coordinates")):
            yield str(kind).removeprefix("Multi"), coordinates
    elif kind in ("Point", "LineString", "Polygon"):
        yield str(kind), geometry.get("coordinates")
    else:
        raise ValueError("its type is none of GeoJSON's")


def _listed(values: Any) -> list[Any]:
    if not isinstance(values, list) or not values:
        raise ValueError("it has no coordinates")
    return values


def _position(values: Any) -> tuple[float, float]:
    if isinstance(values, list) and 2 <= len(values) <= 4:
        # By comparison, which NaN, infinity and whole numbers of any length stand: a height may be large, no more.
        limits = (_DEGREES, _DEGREES, _HEIGHT, _HEIGHT)
        if all(
            # Not isinstance: True and False are numbers there.
            type(value) in (int, float) and -limit <= value <= limit
            for value, limit in zip(values, limits, strict=False)
        ):
            return float(values[0]), float(values[1])
    raise ValueError("a position is no pair of degrees")


def _line(positions: Any, fewest: int) -> NDArray[np.float64]:
    points = np.array([_position(values) for values in _listed(positions)])
    if len(points) < fewest:
        raise ValueError(f"a line or ring has fewer than {fewest} positions")
    return np.concatenate([points[:-1], points[1:]], axis=1)


def _segments_touch(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> bool:
    """Two segments touch where their boxes do and the ends of each lie on both sides of the other, or on it."""
    for begin in range(0, len(ours), _SEGMENTS_AT_ONCE):
        a = ours[begin : begin + _SEGMENTS_AT_ONCE, None, :]
        b = theirs[None, :, :]
        boxes = np.ones(np.broadcast_shapes(a.shape, b.shape)[:2], dtype=bool)
        for axis in (0, 1):
            a_ends, b_ends = a[..., axis::2], b[..., axis::2]
            boxes &= (a_ends.min(-1) <= b_ends.max(-1)) & (b_ends.min(-1) <= a_ends.max(-1))
        # Only pairs whose boxes touch. This also decides for segments on one line, which no side test can tell apart.
        rows, columns = np.nonzero(boxes)
        p, q = a[rows, 0], theirs[columns]
        if np.any(_straddles(p, q) & _straddles(q, p)):
            return True
    return False


def _straddles(p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether the ends of q lie on both sides of the line through p, or on it; row by row."""
    along_x, along_y = p[:, 2] - p[:, 0], p[:, 3] - p[:, 1]
    sides = [along_x * (q[:, at + 1] - p[:, 1]) - along_y * (q[:, at] - p[:, 0]) for at in (0, 2)]
    return np.asarray(np.sign(sides[0]) * np.sign(sides[1]) <= 0)


def _box(segments: NDArray[np.float64]) -> NDArray[np.float64]:
    """West, south, east, north of all segments."""
    points = segments.reshape(-1, 2)
    return np.concatenate([points.min(axis=0), points.max(axis=0)])


def _touch(box: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether boxes touch; each may be an array of boxes, (4,) or (N, 4)."""
    low = np.all(box[..., :2] <= other[..., 2:], axis=-1)
    return np.asarray(low & np.all(other[..., :2] <= box[..., 2:], axis=-1))


def _near(segments: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Those segments whose boxes touch the box of all others."""
    ends = segments.reshape(-1, 2, 2)
    boxes = np.concatenate([ends.min(axis=1), ends.max(axis=1)], axis=1)
    return segments[_touch(boxes, _box(others))]


def _any_inside(points: NDArray[np.float64], polygons: tuple[NDArray[np.float64], ...]) -> bool:
    """Whether a point lies inside a polygon, by the number of edges to its right."""
    for edges in polygons:
        x1, y1, x2, y2 = edges.T
        for begin in range(0, len(points), _SEGMENTS_AT_ONCE):
            x, y = (points[begin : begin + _SEGMENTS_AT_ONCE, axis, None] for axis in (0, 1))
            # Half-open: an edge has its lower end and not its upper one, so that a ray through a corner crosses once.
            crosses = (y1 > y) != (y2 > y)
            # A level edge divides by zero, and crosses no ray: its value is not used.
            with np.errstate(divide="ignore", invalid="ignore"):
                right_of = x < x1 + (y - y1) * (x2 - x1) / (y2 - y1)
            if np.any(np.count_nonzero(crosses & right_of, axis=1) % 2):
                return True
    return False
