"""Imagery without labels, for masked reconstruction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainer.data.augment import Crop
from trainer.errors import DataMissing


def read_images(folder: Path) -> list[NDArray[np.uint8]]:
    """Every JPEG under a folder, sorted by path, as uint8 (3, H, W).

    Raises:
        DataMissing: there is none.
    """
    images: list[NDArray[np.uint8]] = []
    for path in sorted([*folder.rglob("*.jpg"), *folder.rglob("*.jpeg")]):
        with Image.open(path) as image:
            images.append(np.ascontiguousarray(np.asarray(image.convert("RGB")).transpose(2, 0, 1)))
    if not images:
        raise DataMissing(folder, "no JPEG in it")
    return images


class ImageSampler:
    """Draws square windows: an image by the root of its area, then any place in it. Labels of the crops are all 0."""

    def __init__(self, images: Sequence[NDArray[np.uint8]]) -> None:
        self.images = images
        area = np.sqrt([image[0].size for image in images])
        self.share = area / area.sum()

    def draw(self, side: int, scale: tuple[float, float], rng: np.random.Generator) -> Crop:
        """A window of side / s pixels, s log-uniform in ``scale``, no larger than its image."""
        image = self.images[int(rng.choice(len(self.images), p=self.share))]
        _, height, width = image.shape
        zoom = float(np.exp(rng.uniform(np.log(scale[0]), np.log(scale[1]))))
        extent = min(max(16, round(side / zoom)), height, width)
        top, left = int(rng.integers(height - extent + 1)), int(rng.integers(width - extent + 1))
        pixels = image[:, top : top + extent, left : left + extent]
        return Crop(pixels, np.zeros(pixels.shape[1:], dtype=np.uint8))
