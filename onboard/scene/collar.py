"""Untagged collars: the uniform border around a rotated or clipped scene.

Only a scene with a corner of one colour is looked at further, and only where that colour goes on from there: what is
read twice is the collar and the blocks beside it. Whether what was found is a collar or dark water, snow or a white
roof, its edge says: that of a collar is sharp, or straight, or blurred no wider than lossy compression blurs.
Connection to the border is decided on at most 2,048 cells a side (memory stays bounded), colour at full resolution.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onboard.scene.cells import Cells, within
from onboard.scene.flood import Mask, flooded, grown, in_long_runs, inside_hull, longest_run, shrunk
from onboard.scene.grid import Window
from onboard.scene.sample import raster_window, read_bands
from onboard.scene.valid import LOSSY, ValidRule

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

_MIN_SIDE = 16
_CORNER = 64
_BEGIN, _BEGIN_SHARE = 16, 0.9
# GDAL's nearblack takes as much for black by default.
TOLERANCE = 15
# Lossy codecs blur within a block: 16 pixels where colour is halved (JPEG 4:2:0).
_BLUR_PIXELS = 16
_MIN_SHARE = 1e-3
_SOLID_RUN, _SOLID_SHARE = 12, 0.9
# Share of the cells beside an exact collar that are nearly of its colour: the edge is blurred from here on.
_BLURRED, _BLURRED_IF_LOSSY = 0.3, 0.05
_MOSTLY_EXACT = 0.9
_MOST_IN_HULL = 0.05
# Longest run along a side, as a share of it. White is also what roofs, clouds and snow are.
_MIN_CONTACT = {"black": 0.1, "white": 0.2}
_MIN_STRAIGHT_CONTACT = 0.25


@dataclass(frozen=True)
class Border:
    """A colour that a collar may have: its name, its value in each chosen band, and corners that begin with it."""

    colour: str
    value: tuple[float, ...]
    corners: int


@dataclass(frozen=True)
class Collar:
    """A found collar.

    Attributes:
        colour: "black", "white" or the value in words.
        value: of each band inside it; tolerance: about that.
        share: of the scene's pixels, estimated on the cells.
        cells: (rows, columns), True where the collar reaches.
        step: scene pixels a cell, down and across.
    """

    colour: str
    value: tuple[float, ...]
    tolerance: float
    share: float
    cells: Mask
    step: int

    def valid(self, pixels: NDArray[Any], window: Window) -> Mask | None:
        """Validity (h, w) of a window's pixels (bands, h, w); None where the collar does not reach it."""
        rows = np.arange(window.row, window.row + window.height) // self.step
        cols = np.arange(window.col, window.col + window.width) // self.step
        near = self.cells[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
        if not near.any():
            return None
        inside: Mask = near[np.ix_(rows - rows[0], cols - cols[0])]
        return ~(inside & within(pixels, self.value, self.tolerance))

    def covers(self, pixels: NDArray[Any], rows: NDArray[np.int64], cols: NDArray[np.int64]) -> Mask:
        """Which of single pixels (bands, n) at these rows and columns (n,) lie in it."""
        inside: Mask = self.cells[rows // self.step, cols // self.step]
        return inside & within(pixels, self.value, self.tolerance)


def find_collar(source: DatasetReader, bands: tuple[int, ...], rule: ValidRule) -> Collar | None:
    """The scene's collar, None where there is none.

    Args:
        source: the open scene.
        bands: the chosen ones, 1-based.
        rule: what the file itself says: corners that its mask or alpha leaves out need no search.
    """
    if min(source.width, source.height) <= _MIN_SIDE:
        return None
    compression = source.compression
    lossy = compression is not None and compression.name.lower() in LOSSY
    dtype = np.dtype(source.dtypes[bands[0] - 1])
    # 15 of 255 is little; of other types' ranges nobody knows.
    tolerance = TOLERANCE if np.issubdtype(dtype, np.integer) else 0
    for border in _borders(_corners(source, bands, rule), dtype):
        cells = Cells(source, bands, border.value, tolerance)
        cells.follow()
        exact, near = flooded(cells.exact), flooded(cells.near)
        collar = _exact_collar(border, exact, near, lossy, cells.step) if exact.any() else None
        is_sharp = collar is not None and collar.tolerance == 0
        if dtype == np.uint8 and border.colour in _MIN_CONTACT and not is_sharp:
            collar = _with_straight(border, collar, near, cells.step)
        if collar is not None:
            return collar
    return None


def _exact_collar(border: Border, exact: Mask, near: Mask, lossy: bool, step: int) -> Collar | None:
    """What has exactly the border's value, if that is a collar, and the blur around it."""
    share = float(exact.mean())
    solid = in_long_runs(exact, _SOLID_RUN)[exact].mean()
    contact = _MIN_CONTACT.get(border.colour, _MIN_CONTACT["black"])
    if share < _MIN_SHARE or solid < _SOLID_SHARE or _contact(exact) < contact:
        return None
    beside = grown(exact) & ~exact
    blurred = bool(beside.any()) and near[beside].mean() > (_BLURRED_IF_LOSSY if lossy else _BLURRED)
    if not blurred:
        # A cell's sample may lie on the other side of the collar's edge.
        return Collar(border.colour, border.value, 0, share, grown(exact) if step > 1 else exact, step)
    if exact.sum() < _MOSTLY_EXACT * near.sum() and not _is_straight(exact) and not _is_straight(near):
        return None
    cells = grown(exact, -(-_BLUR_PIXELS // step) + (step > 1))
    return Collar(border.colour, border.value, TOLERANCE, float((cells & near).mean()), cells, step)


def _with_straight(border: Border, collar: Collar | None, near: Mask, step: int) -> Collar | None:
    """The collar, and what is nearly of its colour outside of a straight-edged image, at two corners at least.

    A collar of a lossy or resampled scene may have no exact value anywhere, and in thin wedges of a scene turned by a
    degree all of it is blur.
    """
    shape = near.shape
    seeds = np.zeros(shape, dtype=bool)
    tall, wide = max(1, shape[0] // 20), max(1, shape[1] // 20)
    corners = 0
    for row in (slice(tall), slice(shape[0] - tall, None)):
        for col in (slice(wide), slice(shape[1] - wide, None)):
            seeds[row, col] = True
            corners += bool(near[row, col].any() and near[row, col][[0, -1]].any())
    wedges = flooded(near, seeds & _border_of(shape))
    if corners < 2 or wedges.mean() < _MIN_SHARE or _contact(wedges) < _MIN_STRAIGHT_CONTACT:
        return collar
    if not _is_straight(wedges):
        return collar
    cells = wedges & ~shrunk(_image_hull(wedges), 1)
    cells = grown(cells) if step > 1 else cells
    if collar is not None:
        cells |= collar.cells
    value = border.value
    return Collar(border.colour, value, TOLERANCE, float((cells & near).mean()), cells, step)


def _is_straight(border: Mask) -> bool:
    """Whether the image beside the border is convex, as a rotated or clipped one is and a coast is not."""
    hull = shrunk(_image_hull(border), 1)
    return bool(hull.any()) and float((border & hull).sum()) <= _MOST_IN_HULL * float(border.sum())


def _image_hull(border: Mask) -> Mask:
    # Single cells inside the border that are not of its colour (ringing) must not stretch the hull.
    return inside_hull(grown(shrunk(~border)))


def _contact(mask: Mask) -> float:
    """Longest run along one side of the array, as a share of that side."""
    return max(longest_run(line) / line.size for line in (mask[0], mask[-1], mask[:, 0], mask[:, -1]))


def _border_of(shape: tuple[int, ...]) -> Mask:
    border = np.zeros(shape, dtype=bool)
    border[[0, -1]] = True
    border[:, [0, -1]] = True
    return border


def _corners(source: DatasetReader, bands: tuple[int, ...], rule: ValidRule) -> list[NDArray[Any]]:
    """Pixels (bands, h, w) at each corner, turned so that the corner comes first; without those a mask leaves out."""
    height, width = min(_CORNER, source.height), min(_CORNER, source.width)
    corners = []
    for row, down in ((0, 1), (source.height - height, -1)):
        for col, across in ((0, 1), (source.width - width, -1)):
            window = Window(col, row, width, height)
            pixels = read_bands(source, bands, window)
            # Of bytes, a tag may name the collar's value and yet not what lossy compression made of it.
            asked = rule.has_mask or pixels.dtype != np.uint8
            valid = rule.valid(source, pixels, window=raster_window(window)) if asked else None
            if valid is None or valid[::down, ::across][0].mean() > 0.5 or valid[::down, ::across][:, 0].mean() > 0.5:
                corners.append(pixels[:, ::down, ::across])
    return corners


def _borders(corners: list[NDArray[Any]], dtype: np.dtype[Any]) -> Iterator[Border]:
    """Colours that a corner begins with along one of its sides, black and white before others."""
    if not corners:
        return
    bands = len(corners[0])
    tolerance = TOLERANCE if dtype == np.uint8 else 0
    ends = [("black", 0.0)]
    if np.issubdtype(dtype, np.integer):
        ends.append(("white", float(np.iinfo(dtype).max)))
    known = []
    for colour, end in ends:
        begin = [corner for corner in corners if _begins_with(within(corner, (end,) * bands, tolerance))]
        if begin:
            value = _usual(begin, end, tolerance)
            known.append(value)
            yield Border(colour, value, len(begin))
    uniform = {_uniform(corner) for corner in corners}
    if len(corners) == 4 and len(uniform) == 1:
        only = uniform.pop()
        if only is not None and only not in known:
            yield Border("/".join(f"{value:g}" for value in dict.fromkeys(only)), only, 4)


def _begins_with(mask: Mask) -> bool:
    """Whether nearly all that a corner's outermost row or column begins with is of the colour."""
    return bool(max(mask[0, :_BEGIN].mean(), mask[:_BEGIN, 0].mean()) >= _BEGIN_SHARE)


def _usual(corners: list[NDArray[Any]], end: float, tolerance: float) -> tuple[float, ...]:
    """The value most pixels near the end of the range have at these corners (JPEG's black may be 1)."""
    if tolerance == 0:
        return (end,) * len(corners[0])
    pixels = np.concatenate([corner.reshape(len(corner), -1) for corner in corners], axis=1)
    near = pixels[:, (np.abs(pixels - end) <= tolerance).all(axis=0)]
    unique, counts = np.unique(near, axis=1, return_counts=True)
    return tuple(float(value) for value in unique[:, counts.argmax()])


def _uniform(corner: NDArray[Any]) -> tuple[float, ...] | None:
    """The value of a corner's first 4 x 4 pixels, if it is one."""
    part = corner[:, :4, :4]
    first = part[:, :1, :1]
    if not bool((part == first).all()) or not bool(np.isfinite(first).all()):
        return None
    return tuple(float(value) for value in first[:, 0, 0])
