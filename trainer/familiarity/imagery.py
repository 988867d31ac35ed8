"""Tiles of labelled sets, cut as a scene is cut in flight, and what an encoder makes of them."""

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
from trainer.familiarity.graph import with_cells
from trainer.familiarity.statistics import Floats

Pixels = NDArray[np.uint8]


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
    one, other = ({f"{item.set}/{name}" for item in given for name in item.names} for given in (some, others))
    return sorted(one & other)


def tiles_of(pixels: Pixels, *, side: int, halo: int) -> Iterator[Pixels]:
    """Tiles uint8 (3, side, side) of an image (3, H, W), as the pipeline that flies cuts and pads them."""
    for tile in Grid(pixels.shape[2], pixels.shape[1], tile_size=side, halo=halo):
        read = pixels[:, tile.source.rows, tile.source.cols]
        yield np.ascontiguousarray(pad_to_tile(read, side))


def tiles_of_images(images: Images, *, side: int, halo: int, most: int) -> Iterator[Pixels]:
    """Up to ``most`` tiles, spread evenly over the images.

    Raises:
        DataRefused: an image cannot be read.
    """
    labelled = open_set(images.set)
    names = images.names
    if len(names) > most:
        names = tuple(names[int(place)] for place in np.linspace(0, len(names) - 1, most).round())
    each = max(1, most // len(names))
    for name in names:
        tiles = list(tiles_of(read_pixels(labelled.image_path(name)), side=side, halo=halo))
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
        found = [self._session.run(None, {self._input: tile[np.newaxis]})[0] for tile in tiles]
        if not found:
            raise SettingsRefused("images", "there is no tile in them")
        cells: Floats = np.concatenate(found)
        return cells
