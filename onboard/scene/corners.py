"""Colours at a scene's corners: those that a collar may have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onboard.scene.cells import within
from onboard.scene.flood import Mask
from onboard.scene.grid import Window
from onboard.scene.sample import raster_window, read_bands
from onboard.scene.valid import ValidRule

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

NEAR = 15
"""How far an integer may be from black or white; GDAL's nearblack takes as much by default."""
BEGIN_SHARE = 0.9
_BEGIN = 16
# A flat block's mean is rounded by half of JPEG's coarsest step for it, 8 values a unit: black may come out as 1.
_MOST_OFF = 2
_CORNER = 64


@dataclass(frozen=True)
class Border:
    """A colour that a collar may have: its name, its value in each chosen band, and corners that begin with it."""

    colour: str
    value: tuple[float, ...]
    corners: int


def corners_of(source: DatasetReader, bands: tuple[int, ...], rule: ValidRule) -> list[NDArray[Any]]:
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


def borders(corners: list[NDArray[Any]], dtype: np.dtype[Any]) -> Iterator[Border]:
    """Colours that a corner begins with along one of its sides, black and white before others."""
    if not corners:
        return
    bands = len(corners[0])
    tolerance = NEAR if np.issubdtype(dtype, np.integer) else 0
    ends = [("black", 0.0)]
    # Of floats no value is white: their type's largest is a fill, which the no-data rules find.
    if np.issubdtype(dtype, np.integer):
        ends.append(("white", float(np.iinfo(dtype).max)))
    known = []
    for colour, end in ends:
        begin = [corner for corner in corners if _begins_with(within(corner, (end,) * bands, tolerance))]
        if begin:
            value = _usual(begin, end, tolerance)
            known.append(value)
            yield Border(colour, value, len(begin))
    # Another colour counts only at all four corners: one corner of one colour is a roof or a field.
    uniform = {_uniform(corner) for corner in corners}
    if len(corners) == 4 and len(uniform) == 1:
        only = uniform.pop()
        if only is not None and only not in known:
            yield Border("/".join(f"{value:g}" for value in dict.fromkeys(only)), only, 4)


def _begins_with(mask: Mask) -> bool:
    """Whether nearly all that a corner's outermost row or column begins with is of the colour."""
    return bool(max(mask[0, :_BEGIN].mean(), mask[:_BEGIN, 0].mean()) >= BEGIN_SHARE)


def _usual(corners: list[NDArray[Any]], end: float, tolerance: float) -> tuple[float, ...]:
    """The value most pixels at the end of the range have at these corners."""
    if tolerance == 0:
        return (end,) * len(corners[0])
    pixels = np.concatenate([corner.reshape(len(corner), -1) for corner in corners], axis=1)
    near = pixels[:, within(pixels, (end,) * len(pixels), _MOST_OFF)]
    if near.size == 0:
        return (end,) * len(pixels)
    unique, counts = np.unique(near, axis=1, return_counts=True)
    return tuple(float(value) for value in unique[:, counts.argmax()])


def _uniform(corner: NDArray[Any]) -> tuple[float, ...] | None:
    """The value of a corner's first 4 x 4 pixels, if it is one."""
    part = corner[:, :4, :4]
    first = part[:, :1, :1]
    if not bool((part == first).all()) or not bool(np.isfinite(first).all()):
        return None
    return tuple(float(value) for value in first[:, 0, 0])
