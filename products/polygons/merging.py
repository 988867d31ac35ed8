"""Small patches go to the neighbour with which they share the longest border, so that no gap is left."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from products.polygons.patches import Borders, Numbers, Patches, components
from products.polygons.tiles import Floats


@dataclass(frozen=True)
class Minimum:
    """Size of the smallest patch that stays.

    Attributes:
        size: square metres, or pixels.
        in_pixels: which of the two.
    """

    size: float
    in_pixels: bool = False


def without_small(patches: Patches, borders: Borders, minimum: Minimum) -> Patches:
    """The patches, those below the minimum joined to a neighbour that has a class, as often as there is one.

    A group takes the class of its largest patch. No data stays as it is; a small patch amid no data becomes no data.

    Raises:
        ValueError: square metres are asked for where the raster has no place.
    """
    while True:
        sizes = patches.pixels.astype(np.float64) if minimum.in_pixels else patches.areas
        if sizes is None:
            raise ValueError("the raster has no place, so no areas")
        pairs, lengths = _between(patches, borders)
        is_small = sizes < minimum.size
        smaller, larger = _hooks(is_small, sizes, pairs, lengths)
        if not len(smaller):
            return replace(patches, codes=np.where(is_small, 0, patches.codes))
        # All at once: chains of small patches end in one group.
        groups, count = components(len(sizes), smaller, larger)
        codes = _of_largest(groups, count, sizes, patches.codes)
        patches = patches.regrouped(groups, codes)
        # What lay apart and is now of one class beside its neighbour is one patch.
        pairs, _ = _between(patches, borders)
        patches = patches.joined(pairs[:, codes[pairs[0]] == codes[pairs[1]]])


def _between(patches: Patches, borders: Borders) -> tuple[Numbers, Numbers]:
    """Pairs of patches of two classes that share a border, (2, pairs), each once, and how long it is."""
    pairs = np.sort(patches.of_label[borders.labels], axis=0)
    pairs, lengths = (part[..., pairs[0] != pairs[1]] for part in (pairs, borders.lengths))
    has_class = (patches.codes[pairs[0]] != 0) & (patches.codes[pairs[1]] != 0)
    span = len(patches.codes)
    # In int64: a pair's number is up to the square of the number of patches.
    keys, at = np.unique(pairs[0, has_class] * span + pairs[1, has_class], return_inverse=True)
    total = np.bincount(at, lengths[has_class], len(keys)).astype(np.int64)
    return np.stack([keys // span, keys % span]), total


def _hooks(is_small: NDArray[np.bool_], sizes: Floats, pairs: Numbers, lengths: Numbers) -> tuple[Numbers, Numbers]:
    """Each small patch that has a neighbour, and the neighbour that it goes to."""
    sources, targets = np.concatenate([pairs, pairs[::-1]], axis=1)
    lengths = np.concatenate([lengths, lengths])
    chosen = is_small[sources]
    sources, targets, lengths = sources[chosen], targets[chosen], lengths[chosen]
    # The last of each source: the longest border; then the larger neighbour; then the lower number.
    order = np.lexsort((-targets, sizes[targets], lengths, sources))
    sources, targets = sources[order], targets[order]
    is_last = np.ones(len(sources), dtype=bool)
    is_last[:-1] = sources[1:] != sources[:-1]
    return sources[is_last], targets[is_last]


def _of_largest(groups: Numbers, count: int, sizes: Floats, codes: Numbers) -> Numbers:
    order = np.lexsort((-np.arange(len(groups)), sizes, groups))
    of_group = np.empty(count, np.int64)
    of_group[groups[order]] = codes[order]  # the last written stays
    return of_group
