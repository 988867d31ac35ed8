"""A scene seen through a grid of sampled pixels, read patch by patch where a border colour continues."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onboard.scene.flood import Mask, longest_run
from onboard.scene.grid import Window
from onboard.scene.sample import read_bands

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

LARGEST = 2048
"""Cells along the scene's longer side, at most: memory stays bounded."""
_PATCHES = 24
_PATCH_PIXELS = 256
_CACHED_PIXELS = 4 << 20
# Dark pixels of imagery also lie beside a patch's edge; a border goes on along it.
_GOES_ON = 8


class Cells:
    """Which cells are of a border's colour, as far as patches were read.

    Attributes:
        step: scene pixels a cell, down and across.
        within: for each tolerance (rows, cols), True where the cell's pixel is so close to the border's value in all
            bands.
    """

    def __init__(
        self, source: DatasetReader, bands: tuple[int, ...], value: tuple[float, ...], tolerances: tuple[float, ...]
    ) -> None:
        self._source, self._bands, self._value = source, bands, value
        self.step: int = max(1, -(-max(source.width, source.height) // LARGEST))
        shape = (-(-source.height // self.step), -(-source.width // self.step))
        self.within: dict[float, Mask] = {tolerance: np.zeros(shape, dtype=bool) for tolerance in tolerances}
        self._widest = self.within[max(tolerances)]  # what is followed
        block_height, block_width = source.block_shapes[0]
        # Of full-width strips only the sampled rows are read, as long as GDAL's cache holds a strip meanwhile.
        self._by_rows = block_width >= source.width and block_height * block_width <= _CACHED_PIXELS
        self._size = (
            self._patch_cells(shape[0], _PATCH_PIXELS if self._by_rows else block_height),
            shape[1] if self._by_rows else self._patch_cells(shape[1], block_width),
        )

    def follow(self) -> None:
        """Reads the patches at the corners and all that a border goes on to from there."""
        rows, cols = (-(-cells // size) for cells, size in zip(self._widest.shape, self._size, strict=True))
        todo = deque({(0, 0), (0, cols - 1), (rows - 1, 0), (rows - 1, cols - 1)})
        known = set(todo)
        while todo:
            patch = todo.popleft()
            self._read(patch)
            for neighbour, edge in self._edges(patch):
                inside = 0 <= neighbour[0] < rows and 0 <= neighbour[1] < cols
                if inside and neighbour not in known and _goes_on(edge):
                    known.add(neighbour)
                    todo.append(neighbour)

    def _patch_cells(self, cells: int, block: int) -> int:
        # About one block where blocks have 256 to 1,024 pixels a side: few are decoded twice.
        pixels: int = max(_PATCH_PIXELS, min(block, 4 * _PATCH_PIXELS))
        return max(-(-pixels // self.step), -(-cells // _PATCHES))

    def _slices(self, patch: tuple[int, int]) -> tuple[slice, slice]:
        height, width = self._size
        return slice(patch[0] * height, (patch[0] + 1) * height), slice(patch[1] * width, (patch[1] + 1) * width)

    def _edges(self, patch: tuple[int, int]) -> Iterator[tuple[tuple[int, int], Mask]]:
        near = self._widest[self._slices(patch)]
        row, col = patch
        yield (row - 1, col), near[0]
        yield (row + 1, col), near[-1]
        yield (row, col - 1), near[:, 0]
        yield (row, col + 1), near[:, -1]

    def _read(self, patch: tuple[int, int]) -> None:
        rows, cols = self._slices(patch)
        rows, cols = slice(*rows.indices(self._widest.shape[0])), slice(*cols.indices(self._widest.shape[1]))
        # A few cell rows at once: a patch of large blocks stays small in memory. Of strips, the sampled rows alone.
        max_rows = (
            1 if self._by_rows and self.step > 1 else max(1, (1 << 22) // ((cols.stop - cols.start) * self.step**2))
        )
        for first in range(rows.start, rows.stop, max_rows):
            part = slice(first, min(first + max_rows, rows.stop)), cols
            pixels = self._pixels(*part)
            for tolerance, mask in self.within.items():
                mask[part] = within(pixels, self._value, tolerance)

    def _pixels(self, rows: slice, cols: slice) -> NDArray[Any]:
        """The pixels (bands, h, w) in the middle of these cells; at the scene's far borders, the last ones."""
        step, middle = self.step, self.step // 2
        top, left = rows.start * step, cols.start * step
        height = min(rows.stop * step, self._source.height) - top
        width = min(cols.stop * step, self._source.width) - left
        across = np.minimum(np.arange(cols.stop - cols.start) * step + middle, width - 1)
        if rows.stop - rows.start == 1:
            top, height = top + min(middle, height - 1), 1
        down = np.minimum(np.arange(rows.stop - rows.start) * step + (middle if height > 1 else 0), height - 1)
        pixels = read_bands(self._source, self._bands, Window(left, top, width, height))
        # Single pixels and no means: a mean of collar and image is of neither colour.
        return pixels[:, down[:, None], across]


def _goes_on(edge: Mask) -> bool:
    # A thin wedge along the scene's border touches an end of the patch's edge.
    return bool(edge[0] or edge[-1] or longest_run(edge) >= _GOES_ON)


def within(pixels: NDArray[Any], value: tuple[float, ...], tolerance: float) -> Mask:
    """Where pixels (bands, h, w) are at most `tolerance` from the value in all bands."""
    mask: Mask = np.ones(pixels.shape[1:], dtype=bool)
    for band, centre in zip(pixels, value, strict=True):
        low, high = centre - tolerance, centre + tolerance
        if np.issubdtype(pixels.dtype, np.integer):  # compared as what they are: several times as fast
            limits = np.iinfo(pixels.dtype)
            low, high = int(max(low, limits.min)), int(min(high, limits.max))
        mask &= (band >= low) & (band <= high) if low < high else band == low
    return mask
