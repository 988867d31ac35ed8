"""One tile made of small crops of different content, used to check a running engine again and again.

A single golden tile has few classes, mostly at high confidence. Sixteen crops of several pictures, dark and bright,
flat and noisy, reach every class and many levels of confidence at the cost of one inference.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
CROPS_A_SIDE = 4
_LEVELS = 8
"""Levels of confidence that the choice of crops distinguishes."""


def variants(tile: Image) -> NDArray[np.uint8]:
    """Six variants (6, bands, S, S) of one tile (bands, S, S): unchanged, darker, brighter, faint, noisy, recoloured.

    Equal tiles give equal variants.
    """
    real = tile.astype(np.float32)
    noise = np.random.default_rng(1).normal(0.0, 40.0, tile.shape).astype(np.float32)
    mean = real.mean()
    pictures = [
        real, real * 0.4, real * 1.5 + 30, mean + 0.25 * (real - mean), np.rot90(real, axes=(1, 2)) + noise,
        np.roll(real, 1, axis=0)[:, ::-1],
    ]  # fmt: skip
    return np.stack([np.clip(np.rint(picture), 0, 255).astype(np.uint8) for picture in pictures])


def packed_tile(
    tiles: NDArray[np.uint8], classes: NDArray[np.uint8] | None = None, confidence: NDArray[np.uint8] | None = None
) -> Image:
    """Sixteen crops of the tiles, in one tile (bands, S, S).

    Args:
        tiles: to crop from, uint8 (N, bands, S, S).
        classes: what the model says of them, uint8 (N, S, S): crops are then chosen that add most to the variety of
            classes and confidence. Without it they are taken in turn from all tiles.
        confidence: uint8 (N, S, S), where the model gives it.
    """
    side = max(1, tiles.shape[2] // CROPS_A_SIDE)
    places = [(row * side, col * side) for row in range(CROPS_A_SIDE) for col in range(CROPS_A_SIDE)]
    crops = [(number, row, col) for number in range(len(tiles)) for row, col in places]
    if classes is None:
        taken = [(index % len(tiles), row, col) for index, (row, col) in enumerate(places)]
    else:
        taken = _most_varied([_profile(classes, confidence, crop, side) for crop in crops], crops)
    # Where four does not divide the side, a strip is left over: it keeps pixels of the first tile.
    packed: Image = tiles[0].copy()
    for (row, col), (number, top, left) in zip(places, taken, strict=True):
        packed[:, row : row + side, col : col + side] = tiles[number, :, top : top + side, left : left + side]
    return packed


def _profile(
    classes: NDArray[np.uint8], confidence: NDArray[np.uint8] | None, crop: tuple[int, int, int], side: int
) -> NDArray[np.float64]:
    """Pixels of each class at each level of confidence, as (256 * levels,)."""
    number, row, col = crop
    at = (number, slice(row, row + side), slice(col, col + side))
    # Wide numbers first: class 255 times eight levels does not fit into the class map's uint8.
    cells = classes[at].astype(np.int64).ravel() * _LEVELS
    if confidence is not None:
        cells += confidence[at].astype(np.int64).ravel() * _LEVELS // 256
    return np.bincount(cells, minlength=256 * _LEVELS).astype(np.float64)


def _most_varied(profiles: list[NDArray[np.float64]], crops: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Greedy: each next crop is the one that raises the sum of the cells' square roots most."""
    total, left, taken = np.zeros_like(profiles[0]), list(range(len(crops))), []
    for _ in range(CROPS_A_SIDE**2):
        # The square root makes the first pixels of a new cell worth more than further ones of a known cell.
        best = max(left, key=lambda index: float(np.sqrt(total + profiles[index]).sum()))
        left.remove(best)
        total = total + profiles[best]
        taken.append(crops[best])
    return taken
