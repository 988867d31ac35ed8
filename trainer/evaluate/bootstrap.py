"""Confidence intervals of accuracy, by resampling blocks of the evaluated images.

Errors of neighbouring pixels are correlated, so blocks that are wide enough to be nearly independent are resampled.
Source: Künsch, "The jackknife and the bootstrap for general stationary observations", Annals of Statistics 17, 1989,
for blocks; Efron, "Bootstrap methods: another look at the jackknife", 1979, for the percentile interval. The intervals
do not cover other places, sensors or seasons than those of the images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engines.metrics import iou_of

BLOCK = 512
"""Side of a block, pixels; those at the right and bottom of an image are what is left there."""
LEVEL = 0.95
_AT_ONCE = 256  # draws; bounds the memory of the resampled matrices


@dataclass(frozen=True)
class Interval:
    """From ``low`` to ``high``; NaN where there is nothing to say."""

    low: float
    high: float


@dataclass(frozen=True)
class Intervals:
    """95 % intervals of mIoU and of each class's IoU, by ``draws`` resamplings of ``blocks`` blocks."""

    miou: Interval
    iou: tuple[Interval, ...]
    blocks: int
    draws: int
    seed: int


def block_bootstrap(blocks: NDArray[np.int64], *, draws: int, seed: int = 0) -> Intervals:
    """Intervals of the figures of all blocks together.

    Args:
        blocks: confusion matrices of the blocks that hold labels, (n, K + 1, K + 1).
        draws: resamplings; each takes n blocks with replacement.
        seed: of the draws.

    In a draw without any block of a class, that class is left out of the mean, as for a map without it.
    """
    count, side, _ = blocks.shape
    classes = side - 1
    if count == 0:
        nothing = Interval(np.nan, np.nan)
        return Intervals(nothing, (nothing,) * classes, blocks=0, draws=draws, seed=seed)
    rng = np.random.default_rng(seed)
    flat = blocks.reshape(count, -1).astype(np.float64)  # exact up to 2^53 pixels, and multiplied by BLAS
    ious = []
    for start in range(0, draws, _AT_ONCE):
        # How often each block is drawn: counts, and one product with all matrices, in place of n x draws indices.
        taken = rng.multinomial(count, np.full(count, 1 / count), size=min(_AT_ONCE, draws - start))
        sums = (taken @ flat).astype(np.int64)
        ious.append(iou_of(sums.reshape(-1, side, side)))
    iou = np.concatenate(ious)
    # NaN: a draw without any block of a class.
    miou = np.nanmean(iou, axis=1)
    return Intervals(
        _interval(miou),
        tuple(_interval(iou[:, index]) for index in range(classes)),
        blocks=count,
        draws=draws,
        seed=seed,
    )


def _interval(values: NDArray[np.float64]) -> Interval:
    known = values[~np.isnan(values)]
    if known.size == 0:
        return Interval(np.nan, np.nan)
    low, high = np.percentile(known, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return Interval(float(low), float(high))
