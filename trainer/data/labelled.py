"""Labelled scenes, and random crops of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from onboard.scene.grid import Window
from trainer.data.augment import Crop
from trainer.data.landscape import Landscape

IGNORE = 0
"""Code of unlabelled pixels, which are left out of losses and metrics."""

_PLACES = 400_000
"""Largest number of positions stored for each class over all scenes: 5 MB per class, however large the set."""


@dataclass(frozen=True)
class LabelledScene:
    """``pixels`` uint8 (3, H, W) RGB, ``labels`` uint8 (H, W) with 0 = ignore. Both belong to the scene: read only."""

    name: str
    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8]

    def __post_init__(self) -> None:
        if self.pixels.ndim != 3 or self.pixels.shape[1:] != self.labels.shape:
            raise ValueError(f"{self.name}: pixels {self.pixels.shape} and labels {self.labels.shape} do not match")


class SceneStore(ABC):
    """Scenes by number, which need not be in memory."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> LabelledScene:
        """A whole scene."""

    def __iter__(self) -> Iterator[LabelledScene]:
        return (self[index] for index in range(len(self)))

    def shape(self, index: int) -> tuple[int, int]:
        """Height and width of a scene."""
        height, width = self[index].labels.shape
        return height, width

    def crop(self, index: int, window: Window) -> Crop:
        """Pixels and labels of a window inside a scene."""
        scene = self[index]
        return Crop(scene.pixels[:, window.rows, window.cols], scene.labels[window.rows, window.cols])

    def strips(self, index: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Labels of a scene from top to bottom, as (first row, labels uint8 (h, W)): no more at once than fits."""
        yield 0, self[index].labels

    def counts(self, index: int, classes: int) -> NDArray[np.int64]:
        """Pixels of each code 0..K in a scene, (K + 1,)."""
        counts = np.zeros(classes + 1, dtype=np.int64)
        for _, labels in self.strips(index):
            counts += np.bincount(labels.ravel(), minlength=classes + 1)[: classes + 1]
        return counts


class HeldScenes(SceneStore):
    """Scenes that are in memory."""

    def __init__(self, scenes: Sequence[LabelledScene]) -> None:
        self._scenes = scenes

    def __len__(self) -> int:
        return len(self._scenes)

    def __getitem__(self, index: int) -> LabelledScene:
        return self._scenes[index]


Scenes: TypeAlias = SceneStore | Sequence[LabelledScene]


def stored(scenes: Scenes) -> SceneStore:
    """The same scenes as a store."""
    return scenes if isinstance(scenes, SceneStore) else HeldScenes(scenes)


class CropSampler:
    """Draws crops: scenes with probability proportional to the root of their area, at random positions.

    The root is a compromise: equal probabilities would overuse the smallest scenes, and probabilities by area would
    draw mostly from the largest. Not thread-safe, because the caller's generator is not.

    Args:
        scenes: to draw from; their labels are read once for the positions of each class.
        classes: K.
        balanced: share of crops centred on a pixel of a class, with equal probability for each class.
        seed: of the choice of stored positions.
    """

    def __init__(self, scenes: Scenes, *, classes: int, balanced: float, seed: int) -> None:
        self.scenes = stored(scenes)
        self.balanced = balanced
        area = np.sqrt([np.prod(self.scenes.shape(index)) for index in range(len(self.scenes))])
        self.scene_share = area / area.sum()
        # A generator of its own: places are drawn once for a run, not by the order in which samples are.
        self.places = _places_by_class(self.scenes, classes, np.random.default_rng(seed)) if balanced else {}

    def draw(self, side: int, scale: tuple[float, float], rng: np.random.Generator) -> Crop:
        """A square window of side / s pixels, s log-uniform in ``scale``, to be resized to ``side``."""
        # Even in the logarithm: half size is as likely as double size.
        zoom = float(np.exp(rng.uniform(np.log(scale[0]), np.log(scale[1]))))
        return self.draw_extent(max(16, round(side / zoom)), rng)

    def draw_extent(self, extent: int, rng: np.random.Generator) -> Crop:
        """A square window of ``extent`` pixels, or of as many as the image drawn has."""
        return self.scenes.crop(*self.draw_window(extent, rng))

    def draw_window(self, extent: int, rng: np.random.Generator) -> tuple[int, Window]:
        """Which image, and a square window of ``extent`` pixels in it, or of as many as it has."""
        if rng.random() < self.balanced and self.places:
            # The class first, then one of its pixels: rare classes come as often as common ones.
            places = self.places[int(rng.choice(list(self.places)))]
            index, row, column = (int(part) for part in places[rng.integers(len(places))])
        else:
            index = int(rng.choice(len(self.scenes), p=self.scene_share))
            height, width = self.scenes.shape(index)
            row, column = int(rng.integers(height)), int(rng.integers(width))
        height, width = self.scenes.shape(index)
        # Square, since both axes are scaled alike afterwards.
        extent = min(extent, height, width)
        return index, Window(_start(column, extent, width, rng), _start(row, extent, height, rng), extent, extent)


class MixedSampler:
    """Crops of one sampler, and for a share of the draws of another."""

    def __init__(self, usual: CropSampler, other: CropSampler, *, share: float) -> None:
        self.usual = usual
        self.other = other
        self.share = share

    def draw(self, side: int, scale: tuple[float, float], rng: np.random.Generator) -> Crop:
        """As :meth:`CropSampler.draw`."""
        return (self.other if rng.random() < self.share else self.usual).draw(side, scale, rng)


def made_scenes(seeds: Sequence[int], side: int = 1536) -> list[LabelledScene]:
    """Landscapes made by rule, ``side`` x ``side`` pixels each."""
    scenes = []
    for seed in seeds:
        pixels, labels = Landscape(seed).window(0, 0, side, side)
        scenes.append(LabelledScene(f"landscape/{seed}", pixels, labels))
    return scenes


def _start(centre: int, extent: int, limit: int, rng: np.random.Generator) -> int:
    """First row or column of a window that holds ``centre`` in its middle half and lies inside the scene."""
    # Not centred: the class that was drawn would always stand in the middle of the crop.
    shift = int(rng.integers(-(extent // 4), extent // 4 + 1))
    return int(np.clip(centre + shift - extent // 2, 0, limit - extent))


def _places_by_class(scenes: SceneStore, classes: int, rng: np.random.Generator) -> dict[int, NDArray[np.int32]]:
    """Per class code, rows of (scene, row, column): pixels of it drawn evenly from each scene, up to 4,000."""
    # At least 8 of each scene, so that many scenes keep a few places each.
    each = min(4000, max(8, _PLACES // max(len(scenes), 1)))
    positions: dict[int, list[NDArray[np.int32]]] = {}
    for index in range(len(scenes)):
        counts = scenes.counts(index, classes)
        ranks = {
            # Ranks rather than places: labels of a large scene are passed in strips and never held whole.
            code: rng.choice(counts[code], size=min(each, counts[code]), replace=False)
            for code in range(1, classes + 1)
            if counts[code]
        }
        for code, places in _places_of_ranks(scenes, index, ranks).items():
            positions.setdefault(code, []).append(places)
    return {code: np.concatenate(positions[code]) for code in sorted(positions)}


def _places_of_ranks(
    scenes: SceneStore, index: int, ranks: dict[int, NDArray[np.int64]]
) -> dict[int, NDArray[np.int32]]:
    """(scene, row, column) of the n-th pixel of a class, for each n of ``ranks``; pixels are numbered row by row."""
    places = {code: np.full((len(wanted), 3), index, dtype=np.int32) for code, wanted in ranks.items()}
    passed = dict.fromkeys(ranks, 0)
    for top, labels in scenes.strips(index):
        for code, wanted in ranks.items():
            # The ranks that fall into this strip, counted on from those of the strips above.
            flat = np.flatnonzero(labels == code)
            here = (wanted >= passed[code]) & (wanted < passed[code] + len(flat))
            rows, columns = np.divmod(flat[wanted[here] - passed[code]], labels.shape[1])
            places[code][here, 1], places[code][here, 2] = rows + top, columns
            passed[code] += len(flat)
    return places


def class_shares(scenes: Scenes, classes: int) -> NDArray[np.float64]:
    """Share of each class 1..K among labelled pixels, float64 (K,)."""
    store = stored(scenes)
    labelled = sum((store.counts(index, classes) for index in range(len(store))), np.zeros(classes + 1))[1:]
    return np.asarray(labelled / max(labelled.sum(), 1.0))
