"""Tiles of labelled sets, cut as the onboard pipeline cuts scenes, and their encoder features."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from onboard.scene.grid import Grid, pad_to_tile
from trainer.data.rasters import read_pixels
from trainer.data.sets import open_set
from trainer.errors import SettingsRefused
from trainer.familiarity.corruptions import CORRUPTIONS, ImageCells
from trainer.familiarity.graph import with_cells
from trainer.familiarity.statistics import Floats

Pixels = NDArray[np.uint8]
MOST_EMPTY = 0.1
"""Largest share of pure white and pure black pixels in a tile: what fills pictures where there is no data would else be
learned, and with it snow and cloud."""
_PURE = 5
"""Steps of 0 to 255 from black and from white that count as pure: JPEG blurs what was filled."""


@dataclass(frozen=True)
class Images:
    """Images of one labelled set, by name."""

    set: str
    names: tuple[str, ...]

    @classmethod
    def parsed(cls, given: str) -> Images:
        """SET:NAME,NAME, of names or globs.

        Raises:
            SettingsRefused: it is not of that form, or there is no such set.
            DataMissing: no image is called so.
        """
        name, colon, names = given.partition(":")
        if not colon or not all(names.split(",")):
            raise SettingsRefused(given, "give a labelled set and names of its images as SET:NAME,NAME")
        return cls(name, open_set(name).named(names.split(",")))

    def described(self) -> str:
        """In words: few names whole, many by their number."""
        name = open_set(self.set).name
        if len(self.names) <= 8:
            return f"{name}: {', '.join(self.names)}"
        return f"{name}: {len(self.names)} images, {self.names[0]} to {self.names[-1]}"


def overlap(some: Iterable[Images], others: Iterable[Images]) -> list[str]:
    """Images that are in both, as SET/NAME."""
    first, second = ({f"{item.set}/{name}" for item in given for name in item.names} for given in (some, others))
    return sorted(first & second)


def tiles_of(pixels: Pixels, *, side: int, halo: int) -> Iterator[Pixels]:
    """Tiles uint8 (3, side, side) of an image (3, H, W), as the pipeline that flies cuts and pads them."""
    for tile in Grid(pixels.shape[2], pixels.shape[1], tile_size=side, halo=halo):
        read = pixels[:, tile.source.rows, tile.source.cols]
        yield np.ascontiguousarray(pad_to_tile(read, side))


def empty_share(tile: Pixels) -> float:
    """Share of pixels (3, H, W) that are pure white or pure black in all bands."""
    return float(((tile.min(axis=0) >= 255 - _PURE) | (tile.max(axis=0) <= _PURE)).mean())


def tiles_of_images(images: Images, *, side: int, halo: int, most: int) -> Iterator[Pixels]:
    """Up to ``most`` tiles, spread evenly over the images; none that is empty for a tenth or more.

    Raises:
        DataRefused: an image cannot be read.
    """
    labelled = open_set(images.set)
    names = images.names
    if len(names) > most:
        names = tuple(names[int(place)] for place in np.linspace(0, len(names) - 1, most).round())
    each = max(1, most // len(names))
    for name in names:
        cut = tiles_of(read_pixels(labelled.image_path(name)), side=side, halo=halo)
        tiles = [tile for tile in cut if empty_share(tile) < MOST_EMPTY]
        # Spread over the image. Neighbouring tiles overlap and say nearly the same.
        chosen = np.unique(np.linspace(0, len(tiles) - 1, min(each, len(tiles))).round().astype(int))
        yield from (tiles[int(place)] for place in chosen)


class CellReader:
    """Cells of tiles, by the encoder of an exported graph on ONNX Runtime."""

    def __init__(self, model: onnx.ModelProto, features: tuple[str, ...], threads: int | None = None) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = options.inter_op_num_threads = threads
        content = with_cells(model, features).SerializeToString()
        self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def read(self, tiles: Iterable[Pixels]) -> Floats:
        """Float32 (N, 16, D) of tiles uint8 (3, S, S)."""
        # Tile by tile: a batch would hold the activations of all.
        features = [self._session.run(None, {self._input: tile[np.newaxis]})[0] for tile in tiles]
        cells: Floats = np.concatenate(features)
        return cells

    def read_all(self, images: Images, *, side: int, halo: int, most: int) -> ImageCells:
        """Cells of up to ``most`` tiles of images, and of the same tiles spoilt in each way.

        Raises:
            SettingsRefused: no tile of them can be used.
        """
        tiles = list(tiles_of_images(images, side=side, halo=halo, most=most))
        if not tiles:
            reason = f"no tile of these can be used: each is pure white or black for {MOST_EMPTY:.0%} or more"
            raise SettingsRefused(images.described(), reason)
        return ImageCells(self.read(tiles), tuple(self.read(corruption(tiles)) for corruption in CORRUPTIONS))
