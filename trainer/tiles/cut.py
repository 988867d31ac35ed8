"""Positions of tiles in a source."""

from __future__ import annotations

from collections.abc import Iterator

from onboard.scene.grid import Window


class Cuts:
    """The windows of a source, row by row, each `size` x `size` and completely inside.

    Tiles start every `step` pixels. A remainder at the right or bottom gets another tile, shifted inwards, if it is at
    least half a tile wide: a narrower one would mostly repeat the previous tile.

    `len` is 0 for a source smaller than a tile.
    """

    def __init__(self, width: int, height: int, *, size: int, step: int) -> None:
        self.size = size
        self._columns = _starts(width, size, step)
        self._rows = _starts(height, size, step)

    def __len__(self) -> int:
        return len(self._columns) * len(self._rows)

    def from_number(self, first: int) -> Iterator[Window]:
        """The windows from number `first` (0-based) on."""
        for number in range(first, len(self)):
            row, column = divmod(number, len(self._columns))
            yield Window(self._columns[column], self._rows[row], self.size, self.size)


def _starts(length: int, size: int, step: int) -> list[int]:
    """First pixels of the tiles along one axis."""
    starts = list(range(0, length - size + 1, step))
    if starts and 2 * (length - (starts[-1] + size)) >= size:
        starts.append(length - size)
    return starts
