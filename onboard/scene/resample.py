"""A scene seen through other pixels: averages of its own where they are larger, cubics where they are smaller.

Only whole blocks at full resolution are read, never overviews: these may be absent, stale or empty. They are read
piece by piece, so memory does not grow with the factor. Each pixel's value depends on its place alone, not on the
window it is read with, and the order of all sums is fixed: equal bytes on every machine.

Bytes are averaged after the stretch, not values before it: the stretch is that of the scene as delivered, values that
mean no data (-3.4e38, not-a-number) never enter a sum, and a byte a pixel is moved instead of two to eight.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onboard.scene.grid import Window
from onboard.scene.reader import Decisions, Scene, SceneOptions, ScenePixels

RESAMPLING_VERSION = 1
"""Part of the identity of canvases of resampled scenes: raised when the same scene would give other pixels."""
_PIECE = 1024
_PIECE_PIXELS = 4 << 20
_CUBIC_REACH = 2

Reals = NDArray[np.float32]


class ResampledScene(Scene):
    """A scene of another size over the same ground; all else is as in the scene's own file.

    A pixel holds data where at least half of its area does; its colour is then that of the valid part alone.

    Args:
        path: as of `Scene`; so are options, decisions and decoders.
        size: (width, height) in pixels.
    """

    def __init__(
        self, path: Path, options: SceneOptions, decisions: Decisions | None, decoders: str, *, size: tuple[int, int]
    ) -> None:
        super().__init__(path, options, decisions, decoders)
        self.full_size = self.width, self.height
        self.width, self.height = size
        self.georeference = self.georeference.scaled(self.full_size[0] / size[0], self.full_size[1] / size[1])
        self._is_enlarged = all(mine >= full for mine, full in zip(size, self.full_size, strict=True))

    def reopen(self) -> ResampledScene:
        """Another handle, as of `Scene`."""
        return ResampledScene(self.path, self.options, self.decisions, "ALL_CPUS", size=(self.width, self.height))

    def read(self, window: Window) -> ScenePixels:
        """As of `Scene`, in this scene's own pixels."""
        taps = self._taps(window)
        if self._is_enlarged:
            return self._read_enlarged(window, *taps)
        total = _Sums(len(self.bands.indexes), *taps)
        for piece in self._pieces(*taps):
            total.add(piece, super().read(piece))
        return total.averages()

    def _taps(self, window: Window) -> tuple[Taps, Taps]:
        """Down and across."""
        return (
            area_taps(self.full_size[1], self.height, window.row, window.row + window.height),
            area_taps(self.full_size[0], self.width, window.col, window.col + window.width),
        )

    def _read_enlarged(self, window: Window, down: Taps, across: Taps) -> ScenePixels:
        """At once: the scene's own pixels are the fewer ones."""
        by_rows = cubic_taps(self.full_size[1], self.height, window.row, window.row + window.height)
        by_cols = cubic_taps(self.full_size[0], self.width, window.col, window.col + window.width)
        rows, cols = by_rows.span, by_cols.span
        piece = Window(cols[0], rows[0], cols[1] - cols[0], rows[1] - rows[0])
        read = super().read(piece)
        colour = _along_both(read.pixels, by_rows, by_cols, piece)
        if read.valid is None or read.valid.all():
            return ScenePixels(_bytes(colour), None)
        averages = _Sums(len(read.pixels), down, across)
        averages.add(piece, read)
        plain = averages.averages()
        # A cubic takes in neighbours, and part of them negatively: beside what is no data only the average is clean.
        lost = _along_both(~read.valid[np.newaxis], by_rows.touching, by_cols.touching, piece)[0] > 0
        return ScenePixels(np.where(lost, plain.pixels, _bytes(colour)), plain.valid)

    def _pieces(self, down: Taps, across: Taps) -> Iterator[Window]:
        """Windows of the scene's own pixels, row by row, cut at the same places whatever is read."""
        block_height, block_width = self._source.block_shapes[0]
        wide = self.full_size[0] if block_width >= self.full_size[0] else _piece(block_width)
        tall = min(_piece(block_height), max(1, _PIECE_PIXELS // wide))
        for top, bottom in _cuts(down.span, tall):
            for left, right in _cuts(across.span, wide):
                yield Window(left, top, right - left, bottom - top)


def read_at(scene: Scene, size: tuple[int, int]) -> Scene:
    """The same scene in (width, height) pixels, on a handle of its own; the caller closes it."""
    return ResampledScene(scene.path, scene.options, scene.decisions, "1", size=size)


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
        np.add.at(weights, (np.arange(len(centre)), place), near[:, tap])
    return Taps(first, weights.astype(np.float32))


class _Sums:
    """Sums over pieces, for one window: of all pixels, and of those that hold no data."""

    def __init__(self, bands: int, down: Taps, across: Taps) -> None:
        self._down, self._across = down, across
        shape = len(down.first), len(across.first)
        self._all = np.zeros((bands, *shape), np.float32)
        self._lost: Reals | None = None
        self._lost_share = np.zeros((1, *shape), np.float32)

    def add(self, piece: Window, read: ScenePixels) -> None:
        """Adds what a piece has a share in."""
        rows = self._down.within(piece.row, piece.row + piece.height)
        cols = self._across.within(piece.col, piece.col + piece.width)
        shares = self._down[rows], self._across[cols]
        self._all[:, rows, cols] += _along_both(read.pixels, *shares, piece)
        if read.valid is None or read.valid.all():
            return
        if self._lost is None:
            self._lost = np.zeros_like(self._all)
        lost = ~read.valid[np.newaxis]
        self._lost[:, rows, cols] += _along_both(read.pixels * lost, *shares, piece)
        self._lost_share[:, rows, cols] += _along_both(lost, *shares, piece)

    def averages(self) -> ScenePixels:
        """Of the valid part where that is at least half, of all pixels elsewhere."""
        if self._lost is None:
            return ScenePixels(_bytes(self._all), None)
        share = 1 - self._lost_share
        # Shares of single pixels are rounded: half of a pixel may come as a little less.
        valid = share >= np.float32(0.5 - 1e-5)
        clean = (self._all - self._lost) / np.where(valid, share, 1)
        return ScenePixels(_bytes(np.where(valid, clean, self._all)), valid[0])


def _along_both(pixels: NDArray[np.uint8] | NDArray[np.bool_], down: Taps, across: Taps, piece: Window) -> Reals:
    """Weighted sums (bands, rows, cols) of a piece's pixels (bands, h, w), down first: rows lie together."""
    return _along(_along(pixels, down, piece.row, axis=1), across, piece.col, axis=2)


def _along(pixels: NDArray[np.generic], taps: Taps, offset: int, *, axis: int) -> Reals:
    length = pixels.shape[axis]
    total: Reals | None = None
    for tap in range(taps.weights.shape[1]):
        index = taps.first + (tap - offset)
        inside = (index >= 0) & (index < length)
        weights = np.where(inside, taps.weights[:, tap], np.float32(0))
        if not weights.any():
            continue
        # Taken as bytes, then widened: three times as fast as a product of mixed types.
        part: Reals = np.take(pixels, np.clip(index, 0, length - 1), axis=axis).astype(np.float32, copy=False)
        part *= weights[:, np.newaxis] if axis == 1 else weights
        total = part if total is None else np.add(total, part, out=total)
    if total is not None:
        return total
    return np.zeros((*pixels.shape[:axis], len(taps.first), *pixels.shape[axis + 1 :]), np.float32)


def _bytes(values: Reals) -> NDArray[np.uint8]:
    rounded: NDArray[np.uint8] = np.clip(values + np.float32(0.5), 0, 255).astype(np.uint8)
    return rounded


def _piece(block: int) -> int:
    """Whole blocks, about `_PIECE` pixels; parts of a larger block, which GDAL keeps decoded meanwhile."""
    return _PIECE if block >= _PIECE else _PIECE // block * block


def _cuts(span: tuple[int, int], step: int) -> Iterator[tuple[int, int]]:
    for begin in range(span[0] // step * step, span[1], step):
        yield max(begin, span[0]), min(begin + step, span[1])
