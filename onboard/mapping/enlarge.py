"""A raster of classes or confidence resampled to the scene's own grid by nearest neighbour."""

from __future__ import annotations

import numpy as np

from onboard.mapping.canvas import Layer

_STRIP_PIXELS = 1 << 22


def enlarge(layer: Layer, target: Layer) -> None:
    """Gives every pixel of the target the value at its centre, strip by strip."""
    cols = _nearest(target.width, layer.width)
    rows = _nearest(target.height, layer.height)
    step = max(1, _STRIP_PIXELS // target.width)
    for top in range(0, target.height, step):
        near = rows[top : top + step]
        source = layer.read(int(near[0]), int(near[-1] - near[0]) + 1)
        target.write_rows(top, source[near - near[0]][:, cols])
    target.sync()


def _nearest(target: int, source: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Index of the source pixel under the centre of each target pixel; of two that meet there, the latter."""
    return (2 * np.arange(target, dtype=np.int64) + 1) * source // (2 * target)
