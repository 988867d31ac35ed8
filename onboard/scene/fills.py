"""Values that stand for "no data" though the file does not say so, and alpha bands that mask nothing.

Everything here judges a sample of the scene at full resolution.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onboard.scene.valid import LARGEST_FLOAT, LEAST_FLOAT_ALPHA

# Fill values in use: GDAL's and Esri's defaults, and those of 1e20 (CF) and -999 in tables turned into rasters.
_USUAL = (-9999.0, -32768.0, -32767.0, -999.0, -99999.0, -999999.0, 1e20, -1e20)
_MIN_PIXELS = 4
# Of one band only: a few saturated pixels are no fill, and bend no stretch.
_MIN_SHARE_OF_ONE_BAND = 1e-3
# Of a value that nobody uses for it, in all bands.
_MIN_SHARE_OF_UNUSUAL = 1e-2
_MANY_VALUES = 16
_MIN_OPAQUE, _MOST_BETWEEN = 0.25, 0.25


def untagged_fill(pixels: NDArray[Any], valid: NDArray[np.bool_]) -> float | None:
    """The value that all bands have in some pixels, or one band in many, far from all others; None without one.

    Args:
        pixels: (bands, n).
        valid: (n,), True where the file's own rule finds data.
    """
    values = pixels[:, valid]
    usual = _fill_values(values.dtype)
    for value in usual + _ends(values):
        equal = values == value
        in_all, in_any = int(equal.all(axis=0).sum()), int(equal.any(axis=0).sum())
        if value in usual:
            is_enough = in_all >= _MIN_PIXELS or in_any >= max(_MIN_PIXELS, _MIN_SHARE_OF_ONE_BAND * values.shape[1])
        else:
            is_enough = in_all >= max(_MIN_PIXELS, _MIN_SHARE_OF_UNUSUAL * values.shape[1])
        if is_enough and cannot_be_measured(values, value):
            return value
    return None


def cannot_be_measured(pixels: NDArray[Any], value: float) -> bool:
    """Whether a value lies farther from the pixels (bands, n) that do not have it than these spread."""
    if pixels.dtype == np.uint8:
        return False
    others = pixels[:, (pixels != value).all(axis=0)].astype(np.float64)
    others = others[:, (np.abs(others) < LARGEST_FLOAT).all(axis=0)]
    if others.size == 0:
        return False
    # Percentiles: a few saturated pixels must not widen the spread that the gap is held against.
    low, high = np.percentile(others, (0.1, 99.9)).tolist()
    gap = low - value if value < low else value - high
    # Zero is what shadow and deep water have in many products, and the collar's search finds it where it is none.
    return value != 0 and bool(gap > max(high - low, np.finfo(np.float32).tiny))


def is_graded(alpha: NDArray[Any]) -> bool:
    """Whether a band (n,) marked alpha holds measurements (near infrared, say) and is no mask.

    A mask has two values nearly everywhere: 0 and one more, or what lossy compression made of them, and others where
    its edges are smoothed.
    """
    values = alpha[alpha != 0]
    if values.size == 0:
        return False
    # A mask with smoothed edges has some values between; measurements have many.
    if np.unique(values).size < _MANY_VALUES:
        return False
    largest = float(values.max())
    opaque = float((values >= largest * 15 / 16).mean())
    # What lossy compression made of 0 is as low as near infrared over water, but most of a scene is opaque.
    faint = float((values <= largest / 16).mean()) if opaque > _MIN_OPAQUE else 0.0
    return 1 - opaque - faint > _MOST_BETWEEN


def faint_alpha(alpha: NDArray[Any]) -> float:
    """The smallest value of a mask (n,) that means data.

    A sixteenth of the largest: compression in former times, or blending, leaves low values beside or in place of 0.
    """
    known = alpha[np.isfinite(alpha)]
    if np.issubdtype(alpha.dtype, np.floating):
        # Of floats the largest may be 1, or 255: what lies between is an edge that was smoothed.
        return max(LEAST_FLOAT_ALPHA, float(known.max(initial=0)) / 16)
    return max(1, -(-int(known.max(initial=0)) // 16))


def _fill_values(dtype: np.dtype[Any]) -> list[float]:
    if dtype == np.uint8:
        return []
    if np.issubdtype(dtype, np.floating):
        return list(_USUAL)
    limits = np.iinfo(dtype)
    ends = [float(limits.max)] if limits.min == 0 else [float(limits.min), float(limits.max)]
    return ends + [value for value in _USUAL if limits.min <= value <= limits.max and value not in ends]


def _ends(values: NDArray[Any]) -> list[float]:
    """The smallest and the largest value (bands, n); shifted or scaled, a fill is still one of them."""
    if values.dtype == np.uint8:
        return []
    with np.errstate(invalid="ignore"):
        usable = values[np.abs(values) < LARGEST_FLOAT] if np.issubdtype(values.dtype, np.floating) else values
    return [float(usable.min()), float(usable.max())] if usable.size else []
