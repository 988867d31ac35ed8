"""A scene read at another pixel size: averages for larger pixels, cubic interpolation for smaller ones.

Only whole blocks at full resolution are read, never overviews: these may be absent, stale or empty. They are read
piece by piece, so memory does not grow with the factor. Each pixel's value depends on its place alone, not on the
window it is read with, and the order of all sums is fixed: equal bytes on every machine.

Bytes are averaged after the stretch, not values before it: the stretch is that of the scene as delivered, values that
mean no data (-3.4e38, not-a-number) never enter a sum, and a byte a pixel is moved instead of two to eight.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onboard.scene.gdal_env import CACHE_BYTES
from onboard.scene.grid import Window
from onboard.scene.reader import Decisions, Scene, SceneOptions, ScenePixels
from onboard.scene.taps import Reals, Taps, area_taps, cubic_taps, weighted_sums

RESAMPLING_VERSION = 1
"""Part of the identity of canvases of resampled scenes: raised when the same scene would give other pixels."""
_PIECE = 1024
_PIECE_PIXELS = 4 << 20
_BAND_BYTES = 64 << 20
"""Of a row of tiles kept reduced, at most."""
_SUM_ROWS = 256
"""Of the scene's own rows, whose sums are made at once; about."""


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
        self._band: tuple[slice, ScenePixels] | None = None

    def reopen(self) -> ResampledScene:
        """Another handle, as of `Scene`."""
        return ResampledScene(self.path, self.options, self.decisions, "ALL_CPUS", size=(self.width, self.height))

    def read(self, window: Window) -> ScenePixels:
        """As of `Scene`, in this scene's own pixels."""
        # On both axes; where one of them is reduced, averages by area serve both.
        if self._is_enlarged:
            return self._read_enlarged(window)
        return self._from_band(window) if self._wants_band(window) else self._reduced(window)

    def _reduced(self, window: Window) -> ScenePixels:
        """A few rows at a time: sums are kept in four bytes a value."""
        pixels = np.empty((len(self.bands.indexes), window.height, window.width), np.uint8)
        valid: NDArray[np.bool_] | None = None
        step = max(1, _SUM_ROWS * self.height // self.full_size[1])
        for top in range(0, window.height, step):
            rows = slice(top, min(top + step, window.height))
            part = self._reduced_rows(Window(window.col, window.row + top, window.width, rows.stop - top))
            pixels[:, rows] = part.pixels
            if part.valid is not None:
                valid = np.ones(pixels.shape[1:], np.bool_) if valid is None else valid
                valid[rows] = part.valid
        return ScenePixels(pixels, valid)

    def _reduced_rows(self, window: Window) -> ScenePixels:
        down, across = self._taps(window)
        total = _Sums(len(self.bands.indexes), down, across)
        for piece in self._pieces(down, across):
            total.add(piece, super().read(piece))
        return total.averages()

    def _wants_band(self, window: Window) -> bool:
        """Whether the next tile would decode all strips anew: a row of tiles is more than GDAL keeps of it."""
        width, height = self.full_size
        # Only of strips as wide as the scene each tile decodes what its neighbours did; a window that wide has none.
        if self._source.block_shapes[0][1] < width or window.width == self.width:
            return False
        decoded = window.height * height / self.height * width * self.count * np.dtype(self.dtype).itemsize
        band = window.height * self.width * (len(self.bands.indexes) + 1)
        return bool(decoded > CACHE_BYTES / 2 and band <= _BAND_BYTES)

    def _from_band(self, window: Window) -> ScenePixels:
        """Of the whole row of tiles, reduced once and kept until another one is asked for."""
        if self._band is None or self._band[0] != window.rows:
            self._band = window.rows, self._reduced(Window(0, window.row, self.width, window.height))
        band = self._band[1]
        # Copies: a view of a tile would keep the whole band in memory.
        valid_part = None if band.valid is None else band.valid[:, window.cols].copy()
        return ScenePixels(band.pixels[:, :, window.cols].copy(), valid_part)

    def _taps(self, window: Window) -> tuple[Taps, Taps]:
        """Down and across."""
        return (
            area_taps(self.full_size[1], self.height, window.row, window.row + window.height),
            area_taps(self.full_size[0], self.width, window.col, window.col + window.width),
        )

    def _read_enlarged(self, window: Window) -> ScenePixels:
        """At once: the scene's own pixels are the fewer ones."""
        by_rows = cubic_taps(self.full_size[1], self.height, window.row, window.row + window.height)
        by_cols = cubic_taps(self.full_size[0], self.width, window.col, window.col + window.width)
        rows, cols = by_rows.span, by_cols.span
        piece = Window(cols[0], rows[0], cols[1] - cols[0], rows[1] - rows[0])
        read = super().read(piece)
        colour = np.clip(weighted_sums(read.pixels, by_rows, by_cols, piece), 0, 255)
        if read.valid is None or read.valid.all():
            return ScenePixels(_bytes(colour), None)
        averages = _Sums(len(read.pixels), *self._taps(window))
        averages.add(piece, read)
        plain = averages.averages()
        # A cubic takes in neighbours, and part of them negatively: beside what is no data only the average is clean.
        lost = weighted_sums(~read.valid[np.newaxis], by_rows.touching, by_cols.touching, piece)[0] > 0
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


class _Sums:
    """Sums over pieces, for one window: of all pixels, and of those that hold no data."""

    def __init__(self, bands: int, down: Taps, across: Taps) -> None:
        self._down, self._across = down, across
        shape = len(down.first), len(across.first)
        # Sums of all pixels and of lost ones, subtracted at the end: a scene without holes makes no second sum.
        self._all = np.zeros((bands, *shape), np.float32)
        self._lost: Reals | None = None
        self._lost_share = np.zeros((1, *shape), np.float32)

    def add(self, piece: Window, read: ScenePixels) -> None:
        """Adds what a piece has a share in."""
        rows = self._down.within(piece.row, piece.row + piece.height)
        cols = self._across.within(piece.col, piece.col + piece.width)
        shares = self._down[rows], self._across[cols]
        self._all[:, rows, cols] += weighted_sums(read.pixels, *shares, piece)
        if read.valid is None or read.valid.all():
            return
        if self._lost is None:
            self._lost = np.zeros_like(self._all)
        lost = ~read.valid[np.newaxis]
        self._lost[:, rows, cols] += weighted_sums(read.pixels * lost, *shares, piece)
        self._lost_share[:, rows, cols] += weighted_sums(lost, *shares, piece)

    def averages(self) -> ScenePixels:
        """Of the valid part where that is at least half, of all pixels elsewhere."""
        if self._lost is None:
            return ScenePixels(_bytes(self._all), None)
        share = 1 - self._lost_share
        # Shares of single pixels are rounded: half of a pixel may come as a little less.
        valid = share >= np.float32(0.5 - 1e-5)
        clean = np.clip((self._all - self._lost) / np.where(valid, share, 1), 0, 255)
        return ScenePixels(_bytes(np.where(valid, clean, self._all)), valid[0])


def _bytes(values: Reals) -> NDArray[np.uint8]:
    """Rounded, halves upwards; values from 0 to 255, give or take the last bit of a sum."""
    return (values + np.float32(0.5)).astype(np.uint8)


def _piece(block: int) -> int:
    """Whole blocks, about `_PIECE` pixels; parts of a larger block, which GDAL keeps decoded meanwhile."""
    return _PIECE if block >= _PIECE else _PIECE // block * block


def _cuts(span: tuple[int, int], step: int) -> Iterator[tuple[int, int]]:
    # From multiples of the step, wherever the window begins: the same sums, whatever is read.
    for begin in range(span[0] // step * step, span[1], step):
        yield max(begin, span[0]), min(begin + step, span[1])
