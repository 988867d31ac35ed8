"""Crops from several labelled sets, each resampled to the model's ground sampling distance.

A batch has images of each set in proportion to the weights. An image smaller than a crop is packed with others of its
set; nothing is reflected, because mirrored roads and roofs at a border do not exist in real imagery.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onboard.scene.grid import Window
from trainer.config import DataSettings, SetSettings
from trainer.data.augment import augmented, resized_crop, turned_alike
from trainer.data.description import read_description
from trainer.data.labelled import IGNORE, CropSampler
from trainer.data.scene_cache import SceneCache
from trainer.data.sets import open_set
from trainer.data.soft_labels import SoftLabels
from trainer.data.targets import HeadCodes
from trainer.errors import SettingsRefused


@dataclass(frozen=True)
class Source:
    """One set of a mixture.

    Attributes:
        settings: of it.
        sampler: of its images.
        gsd_m: metres a pixel, or None: its scale is taken as the model's own.
        tables: its label codes as codes of each head, uint8 (C + 1,), by head.
        soft: a teacher's soft labels of its images, if there are any.
    """

    settings: SetSettings
    sampler: CropSampler
    gsd_m: float | None
    tables: Mapping[str, NDArray[np.uint8]]
    soft: SoftLabels | None = None


@dataclass(frozen=True)
class Sample:
    """One crop of ``side`` pixels.

    Attributes:
        pixels: float (3, side, side) of 0..255.
        codes: uint8 (H, side, side), of each head in its order; 0 is ignored.
        soft: a teacher's probabilities, float (K of all heads, side / 4, side / 4), 0 where there are none; None where
            no set of the mixture has any.
    """

    pixels: Tensor
    codes: Tensor
    soft: Tensor | None


SOFT_STRIDE = 4
"""Pixels a side of a cell of soft labels in a crop: the networks' logits are no finer."""


class Mixture:
    """Several sets, drawn from together.

    Args:
        data: settings with ``sets``.
        heads: class table that each head takes its codes from, by head; the names of their translations likewise.
        seed: of the choice of places.
        untaught: heads that need no labels.

    Raises:
        SettingsRefused: a set whose labels mean nothing to any head, or clash with one.
        DataMissing, DataRefused: as the sets raise them.
    """

    def __init__(
        self, data: DataSettings, heads: Mapping[str, str], *, seed: int, untaught: Collection[str] = ()
    ) -> None:
        self.data = data
        self.heads = {name: HeadCodes(name, read_description(table).classes) for name, table in heads.items()}
        # The tables of codes grow while sets are added: what they allow is complete after this line.
        self.sources = [self._source(item, heads, seed + place) for place, item in enumerate(data.sets)]
        self._check_heads(untaught)
        weights = np.asarray([item.weight for item in data.sets])
        self._bounds = np.cumsum(weights / weights.sum())

    def __len__(self) -> int:
        """Images of all sets together."""
        return sum(len(source.sampler.scenes) for source in self.sources)

    def source_of(self, number: int, batch: int, offset: float) -> Source:
        """The set that image ``number`` of a batch comes from.

        The batch's images lie evenly over the weights, shifted by ``offset`` (0..1), so that each batch holds its share
        of every set that weighs enough, and the others come in turn.
        """
        # Not drawn image by image: chance alone would leave a rare set out of many batches in a row.
        place = ((number + offset) / batch) % 1.0
        return self.sources[int(np.searchsorted(self._bounds, place, side="right").clip(0, len(self.sources) - 1))]

    @property
    def soft_channels(self) -> int:
        """Classes of all heads together where any set has soft labels, else 0."""
        return max((source.soft.channels for source in self.sources if source.soft is not None), default=0)

    def draw(self, source: Source, side: int, rng: np.random.Generator) -> Sample:
        """One augmented crop of ``side`` pixels, a multiple of 4."""
        zoom = self._zoom(source, rng)
        pixels, labels, soft = packed(source, side, zoom, self.soft_channels, rng)
        augment = self.data.augment
        if augment.turns:
            # Here and not in `augmented`, which knows nothing of soft labels: all three have to turn alike.
            pixels, labels, soft = turned_alike((pixels, labels, soft), rng)
            augment = augment.model_copy(update={"turns": False})
        pixels, labels = augmented(pixels, labels, augment, rng)
        # Translated last: augmentation moves the set's own codes once for all heads.
        codes = torch.stack([torch.from_numpy(table)[labels.long()] for table in source.tables.values()])
        return Sample(pixels, codes, soft if self.soft_channels else None)

    def _zoom(self, source: Source, rng: np.random.Generator) -> float:
        """By how much the set's pixels are enlarged: to the model's resolution, times the scale of this crop."""
        low, high = self.data.augment.scale
        natural = 1.0 if source.gsd_m is None or self.data.gsd_m is None else source.gsd_m / self.data.gsd_m
        # Enlarged pixels hold no more detail. The range keeps 1 % where a set
        # is coarser than that, so that it can be drawn from.
        high = min(natural * high, max(self.data.largest_enlargement, natural * low * 1.01)) / natural
        return natural * float(np.exp(rng.uniform(np.log(low), np.log(high))))

    def _source(self, item: SetSettings, heads: Mapping[str, str], seed: int) -> Source:
        labelled = open_set(item.set, item.root or self.data.root)
        names = labelled.named(item.names) if item.names else labelled.split(item.split)
        if strange := sorted(set(item.heads) - set(self.heads)):
            head_names = ", ".join(self.heads)
            raise SettingsRefused(item.set, f"is to teach heads {', '.join(strange)}; there are {head_names}")
        taught = item.heads or tuple(
            head for head, codes in self.heads.items() if codes.means_something(labelled.description, heads[head])
        )
        # A head that a set does not teach ignores all of its labels.
        nothing = np.zeros(len(labelled.classes) + 1, dtype=np.uint8)
        tables = {
            head: codes.table_of(labelled.description, heads[head]) if head in taught else nothing
            for head, codes in self.heads.items()
        }
        if item.soft is None and not any(table.any() for table in tables.values()):
            raise SettingsRefused(
                item.set, "its labels mean nothing to any head: name what its classes mean, or give it `soft` labels"
            )
        pool = SceneCache(labelled, names, memory_mb=self.data.memory_mb)
        sampler = CropSampler(pool, classes=len(labelled.classes), balanced=item.balanced, seed=seed)
        classes = {head: len(codes.classes) for head, codes in self.heads.items()}
        soft = None if item.soft is None else SoftLabels(item.soft, classes)
        if soft is not None:
            # All of them now: a `trainer soften` that was cut off shows before the first step, not after hours.
            for name in names:
                soft.check(name, labelled.size(name))
        return Source(item, sampler, item.gsd_m or labelled.description.gsd_m, tables, soft)

    def _check_heads(self, untaught: Collection[str]) -> None:
        for head in self.heads:
            if head not in untaught and not any(source.tables[head].any() for source in self.sources):
                raise SettingsRefused(
                    f"heads.{head}", "no set has labels for it: name one in `data.sets`, or leave it out"
                )


_TRIES = 8
"""Draws of another image that is large enough, before the first one is used once more."""


def packed(
    source: Source, side: int, zoom: float, channels: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """A square of ``side`` pixels, at ``zoom`` times the images' own size.

    Where an image is too small, several fill the square in rows and columns, each a square cut from an image.

    Returns:
        Pixels uint8 (3, side, side), labels uint8 (side, side), soft labels float (channels, side / 4, side / 4).
    """
    wanted = max(16, round(side / zoom))
    # The first draw tells how large its image is; it is used in any case, so that small images come as often as others.
    first = source.sampler.draw_window(wanted, rng)
    extent = first[1].width
    if extent >= wanted:
        return _part(source, first, side, channels)
    # Whole cells of soft labels, so that their grid and that of the pixels stay one.
    cell = min(side, max(8, round(extent * zoom / SOFT_STRIDE) * SOFT_STRIDE))
    count = -(-side // cell)
    whole = count * cell
    pixels = torch.zeros((3, whole, whole), dtype=torch.uint8)
    labels = torch.full((whole, whole), IGNORE, dtype=torch.uint8)
    soft = torch.zeros((channels, whole // SOFT_STRIDE, whole // SOFT_STRIDE))
    for place in range(count * count):
        drawn = first if place == 0 else _as_large(source, extent, first, rng)
        part = _part(source, drawn, cell, channels)
        row, column = (number * cell for number in divmod(place, count))
        pixels[:, row : row + cell, column : column + cell] = part[0]
        labels[row : row + cell, column : column + cell] = part[1]
        _square(soft, row, column, cell)[:] = part[2]
    # A random cut, in whole cells again: else the seams would lie at the same pixels in every crop.
    spare = (whole - side) // SOFT_STRIDE
    top, left = (SOFT_STRIDE * int(value) for value in rng.integers(0, spare + 1, size=2))
    return (
        pixels[:, top : top + side, left : left + side], labels[top : top + side, left : left + side],
        _square(soft, top, left, side),
    )  # fmt: skip


def _as_large(source: Source, extent: int, usual: tuple[int, Window], rng: np.random.Generator) -> tuple[int, Window]:
    """A window of ``extent`` pixels, or the usual one: a smaller one would be enlarged more than the others."""
    for _ in range(_TRIES):
        drawn = source.sampler.draw_window(extent, rng)
        if drawn[1].width >= extent:
            return drawn
    return usual


def _square(soft: Tensor, row: int, column: int, side: int) -> Tensor:
    """Part of a grid of soft labels, by its place in pixels."""
    top, left, cells = row // SOFT_STRIDE, column // SOFT_STRIDE, side // SOFT_STRIDE
    return soft[:, top : top + cells, left : left + cells]


def _part(source: Source, drawn: tuple[int, Window], side: int, channels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels, labels and soft labels of a window of an image, ``side`` pixels large."""
    index, window = drawn
    scenes = source.sampler.scenes
    pixels, labels = resized_crop(scenes.crop(index, window), side)
    cells = side // SOFT_STRIDE
    if source.soft is None or not isinstance(scenes, SceneCache):
        return pixels, labels, torch.zeros((channels, cells, cells))
    return pixels, labels, source.soft.crop(scenes.names[index], window, cells)
