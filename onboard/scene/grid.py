"""Tiles of a scene: cores partition it exactly, halos around them are read and thrown away.

Along one axis, with tiles of S pixels and a halo of at least h, there are as few tiles as reach from border to border,
spread evenly: what a whole number of tiles is too many widens all halos alike. Cores meet in the middle of what two
tiles share; the first and the last reach the scene's border:

    tile 0  [====core====|halo]
    tile 1          [halo|==core==|halo]
    tile 2                   [halo|====core====]

Only a scene smaller than a tile is padded, by reflection at its right and bottom.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from onboard.errors import OptionsRefused

PHASE = 32
"""Tiles begin at multiples of this, if step and border allow: a network of that stride then divides what neighbours
share alike, and says the same of it more often (docs/decisions/0008)."""


@dataclass(frozen=True)
class Window:
    """A rectangle of pixels: first column and row, width and height."""

    col: int
    row: int
    width: int
    height: int

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise ValueError(f"a window holds at least one pixel: {self}")

    @property
    def rows(self) -> slice:
        """Rows of an array (..., rows, columns) that this window covers."""
        return slice(self.row, self.row + self.height)

    @property
    def cols(self) -> slice:
        """Columns of an array (..., rows, columns) that this window covers."""
        return slice(self.col, self.col + self.width)


@dataclass(frozen=True)
class Tile:
    """One square for the engine.

    Attributes:
        index: place in the grid, row-major.
        source: scene pixels to read; smaller than the tile only where the scene is.
        core: scene pixels whose prediction is kept.
        core_in_tile: where the core lies inside the S x S tile, same size as `core`.
    """

    index: int
    source: Window
    core: Window
    core_in_tile: Window


class Grid(Sequence[Tile]):
    """All tiles of a scene, row-major, made when asked for.

    Args:
        width: scene width in pixels.
        height: scene height in pixels.
        tile_size: S, pixels a side.
        halo: h, pixels thrown away, at least, at each side of a tile that is not the scene's border.

    Raises:
        OptionsRefused: nothing of a tile would be left by the halo.
    """

    def __init__(self, width: int, height: int, *, tile_size: int, halo: int) -> None:
        if width < 1 or height < 1 or tile_size < 1:
            raise ValueError(f"scene {width} x {height} and tile {tile_size} must hold at least one pixel")
        if not 0 <= 2 * halo < tile_size:
            raise OptionsRefused(
                f"a halo of {halo} pixels leaves nothing of a tile of {tile_size}",
                f"give a halo of 0 to {(tile_size - 1) // 2}",
            )
        self.width, self.height, self.tile_size, self.halo = width, height, tile_size, halo
        self.columns = self._count(width)
        self.rows = self._count(height)

    def __len__(self) -> int:
        return self.columns * self.rows

    @overload
    def __getitem__(self, index: int) -> Tile: ...

    @overload
    def __getitem__(self, index: slice) -> list[Tile]: ...

    def __getitem__(self, index: int | slice) -> Tile | list[Tile]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"tile {index} of a grid of {len(self)}")
        row, column = divmod(position, self.columns)
        left, width, first, columns = self._span(column, self.columns, self.width)
        top, height, upper, rows = self._span(row, self.rows, self.height)
        return Tile(
            position,
            source=Window(left, top, width, height),
            core=Window(first, upper, columns, rows),
            core_in_tile=Window(first - left, upper - top, columns, rows),
        )

    def __iter__(self) -> Iterator[Tile]:
        return (self[position] for position in range(len(self)))

    def _count(self, length: int) -> int:
        step = self.tile_size - 2 * self.halo
        return 1 if length <= self.tile_size else -(-(length - 2 * self.halo) // step)

    def _start(self, position: int, count: int, length: int) -> int:
        """First pixel of a tile along one axis; neighbours are at most S - 2h apart."""
        last = max(0, length - self.tile_size)
        # The last tile ends at the border and so may begin out of phase. A start in phase with mirrored pixels behind
        # it was measured and left (docs/decisions/0008).
        if position == count - 1:
            return last
        # The step must be a multiple: rounded up to it, neighbours still lie no farther apart than their halos allow.
        phase = math.gcd(PHASE, self.tile_size - 2 * self.halo)
        # Whole numbers: resumed runs and the machines of a cluster must cut the very same tiles.
        even = position * last // (count - 1)
        return min(last, -(-even // phase) * phase)

    def _span(self, position: int, count: int, length: int) -> tuple[int, int, int, int]:
        """First pixel and length of a tile's source, then of its core, along one axis."""
        start, first, end = self._start(position, count, length), 0, length
        if position > 0:
            # In the middle of what the two share: both say the least certain things at their own edges.
            first = (self._start(position - 1, count, length) + self.tile_size + start) // 2
        if position < count - 1:
            end = (start + self.tile_size + self._start(position + 1, count, length)) // 2
        return start, min(self.tile_size, length), first, end - first


def pad_to_tile(pixels: NDArray[np.uint8], tile_size: int) -> NDArray[np.uint8]:
    """Reflects pixels (bands, h, w) at right and bottom up to (bands, tile_size, tile_size).

    The border pixel is not repeated; a side of less than half a tile is reflected back and forth. A full tile is
    returned as it is, not copied.
    """
    _, height, width = pixels.shape
    if height > tile_size or width > tile_size:
        raise ValueError(f"{width} x {height} pixels do not fit a tile of {tile_size}")
    if height < tile_size:
        pixels = pixels[:, _reflected(height, tile_size), :]
    if width < tile_size:
        pixels = pixels[:, :, _reflected(width, tile_size)]
    return pixels if pixels.flags.c_contiguous else np.ascontiguousarray(pixels)


def _reflected(length: int, size: int) -> NDArray[np.intp]:
    """Indices 0 1 2 .. n-1 n-2 .. 1 0 1 .. of `size` places into an axis of `length`."""
    period = max(1, 2 * (length - 1))
    places = np.arange(size) % period
    return np.minimum(places, period - places)
