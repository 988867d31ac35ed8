"""Distance of a tile from the training imagery, and the scale on which it is given.

A tile is seen as 4 x 4 cells, each by the mean of every channel of two levels of the encoder. A cell's distance is that
to the nearest prototype (the mean of one data set's cells) in units of the spread within the sets, shrunk towards
independent channels. A tile's distance is the sixth smallest of its sixteen cells': ten of them may show clouds, a
collar or no data before the tile counts as strange, and imagery of another kind is strange in all.

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
"""Of a tile's cells by distance, the one that speaks for it."""
SHRINKAGE = 0.1
"""Of a channel's variance, added to every direction: few cells say little of the directions that hardly vary."""
THRESHOLD = 0.02
"""Share of held-out tiles of known places that may be told wrongly."""
_SHARES = (0.9, 0.75, 0.5, 0.25, 0.1, 0.05)
_MARGIN = 1.005
"""On the distance of the threshold, for rounding of the engines."""
LEAST_CELLS_A_CHANNEL = 1.0


@dataclass(frozen=True)
class Statistics:
    """Of the training imagery's cells.

    Attributes:
        mean: float32 (D,), of all cells.
        projection: float32 (D, D): (cell - mean) @ projection has unit spread within a set in every direction.
        prototypes: float32 (K, D), so projected: the mean of each data set.
    """

    mean: Floats
    projection: Floats
    prototypes: Floats

    def distances(self, cells: Floats) -> Floats:
        """Of tiles (N, cells, D), float32 (N,); 1 is usual."""
        projected = (cells - self.mean) @ self.projection
        apart = ((projected[:, :, None, :] - self.prototypes) ** 2).mean(axis=-1).min(axis=-1)
        ranked: Floats = np.sqrt(np.sort(apart, axis=1)[:, RANK - 1]).astype(np.float32)
        return ranked


def fitted(sets: Sequence[Floats]) -> Statistics:
    """Statistics of each set's cells, float32 (M, D).

    Raises:
        ValueError: fewer cells than channels.
    """
    whole = np.concatenate(sets).astype(np.float64)
    count, width = whole.shape
    if count < LEAST_CELLS_A_CHANNEL * width:
        raise ValueError(f"{count} cells are too few for {width} channels")
    mean, deviation = whole.mean(axis=0), whole.std(axis=0) + 1e-6
    within = np.concatenate([(cells - cells.mean(axis=0, dtype=np.float64)) / deviation for cells in sets])
    variances, directions = np.linalg.eigh(within.T @ within / count)
    projection = directions / np.sqrt(np.maximum(variances, 0) + SHRINKAGE) / deviation[:, None]
    prototypes = np.stack([(cells.mean(axis=0, dtype=np.float64) - mean) @ projection for cells in sets])
    return Statistics(*(array.astype(np.float32) for array in (mean, projection, prototypes)))


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
    farthest_known = ordered[math.ceil((1 - THRESHOLD) * len(ordered)) - 1] * _MARGIN
    knots, values = [float(ordered[0])], [1.0]
    for share in _SHARES:
        knot = float(np.quantile(ordered, 1 - share))
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
