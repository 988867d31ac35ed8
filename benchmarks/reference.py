"""The reference for tiled maps: probabilities averaged over tiles that overlap by three quarters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.twin import Twin
from onboard.scene.grid import Window, pad_to_tile

Classes = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Counts = NDArray[np.int64]
NEAR_PX = 32
"""Pixels this close to a border between tiles are near it."""
BLOCK_PX = 256
"""Side of the blocks that are resampled: neighbouring pixels err together."""


def starts(length: int, size: int, step: int) -> list[int]:
    """First pixels of tiles along an axis, the last one shifted inwards."""
    return [0] if length <= size else [*range(0, length - size, step), length - size]


def reference_classes(
    twin: Twin, pixels: NDArray[np.uint8], within: Window | None = None, *, step: int | None = None
) -> Classes:
    """Places 0..K-1 of the likeliest class after averaging, uint8 (h, w) of the window.

    Args:
        twin: of the model.
        pixels: uint8 (bands, H, W).
        within: the part wanted, by default all; tiles around it that reach into it count too.
        step: pixels from tile to tile; by default a quarter of a tile.
    """
    _, height, width = pixels.shape
    part = within or Window(0, 0, width, height)
    # Of the window alone: all of a large scene would be K float32 numbers a pixel.
    total = np.zeros((twin.classes, part.height, part.width), np.float32)
    step = step or twin.size // 4
    for row in starts(height, twin.size, step):
        for col in starts(width, twin.size, step):
            # Tiles that do not reach into the window are not inferred.
            met = _met(part, row, col, twin.size)
            if met is None:
                continue
            inside, of_tile = met
            tile = pad_to_tile(pixels[:, row : row + twin.size, col : col + twin.size], twin.size)
            total[(slice(None), *inside)] += twin(tile[np.newaxis])[(0, slice(None), *of_tile)]
    places: Classes = total.argmax(axis=0).astype(np.uint8)
    return places


def near(length: int, borders: Sequence[int]) -> NDArray[np.bool_]:
    """Which of an axis's pixels are near one of these borders."""
    places = np.arange(length)
    close = np.zeros(length, bool)
    for border in borders:
        # As many pixels on either side of the border, which lies before its first pixel.
        close |= (places >= border - NEAR_PX) & (places < border + NEAR_PX)
    return close


def near_mask(height: int, width: int, rows: Sequence[int], cols: Sequence[int]) -> Mask:
    """Pixels (h, w) near a border between tiles: `rows` and `cols` are first pixels of the later tile."""
    mask: Mask = near(height, rows)[:, np.newaxis] | near(width, cols)[np.newaxis]
    return mask


def block_counts(mapped: Classes, expected: Classes, mask: Mask) -> Counts:
    """Pixels (n, 4) of each block: differing and all of those near borders, then of those elsewhere."""
    unequal = mapped != expected
    of_pixel = np.stack([unequal & mask, mask, unequal & ~mask, ~mask])
    rows, columns = (np.arange(0, length, BLOCK_PX) for length in mapped.shape)
    # Blocks at the far edges may be smaller: their counts weigh by their pixels.
    sums = np.add.reduceat(np.add.reduceat(of_pixel, rows, axis=1, dtype=np.int64), columns, axis=2)
    return sums.reshape(4, -1).T


def shares(counts: Counts) -> tuple[float, float]:
    """Shares of pixels that differ: near borders (NaN where there are none), and elsewhere."""
    near, elsewhere = _shares(counts.sum(axis=0).astype(np.float64))
    return float(near), float(elsewhere)


def difference(ours: Counts, theirs: Counts, *, draws: int = 4000, seed: int = 0) -> dict[str, list[float]]:
    """What ours has over theirs, in points: [difference, low, high], of "near" and of "seam", near less elsewhere.

    The interval holds 95 % of resamplings of the blocks, the same blocks for both, since a place that is hard is hard
    for both. Source: trainer/evaluate/bootstrap.py names it.
    """
    taken = np.random.default_rng(seed).multinomial(len(ours), np.full(len(ours), 1 / len(ours)), size=draws)
    taken = np.concatenate([np.ones((1, len(ours)), np.int64), taken])  # first: as they are
    near, elsewhere = (
        100 * (a - b) for a, b in zip(_shares(taken @ ours), _shares(taken @ theirs), strict=True)
    )  # fmt: skip
    figures = {}
    for name, values in (("near", near), ("seam", near - elsewhere)):
        # A resampling may hold no pixel near a border, which is NaN and no figure.
        low, high = np.nanpercentile(values[1:], [2.5, 97.5])
        figures[name] = [round(float(value), 4) for value in (values[0], low, high)]
    return figures


def _shares(sums: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums[..., 0] / sums[..., 1], sums[..., 2] / sums[..., 3]


def _met(part: Window, row: int, col: int, size: int) -> tuple[tuple[slice, slice], tuple[slice, slice]] | None:
    """Where a tile meets the window: slices of the window and of the tile."""
    spans = list(_spans(((part.row, part.height, row), (part.col, part.width, col)), size))
    if any(first >= last for first, last, _, _ in spans):
        return None
    inside = tuple(slice(first - begin, last - begin) for first, last, begin, _ in spans)
    of_tile = tuple(slice(first - start, last - start) for first, last, _, start in spans)
    return inside, of_tile  # type: ignore[return-value]


def _spans(axes: Sequence[tuple[int, int, int]], size: int) -> Iterator[tuple[int, int, int, int]]:
    for begin, length, start in axes:
        yield max(begin, start), min(begin + length, start + size), begin, start
