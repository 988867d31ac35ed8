"""Accuracy from one confusion matrix over the whole evaluation set (method.md, Metrics)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


class Confusion:
    """Counts of (truth, prediction) over everything added. Codes 1..K; truth 0 counts nowhere.

    A labelled pixel predicted as 0 (no data) is a miss of its class and a hit of none.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.counts = np.zeros((classes + 1, classes + 1), dtype=np.int64)

    def add(self, truth: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> None:
        """Count two uint8 arrays of one shape.

        Raises:
            ValueError: shapes differ, or a code lies beyond K.
        """
        if truth.shape != prediction.shape:
            raise ValueError(f"truth {truth.shape} and prediction {prediction.shape} differ in shape")
        side = self.classes + 1
        highest = max(int(truth.max(initial=0)), int(prediction.max(initial=0)))
        if highest >= side:
            raise ValueError(f"code {highest} lies beyond the {self.classes} classes")
        pairs = truth.astype(np.int64).ravel() * side + prediction.ravel()
        self.counts += np.bincount(pairs, minlength=side * side).reshape(side, side)

    def merge(self, other: Confusion) -> None:
        """Add what another matrix has counted: pools evaluation sets by pixels."""
        self.counts += other.counts

    def scores(self) -> Scores:
        """The figures over what has been counted so far."""
        counts = self.counts[1:].astype(np.float64)  # truth 0 is ignored
        hits = np.diag(counts[:, 1:])
        missed = counts.sum(axis=1) - hits
        false = counts[:, 1:].sum(axis=0) - hits
        present = hits + missed + false > 0
        union = np.where(present, hits + missed + false, 1)
        iou = np.where(present, hits / union, np.nan)
        f1 = np.where(present, 2 * hits / (union + hits), np.nan)
        labelled = counts.sum()
        if labelled == 0:
            return Scores(iou=iou, f1=f1, miou=np.nan, mf1=np.nan, overall_accuracy=np.nan, pixels=0)
        return Scores(
            iou=iou,
            f1=f1,
            miou=float(np.nanmean(iou)),
            mf1=float(np.nanmean(f1)),
            overall_accuracy=float(hits.sum() / labelled),
            pixels=int(labelled),
        )


@dataclass(frozen=True)
class Scores:
    """Figures of one confusion matrix; ``iou`` and ``f1`` are (K,), NaN for a class in neither map.

    IoU = TP / (TP + FP + FN); F1 = 2 P R / (P + R) = 2 TP / (2 TP + FP + FN); means over classes present in truth or
    prediction. Source: method.md, after Shu et al. 2026.
    """

    iou: NDArray[np.float64]
    f1: NDArray[np.float64]
    miou: float
    mf1: float
    overall_accuracy: float
    pixels: int
