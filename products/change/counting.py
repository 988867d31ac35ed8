"""How many pixels, and which area, went from class to class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from products.classes import MapClass
from products.polygons.tiles import Codes, Floats

UNCHANGED: Final = 1
"""Code of pixels of one class in both maps; 0 is no data in one of them."""


@dataclass(frozen=True)
class Transition:
    """From one class to another.

    Attributes:
        code: in the raster of changes.
        before: class of the older map; after: of the newer.
        colour: red, green, blue, alpha.
    """

    code: int
    before: MapClass
    after: MapClass
    colour: tuple[int, int, int, int]

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.before.title} to {self.after.title}"


@dataclass(frozen=True)
class Changes:
    """How much went from class to class, classes in the order of the pair's.

    Attributes:
        classes: K of them.
        pixels: (K, K), from row to column.
        areas: square metres, likewise; None where the maps have no place.
        no_data: pixels without a class in one of the maps.
    """

    classes: tuple[MapClass, ...]
    pixels: NDArray[np.int64]
    areas: NDArray[np.float64] | None
    no_data: int

    @property
    def changed(self) -> int:
        """Pixels whose class is another."""
        return int(self.pixels.sum() - np.trace(self.pixels))

    @property
    def compared(self) -> int:
        """Pixels that have a class in both."""
        return int(self.pixels.sum())


def transitions(classes: tuple[MapClass, ...]) -> tuple[Transition, ...]:
    """All changes from one of the classes to another, with codes from 2 on; the same codes for the same classes."""
    # All pairs, also those that do not occur: the same classes have the same codes in every raster of changes.
    pairs = [(before, after) for before in classes for after in classes if before.code != after.code]
    return tuple(
        Transition(UNCHANGED + 1 + number, before, after, _blend(before.colour, after.colour))
        for number, (before, after) in enumerate(pairs)
    )


class ChangeCount:
    """Pixels and areas of pairs of classes, tile after tile.

    Args:
        classes: of both maps, no data left out.
        has_areas: whether the area of each pixel is known.
    """

    def __init__(self, classes: tuple[MapClass, ...], *, has_areas: bool) -> None:
        self._classes, self._has_areas = classes, has_areas
        # Codes of no class count as no data, whatever a damaged file holds.
        self._number = np.zeros(256, np.int64)  # 0 is no data
        self._number[[item.code for item in classes]] = np.arange(1, len(classes) + 1)
        self._size = len(classes) + 1
        self._pixels = np.zeros(self._size**2, np.int64)
        self._areas = np.zeros(self._size**2)

    def add(self, before: Codes, after: Codes, areas: Floats | None) -> None:
        """Adds the pixels of a tile, with the area of each."""
        # One number for each pair: a single pass over the pixels, however many classes there are.
        cells = (self._number[before] * self._size + self._number[after]).ravel()
        self._pixels += np.bincount(cells, minlength=self._size**2)
        if areas is not None:
            self._areas += np.bincount(cells, areas.ravel(), self._size**2)

    def changes(self) -> Changes:
        """What was added so far."""
        shape = self._size, self._size
        pixels, areas = self._pixels.reshape(shape), self._areas.reshape(shape)
        # Row and column 0 are no data in one of the maps: neither changed nor compared.
        known = pixels[1:, 1:]
        no_data = int(pixels.sum() - known.sum())
        return Changes(self._classes, known, areas[1:, 1:] if self._has_areas else None, no_data)


def rows_of(changes: Changes, *, unchanged: bool = True) -> list[dict[str, Any]]:
    """A row for each pair of classes that occurs, the most pixels first; what did not change is a pair of one class."""
    rows = []
    for number, before in enumerate(changes.classes):
        for other, after in enumerate(changes.classes):
            pixels = int(changes.pixels[number, other])
            if not pixels or (number == other and not unchanged):
                continue
            area = None if changes.areas is None else round(float(changes.areas[number, other]), 1)
            rows.append(
                {
                    "from": before.code, "from_name": before.title, "to": after.code, "to_name": after.title,
                    "pixels": pixels, "area_m2": area, "share": round(pixels / max(1, changes.compared), 6),
                }
            )  # fmt: skip
    return sorted(rows, key=lambda row: -int(row["pixels"]))


def totals_of(changes: Changes) -> list[dict[str, Any]]:
    """A row for each class: how much there was of it and how much there is."""
    rows = []
    for number, item in enumerate(changes.classes):
        before, after = int(changes.pixels[number].sum()), int(changes.pixels[:, number].sum())
        row: dict[str, Any] = {
            "class": item.code, "name": item.title, "pixels_before": before, "pixels_after": after,
            "change": round(after / before - 1, 6) if before else None,
        }  # fmt: skip
        if changes.areas is not None:
            row["area_m2_before"] = round(float(changes.areas[number].sum()), 1)
            row["area_m2_after"] = round(float(changes.areas[:, number].sum()), 1)
        rows.append(row)
    return rows


def _blend(before: tuple[int, int, int, int], after: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """What the ground is now, with a quarter of what it was: pairs that end in one class differ."""
    red, green, blue = (round(0.25 * old + 0.75 * new) for old, new in zip(before[:3], after[:3], strict=True))
    return red, green, blue, 255
