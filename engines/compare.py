"""Compares an engine with the reference on real tiles: agreement of the class maps, and mIoU where there are labels."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from engines.engine import Engine
from engines.errors import SettingRefused
from engines.manifest import Acceptance, Manifest, ModelInput, Precision
from engines.metrics import Confusion, iou_of
from engines.verify import read_golden

MOST_LOSS: dict[Precision, float] = {"fp32": 0.0002, "fp16": 0.0002, "bf16": 0.002, "int8": 0.005}
"""Largest accepted loss of mIoU (share). FP16: the paper's 0.02 points; INT8: issue 6; bfloat16 lies between them."""
_ONE_CLASS = 0.999  # share of a tile's pixels above which it counts as a tile of one class
_ALIKE = 0.99  # share of equal pixels from which a tile of one class in only one of the two maps is no collapse


@dataclass(frozen=True)
class RealTile:
    """One tile of a scene.

    Attributes:
        name: of the scene, with row and column of the tile in it.
        pixels: uint8 (bands, S, S).
        core: rows and columns that are compared.
        labels: uint8 (S, S), 0 where there is no label; None for a scene without labels.
    """

    name: str
    pixels: NDArray[np.uint8]
    core: tuple[slice, slice]
    labels: NDArray[np.uint8] | None = None


@dataclass
class Comparison:
    """Pixel counts over the cores of all compared tiles.

    Attributes:
        between: counts of (reference class, engine class).
        truth_reference, truth_engine: counts of (label, reference class) and (label, engine class).
        worst_tile: share of equal pixels in the worst tile, and its name.
        collapsed: tiles that differ and are of one class in only one of the two maps: the sign of NaN in the network.
    """

    between: Confusion
    truth_reference: Confusion
    truth_engine: Confusion
    tiles: int = 0
    worst_tile: tuple[float, str] = (1.0, "")
    collapsed: list[str] = field(default_factory=list)

    @property
    def pixel_agreement(self) -> float:
        """Share of pixels with the reference's class."""
        counts = self.between.counts
        return float(np.trace(counts) / counts.sum())

    @property
    def iou_between(self) -> list[float]:
        """IoU of each class between the two maps; NaN for a class in neither."""
        return [float(value) for value in iou_of(self.between.counts)]

    @property
    def miou(self) -> tuple[float, float] | None:
        """Of the reference and of the engine on the labels; None without labels."""
        reference, engine = self.truth_reference.scores(), self.truth_engine.scores()
        return (reference.miou, engine.miou) if reference.pixels else None

    def acceptance(self, engine: Engine, data: str, most_loss: float | None = None) -> Acceptance:
        """The manifest's entry.

        Raises:
            SettingRefused: there are no labels.
        """
        if self.miou is None:
            raise SettingRefused("labels", "none", "labelled scenes: a loss cannot be measured without labels")
        precision: Precision = engine.precision  # type: ignore[assignment]
        return Acceptance(
            precision=precision, backend=engine.backend, data=data, tiles=self.tiles,
            pixel_agreement=round(self.pixel_agreement, 6), worst_tile=round(self.worst_tile[0], 6),
            miou_reference=round(self.miou[0], 6), miou=round(self.miou[1], 6),
            most_loss=MOST_LOSS[precision] if most_loss is None else most_loss,
        )  # fmt: skip


def compare(reference: Engine, engine: Engine, tiles: Iterable[RealTile]) -> Comparison:
    """Runs both on every tile, one at a time.

    Raises:
        SettingRefused: no tile, or models of other classes or input.
        TilesRefused, InferenceFailed: as `Engine.infer`.
    """
    expected_model, given_model = reference.manifest, engine.manifest
    if (expected_model.classes, _input_of(expected_model)) != (given_model.classes, _input_of(given_model)):
        raise SettingRefused("reference", expected_model.name, f"a model of {given_model.name}'s classes and input")
    classes = len(expected_model.classes)
    comparison = Comparison(Confusion(classes), Confusion(classes), Confusion(classes))
    for tile in tiles:
        expected = reference.infer(tile.pixels[np.newaxis]).classes[0][tile.core]
        given = engine.infer(tile.pixels[np.newaxis]).classes[0][tile.core]
        comparison.between.add(expected, given)
        same = float((expected == given).mean())
        if not comparison.tiles or same < comparison.worst_tile[0]:
            comparison.worst_tile = (same, tile.name)
        comparison.tiles += 1
        # Open water is of one class in both maps, and a few other pixels in one of them are no collapse.
        if same < _ALIKE and _of_one_class(expected) != _of_one_class(given):
            comparison.collapsed.append(tile.name)
        if tile.labels is not None:
            comparison.truth_reference.add(tile.labels[tile.core], expected)
            comparison.truth_engine.add(tile.labels[tile.core], given)
    if not comparison.tiles:
        raise SettingRefused("scenes", "none", "at least one scene with one tile in it")
    return comparison


def _input_of(manifest: Manifest) -> ModelInput:
    """The input without the sides that it takes beside `tile_size`: only tiles of that size are compared."""
    return manifest.input.model_copy(update={"tile_sides": None})


def _of_one_class(classes: NDArray[np.uint8]) -> bool:
    return bool(np.bincount(classes.reshape(-1)).max() >= _ONE_CLASS * classes.size)


def carried_tiles(engine: Engine) -> Iterator[RealTile]:
    """The model's golden tile: the only real tile that is there without a scene."""
    if engine.manifest.golden is not None and engine.folder is not None:
        tiles, _ = read_golden(engine.manifest, engine.folder)
        yield RealTile("golden tile", tiles[0], (slice(None), slice(None)))


def scene_tiles(scene: Path, labels: Path | None, engine: Engine) -> Iterator[RealTile]:
    """A scene's tiles of the engine's size, cores side by side and inside their halos; labels on the same grid.

    Raises:
        SettingRefused: not readable, too few bands, not uint8, or labels of another size or with other codes.
    """
    size, halo, bands = engine.manifest.input.tile_size, engine.manifest.halo, len(engine.manifest.input.bands)
    step = size - 2 * halo
    try:
        with _opened(scene) as pixels:
            if pixels.count < bands or pixels.dtypes[0] != "uint8":
                given = f"{scene}, {pixels.count} bands of {pixels.dtypes[0]}"
                raise SettingRefused("scene", given, f"one of {bands} bands of uint8")
            truth = (
                None if labels is None else _labels(labels, (pixels.height, pixels.width), len(engine.manifest.classes))
            )
            for row in range(0, pixels.height, step):
                for col in range(0, pixels.width, step):
                    read = _tile(pixels, row - halo, col - halo, size, bands)
                    core = tuple(
                        slice(halo, halo + min(step, whole - at))
                        for at, whole in ((row, pixels.height), (col, pixels.width))
                    )
                    known = None
                    if truth is not None:
                        # Pixels of the halo are compared in the tile whose core they lie in: here they have no label.
                        known = np.zeros((size, size), np.uint8)
                        known[core] = truth[row : row + step, col : col + step]
                    yield RealTile(f"{scene.name} row {row} column {col}", read, core, known)  # type: ignore[arg-type]
    except (RasterioError, OSError) as error:
        raise SettingRefused("scene", f"{scene} ({error})", "a readable raster") from error


def _opened(path: Path) -> rasterio.DatasetReader:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # where a raster lies changes no class
        return rasterio.open(path)


def _tile(pixels: rasterio.DatasetReader, row: int, col: int, size: int, bands: int) -> NDArray[np.uint8]:
    """uint8 (bands, S, S) from `row`, `col`, mirrored beyond the scene's edges as the pipeline does."""
    top, left = max(row, 0), max(col, 0)
    window = Window(left, top, min(col + size, pixels.width) - left, min(row + size, pixels.height) - top)
    pixels_read: NDArray[np.uint8] = pixels.read(list(range(1, bands + 1)), window=window)
    height, width = pixels_read.shape[1:]
    rows, cols = (top - row, size - height - (top - row)), (left - col, size - width - (left - col))
    return np.pad(pixels_read, ((0, 0), rows, cols), mode="reflect")


def _labels(path: Path, size: tuple[int, int], classes: int) -> NDArray[np.uint8]:
    with _opened(path) as labels:
        if (labels.height, labels.width) != size:
            given = f"{labels.height} x {labels.width}"
            raise SettingRefused("labels", f"{path}, {given} pixels", f"labels of the scene's {size[0]} x {size[1]}")
        codes: NDArray[Any] = labels.read(1)
    required = f"codes of 0 (none) to {classes}; what is to be ignored is 0"
    # Cast to bytes a -1 would be 255, and a code of 2.7 or NaN would be any.
    if codes.dtype.kind not in "iu":
        raise SettingRefused("labels", f"{path}, of {codes.dtype}", f"whole numbers, {required}")
    if wrong := next((int(code) for code in (codes.max(), codes.min()) if not 0 <= code <= classes), 0):
        raise SettingRefused("labels", f"{path}, which holds {wrong}", required)
    return codes.astype(np.uint8)
