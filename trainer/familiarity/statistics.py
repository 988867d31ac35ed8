"""Distance of a tile's features from the training imagery, and the scale from distance to familiarity.

A tile is divided into 4 x 4 cells; the features of a cell are the channel means of two encoder levels. A cell's
distance is that to the nearest prototype (the mean of one data set's cells), in units of the spread within the sets,
with a covariance shrunk towards independent channels; or, where that is more, how much the cell looks as if its bands
were exchanged or its scale were another (trainer.familiarity.corruptions). A tile's distance is the sixth smallest of
its sixteen cells: up to ten cells may show clouds, a collar or no data, while imagery of another kind is far away in
all cells.

Source: Lee, Lee, Lee, Shin, "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial
Attacks", NeurIPS 2018 (distance to the nearest mean under one covariance); the grid and the rank are measured
(docs/familiarity.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

GRID = 4
"""Cells along a tile's side."""
RANK = 6
"""Rank, in order of distance, of the cell whose distance is the tile's."""
SHRINKAGE = 0.1
"""Of a channel's variance, added to every direction: few cells say little of the directions that hardly vary."""
THRESHOLD = 0.02
"""Largest share of held-out tiles of known places that may count as unfamiliar."""
_SHARES = (0.9, 0.75, 0.5, 0.25, 0.1, 0.05)
_MARGIN = 1.005
"""On the distance of the threshold, for rounding of the engines."""
LEAST_CELLS_A_CHANNEL = 1.0


def rank_of(cells: int) -> int:
    """Rank, in order of distance, of the cell that speaks for a tile of so many cells: RANK of 16, else nearest to it.

    Of halves the larger one, and at least 1: 2 of 4 and of 6, 3 of 8 and of 9, 5 of 12.
    """
    every = GRID * GRID
    return max(1, (2 * RANK * cells + every) // (2 * every))


def rank_of_cells(values: Floats) -> Floats:
    """Of tiles (N, cells), the value of the cell that speaks for each, float32 (N,)."""
    ranked: Floats = np.sort(values, axis=1)[:, rank_of(values.shape[1]) - 1].astype(np.float32)
    return ranked


@dataclass(frozen=True)
class CorruptionOdds:
    """What tells known ground that was spoilt: cells @ weights + offsets, by corruption, in units of distance.

    Attributes:
        weights: float32 (D, G).
        offsets: float32 (G,).
    """

    weights: Floats
    offsets: Floats


@dataclass(frozen=True)
class Statistics:
    """Statistics of the training imagery's cells.

    Attributes:
        mean: float32 (D,), of all cells.
        projection: float32 (D, D): (cell - mean) @ projection has unit spread within a set in every direction.
        prototypes: float32 (K, D), so projected: the mean of each data set.
        corruptions: what tells known ground that was spoilt; None where nothing does.
    """

    mean: Floats
    projection: Floats
    prototypes: Floats
    corruptions: CorruptionOdds | None = None

    def cell_distances(self, cells: Floats) -> Floats:
        """Of cells (N, cells, D) from the training imagery, by the prototypes alone: float32 (N, cells)."""
        projected = (cells - self.mean) @ self.projection
        squares = ((projected[:, :, None, :] - self.prototypes) ** 2).mean(axis=-1).min(axis=-1)
        distances: Floats = np.sqrt(squares).astype(np.float32)
        return distances

    def distances(self, cells: Floats) -> Floats:
        """Of tiles (N, cells, D), float32 (N,)."""
        each = self.cell_distances(cells)
        if self.corruptions is not None:
            each = np.maximum(each, (cells @ self.corruptions.weights + self.corruptions.offsets).max(axis=-1))
        return rank_of_cells(each)


def fitted(sets: Sequence[Floats]) -> Statistics:
    """Statistics of each set's cells, float32 (M, D).

    Raises:
        ValueError: fewer cells than channels.
    """
    whole = np.concatenate(sets).astype(np.float64)
    count, width = whole.shape
    if count < LEAST_CELLS_A_CHANNEL * width:
        raise ValueError(f"{count} cells are too few for {width} channels")
    # A channel that never varies must not divide by 0.
    mean, deviation = whole.mean(axis=0), whole.std(axis=0) + 1e-6
    # About each set's own mean: the spread between places is what prototypes are for.
    within = np.concatenate([(cells - cells.mean(axis=0, dtype=np.float64)) / deviation for cells in sets])
    variances, directions = np.linalg.eigh(within.T @ within / count)
    # Rounding may make the smallest eigenvalues a little negative.
    projection = directions / np.sqrt(np.maximum(variances, 0) + SHRINKAGE) / deviation[:, None]
    prototypes = np.stack([(cells.mean(axis=0, dtype=np.float64) - mean) @ projection for cells in sets])
    mean, projection, prototypes = (array.astype(np.float32) for array in (mean, projection, prototypes))
    return Statistics(mean, projection, prototypes)


@dataclass(frozen=True)
class Scale:
    """From distance to familiarity: falling lines between knots, then falling with the inverse of the distance.

    Attributes:
        knots: float32 (M,), distances, rising; familiarity is 1 up to the first.
        values: float32 (M,), familiarity there, falling to THRESHOLD.
    """

    knots: Floats
    values: Floats

    def familiarity(self, distances: Floats) -> Floats:
        """Float32 (N,), in 0..1: of held-out tiles, the share that is at least so far away."""
        inside = np.interp(distances, self.knots, self.values)
        given: Floats = (inside * self.knots[-1] / np.maximum(distances, self.knots[-1])).astype(np.float32)
        return given


def scale_of(held_out: Floats) -> Scale:
    """The scale by the distances (N,) of held-out tiles: at most THRESHOLD of them come out below it.

    Raises:
        ValueError: no tile.
    """
    ordered = np.sort(held_out.astype(np.float64))
    if not len(ordered):
        raise ValueError("no held-out tile")
    # Rounded up: of few tiles none may be below the threshold, rather than more than 2 %.
    farthest_known = ordered[math.ceil((1 - THRESHOLD) * len(ordered)) - 1] * _MARGIN
    knots, values = [float(ordered[0])], [1.0]
    for share in _SHARES:
        knot = float(np.quantile(ordered, 1 - share))
        # Knots must rise clearly: the slopes between them divide by their distance.
        if knots[-1] * 1.001 < knot < farthest_known / 1.001:
            knots.append(knot)
            values.append(share)
    if farthest_known <= knots[-1]:
        farthest_known = knots[-1] * _MARGIN
    return Scale(np.array([*knots, farthest_known], np.float32), np.array([*values, THRESHOLD], np.float32))


def auroc(unfamiliar: Floats, known: Floats) -> float:
    """Probability that a tile of the first has the lower familiarity, ties counting half."""
    below = (unfamiliar[:, None] < known[None, :]).mean()
    ties = (unfamiliar[:, None] == known[None, :]).mean()
    return float(below + ties / 2)
