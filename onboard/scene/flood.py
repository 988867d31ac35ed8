"""Shapes on masks: flood fill from the border, runs, growth, and the convex hull of what is left."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


def flooded(candidates: Mask, seeds: Mask | None = None) -> Mask:
    """The candidates that are 4-connected to the border of their array (h, w), or to `seeds` (h, w).

    Source: connected components of row runs (runs of neighbouring rows that overlap are joined), by label propagation
    with pointer jumping (Shiloach and Vishkin 1982).
    """
    height, width = candidates.shape
    if seeds is None:
        seeds = np.zeros_like(candidates)
        seeds[[0, -1]] = True
        seeds[:, [0, -1]] = True
    # Rows lie one after another with a gap of one between them: a run is a span [start, end) of that line.
    line = np.zeros((height, width + 1), dtype=np.int8)
    line[:, :width] = candidates
    edges = np.diff(line.ravel(), prepend=np.int8(0))
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    if starts.size == 0:
        return np.zeros_like(candidates)
    # Runs and not pixels: NumPy has no labelling, and SciPy is not aboard (it belongs to the extra for polygons).
    labels = _joined(starts, ends, width + 1)
    seeded = np.zeros((height, width + 1), dtype=np.int64)
    seeded[:, :width] = candidates & seeds
    # A running count tells for every run at once whether it holds a seed.
    total = np.concatenate(([0], np.cumsum(seeded)))
    reached = np.zeros(starts.size, dtype=bool)
    reached[labels[total[ends] > total[starts]]] = True
    marks = np.zeros(line.size + 1, dtype=np.int8)
    marks[starts[reached[labels]]] += 1
    marks[ends[reached[labels]]] -= 1
    return np.cumsum(marks[:-1], dtype=np.int8).reshape(line.shape)[:, :width] > 0


def _joined(starts: NDArray[np.int64], ends: NDArray[np.int64], pitch: int) -> NDArray[np.int64]:
    """A label for each run, the same for all runs that are connected."""
    # Runs of the next row that overlap with this one are neighbours in the list.
    first = np.searchsorted(ends, starts + pitch, side="right")
    count = np.maximum(np.searchsorted(starts, ends + pitch, side="left") - first, 0)
    above = np.repeat(np.arange(starts.size), count)
    below = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + np.repeat(first, count)
    labels = np.arange(starts.size)
    while True:
        smaller = np.minimum(labels[above], labels[below])
        labels_before = labels.copy()
        # `minimum.at`: a label is named by many pairs, and plain indexing would keep only the last of them.
        np.minimum.at(labels, labels[above], smaller)
        np.minimum.at(labels, labels[below], smaller)
        while not np.array_equal(labels, labels[labels]):
            labels = labels[labels]
        if np.array_equal(labels, labels_before):
            return labels


def grown(mask: Mask, steps: int = 1) -> Mask:
    """The mask and all within `steps` cells of it, diagonals included."""
    for _ in range(2):
        padded = np.pad(mask, ((0, 0), (steps, steps)))
        mask = ~_all_across(~padded, 2 * steps + 1).T
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
    begins = _all_across(mask, length)
    # A run that begins at column c covers c .. c + length - 1.
    return ~_all_across(~np.pad(begins, ((0, 0), (length - 1, length - 1))), length)


def _all_across(mask: Mask, length: int) -> Mask:
    """Whether cells c .. c + length - 1 of a row are all set; `length - 1` columns fewer than the mask.

    Source: van Herk's idea by doubling: a span of 2 n cells is two of n.
    """
    span = 1
    while span < length:
        longer = min(span, length - span)
        mask = mask[:, : mask.shape[1] - longer] & mask[:, longer:]
        span += longer
    return mask
