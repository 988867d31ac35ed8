"""Untagged collars: the uniform black or white border around a rotated or clipped scene, found by flood fill.

Connection to the edge is decided on a decimated mask of at most 2,048 pixels a side (memory stays bounded), the colour
at full resolution. Only a scene whose corner is uniform is looked at, so ordinary scenes are read once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window as RasterWindow

from onboard.scene.grid import Window

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

Mask = NDArray[np.bool_]
_LARGEST = 2048
_CORNER = 16
# Lossy compression rings beside the collar's edge; inside it the blocks are exactly uniform.
_LOSSY_TOLERANCE = 12
_LOSSY = {"jpeg", "ycbcr jpeg", "webp", "lerc", "lerc_deflate", "lerc_zstd", "jxl"}
# Dark water also reaches the edge: a collar is exactly uniform nearly everywhere.
_LEAST_EXACT = 0.9
_LEAST_SHARE = 1e-3


@dataclass(frozen=True)
class Collar:
    """A found collar.

    Attributes:
        colour: "black" or "white"; value: of each band inside it; tolerance: about that.
        share: of the scene's pixels, estimated on the decimated mask.
        cells: decimated mask (rows, columns), True where the collar reaches.
        factor: scene pixels a cell, down and across.
    """

    colour: str
    value: float
    tolerance: float
    share: float
    cells: Mask
    factor: tuple[float, float]

    def valid(self, pixels: NDArray[Any], window: Window) -> Mask | None:
        """Validity (h, w) of a window's pixels (bands, h, w); None where the collar does not reach it."""
        rows = self._cell(np.arange(window.row, window.row + window.height), 0)
        cols = self._cell(np.arange(window.col, window.col + window.width), 1)
        near = self.cells[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
        if not near.any():
            return None
        inside: Mask = near[np.ix_(rows - rows[0], cols - cols[0])]
        return ~(inside & _coloured(pixels, self.value, self.tolerance))

    def _cell(self, places: NDArray[np.int64], axis: int) -> NDArray[np.int64]:
        cells: NDArray[np.int64] = (places / self.factor[axis]).astype(np.int64)
        return np.asarray(np.minimum(cells, self.cells.shape[axis] - 1))


def find_collar(source: DatasetReader, bands: tuple[int, ...]) -> Collar | None:
    """The scene's collar, None where there is none.

    Source: flood fill by sweeps of whole rows (runs of a row are joined to what was reached above or below).
    """
    if min(source.width, source.height) <= _CORNER:
        return None
    lossy = source.compression is not None and source.compression.name.lower() in _LOSSY
    for colour, value in _colours(source.dtypes[bands[0] - 1]):
        if not any(_uniform(corner, value) for corner in _corners(source, bands)):
            continue
        collar = _filled(source, bands, colour, value, _LOSSY_TOLERANCE if lossy else 0)
        if collar is not None:
            return collar
    return None


def flooded(candidates: Mask) -> Mask:
    """The candidates that are 4-connected to the border of their array (h, w)."""
    reached = np.zeros_like(candidates)
    reached[[0, -1]] = candidates[[0, -1]]
    reached[:, [0, -1]] |= candidates[:, [0, -1]]
    # Runs of each row: a number for each run, 0 outside of runs.
    starts = candidates & ~np.pad(candidates, ((0, 0), (1, 0)))[:, :-1]
    runs = np.cumsum(starts, axis=1) * candidates
    before = -1
    while (count := int(reached.sum())) != before:
        before = count
        for order in (range(len(candidates)), range(len(candidates) - 1, -1, -1)):
            above: Mask | None = None
            for row in order:
                seeds = reached[row] if above is None else reached[row] | (above & candidates[row])
                if seeds.any():
                    hit = np.zeros(int(runs[row].max()) + 1, dtype=bool)
                    hit[runs[row][seeds]] = True
                    hit[0] = False
                    reached[row] = hit[runs[row]]
                above = reached[row]
    return reached


def _filled(source: DatasetReader, bands: tuple[int, ...], colour: str, value: float, tolerance: int) -> Collar | None:
    scale = max(1.0, max(source.width, source.height) / _LARGEST)
    shape = (max(1, round(source.height / scale)), max(1, round(source.width / scale)))
    sample = source.read(list(dict.fromkeys(bands)), out_shape=(len(set(bands)), *shape))
    cells = flooded(_coloured(sample, value, tolerance))
    inside = int(cells.sum())
    if inside < _LEAST_SHARE * cells.size or _coloured(sample, value, 0)[cells].mean() < _LEAST_EXACT:
        return None
    if scale > 1:
        cells = _grown(cells)  # a cell's sample may lie on the other side of the collar's edge
    factor = (source.height / shape[0], source.width / shape[1])
    return Collar(colour, value, tolerance, inside / cells.size, cells, factor)


def _colours(dtype: str) -> list[tuple[str, float]]:
    kind = np.dtype(dtype)
    if kind == np.uint8:
        return [("black", 0.0), ("white", 255.0)]
    # White has no fixed value in other types: 11 or 12 bits of 16 are in use.
    return [("black", 0.0)]


def _corners(source: DatasetReader, bands: tuple[int, ...]) -> list[NDArray[Any]]:
    right, bottom = source.width - _CORNER, source.height - _CORNER
    return [
        source.read(list(dict.fromkeys(bands)), window=RasterWindow(col, row, _CORNER, _CORNER))
        for col, row in ((0, 0), (right, 0), (0, bottom), (right, bottom))
    ]


def _uniform(corner: NDArray[Any], value: float) -> bool:
    # The corner's own pixel area may touch imagery; a block of 4 x 4 at the very corner decides.
    return any(
        bool((part == value).all())
        for part in (corner[:, :4, :4], corner[:, :4, -4:], corner[:, -4:, :4], corner[:, -4:, -4:])
    )


def _coloured(pixels: NDArray[Any], value: float, tolerance: float) -> Mask:
    if tolerance == 0:
        exact: Mask = (pixels == value).all(axis=0)
        return exact
    near = pixels <= value + tolerance if value == 0 else pixels >= value - tolerance
    return np.asarray(near.all(axis=0), dtype=np.bool_)


def _grown(cells: Mask) -> Mask:
    padded = np.pad(cells, 1)
    grown: Mask = np.zeros_like(cells)
    for down in range(3):
        for across in range(3):
            grown |= padded[down : down + cells.shape[0], across : across + cells.shape[1]]
    return grown
