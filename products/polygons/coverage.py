"""Polygons of the patches of a raster, one whole patch after another, in bounded memory.

Each tile's pieces are outlined, simplified together and given out; pieces of a patch that lies in several tiles wait
until its last tile is done. Simplifying keeps borders between neighbours the same for both, and the frame of a tile as
it is: pieces fit at the seams, and of a border that crosses a seam the point at the seam stays.
Source: shapely's coverage_simplify, after M. Visvalingam and J. D. Whyatt, "Line generalisation by repeated elimination
of points", 1993.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import shapely
from numpy.typing import NDArray

from products.polygons.outlines import Polygons, outlines
from products.polygons.patches import Numbers, Patches, label
from products.polygons.tiles import Codes, Tile, Tiles

_TOUCHING_HOLES: Final = (3, 14, 0)
"""First GEOS whose union of a coverage is valid where a hole touches the shell (shapely 2.2; 2.1 is the last for Python
3.10)."""


@dataclass(frozen=True)
class Batch:
    """Polygons of whole patches.

    Attributes:
        patches: their numbers, (n,).
        polygons: in pixels, y upwards: row 0 is from y = 0 to -1. Shells are counter-clockwise.
    """

    patches: Numbers
    polygons: Polygons


def polygons(tiles: Tiles, patches: Patches, codes_of: Callable[[Tile], Codes], *, tolerance: float) -> Iterator[Batch]:
    """Polygons of all patches that are no data's, each once, at the tile in which the patch ends.

    Args:
        tiles: of the raster.
        patches: of the same tiles.
        codes_of: gives the codes of a tile, (height, width).
        tolerance: a corner goes while its triangle is smaller than half the square of so many pixels; 0 keeps all.
    """
    waiting: dict[int, list[shapely.Geometry]] = {}
    for tile in tiles:
        numbers, pieces = _pieces(tiles, patches, tile, codes_of(tile), tolerance)
        is_whole = patches.first_tile[numbers] == patches.last_tile[numbers]
        for number, piece in zip(numbers[~is_whole].tolist(), pieces[~is_whole], strict=True):
            waiting.setdefault(number, []).append(piece)
        # A patch is given out with its last tile: pieces wait no longer than they must.
        ending = np.unique(numbers[~is_whole & (patches.last_tile[numbers] == tile.number)])
        joined = np.array([_joined(waiting.pop(number)) for number in ending.tolist()], dtype=object)
        yield Batch(np.concatenate([numbers[is_whole], ending]), np.concatenate([pieces[is_whole], joined]))


def _pieces(tiles: Tiles, patches: Patches, tile: Tile, codes: Codes, tolerance: float) -> tuple[Numbers, Polygons]:
    """Patch and polygon of each piece of a patch in a tile."""
    inside = patches.in_tile(tile, codes)
    labels, count = label(inside)
    # All pixels of a label are in one patch: whichever is written last says which.
    numbers = np.empty(count, np.int64)
    numbers[labels.ravel()] = inside.ravel()
    # Labels of patches and not of classes: where a small patch was joined to another, no border is left.
    pieces = outlines(labels, patches.seams(tiles, tile))
    if tolerance:
        # Pieces of no data take part: else the borders with it would be the coverage's own, and stay.
        pieces = shapely.coverage_simplify(pieces, tolerance, simplify_boundary=False)
    has_class = patches.codes[numbers] != 0
    return numbers[has_class], _moved(pieces[has_class], tile.left, -tile.top)


def _moved(pieces: Polygons, x: float, y: float) -> Polygons:
    offset = np.array([x, y], np.float64)

    def add(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return points + offset

    moved: Polygons = shapely.transform(pieces, add)
    return moved


def _joined(pieces: list[shapely.Geometry]) -> shapely.Geometry:
    if len(pieces) == 1:
        return pieces[0]
    whole = shapely.coverage_union_all(pieces)
    if shapely.geos_version < _TOUCHING_HOLES and not shapely.is_valid(whole):
        # Its shell touches itself where a hole has to touch it.
        whole = shapely.make_valid(whole, method="structure", keep_collapsed=False)
    return whole
