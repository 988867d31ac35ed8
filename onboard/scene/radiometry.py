"""From a scene's values to the model's bytes: one stretch for the whole scene, so that tiles agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onboard.errors import OptionsRefused


@dataclass(frozen=True)
class Stretch:
    """A linear map of each band from low..high to 0..255, clipped.

    Attributes:
        percentiles: at which low and high were taken.
        low: of each band, in the scene's values.
        high: of each band; above `low`.
        sampled_pixels: how many they were taken from.
    """

    percentiles: tuple[float, float]
    low: tuple[float, ...]
    high: tuple[float, ...]
    sampled_pixels: int

    @classmethod
    def measured(cls, sample: NDArray[Any], valid: NDArray[np.bool_], percentiles: tuple[float, float]) -> Stretch:
        """Takes low and high from a sample.

        Args:
            sample: (bands, n), or (bands, h, w).
            valid: (n,) or (h, w), True where the sample counts; if none does, the stretch is 0..1.
            percentiles: low and high, 0..100.
        """
        lows, highs = [], []
        for band in sample:
            values = band[valid].astype(np.float64)
            low, high = np.percentile(values, percentiles).tolist() if values.size else (0.0, 1.0)
            lows.append(low)
            # A band of one value must not divide by zero.
            highs.append(high if high > low else low + 1)
        return cls(percentiles, tuple(lows), tuple(highs), int(valid.sum()))

    def applied(self, pixels: NDArray[Any]) -> NDArray[np.uint8]:
        """Bytes (bands, h, w) of values (bands, h, w); not-a-number becomes 0."""
        # float32 holds 24 bits: 32-bit numbers that are large and close together would all become the same.
        wide = pixels.dtype.itemsize > 2 and pixels.dtype != np.float32
        kind = np.dtype(np.float64 if wide else np.float32)
        low = np.array(self.low, kind)[:, None, None]
        scale = 255 / (np.array(self.high, kind)[:, None, None] - low)
        with np.errstate(over="ignore", invalid="ignore"):  # fill values at the end of the type's range
            # The cast to bytes cuts off: half a step added before makes it round.
            scaled = (pixels.astype(kind) - low) * scale + kind.type(0.5)
        # A cast of not-a-number or infinity to a byte is undefined in C: processors give different bytes.
        np.nan_to_num(scaled, copy=False, nan=0.0, posinf=255.0, neginf=0.0)
        bytes_: NDArray[np.uint8] = np.clip(scaled, 0, 255).astype(np.uint8)
        return bytes_


def checked_percentiles(percentiles: tuple[float, float]) -> tuple[float, float]:
    """The same pair.

    Raises:
        OptionsRefused: not 0 <= low < high <= 100.
    """
    low, high = percentiles
    if not 0 <= low < high <= 100:
        raise OptionsRefused(f"--stretch {low:g},{high:g} is no range", "give two percentiles like 2,98")
    return low, high
