"""Labelled scenes held in memory, and crops drawn from them.

The whole of dubai is 96 Mpx: 290 MB as uint8, so windows are cut from memory and no file is open while training.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning

from trainer.data.augment import Crop
from trainer.data.landscape import Landscape
from trainer.errors import DataMissing

IGNORE = 0
"""Code of unlabelled pixels: in no loss and in no figure."""


@dataclass(frozen=True)
class LandCoverClass:
    """One class: its code (1..K), name as in files, title for people, colour "#rrggbb"."""

    code: int
    name: str
    title: str
    color: str


DUBAI_CLASSES = (
    LandCoverClass(1, "building", "Building", "#E2574C"),
    LandCoverClass(2, "road", "Road", "#6E6E6E"),
    LandCoverClass(3, "vegetation", "Vegetation", "#4C9F4C"),
    LandCoverClass(4, "water", "Water", "#3B82C4"),
    LandCoverClass(5, "bare_land", "Bare land", "#D9C48F"),
)
DATASETS = {"dubai": DUBAI_CLASSES}
"""Class tables by data set."""


@dataclass(frozen=True)
class LabelledScene:
    """``pixels`` uint8 (3, H, W) RGB, ``labels`` uint8 (H, W) with 0 = ignore. Both belong to the scene: read only."""

    name: str
    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8]

    def __post_init__(self) -> None:
        if self.pixels.ndim != 3 or self.pixels.shape[1:] != self.labels.shape:
            raise ValueError(f"{self.name}: pixels {self.pixels.shape} and labels {self.labels.shape} do not match")


def data_root(given: Path | None = None) -> Path:
    """Folder of the data sets: as given, else SHARED_DATA, else ../shared/data beside the checkout."""
    if given is not None:
        return given
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    return Path(os.environ.get("SHARED_DATA", beside))


def scene_paths(root: Path, dataset: str, number: int) -> tuple[Path, Path]:
    """Image and label file of one scene.

    Raises:
        DataMissing: either is not there.
    """
    paths = tuple(root / dataset / kind / f"scene_{number}.tif" for kind in ("scenes", "labels"))
    for path in paths:
        if not path.is_file():
            raise DataMissing(path, f"scene {number} of {dataset} is not there")
    return paths[0], paths[1]


def read_scenes(root: Path, dataset: str, numbers: Sequence[int]) -> list[LabelledScene]:
    """Scenes by number, whole, in memory."""
    scenes = []
    for number in numbers:
        image, label = scene_paths(root, dataset, number)
        scenes.append(LabelledScene(f"{dataset}/{number}", _read(image), _read(label)[0]))
    return scenes


def _read(path: Path) -> NDArray[np.uint8]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # training needs pixels, not places
        with rasterio.open(path, driver="GTiff") as dataset:
            pixels: NDArray[np.uint8] = dataset.read()
    return pixels


class CropSampler:
    """Draws crops: any scene by the root of its area, any place, or centred on a class drawn evenly.

    The root lies between "each scene alike", which would overuse the smallest, and "each pixel alike", which would
    see little but the two largest. Not thread-safe: the generator is the caller's.
    """

    def __init__(self, scenes: Sequence[LabelledScene], *, classes: int, balanced: float, seed: int) -> None:
        self.scenes = scenes
        self.balanced = balanced
        area = np.sqrt([scene.labels.size for scene in scenes])
        self.scene_share = area / area.sum()
        self.places = _places_by_class(scenes, classes, np.random.default_rng(seed))

    def draw(self, side: int, scale: tuple[float, float], rng: np.random.Generator) -> Crop:
        """A square window of side / s pixels, s log-uniform in ``scale``, to be resized to ``side``."""
        zoom = float(np.exp(rng.uniform(np.log(scale[0]), np.log(scale[1]))))
        if rng.random() < self.balanced and self.places:
            places = self.places[int(rng.choice(list(self.places)))]
            index, row, column = (int(part) for part in places[rng.integers(len(places))])
        else:
            index = int(rng.choice(len(self.scenes), p=self.scene_share))
            height, width = self.scenes[index].labels.shape
            row, column = int(rng.integers(height)), int(rng.integers(width))
        scene = self.scenes[index]
        height, width = scene.labels.shape
        extent = min(max(16, round(side / zoom)), height, width)
        top = _start(row, extent, height, rng)
        left = _start(column, extent, width, rng)
        window = (slice(top, top + extent), slice(left, left + extent))
        return Crop(scene.pixels[:, window[0], window[1]], scene.labels[window])


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
    shift = int(rng.integers(-(extent // 4), extent // 4 + 1))
    return int(np.clip(centre + shift - extent // 2, 0, limit - extent))


def _places_by_class(
    scenes: Sequence[LabelledScene], classes: int, rng: np.random.Generator, each: int = 4000
) -> dict[int, NDArray[np.int64]]:
    """Per class code, rows of (scene, row, column): up to ``each`` pixels a scene, drawn evenly."""
    found: dict[int, list[NDArray[np.int64]]] = {}
    for index, scene in enumerate(scenes):
        for code in range(1, classes + 1):
            flat = np.flatnonzero(scene.labels == code)
            if len(flat) == 0:
                continue
            flat = rng.choice(flat, size=min(each, len(flat)), replace=False)
            rows, columns = np.divmod(flat, scene.labels.shape[1])
            found.setdefault(code, []).append(np.stack([np.full_like(rows, index), rows, columns], axis=1))
    return {code: np.concatenate(parts) for code, parts in found.items()}


def class_shares(scenes: Sequence[LabelledScene], classes: int) -> NDArray[np.float64]:
    """Share of each class 1..K among labelled pixels, float64 (K,)."""
    counts = np.zeros(classes + 1, dtype=np.float64)
    for scene in scenes:
        counts += np.bincount(scene.labels.ravel(), minlength=classes + 1)[: classes + 1]
    labelled = counts[1:]
    return np.asarray(labelled / max(labelled.sum(), 1.0))
