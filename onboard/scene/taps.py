"""Weights by which a scene's pixels make larger or smaller ones, along each axis by itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onboard.scene.grid import Window

_CUBIC_REACH = 2

Reals = NDArray[np.float32]


@dataclass(frozen=True)
class Taps:
    """Which source pixels, by which share, make each of n target pixels along one axis.

    Attributes:
        first: (n,) index of the first source pixel.
        weights: (n, k) of it and those that follow; their sum is 1 for each target pixel.
    """

    first: NDArray[np.int64]
    weights: Reals

    @property
    def span(self) -> tuple[int, int]:
        """First source pixel that counts, and the one after the last."""
        ends = self.first + self.weights.shape[1] - np.argmax(self.weights[:, ::-1] != 0, axis=1)
        return int(self.first.min()), int(ends.max())

    @property
    def touching(self) -> Taps:
        """The same source pixels, each with weight 1."""
        return Taps(self.first, (self.weights != 0).astype(np.float32))

    def within(self, start: int, stop: int) -> slice:
        """Target pixels that source pixels from `start` to `stop` have a share in."""
        near = (self.first < stop) & (self.first + self.weights.shape[1] > start)
        places = np.flatnonzero(near)
        return slice(int(places[0]), int(places[-1]) + 1) if places.size else slice(0, 0)

    def __getitem__(self, targets: slice) -> Taps:
        return Taps(self.first[targets], self.weights[targets])


def area_taps(source: int, target: int, start: int, stop: int) -> Taps:
    """Shares of area, for target pixels from `start` to `stop` of `target` that cover `source` pixels.

    In whole numbers of 1 / `target` source pixels, so they are exact.
    """
    low = np.arange(start, stop, dtype=np.int64) * source
    first = low // target
    count = int(((low + source - 1) // target - first).max()) + 1
    begin = (first[:, np.newaxis] + np.arange(count)) * target
    end = np.minimum(begin + target, low[:, np.newaxis] + source)
    # Up to here in whole numbers: only the division rounds, once.
    shares = np.maximum(end - np.maximum(begin, low[:, np.newaxis]), 0)
    return Taps(first, (shares / source).astype(np.float32))


def cubic_taps(source: int, target: int, start: int, stop: int) -> Taps:
    """Cubic convolution; beyond the scene's border its last pixel goes on.

    Source: R. G. Keys, "Cubic convolution interpolation for digital image processing", 1981, equation 15 (a = -1/2).
    """
    centre = (np.arange(start, stop) + 0.5) * source / target - 0.5
    before = np.floor(centre).astype(np.int64)
    t = centre - before
    near = np.stack([
        -t / 2 + t**2 - t**3 / 2,
        1 - 5 * t**2 / 2 + 3 * t**3 / 2,
        t / 2 + 2 * t**2 - 3 * t**3 / 2,
        -(t**2) / 2 + t**3 / 2,
    ], axis=1)  # fmt: skip
    count = min(2 * _CUBIC_REACH, source)
    first = np.clip(before - 1, 0, source - count)
    weights = np.zeros((len(centre), count))
    for tap in range(2 * _CUBIC_REACH):
        place = np.clip(before - 1 + tap, 0, source - 1) - first
        # At a border several taps fall on one pixel: `add.at` adds them all, plain indexing would keep the last.
        np.add.at(weights, (np.arange(len(centre)), place), near[:, tap])
    return Taps(first, weights.astype(np.float32))


def weighted_sums(pixels: NDArray[np.uint8] | NDArray[np.bool_], down: Taps, across: Taps, piece: Window) -> Reals:
    """Weighted sums (bands, rows, cols) of a piece's pixels (bands, h, w), down first: rows lie together."""
    sums = np.empty((len(pixels), len(down.first), len(across.first)), np.float32)
    for band, total in zip(pixels, sums, strict=True):  # what is made on the way stays in the processor's cache
        total[:] = _along(_along(band, down, piece.row, axis=0), across, piece.col, axis=1)
    return sums


def _along(pixels: NDArray[np.generic], taps: Taps, offset: int, *, axis: int) -> Reals:
    length = pixels.shape[axis]
    # Tap after tap, in one order: a product of matrices may sum in another order on another machine.
    total: Reals | None = None
    for tap in range(taps.weights.shape[1]):
        index = taps.first + (tap - offset)
        inside = (index >= 0) & (index < length)
        weights = np.where(inside, taps.weights[:, tap], np.float32(0))
        if not weights.any():
            continue
        # Taken as bytes, then widened: three times as fast as a product of mixed types.
        part: Reals = np.take(pixels, np.clip(index, 0, length - 1), axis=axis).astype(np.float32, copy=False)
        part *= weights if axis else weights[:, np.newaxis]
        total = part if total is None else np.add(total, part, out=total)
    if total is not None:
        return total
    return np.zeros((len(taps.first), pixels.shape[1]) if axis == 0 else (len(pixels), len(taps.first)), np.float32)
