"""Samples of a scene at full resolution: what is decided on them must not depend on overviews.

Overviews may be absent, stale or empty. Every read here is a window without decimation, so GDAL uses none of them
(its open option OVERVIEW_LEVEL=NONE would still take decimated masks from the mask's overviews: seen with 3.10.3).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window as RasterWindow

from onboard.scene.grid import Window

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

    from onboard.scene.valid import ValidRule

WHOLE_PIXELS = 2048 * 2048
"""A scene of no more pixels is sampled everywhere."""
BLOCK_PIXELS = 16 << 20
"""Pixels decoded of a larger one, about: a scene of 12,000 x 12,000 in tiles of 512 is decoded to a ninth."""
_MIN_BLOCKS, _MAX_BLOCKS = 16, 1024
KEPT_PIXELS = 1 << 20
"""Pixels kept of what was decoded, about."""


@dataclass(frozen=True)
class Sample:
    """Pixels from all over a scene.

    Attributes:
        pixels: (bands, n) of the chosen bands, in the scene's type.
        valid: (n,), True where the file's own rule, but for its alpha band, finds data.
        alpha: (n,) of the band marked alpha, None where there is none.
        rows: (n,) where they were taken; cols: (n,).
    """

    pixels: NDArray[Any]
    valid: NDArray[np.bool_]
    alpha: NDArray[Any] | None
    rows: NDArray[np.int64]
    cols: NDArray[np.int64]


def sampled(source: DatasetReader, bands: tuple[int, ...], rule: ValidRule) -> Sample:
    """Reads the sample; decodes about `BLOCK_PIXELS` at most, or `_MIN_BLOCKS` blocks where blocks are larger."""
    windows = list(sample_windows(source.width, source.height, source.block_shapes[0]))
    covered = sum(window.width * window.height for window in windows)
    step = max(1, round((covered / KEPT_PIXELS) ** 0.5))
    parts = [_thinned(source, bands, rule, window, step) for window in windows]
    return Sample(
        np.concatenate([part.pixels for part in parts], axis=1),
        np.concatenate([part.valid for part in parts]),
        None if rule.alpha is None else np.concatenate([part.alpha for part in parts if part.alpha is not None]),
        np.concatenate([part.rows for part in parts]),
        np.concatenate([part.cols for part in parts]),
    )


def sample_windows(width: int, height: int, block: tuple[int, int]) -> Iterator[Window]:
    """Windows on whole blocks, spread evenly; every second row of them is shifted by half a step.

    Args:
        width: of the scene.
        height: of the scene.
        block: (height, width) of its blocks.
    """
    block_height, block_width = min(block[0], height), min(block[1], width)
    rows, cols = -(-height // block_height), -(-width // block_width)
    # Whole blocks: a block is decoded whole, whatever part of it is read.
    block_count = min(max(BLOCK_PIXELS // (block_height * block_width), _MIN_BLOCKS), _MAX_BLOCKS)
    if width * height <= WHOLE_PIXELS or block_count >= rows * cols:
        down, across = rows, cols
    else:
        down = min(rows, max(1, round((block_count * rows / cols) ** 0.5)))
        across = min(cols, max(1, round(block_count / down)))
        down = min(rows, max(1, block_count // across))
    for line in range(down):
        row = (2 * line + 1) * rows // (2 * down)
        shift = 0 if across == cols else line % 2
        for place in range(across):
            col = min(cols - 1, (4 * place + 1 + 2 * shift) * cols // (4 * across)) if across < cols else place
            top, left = row * block_height, col * block_width
            yield Window(left, top, min(block_width, width - left), min(block_height, height - top))


def raster_window(window: Window) -> RasterWindow:
    """As rasterio takes it."""
    return RasterWindow(window.col, window.row, window.width, window.height)


def read_bands(source: DatasetReader, bands: tuple[int, ...], window: Window) -> NDArray[Any]:
    """Pixels (bands, h, w) at full resolution; a band asked for several times is decoded once."""
    # One grey band may stand for all three of the model's.
    unique = list(dict.fromkeys(bands))
    pixels: NDArray[Any] = source.read(unique, window=raster_window(window))
    return pixels if len(unique) == len(bands) else pixels[[unique.index(band) for band in bands]]


def _thinned(source: DatasetReader, bands: tuple[int, ...], rule: ValidRule, window: Window, step: int) -> Sample:
    """Every `step`-th pixel down and across; of a window too flat for that, so many fewer across."""
    place = raster_window(window)
    # A strip of one row cannot be thinned downwards: it gives as many pixels by being thinned more across.
    down = step if window.height >= 2 * step else 1
    across = step * step // down
    thin = (slice(down // 2, None, down), slice(min(across, window.width) // 2, None, across))
    pixels = read_bands(source, bands, window)
    # Without the alpha band: whether that is a mask is decided on this very sample.
    valid = replace(rule, alpha=None).valid(source, pixels, place)
    thinned = pixels[(slice(None), *thin)].reshape(len(bands), -1)
    rows, cols = np.meshgrid(
        np.arange(window.row, window.row + window.height)[thin[0]],
        np.arange(window.col, window.col + window.width)[thin[1]],
        indexing="ij",
    )
    return Sample(
        thinned,
        np.ones(thinned.shape[1], dtype=bool) if valid is None else valid[thin].ravel(),
        None if rule.alpha is None else source.read(rule.alpha, window=place)[thin].ravel(),
        rows.ravel(),
        cols.ravel(),
    )
