"""Learning curves of a run as a picture: one panel per group of metrics, over steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

BESIDES = {"step", "seconds", "images", "stage"}
"""Columns that are not drawn as curves."""


def curves_picture(rows: Sequence[dict[str, str]], path: Path) -> None:
    """Draws the numeric columns of a record, equal ones in one panel; ``stage``, where there is one, as lines."""
    names = [name for name in (rows[0] if rows else {}) if name not in BESIDES and any(row[name] for row in rows)]
    panels: dict[tuple[str, ...], list[str]] = {}  # what one teacher gives is the sum over teachers too
    for name in names:
        panels.setdefault(tuple(row[name] for row in rows), []).append(name)
    if not names:
        return
    steps = np.array([int(row["step"]) for row in rows])
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    # Figure and not pyplot: pyplot keeps each figure in a global list, and a long run draws many.
    figure = Figure(figsize=(4.6 * columns, 2.7 * lines), layout="constrained")
    for place, (group, equal) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(lines, columns, place)
        values = np.array([float(value) if value else np.nan for value in group])
        axes.plot(steps, values, color="#9ab8d8", linewidth=0.6)
        axes.plot(steps, smoothed(values), color="#1f4e8c", linewidth=1.3)
        axes.set_title(" = ".join(equal).replace("_", " "), fontsize=9)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.25)
        for start, stage in _stage_starts(rows):
            axes.axvline(start, color="#c0504d", linewidth=0.8, linestyle="--")
            if place == 1:
                axes.annotate(stage, (start, 1), xycoords=("data", "axes fraction"), fontsize=7, va="top")
        if place > len(panels) - columns:
            axes.set_xlabel("step", fontsize=8)
    figure.savefig(path, dpi=110)


def smoothed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centred mean over a fiftieth of the curve, gaps left out."""
    width = max(1, len(values) // 50)
    known = np.isfinite(values)
    kernel = np.ones(width)
    # A gap counts neither in the sum nor in the count, so that it does not pull the mean towards 0.
    total = np.convolve(np.where(known, values, 0.0), kernel, mode="same")
    count = np.convolve(known.astype(float), kernel, mode="same")
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))


def _stage_starts(rows: Sequence[dict[str, str]]) -> list[tuple[int, str]]:
    """(first step, name) of every stage."""
    starts: list[tuple[int, str]] = []
    for row in rows:
        if row.get("stage") and (not starts or starts[-1][1] != row["stage"]):
            starts.append((int(row["step"]), row["stage"]))
    return starts
