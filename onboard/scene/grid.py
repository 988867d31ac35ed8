"""Tiles of a scene: cores partition it exactly, halos around them are read and thrown away.

Along one axis, with tiles of S pixels and a halo of at least h, there are as few tiles as reach from border to border,
spread evenly: what a whole number of tiles is too many widens all halos alike. Cores meet in the middle of what two
tiles share; the first and the last reach the scene's border:

    tile 0  [====core====|halo]
    tile 1          [halo|==core==|halo]
    tile 2                   [halo|====core====]

Only a scene smaller than a tile is padded, by reflection at its right and bottom.

All tiles of a scene have one shape. Where the engine takes tiles of several sides, `tile_shape` chooses per axis the
smallest one that needs no more tiles than the largest, so tiles may be rectangles.
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
    """One rectangle for the engine.

    Attributes:
        index: place in the grid, row-major.
        source: scene pixels to read; smaller than the tile only where the scene is.
        core: scene pixels whose prediction is kept.
        core_in_tile: where the core lies inside the tile, same size as `core`.
    """

    index: int
    source: Window
    core: Window
    core_in_tile: Window


def tile_shape(width: int, height: int, sides: Sequence[int], *, halo: int) -> tuple[int, int]:
    """Width and height of the tiles of a scene, both of the allowed sides.

    Along each axis there are as many tiles as with the largest side, and they have the smallest side with which so many
    still reach from border to border. More and smaller tiles are never taken: each one reads and discards a halo more.

    Args:
        width: of the scene, in pixels.
        height: of the scene, in pixels.
        sides: that the engine takes, in pixels, in any order.
        halo: of the tiles, in pixels.
    """
    return _side(width, sides, halo), _side(height, sides, halo)


def _side(length: int, sides: Sequence[int], halo: int) -> int:
    largest = max(sides)
    # With such a halo not even the largest tile has a core. Grid refuses it, in words.
    if 2 * halo >= largest:
        return largest
    most = _Axis(length, largest, halo).count
    fitting = [side for side in sides if side > 2 * halo and _Axis(length, side, halo).count <= most]
    return min(fitting)


@dataclass(frozen=True)
class _Axis:
    """The tiles along one axis of a scene: its length, a tile's side and the least halo, all in pixels."""

    length: int
    side: int
    halo: int

    @property
    def count(self) -> int:
        step = self.side - 2 * self.halo
        return 1 if self.length <= self.side else -(-(self.length - 2 * self.halo) // step)

    def start(self, position: int) -> int:
        """First pixel of a tile; neighbours are at most S - 2h apart."""
        last = max(0, self.length - self.side)
        # The last tile ends at the border and so may begin out of phase. A start in phase with mirrored pixels behind
        # it was measured and left (docs/decisions/0008).
        if position == self.count - 1:
            return last
        # The step must be a multiple: rounded up to it, neighbours still lie no farther apart than their halos allow.
        phase = math.gcd(PHASE, self.side - 2 * self.halo)
        # Whole numbers: resumed runs and the machines of a cluster must cut the very same tiles.
        even = position * last // (self.count - 1)
        return min(last, -(-even // phase) * phase)

    def span(self, position: int) -> tuple[int, int, int, int]:
        """First pixel and length of a tile's source, then of its core."""
        start, first, end = self.start(position), 0, self.length
        if position > 0:
            # In the middle of what the two share: both say the least certain things at their own edges.
            first = (self.start(position - 1) + self.side + start) // 2
        if position < self.count - 1:
            end = (start + self.side + self.start(position + 1)) // 2
        return start, min(self.side, self.length), first, end - first


class Grid(Sequence[Tile]):
    """All tiles of a scene, row-major, made when asked for.

    Args:
        width: scene width in pixels.
        height: scene height in pixels.
        tile_size: S, pixels a side of square tiles, or their width and height.
        halo: h, pixels thrown away, at least, at each side of a tile that is not the scene's border.

    Raises:
        OptionsRefused: nothing of a tile would be left by the halo.
    """

    def __init__(self, width: int, height: int, *, tile_size: int | tuple[int, int], halo: int) -> None:
        self.tile_width, self.tile_height = (tile_size, tile_size) if isinstance(tile_size, int) else tile_size
        smallest = min(self.tile_width, self.tile_height)
        if width < 1 or height < 1 or smallest < 1:
            raise ValueError(f"scene {width} x {height} and tile {tile_size} must hold at least one pixel")
        if not 0 <= 2 * halo < smallest:
            raise OptionsRefused(
                f"a halo of {halo} pixels leaves nothing of a tile of {smallest}",
                f"give a halo of 0 to {(smallest - 1) // 2}",
            )
        self.width, self.height, self.halo = width, height, halo
        self._across, self._down = _Axis(width, self.tile_width, halo), _Axis(height, self.tile_height, halo)
        self.columns = self._across.count
        self.rows = self._down.count

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
        left, width, first, columns = self._across.span(column)
        top, height, upper, rows = self._down.span(row)
        return Tile(
            position,
            source=Window(left, top, width, height),
            core=Window(first, upper, columns, rows),
            core_in_tile=Window(first - left, upper - top, columns, rows),
        )

    def __iter__(self) -> Iterator[Tile]:
        return (self[position] for position in range(len(self)))

    @property
    def computed_pixels(self) -> int:
        """Pixels of all tiles together, halos and padding among them: what the engine computes for this scene."""
        return len(self) * self.tile_width * self.tile_height


def pad_to_tile(pixels: NDArray[np.uint8], tile_size: int | tuple[int, int]) -> NDArray[np.uint8]:
    """Reflects pixels (bands, h, w) at right and bottom up to the size of a tile.

    The border pixel is not repeated; a side of less than half a tile is reflected back and forth. A full tile is
    returned as it is, not copied.

    Args:
        pixels: no larger than a tile.
        tile_size: pixels a side of a square tile, or its width and height, as Grid takes them.
    """
    tile_width, tile_height = (tile_size, tile_size) if isinstance(tile_size, int) else tile_size
    _, height, width = pixels.shape
    if height > tile_height or width > tile_width:
        raise ValueError(f"{width} x {height} pixels do not fit a tile of {tile_width} x {tile_height}")
    if height < tile_height:
        pixels = pixels[:, _reflected(height, tile_height), :]
    if width < tile_width:
        pixels = pixels[:, :, _reflected(width, tile_width)]
    return pixels if pixels.flags.c_contiguous else np.ascontiguousarray(pixels)


def _reflected(length: int, size: int) -> NDArray[np.intp]:
    """Indices 0 1 2 .. n-1 n-2 .. 1 0 1 .. of `size` places into an axis of `length`."""
    period = max(1, 2 * (length - 1))
    places = np.arange(size) % period
    return np.minimum(places, period - places)
