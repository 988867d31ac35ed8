"""Cache of decoded scenes of a labelled set, within a memory budget."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from onboard.scene.grid import Window
from trainer.config import DataSettings
from trainer.data.augment import Crop
from trainer.data.labelled import LabelledScene, SceneStore
from trainer.data.rasters import is_tiff
from trainer.data.sets import LabelledSet, open_set
from trainer.errors import DataRefused, SettingsRefused

_STRIP = 1 << 24
"""Number of label pixels read at once from a scene that is not cached: whole rows of blocks of a tiled file."""
_STRIP_ROWS = 512


class SceneCache(SceneStore):
    """Decodes scenes on demand and keeps the last used ones. Crops do not depend on what is cached.

    A GeoTIFF of more than a quarter of the budget is not decoded whole, unless all scenes fit: its crops are read by
    windows, so it should be tiled. For one thread; each worker process has its own cache and budget.

    Args:
        labelled: the set.
        names: of its images.
        memory_mb: budget of decoded scenes in MB, at 4 bytes per pixel.

    Raises:
        DataRefused: an image without label, or of another size than its label.
    """

    def __init__(self, labelled: LabelledSet, names: Sequence[str], *, memory_mb: float) -> None:
        self.labelled = labelled
        self.names = tuple(names)
        self.budget = int(memory_mb * 1e6)
        self._held: OrderedDict[int, LabelledScene] = OrderedDict()
        self._held_bytes = 0
        self._counts: dict[int, NDArray[np.int64]] = {}
        # All headers are read here: a missing label or a wrong size shows before the first step, not after hours.
        self._sizes = [self._bytes(index) for index in range(len(self.names))]
        self._all_fit = sum(self._sizes) <= self.budget

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> LabelledScene:
        scene = self._held.get(index)
        if scene is None:
            # Room is made before reading, so that the budget holds at every moment.
            while self._held and self._held_bytes + self._sizes[index] > self.budget:
                dropped, _ = self._held.popitem(last=False)
                self._held_bytes -= self._sizes[dropped]
            scene = self._held[index] = self.labelled.read(self.names[index])
            self._held_bytes += self._sizes[index]
        self._held.move_to_end(index)
        return scene

    def shape(self, index: int) -> tuple[int, int]:
        """Height and width of a scene, from its header."""
        return self.labelled.size(self.names[index])

    def crop(self, index: int, window: Window) -> Crop:
        """Pixels and labels of a window inside a scene."""
        # Which way does not depend on what is cached, and both give the same pixels.
        if not self._by_windows(index):
            return super().crop(index, window)
        part = self.labelled.read(self.names[index], window)
        return Crop(part.pixels, part.labels)

    def strips(self, index: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Labels of a scene from top to bottom, see :meth:`SceneStore.strips`."""
        # Where all fit, the pass over the labels fills the cache that training needs anyway.
        if self._all_fit or index in self._held:
            yield 0, self[index].labels
            return
        if not self._by_windows(index):
            yield 0, self.labelled.read_labels(self.names[index])  # without the pixels, which would not be cached
            return
        height, width = self.shape(index)
        rows = max(1, _STRIP // width // _STRIP_ROWS) * _STRIP_ROWS
        for top in range(0, height, rows):
            window = Window(0, top, width, min(rows, height - top))
            yield top, self.labelled.read_labels(self.names[index], window)

    def counts(self, index: int, classes: int) -> NDArray[np.int64]:
        """As :meth:`SceneStore.counts`, but cached, since a pass over a large set takes long."""
        if index not in self._counts:
            # For all classes of the set, whatever number is asked for now.
            self._counts[index] = super().counts(index, len(self.labelled.classes))
        return self._counts[index][: classes + 1]

    def _by_windows(self, index: int) -> bool:
        large = not self._all_fit and 4 * self._sizes[index] > self.budget
        return large and is_tiff(self.labelled.image_path(self.names[index]))

    def _bytes(self, index: int) -> int:
        height, width = self.shape(index)
        size, path = 4 * height * width, self.labelled.image_path(self.names[index])
        if size > self.budget and not is_tiff(path):
            raise DataRefused(
                path, f"decoded it takes {size / 1e6:.4g} MB, more than the {self.budget / 1e6:.4g} MB of `memory_mb`",
                "raise it, or make the image a tiled GeoTIFF, which is read by windows",
            )  # fmt: skip
        return size


def scenes_of(data: DataSettings, *, classes: int | None = None) -> SceneCache:
    """The scenes that a configuration chooses.

    Args:
        data: which set, and which of its images.
        classes: those of the model, where there is one.

    Raises:
        SettingsRefused: no such set or split, or a model of another number of classes.
        DataMissing, DataRefused: as the set and the cache raise them.
    """
    labelled = open_set(data.set, data.root)
    if classes is not None and classes != len(labelled.classes):
        raise SettingsRefused(data.set, f"it has {len(labelled.classes)} classes and the model {classes}")
    return SceneCache(labelled, names_of(data), memory_mb=data.memory_mb)


def names_of(data: DataSettings) -> tuple[str, ...]:
    """The images that a configuration chooses.

    Raises:
        SettingsRefused: no such set or split.
        DataMissing, DataRefused: as the set raises them.
    """
    labelled = open_set(data.set, data.root)
    return labelled.named(data.names) if data.names else labelled.split(data.split)
