"""The blocks of a class map and of its overviews, made band by band: rows of the map that one row of blocks holds.

A band needs no other band, so bands may come in any order and on any thread, and while other rows are still being
mapped. Its pixels are read once: for the blocks, for all overviews, and for the pixels of each class.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

BLOCK: Final = 512
"""Pixels a side of a block, and rows of a band."""
FIRST_FACTOR: Final = 8
"""Of the overviews: 8, 32, 128, ... (docs/decisions/0002)."""
NEXT_FACTOR: Final = 4
FACTORS: Final = (8, 32, 128, 512)
"""Of the overviews that a band has whole rows of."""
_PART: Final = 4 * BLOCK
"""Columns that are worked on at a time."""

Pixels = NDArray[np.uint8]
Counts = NDArray[np.uint32]
"""Pixels of each class 1..K in cells of the map: (K, rows, columns)."""

# Between the levels that Zstandard has names for: of real maps the bytes of level 17 in a quarter of its time (docs/
# decisions/0002). Where rows repeat, a shallow search finds the matches, and the parser that weighs them all does it.
ZSTANDARD: Final[Mapping[int, int]] = {
    zstd.CompressionParameter.window_log: 17,
    zstd.CompressionParameter.chain_log: 13,
    zstd.CompressionParameter.hash_log: 15,
    zstd.CompressionParameter.search_log: 1,
    zstd.CompressionParameter.min_match: 3,
    zstd.CompressionParameter.target_length: 256,
    zstd.CompressionParameter.strategy: zstd.Strategy.btultra,
}


def overview_factors(width: int, height: int) -> list[int]:
    """Factors of the overviews: 8, 32, 128, ... until one fits a block; none for a map that does."""
    factors: list[int] = []
    factor = FIRST_FACTOR
    while max(width, height) > BLOCK * (factors[-1] if factors else 1):
        factors.append(factor)
        factor *= NEXT_FACTOR
    return factors


def bits_of(largest_code: int) -> int:
    """Bits of a pixel in the file: two pixels share a byte where the codes allow, which saves a quarter."""
    return 4 if largest_code < 16 else 8


@dataclass(frozen=True)
class Band:
    """What one band gives.

    Attributes:
        blocks: as they stand in the file, left to right.
        overviews: its rows of each overview up to 512, finest first: the class that most pixels have.
        cells: counts in squares of 512 pixels, of which coarser overviews are made: (K, 1, columns).
        counts: pixels of each code 0..K, int64 (K + 1,).
    """

    blocks: list[bytes]
    overviews: list[Pixels]
    cells: Counts
    counts: NDArray[np.int64]


class Stopped(Exception):
    """A band was given up half-way, as its caller wanted."""


class UnknownClass(ValueError):
    """A raster holds a code that is larger than its largest class: it is damaged, or of other classes."""


def encode_band(
    pixels: Pixels, largest_code: int, factors: Sequence[int], stopped: Callable[[], bool] = lambda: False
) -> Band:
    """Makes a band of its rows.

    Args:
        pixels: class codes (rows, width); 512 rows, fewer in the last band.
        largest_code: K.
        factors: of the map's overviews.
        stopped: asked again and again whether to give up.

    Raises:
        UnknownClass: a code is larger than K.
        Stopped: the caller wanted it.
    """
    parts = []
    # In parts, so that what is made on the way is as large for a wide map as for a narrow one.
    for at in range(0, pixels.shape[1], _PART):
        if stopped():
            raise Stopped
        parts.append(_encode_part(pixels[:, at : at + _PART], largest_code, factors))
    return Band(
        [block for part in parts for block in part.blocks],
        [np.concatenate(rows, axis=1) for rows in zip(*(part.overviews for part in parts), strict=True)],
        np.concatenate([part.cells for part in parts], axis=2),
        np.sum([part.counts for part in parts], axis=0),
    )


def _encode_part(pixels: Pixels, largest_code: int, factors: Sequence[int]) -> Band:
    cells = class_counts(pixels, largest_code)
    classes = cells.sum(axis=(1, 2), dtype=np.int64)
    overviews = []
    for factor in FACTORS:
        cells = cells if factor == FIRST_FACTOR else merged(cells)
        if factor in factors:
            overviews.append(most_frequent(cells))
    counts = np.concatenate([[np.count_nonzero(pixels == 0)], classes])
    if counts.sum() != pixels.size:
        raise UnknownClass(f"class code {pixels.max()} in a map whose largest is {largest_code}")
    return Band(encode_blocks(pixels, bits_of(largest_code)), overviews, cells, counts)


def encode_blocks(pixels: Pixels, bits: int, settings: Mapping[int, int] | None = None) -> list[bytes]:
    """One row of blocks, of pixels (up to 512, width); what a block lacks at right and bottom is zero.

    ``settings`` of Zstandard, by parameter: those that fly unless others are compared with them.
    """
    rows, width = pixels.shape
    columns = -(-width // BLOCK)
    whole = np.zeros((BLOCK, columns * BLOCK), dtype=np.uint8)
    whole[:rows, :width] = pixels
    if bits == 4:  # the left pixel in the upper half of a byte (TIFF 6.0, FillOrder 1)
        whole = (whole[:, ::2] << 4) | whole[:, 1::2]
    wide = whole.shape[1] // columns
    compressor = zstd.ZstdCompressor(options=ZSTANDARD if settings is None else settings)  # of this thread alone
    # Whole blocks in one call: Zstandard then knows their length and makes its tables no larger than they need.
    return [
        compressor.compress(whole[:, at : at + wide].tobytes(), zstd.ZstdCompressor.FLUSH_FRAME)
        for at in range(0, columns * wide, wide)
    ]


def class_counts(pixels: Pixels, largest_code: int) -> Counts:
    """Counts in squares of 8 pixels of (rows, width); squares at right and bottom may be cut off."""
    height, width = (-(-side // FIRST_FACTOR) for side in pixels.shape)
    padded = pixels
    if pixels.shape != (height * FIRST_FACTOR, width * FIRST_FACTOR):
        padded = np.zeros((height * FIRST_FACTOR, width * FIRST_FACTOR), dtype=np.uint8)
        padded[: pixels.shape[0], : pixels.shape[1]] = pixels
    rows = padded.reshape(height, FIRST_FACTOR, width * FIRST_FACTOR)
    counts = np.empty((largest_code, height, width), dtype=np.uint32)
    for code in range(1, largest_code + 1):
        down = (rows == code).view(np.uint8).sum(axis=1, dtype=np.uint8)
        # Eight neighbouring bytes are summed by one product of 64 bits, whose upper byte then has the sum, 64 at most.
        eights = np.ascontiguousarray(down).view(np.uint64) * np.uint64(0x0101010101010101)
        counts[code - 1] = eights >> np.uint64(56)
    return counts


def merged(counts: Counts) -> Counts:
    """Counts in squares four times as wide."""
    classes, height, width = counts.shape
    up, across = -(-height // NEXT_FACTOR), -(-width // NEXT_FACTOR)
    padded = counts
    if counts.shape != (classes, up * NEXT_FACTOR, across * NEXT_FACTOR):
        padded = np.zeros((classes, up * NEXT_FACTOR, across * NEXT_FACTOR), dtype=np.uint32)
        padded[:, :height, :width] = counts
    # Rows first: the sum over the outer axis is the fast one.
    down = padded.reshape(classes, up, NEXT_FACTOR, across * NEXT_FACTOR).sum(axis=2, dtype=np.uint32)
    whole: Counts = down.reshape(classes, up, across, NEXT_FACTOR).sum(axis=3, dtype=np.uint32)
    return whole


def most_frequent(counts: Counts) -> Pixels:
    """The class with most pixels in each cell, the lowest of equal ones; 0 where a cell has no data at all."""
    best: Pixels = counts.argmax(axis=0).astype(np.uint8) + np.uint8(1)
    best[counts.max(axis=0) == 0] = 0
    return best
