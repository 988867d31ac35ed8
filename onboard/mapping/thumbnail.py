"""A small picture of the scene, taken from the windows that are read for mapping: no pixel is decoded twice for it.

Its samples lie on a fixed grid over the scene, so a run that was interrupted gives the same picture; what an earlier
run or another machine has read is read again at the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onboard.mapping.pipeline import Source
from onboard.scene.grid import Grid, Window
from onboard.scene.reader import ScenePixels

OVERSAMPLING = 2
"""Samples a pixel of the thumbnail, each way: their mean is less grainy than one sample."""


@dataclass
class SceneThumbnail:
    """A scene's picture of ``width`` x ``height`` pixels.

    Attributes:
        scene_size: width and height of the scene, pixels.
        width, height: of the picture.
        bands: places of red, green and blue among the bands that are read.
    """

    scene_size: tuple[int, int]
    width: int
    height: int
    bands: tuple[int, int, int] = (0, 1, 2)
    _samples: NDArray[np.uint8] = field(init=False, repr=False)
    _state: NDArray[np.uint8] = field(init=False, repr=False)
    """By sample: 0 not read yet, 1 read, 2 read and valid."""

    def __post_init__(self) -> None:
        self._columns = _places(self.scene_size[0], self.width * OVERSAMPLING)
        self._rows = _places(self.scene_size[1], self.height * OVERSAMPLING)
        self._samples = np.zeros((len(self._rows), len(self._columns), 3), dtype=np.uint8)
        self._state = np.zeros((len(self._rows), len(self._columns)), dtype=np.uint8)

    def take(self, window: Window, read: ScenePixels) -> None:
        """Takes the samples that lie in a window of the scene; one thread at a time."""
        rows, columns = (
            self._span(self._rows, window.row, window.height),
            self._span(self._columns, window.col, window.width),
        )
        at = np.ix_(self._rows[rows] - window.row, self._columns[columns] - window.col)
        for place, band in enumerate(self.bands):
            # A model of fewer bands shows its last one in place of those it lacks.
            self._samples[rows, columns, place] = read.pixels[min(band, len(read.pixels) - 1)][at]
        self._state[rows, columns] = 2 if read.valid is None else 1 + read.valid[at]

    def complete(self, scene: Source, grid: Grid) -> None:
        """Reads what was not taken yet.

        Raises:
            SceneRefused: a window cannot be decoded.
        """
        for tile in grid:
            rows = self._span(self._rows, tile.core.row, tile.core.height)
            columns = self._span(self._columns, tile.core.col, tile.core.width)
            # Cores are read, not whole tiles: together they have each sample once.
            if not self._state[rows, columns].all():
                self.take(tile.core, scene.read(tile.core))

    def picture(self) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Colours (height, width, 3) and whether there is data (height, width)."""
        blocks = (self.height, OVERSAMPLING, self.width, OVERSAMPLING)
        valid = (self._state == 2).reshape(blocks)
        # Pixels without data have no part in a mean: a collar would darken the scene's edge.
        count = valid.sum(axis=(1, 3), dtype=np.uint16)
        total = np.where(valid[..., None], self._samples.reshape(*blocks, 3), 0).sum(axis=(1, 3), dtype=np.uint16)
        return (total // np.maximum(count, 1)[..., None]).astype(np.uint8), count > 0

    @staticmethod
    def _span(places: NDArray[np.int64], first: int, length: int) -> slice:
        return slice(*np.searchsorted(places, (first, first + length)).tolist())


@dataclass(frozen=True)
class SampledScene:
    """A scene whose windows are also given to a thumbnail, for what reads it; one handle reads at a time."""

    scene: Source
    thumbnail: SceneThumbnail

    @property
    def path(self) -> Path:
        """Of the scene."""
        return self.scene.path

    @contextmanager
    def reopen(self) -> Iterator[SampledScene]:
        """Another handle on the same scene, for the same thumbnail."""
        with self.scene.reopen() as scene:
            yield SampledScene(scene, self.thumbnail)

    def read(self, window: Window) -> ScenePixels:
        """Reads a window, and lets the thumbnail take its samples."""
        read = self.scene.read(window)
        self.thumbnail.take(window, read)
        return read


def _places(length: int, samples: int) -> NDArray[np.int64]:
    """Pixels in the middle of equal parts of a side, rising."""
    return ((np.arange(samples) + 0.5) * length / samples).astype(np.int64)
