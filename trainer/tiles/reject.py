"""Selection of tiles: enough valid pixels, enough content, and no duplicates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from onboard.scene.reader import ScenePixels
from trainer.tiles.settings import TileSettings

SMALL, UNREADABLE, NO_DATA, BLANK, ALIKE = (
    "smaller than a tile", "cannot be read", "no data", "blank", "near-duplicate",
)  # fmt: skip
REASONS = (SMALL, UNREADABLE, NO_DATA, BLANK, ALIKE)
"""Reasons to reject a tile, or a whole source that is smaller than a tile."""
# XOR and population count of this many hashes stay in a processor's cache.
_CHUNK = 1 << 15


@dataclass(frozen=True)
class Statistics:
    """Statistics of a tile.

    Attributes:
        valid_share: share of pixels with data, 0 to 1.
        mean: of red, green and blue over pixels with data, 0 to 255.
        deviation: standard deviation of red, green and blue over pixels with data.
        difference_hash: 64 bits.
    """

    valid_share: float
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    difference_hash: int


@dataclass(frozen=True)
class Rejection:
    """Why a tile is rejected: one of `REASONS`, and a detail."""

    reason: str
    detail: str


class SeenHashes:
    """Hashes of every tile kept so far, 8 bytes a tile (16 while the array grows).

    A look-up compares with all of them in numpy, newest first: 0.1 ms among 100,000, less than a tile's decoding takes
    among tens of millions.
    """

    def __init__(self) -> None:
        self._hashes = np.zeros(1024, dtype=np.uint64)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, hashes: NDArray[np.uint64]) -> None:
        """Appends hashes (n,); the number of a hash is its place in the order of adding."""
        needed = self._count + len(hashes)
        if needed > len(self._hashes):
            # Doubled, so that adding n hashes one by one copies n of them, not n^2.
            grown = np.zeros(max(needed, 2 * len(self._hashes)), dtype=np.uint64)
            grown[: self._count] = self._hashes[: self._count]
            self._hashes = grown
        self._hashes[self._count : needed] = hashes
        self._count = needed

    def nearest_within(self, value: int, distance: int) -> int | None:
        """Number of a hash at most `distance` bits from `value`, None where there is none."""
        for end in range(self._count, 0, -_CHUNK):
            start = max(0, end - _CHUNK)
            bits = np.bitwise_count(self._hashes[start:end] ^ np.uint64(value))
            best = int(bits.argmin())
            if bits[best] <= distance:
                return start + best
        return None


def difference_hash(pixels: NDArray[np.uint8]) -> int:
    """64 bits of RGB pixels (3, h, w): whether grey rises from each of 8 x 8 cells to its right neighbour.

    The first row's leftmost cell is the highest bit. Source: N. Krawetz, "Kind of Like That", hackerfactor.com, 2013.
    """
    grey = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).convert("L")
    # Nine cells for eight comparisons a row.
    cells = np.asarray(grey.resize((9, 8), Image.Resampling.BOX))
    return int.from_bytes(np.packbits(cells[:, 1:] > cells[:, :-1]).tobytes(), "big")


def judged(tile: ScenePixels, seen: SeenHashes, settings: TileSettings) -> Statistics | Rejection:
    """A tile's statistics if it is accepted, else the rejection. `seen` is not changed."""
    valid_share = 1.0 if tile.valid is None else float(tile.valid.mean())
    # The cheap questions first: the hash and its look-up come only for tiles that pass the others.
    if 1 - valid_share > settings.most_invalid or valid_share == 0:
        return Rejection(NO_DATA, f"{1 - valid_share:.0%} of its pixels")
    mean, deviation = _moments(tile)
    if max(deviation) <= settings.least_deviation:
        return Rejection(BLANK, f"deviation {max(deviation):.1f}")
    value = difference_hash(tile.pixels)
    # The same picture compressed once more differs in some bits, so hashes are compared by distance.
    twin = seen.nearest_within(value, settings.most_alike)
    if twin is not None:
        return Rejection(ALIKE, f"of tile {twin}")
    return Statistics(valid_share, mean, deviation, value)


def _moments(tile: ScenePixels) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation per band, from a histogram: exact, and without a copy as floats."""
    levels = np.arange(256, dtype=np.float64)
    means, deviations = [], []
    for band in tile.pixels:
        counts = np.bincount(band.ravel() if tile.valid is None else band[tile.valid], minlength=256)
        mean = float((counts * levels).sum() / counts.sum())
        means.append(round(mean, 3))
        deviations.append(round(float(np.sqrt((counts * (levels - mean) ** 2).sum() / counts.sum())), 3))
    return tuple(means), tuple(deviations)
