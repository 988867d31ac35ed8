"""Shapes on masks: flood fill from the border, runs, growth, and the convex hull of what is left."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


def flooded(candidates: Mask, seeds: Mask | None = None) -> Mask:
    """The candidates that are 4-connected to the border of their array (h, w), or to `seeds` (h, w).

    Source: flood fill by sweeps of whole rows (runs of a row are joined to what was reached above or below).
    """
    reached = np.zeros_like(candidates)
    if seeds is None:
        reached[[0, -1]] = candidates[[0, -1]]
        reached[:, [0, -1]] |= candidates[:, [0, -1]]
    else:
        reached |= candidates & seeds
    # Runs of each row: a number for each run, 0 outside of runs.
    starts = candidates & ~np.pad(candidates, ((0, 0), (1, 0)))[:, :-1]
    runs = np.cumsum(starts, axis=1) * candidates
    before = -1
    while (count := int(reached.sum())) != before:
        before = count
        for order in (range(len(candidates)), range(len(candidates) - 1, -1, -1)):
            above: Mask | None = None
            for row in order:
                row_seeds = reached[row] if above is None else reached[row] | (above & candidates[row])
                if row_seeds.any():
                    hit = np.zeros(int(runs[row].max()) + 1, dtype=bool)
                    hit[runs[row][row_seeds]] = True
                    hit[0] = False
                    reached[row] = hit[runs[row]]
                above = reached[row]
    return reached


def grown(mask: Mask, steps: int = 1) -> Mask:
    """The mask and all within `steps` cells of it, diagonals included."""
    for axis in (0, 1):
        total = np.cumsum(np.pad(mask, [(steps + 1, steps) if a == axis else (0, 0) for a in (0, 1)]), axis=axis)
        count = np.take(total, range(2 * steps + 1, total.shape[axis]), axis) - np.take(
            total, range(total.shape[axis] - 2 * steps - 1), axis
        )
        mask = count > 0
    return mask


def shrunk(mask: Mask, steps: int = 1) -> Mask:
    """The cells of the mask with no other within `steps` cells; outside of the array counts as the mask."""
    return ~grown(~mask, steps)


def in_long_runs(mask: Mask, length: int) -> Mask:
    """The cells that lie in a horizontal or vertical run of at least `length` cells of the mask."""
    return _runs_across(mask, length) | _runs_across(mask.T, length).T


def longest_run(line: Mask) -> int:
    """Length of the longest run of a one-dimensional mask."""
    edges = np.flatnonzero(np.diff(np.pad(line.astype(np.int8), 1)))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def inside_hull(mask: Mask) -> Mask:
    """The cells (h, w) inside the convex hull of the mask's cells; none where the mask has none.

    Source: monotone chain (Andrew 1979) over the first and the last cell of each row.
    """
    inside = np.zeros_like(mask)
    rows = np.flatnonzero(mask.any(axis=1))
    if rows.size == 0:
        return inside
    first = mask[rows].argmax(axis=1)
    last = mask.shape[1] - 1 - mask[rows, ::-1].argmax(axis=1)
    span = np.arange(rows[0], rows[-1] + 1)
    left, right = -_upper_chain(rows, -first, span), _upper_chain(rows, last, span)
    cols = np.arange(mask.shape[1])
    # A cell on the hull's own edge is inside; rounding must not decide.
    inside[span] = (cols >= left[:, None] - 1e-6) & (cols <= right[:, None] + 1e-6)
    return inside


def _upper_chain(places: NDArray[np.int64], values: NDArray[np.int64], at: NDArray[np.int64]) -> NDArray[np.float64]:
    """The smallest concave function over the points, at other places."""
    chain: list[tuple[int, int]] = []
    for x, y in zip(places.tolist(), values.tolist(), strict=True):
        while len(chain) > 1 and _turns_up(chain[-2], chain[-1], (x, y)):
            chain.pop()
        chain.append((x, y))
    xs, ys = zip(*chain, strict=True)
    return np.asarray(np.interp(at, xs, ys), dtype=np.float64)


def _turns_up(a: tuple[int, int], b: tuple[int, int], c: tuple[int, int]) -> bool:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]) >= 0


def _runs_across(mask: Mask, length: int) -> Mask:
    if mask.shape[1] < length:
        return np.zeros_like(mask)
    total = np.cumsum(np.pad(mask, ((0, 0), (1, 0))), axis=1)
    begins = (total[:, length:] - total[:, :-length]) == length
    # A run that begins at column c covers c .. c + length - 1.
    covered = np.cumsum(np.pad(begins, ((0, 0), (length, length - 1))), axis=1)
    return np.asarray(covered[:, length:] - covered[:, :-length] > 0)
