"""Untagged collars: the uniform border around a rotated or clipped scene.

Only a scene with a corner of one colour is looked at further, and only where that colour goes on from there: what is
read twice is the collar and the blocks beside it. Whether what was found is a collar or dark water, snow or a white
roof, its edge says: that of a collar is straight (the image inside is convex), or sharp, or blurred no wider than lossy
compression blurs. Of a straight-edged one, what reaches into the image is not taken: water that is as black, sand that
is as white. Connection to the border is decided on at most 2,048 cells a side (memory stays bounded), colour at full
resolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onboard.scene.cells import Cells, within
from onboard.scene.corners import BEGIN_SHARE, NEAR, Border, borders, corners_of
from onboard.scene.flood import Mask, flooded, grown, in_long_runs, inside_hull, longest_run, shrunk
from onboard.scene.grid import Window
from onboard.scene.valid import LOSSY, ValidRule

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

_MIN_SIDE = 16
# The smaller one is for collars beside dark water.
# The larger one is for thin wedges that are all ringing, of which only a straight edge says what they are.
TOLERANCE, _CLOSE, _LOOSE = NEAR, 4, 30
# Lossy codecs blur within a block: 16 pixels where colour is halved (JPEG 4:2:0), 8 else.
_BLUR_PIXELS, _BLOCK_PIXELS = 16, 8
_MIN_SHARE, _MAX_SHARE = 1e-3, 0.99
_SOLID_RUN, _SOLID_SHARE = 12, 0.9
# Share of the cells beside an exact collar that are nearly of its colour: the edge is blurred from here on.
_BLURRED, _BLURRED_IF_LOSSY = 0.3, 0.05
_MOSTLY_EXACT = 0.9
_MUCH_MORE = 1.05
# Share of the cells along a straight edge that are not of the border's colour: of one at all,
# of one that is not of an image turned in its box, of an exact one.
_EDGE_SHARE, _SHARP_EDGE_SHARE, _EXACT_EDGE_SHARE = 0.6, 0.85, 0.9
# Longest run along a side, as a share of it. White is also what roofs, clouds and snow are.
_MIN_CONTACT = {"black": 0.1, "white": 0.2}
_MIN_STRAIGHT_CONTACT = 0.25


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
    # 15 of 255 is little, and less of longer integers; of floats' ranges nobody knows.
    tolerances = (0, _CLOSE, TOLERANCE, _LOOSE) if np.issubdtype(dtype, np.integer) else (0,)
    for border in borders(corners_of(source, bands, rule), dtype):
        cells = Cells(source, bands, border.value, tolerances)
        cells.follow()
        collar = _exact_collar(border, cells, lossy)
        if np.issubdtype(dtype, np.integer) and border.colour in _MIN_CONTACT:
            collar = _with_straight(border, collar, cells)
        # Of a scene that is nearly black all over, or of one grey, nothing says that it is no image.
        is_certain = collar is not None and collar.tolerance == 0 and border.colour in _MIN_CONTACT
        if collar is not None and (is_certain or collar.share < _MAX_SHARE):
            return collar
    return None


def _exact_collar(border: Border, cells: Cells, lossy: bool) -> Collar | None:
    """The collar of pixels with exactly the border's value and the blur around it; None where they are no collar."""
    step, near = cells.step, cells.within.get(TOLERANCE, cells.within[0])
    exact = flooded(cells.within[0])
    outside, hull = _outside_image(exact)
    is_straight = _is_collar(border, outside) and _edge_share(exact, outside, hull, step) >= _EDGE_SHARE
    collar = outside if is_straight else exact
    if not _is_collar(border, collar):
        return None
    is_exact = is_straight and _edge_share(exact, outside, hull, _BLOCK_PIXELS) >= _EXACT_EDGE_SHARE
    if is_exact or not _is_blurred(exact, collar, near, step, lossy):
        # A cell's sample may lie on the other side of the collar's edge.
        return Collar(border.colour, border.value, 0, float(collar.mean()), grown(collar) if step > 1 else collar, step)
    blurred = flooded(near)
    edge, hull = _outside_image(blurred)
    if collar.sum() >= edge.sum() / 4 and _edge_share(blurred, edge, hull, step) >= _EDGE_SHARE:
        wide = (grown(edge) if step > 1 else edge) | collar
    elif is_straight or exact.sum() >= _MOSTLY_EXACT * blurred.sum():
        wide = grown(collar, -(-_BLUR_PIXELS // step) + (step > 1))
    else:
        return None
    return Collar(border.colour, border.value, TOLERANCE, float((wide & near).mean()), wide, step)


def _is_blurred(exact: Mask, collar: Mask, near: Mask, step: int, lossy: bool) -> bool:
    """Whether what lies beside a collar of exact values is often nearly of its colour, as lossy compression makes it.

    Asked only where an image of another colour follows within the blur's width: dark water is nearly black anyhow.
    """
    contrast = grown(shrunk(~near, max(1, 3 // step)), -(-_BLUR_PIXELS // step))
    beside = grown(collar) & ~collar & ~exact & contrast
    if not beside.any():
        return lossy
    return bool(near[beside].mean() > (_BLURRED_IF_LOSSY if lossy else _BLURRED))


def _is_collar(border: Border, mask: Mask) -> bool:
    """Whether it is large enough, solid, and long enough beside the scene's border."""
    if mask.mean() < _MIN_SHARE or _contact(mask) < _MIN_CONTACT.get(border.colour, _MIN_CONTACT["black"]):
        return False
    return float(in_long_runs(mask, _SOLID_RUN)[mask].mean()) >= _SOLID_SHARE


def _with_straight(border: Border, collar: Collar | None, cells: Cells) -> Collar | None:
    """The collar, and what is nearly of its colour outside of a straight-edged image, at two corners at least.

    A collar of a lossy or resampled scene may have no exact value anywhere, and in thin wedges of a scene turned by a
    degree all of it is blur.
    """
    step = cells.step
    for tolerance in (TOLERANCE, _CLOSE, _LOOSE):
        near = cells.within[tolerance]
        seeds = _corner_seeds(near.shape)
        wedges = flooded(near, seeds)
        outside, hull = _outside_image(wedges)
        if _corners_of(outside) < 2 or outside.mean() < _MIN_SHARE or _contact(outside) < _MIN_STRAIGHT_CONTACT:
            continue
        # Beyond the blur a collar is nearly one value; water is not.
        deep = outside & ~grown(~outside, -(-_BLUR_PIXELS // step))
        is_one_value = not deep.any() or cells.within[_CLOSE][deep].mean() >= _SOLID_SHARE
        edge_share = _edge_share(wedges, outside, hull, step)
        if not is_one_value or edge_share < (_EDGE_SHARE if _reaches_all_sides(hull) else _SHARP_EDGE_SHARE):
            continue
        border_cells = grown(outside) if step > 1 else outside
        if collar is not None:
            if outside.sum() <= _MUCH_MORE * (collar.cells & near).sum():
                return collar
            border_cells = border_cells | collar.cells
        widest = max(tolerance, 0 if collar is None else collar.tolerance)
        return Collar(border.colour, border.value, widest, float((border_cells & near).mean()), border_cells, step)
    return collar


def _outside_image(border: Mask) -> tuple[Mask, Mask]:
    """Of cells of the border's colour, those outside of the image (as if it were convex); and its hull."""
    # Single cells inside the border that are not of its colour (ringing) must not stretch the hull.
    hull = inside_hull(grown(shrunk(~border)))
    return border & ~shrunk(hull), hull


def _reaches_all_sides(hull: Mask) -> bool:
    """Whether the image reaches all four sides, as one that was turned does in the box around it."""
    tall, wide = (max(2, cells // 50) for cells in hull.shape)
    return all(bool(part.any()) for part in (hull[:tall], hull[-tall:], hull[:, :wide], hull[:, -wide:]))


def _edge_share(border: Mask, outside: Mask, hull: Mask, step: int) -> float:
    """Share of the cells along the straight edge, a block deep, that are not of the border's colour.

    Near 1 where the image really ends there; near 0 where a straight line merely cuts through water or snow.
    """
    edge = grown(outside, max(1, _BLOCK_PIXELS // step)) & shrunk(hull)
    return float((~border)[edge].mean()) if edge.any() else 0.0


def _corners_of(outside: Mask) -> int:
    """At how many corners of the array the mask begins and goes on along one side for a while."""
    count = 0
    for rows, cols in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        turned = outside[::rows, ::cols]
        lines = (line[: max(1, round(_MIN_CONTACT["black"] * line.size))] for line in (turned[0], turned[:, 0]))
        count += any(line.mean() >= BEGIN_SHARE for line in lines)
    return count


def _corner_slices(shape: tuple[int, ...]) -> list[tuple[slice, slice]]:
    tall, wide = max(1, shape[0] // 20), max(1, shape[1] // 20)
    return [
        (rows, cols)
        for rows in (slice(tall), slice(shape[0] - tall, None))
        for cols in (slice(wide), slice(shape[1] - wide, None))
    ]


def _corner_seeds(shape: tuple[int, ...]) -> Mask:
    """Cells of the border near its corners."""
    border, corners = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    border[[0, -1]] = True
    border[:, [0, -1]] = True
    for rows, cols in _corner_slices(shape):
        corners[rows, cols] = True
    return border & corners


def _contact(mask: Mask) -> float:
    """Longest run along one side of the array, as a share of that side."""
    return max(longest_run(line) / line.size for line in (mask[0], mask[-1], mask[:, 0], mask[:, -1]))
