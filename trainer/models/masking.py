"""Masks of visible tokens, which form a smaller complete grid because SAM's window attention needs one.

The token grid is cut into equal cells, and of every cell the same number of tokens is seen: at 75 % hidden, one of
every 2x2 cell. What is seen then lies row-major on a compact grid (half the rows, half the columns). Source:
docs of the method, "Masking": ``grid`` keeps the same place in every cell, as the paper does (four masks at 75 %);
``stratified`` draws it afresh in every cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.errors import SettingsRefused

MaskKind = Literal["stratified", "grid"]

LARGEST_CELL = 8
"""Longest side of a cell, in tokens: larger ones leave no draw that differs between tiles of a training crop."""

RATIO_TOLERANCE = 1e-4
"""A ratio may be written with four digits: 0.8889 is one of 3x3."""


@dataclass(frozen=True)
class Cell:
    """Of every ``rows`` x ``columns`` tokens some rows times some columns are seen, so many of each."""

    rows: int
    columns: int
    seen_rows: int
    seen_columns: int


@cache
def cell_of(ratio: float) -> Cell:
    """The smallest cell, the squarest of those, whose hidden share is ``ratio``.

    Raises:
        SettingsRefused: no cell of up to 8x8 tokens hides that share.
    """
    sides = range(1, LARGEST_CELL + 1)
    # Both orientations are not needed: a cell has no more rows than columns.
    fitting = [
        (rows * columns, columns - rows, Cell(rows, columns, seen_rows, seen_columns))
        for rows in sides
        for columns in range(rows, LARGEST_CELL + 1)
        for seen_rows in range(1, rows + 1)
        for seen_columns in range(1, columns + 1)
        if abs(1.0 - seen_rows * seen_columns / (rows * columns) - ratio) < RATIO_TOLERANCE
    ]
    if not fitting:
        raise SettingsRefused(
            "mask ratio",
            f"{ratio} cannot be met: the seen tokens must be a whole grid, the same number in every cell of at most "
            f"{LARGEST_CELL}x{LARGEST_CELL}; 0.5 (1 of 1x2), 0.75 (1 of 2x2), 0.8889 (1 of 3x3), 0.9375 (1 of 4x4) can",
        )
    return min(fitting, key=lambda candidate: candidate[:2])[2]


def fitting_cell(rows: int, columns: int, ratio: float) -> Cell:
    """:func:`cell_of`, for a grid of rows x columns tokens.

    Raises:
        SettingsRefused: no cell has that ratio, or the grid is not made of whole cells.
    """
    cell = cell_of(ratio)
    if rows % cell.rows or columns % cell.columns:
        raise SettingsRefused(
            "mask ratio",
            f"{ratio} takes cells of {cell.rows}x{cell.columns} tokens, and a grid of {rows}x{columns} tokens is not "
            "made of them: change the tile's size or the ratio",
        )
    return cell


@dataclass(frozen=True)
class Visible:
    """Which tokens of a (rows, columns) grid are seen, for each image of a batch.

    Attributes:
        index: int64 (B, N_v), row-major token numbers, ordered so that they lie row-major on the compact grid.
        rows: of the whole grid, in tokens; ``columns`` likewise.
        compact_rows: of the grid of seen tokens; N_v = ``compact_rows`` * ``compact_columns``.
    """

    index: Tensor
    rows: int
    columns: int
    compact_rows: int
    compact_columns: int

    def __post_init__(self) -> None:
        seen = self.compact_rows * self.compact_columns
        if self.index.ndim != 2 or self.index.shape[1] != seen:
            raise ValueError(
                f"index is {tuple(self.index.shape)}, not (batch, {self.compact_rows} x {self.compact_columns})"
            )

    def gather(self, tokens: Tensor) -> Tensor:
        """(B, N, D) of all tokens, row-major, to (B, N_v, D) of the seen ones, in compact order."""
        return tokens.gather(1, self.index.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))

    def mask(self) -> Tensor:
        """float32 (B, 1, rows, columns): 1 seen, 0 hidden."""
        return self._seen().float().reshape(-1, 1, self.rows, self.columns)

    def hidden_index(self) -> Tensor:
        """int64 (B, N - N_v): the row-major numbers of the hidden tokens, ascending."""
        # A stable sort puts the hidden first and keeps their order; unlike nonzero it needs no word from the device.
        order = self._seen().to(torch.uint8).argsort(dim=1, stable=True)
        return order[:, : self.rows * self.columns - self.index.shape[1]]

    def to(self, device: torch.device | str) -> Visible:
        """The same on ``device``."""
        index = self.index.to(device)
        return Visible(index, self.rows, self.columns, self.compact_rows, self.compact_columns)

    def _seen(self) -> Tensor:
        seen = torch.zeros(len(self.index), self.rows * self.columns, dtype=torch.bool, device=self.index.device)
        return seen.scatter(1, self.index, True)


def drawn_visible(
    rows: int, columns: int, *, ratio: float, kind: MaskKind, rng: np.random.Generator
) -> NDArray[np.int64]:
    """One image's seen tokens, int64 (N_v,), in compact order: see :class:`Visible`.

    Raises:
        SettingsRefused: see :func:`fitting_cell`.
    """
    cell = fitting_cell(rows, columns, ratio)
    cells = (rows // cell.rows, columns // cell.columns)
    # One draw for all cells makes the paper's grid; broadcasting below repeats it.
    draws = cells if kind == "stratified" else (1, 1)
    row = _drawn(rng, draws, of=cell.rows, seen=cell.seen_rows)
    column = _drawn(rng, draws, of=cell.columns, seen=cell.seen_columns)
    row = np.broadcast_to(row, (*cells, cell.seen_rows)) + cell.rows * np.arange(cells[0])[:, None, None]
    column = np.broadcast_to(column, (*cells, cell.seen_columns)) + cell.columns * np.arange(cells[1])[:, None]
    number = row[..., :, None] * columns + column[..., None, :]  # (cell row, cell column, seen row, seen column)
    # Rows of cells and the rows seen in them together are the rows of the compact grid; columns likewise.
    return number.transpose(0, 2, 1, 3).reshape(-1).astype(np.int64)


def visible_from(
    indexes: Sequence[NDArray[np.int64]] | NDArray[np.int64] | Tensor, rows: int, columns: int, ratio: float
) -> Visible:
    """A batch of :func:`drawn_visible` as :class:`Visible`.

    Raises:
        SettingsRefused: see :func:`fitting_cell`.
        ValueError: the numbers are not a compact grid: too many, too few, or not each in its own cell.
    """
    cell = fitting_cell(rows, columns, ratio)
    index = indexes if isinstance(indexes, Tensor) else torch.from_numpy(np.stack(list(indexes)))
    compact_rows, compact_columns = rows // cell.rows * cell.seen_rows, columns // cell.columns * cell.seen_columns
    visible = Visible(index.long(), rows, columns, compact_rows, compact_columns)
    # Checked on values: a wrong order has the right shape, and would only teach wrong positions.
    grid = visible.index.reshape(-1, compact_rows, compact_columns)
    place = torch.arange(compact_rows, device=grid.device)[:, None], torch.arange(compact_columns, device=grid.device)
    in_row = grid // columns // cell.rows == place[0] // cell.seen_rows
    in_column = grid % columns // cell.columns == place[1] // cell.seen_columns
    if not bool((in_row & in_column).all()):
        raise ValueError(f"the tokens given are not in compact order: one a cell of {cell.rows}x{cell.columns}")
    return visible


def all_visible(batch: int, rows: int, columns: int) -> Visible:
    """Nothing hidden: the compact grid is the whole one."""
    return Visible(torch.arange(rows * columns).expand(batch, -1), rows, columns, rows, columns)


def _drawn(rng: np.random.Generator, draws: tuple[int, int], *, of: int, seen: int) -> NDArray[np.int64]:
    """(*draws, seen) ascending places out of ``of``, each draw without replacement."""
    # The order of random numbers is a draw without replacement, for all cells in one call.
    order = rng.random((*draws, of)).argsort(axis=-1)
    return np.sort(order[..., :seen], axis=-1)
