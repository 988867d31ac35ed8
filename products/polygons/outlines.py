"""Outlines of labelled pixels as polygons that share every vertex with their neighbours.

Where three patches meet on a straight border the polygon of each has a vertex, so that the polygons of a raster are an
edge-matched coverage, which GDAL's own polygons are not. Borders are walked as whole straight runs by arrays; Python
sees no pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import shapely
from numpy.typing import NDArray

Labels = NDArray[np.int32]
Flags = NDArray[np.bool_]
Indices = NDArray[np.int64]
Polygons = NDArray[np.object_]

# Directions of travel, counter-clockwise: east, north, west, south. The patch lies to the left.
_AHEAD: Final = np.array([(0, 1), (-1, 0), (0, -1), (1, 0)])
_RIGHT: Final = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)])
_START: Final = np.array([(1, 0), (1, 1), (0, 1), (0, 0)])
"""Corner of a pixel at which the side that is walked in a direction begins."""


@dataclass(frozen=True)
class SeamVertices:
    """Points of a tile's frame that are vertices of the tiles beside it.

    Attributes:
        top, bottom: flags (width + 1,) of lattice points from the left.
        left, right: flags (height + 1,) of lattice points from the top.
    """

    top: Flags
    bottom: Flags
    left: Flags
    right: Flags


def outlines(labels: Labels, seams: SeamVertices | None = None) -> Polygons:
    """Polygons of patches in pixels, y upwards: the pixel of row 0 and column 0 spans (0, -1) to (1, 0).

    Each is valid: where a patch touches itself at a corner, a hole touches the shell there.

    Args:
        labels: (height, width), 0 to n - 1, every number used, the pixels of each 4-connected.
        seams: vertices of neighbouring tiles that the frame is to have as well; corners it has anyway.

    Returns:
        (n,) polygons by label, shells counter-clockwise.
    """
    vertices = _vertices(labels, seams)
    begin, end = _runs(labels, vertices)
    order, first = _rings(_successors(labels, begin, end))
    direction, rows, columns = (part[order] for part in begin)
    corner = _START[direction]
    x, y = columns + corner[:, 1], -(rows + corner[:, 0])
    ring = np.zeros(len(order), np.int64)
    ring[first[1:]] = 1
    ring = np.cumsum(ring)
    linear = shapely.linearrings(np.column_stack([x, y]).astype(np.float64), indices=ring)
    owner = labels[rows[first], columns[first]]
    is_hole = _twice_area(x, y, first) < 0
    # shapely takes the first ring of each polygon as its shell, and wants owners in rising order.
    by_owner = np.lexsort((is_hole, owner))
    polygons: Polygons = shapely.polygons(linear[by_owner], indices=owner[by_owner].astype(np.int64))
    return polygons


def _vertices(labels: Labels, seams: SeamVertices | None) -> Flags:
    """Lattice points (height + 1, width + 1) at which borders turn or meet."""
    height, width = labels.shape
    across = np.ones((height + 1, width), dtype=bool)  # borders from a lattice point to the next on the right
    across[1:-1] = labels[1:] != labels[:-1]
    down = np.ones((height, width + 1), dtype=bool)
    down[:, 1:-1] = labels[:, 1:] != labels[:, :-1]
    no_row, no_column = np.zeros((1, width + 1), bool), np.zeros((height + 1, 1), bool)
    right, left = np.hstack([across, no_column]), np.hstack([no_column, across])
    below, above = np.vstack([down, no_row]), np.vstack([no_row, down])
    vertices: Flags = (right != left) | (below != above) | (right & below)
    if seams is not None:
        vertices[0] |= seams.top
        vertices[-1] |= seams.bottom
        vertices[:, 0] |= seams.left
        vertices[:, -1] |= seams.right
    return vertices


def _runs(labels: Labels, vertices: Flags) -> tuple[tuple[Indices, ...], tuple[Indices, ...]]:
    """First and last pixel sides of all straight runs between two vertices, each as direction, rows, columns."""
    begins: list[tuple[Indices, ...]] = []
    ends: list[tuple[Indices, ...]] = []
    for direction in range(4):
        rows, columns = _sides(labels, direction)
        back, fore = _START[direction], _START[(direction + 1) % 4]
        # Sides are listed along their lines, so the n-th first side and the n-th last side are of the same run.
        is_first = vertices[rows + back[0], columns + back[1]]
        is_last = vertices[rows + fore[0], columns + fore[1]]
        for sides, chosen in ((begins, is_first), (ends, is_last)):
            sides.append((np.full(np.count_nonzero(chosen), direction), rows[chosen], columns[chosen]))
    return tuple(map(np.concatenate, zip(*begins, strict=True))), tuple(map(np.concatenate, zip(*ends, strict=True)))


def _sides(labels: Labels, direction: int) -> tuple[Indices, Indices]:
    """Pixels whose side of that direction is a border: line after line along the direction of the side."""
    differs = np.ones(labels.shape, dtype=bool)
    if direction in (0, 2):
        inner = labels[1:] != labels[:-1]
        differs[slice(None, -1) if direction == 0 else slice(1, None)] = inner
        rows, columns = np.nonzero(differs)
        return rows, columns
    inner = labels[:, 1:] != labels[:, :-1]
    differs[:, slice(None, -1) if direction == 1 else slice(1, None)] = inner
    columns, rows = np.nonzero(differs.T)
    return rows, columns


def _successors(labels: Labels, begin: tuple[Indices, ...], end: tuple[Indices, ...]) -> Indices:
    """Number of the run that follows on each; the patch stays to the left, and diagonal pixels of it are one way on."""
    height, width = labels.shape
    number = np.empty((4, height, width), np.int32)
    number[begin] = np.arange(len(begin[0]), dtype=np.int32)
    direction, rows, columns = end
    own = labels[rows, columns]
    # A frame of no patch: steps over the edge stay inside the array, and meet nothing of their own.
    framed = np.pad(labels, 1, constant_values=-1)
    ahead = _AHEAD[direction]
    row_ahead, column_ahead = rows + ahead[:, 0], columns + ahead[:, 1]
    right = _RIGHT[direction]
    row_right, column_right = row_ahead + right[:, 0], column_ahead + right[:, 1]
    turns_right = framed[row_right + 1, column_right + 1] == own
    goes_on = framed[row_ahead + 1, column_ahead + 1] == own
    following = number[
        (direction + np.where(turns_right, 3, np.where(goes_on, 0, 1))) % 4,
        np.where(turns_right, row_right, np.where(goes_on, row_ahead, rows)),
        np.where(turns_right, column_right, np.where(goes_on, column_ahead, columns)),
    ]
    return following.astype(np.int64)


def _rings(following: Indices) -> tuple[Indices, Indices]:
    """Runs in the order of their rings, and where in that order each ring begins.

    Source: J. C. Wyllie, "The complexity of parallel computations", 1979: list ranking by doubling of pointers.
    """
    leader, hop = np.arange(len(following)), following
    while True:
        # Each round doubles how far a run has looked: rings of n runs take log n rounds.
        lower = np.minimum(leader, leader[hop])
        if np.array_equal(lower, leader):
            break
        leader, hop = lower, hop[hop]
    is_leader = leader == np.arange(len(following))
    hop = np.where(is_leader, np.arange(len(following)), following)
    distance = np.where(is_leader, 0, 1)
    while True:
        further = distance[hop]
        if not further.any():
            break
        distance, hop = distance + further, hop[hop]
    order = np.lexsort((np.where(is_leader, -len(following), -distance), leader))
    return order, np.nonzero(is_leader[order])[0]


def _twice_area(x: Indices, y: Indices, first: Indices) -> Indices:
    """Twice the signed area of each ring, positive where it is counter-clockwise."""
    # In whole numbers: the sign tells shells from holes and must not depend on rounding.
    last = np.append(first[1:], len(x)) - 1
    x_next, y_next = np.roll(x, -1), np.roll(y, -1)
    x_next[last], y_next[last] = x[first], y[first]
    areas: Indices = np.add.reduceat(x * y_next - x_next * y, first)
    return areas
