"""What would fly if changes were sent instead of maps: bytes on two dates of one place, made by honest edits."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray

from benchmarks.compression import _scenes, _unlocated
from engines.manifest import ClassInfo
from engines.open import open_engine
from onboard.mapping.canvas import Layer
from onboard.mapping.product import write_map
from onboard.mapping.run import MapRequest, map_scene
from onboard.scene.georeference import georeference_of

Pixels = NDArray[np.uint8]
_BLOCK = 320
_LIGHTER, _NOISE = 1.03, 2.0
"""Of another day: brightness, and the sensor's noise in steps of 255."""
CHANGE_OPTIONS = {
    "COMPRESS": "ZSTD", "LEVEL": "17", "BLOCKSIZE": "512", "OVERVIEWS": "NONE", "NBITS": "4", "SPARSE_OK": "YES",
}  # fmt: skip
"""As small as a raster of changes becomes: a nibble a pixel, blocks without a change left out."""


def bytes_of_changes(folder: Path, *, quick: bool) -> None:
    """Bytes of changes.tif beside the whole map's, and whether the map can be made of it byte for byte."""
    scenes = _scenes(folder, quick=False)
    scene = next((path for path in scenes if path.stem == "scene_5"), scenes[0])
    with open_engine(None) as engine, tempfile.TemporaryDirectory(dir=folder) as work_name:
        work, classes = Path(work_name), tuple(engine.manifest.classes)
        with _unlocated(), rasterio.open(scene) as file:
            pixels: Pixels = file.read([1, 2, 3])
        if quick:
            pixels = pixels[:, :1024, :1024]
        first = _mapped(work, "first", pixels, engine)
        before = _codes(first)
        print(f"{scene.name}, {before.shape[1]} x {before.shape[0]}; the first map: {first.stat().st_size:,} bytes")
        print(f"{'the second date':<38} {'changed':>8} {'map.tif':>9} {'changes.tif':>11}   whole map of it")
        for name, later in _later(pixels, before, classes):
            path = _mapped(work, name.split(",")[0].replace(" ", "_"), later, engine)
            after = _codes(path)
            change = np.where(before == after, 0, after + 1).astype(np.uint8)
            size = _change_bytes(work, change)
            rebuilt = np.where(change == 0, before, change - 1).astype(np.uint8)
            same = _digest(_rebuilt(work, rebuilt, path, classes)) == _digest(path)
            print(
                f"{name:<38} {np.count_nonzero(change) / change.size:8.2%} {path.stat().st_size:9,} {size:11,}   "
                f"{'same bytes' if same else 'OTHER BYTES'}",
                flush=True,
            )


def _later(pixels: Pixels, codes: Pixels, classes: tuple[ClassInfo, ...]) -> Iterator[tuple[str, Pixels]]:
    """The scene later: blocks of it copied elsewhere in it; then in other light; then a pixel aside as well."""
    side = min(_BLOCK, *(length // 4 for length in codes.shape))
    places = {item.name: _most_of(codes, item.code, side) for item in classes}
    edited = pixels.copy()
    names = list(places)
    for source, target in zip(names, names[1:] + names[:1], strict=True):
        (row, column), (to_row, to_column) = places[source], places[target]
        edited[:, to_row : to_row + side, to_column : to_column + side] = pixels[
            :, row : row + side, column : column + side
        ]
    yield "edited", edited
    noise = np.random.default_rng(1).normal(0, _NOISE, edited.shape)
    other_day = np.clip(edited * _LIGHTER + noise, 1, 255).astype(np.uint8)
    yield "other light, 3 % brighter and noise", other_day
    yield "a pixel aside, and other light", np.pad(other_day, ((0, 0), (1, 0), (1, 0)), mode="edge")[:, :-1, :-1]


def _most_of(codes: Pixels, code: int, side: int) -> tuple[int, int]:
    """Row and column of the block that has most of a class."""
    sums = np.pad((codes == code).astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    inside = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    row, column = np.unravel_index(int(inside.argmax()), inside.shape)
    return int(row), int(column)


def _mapped(work: Path, name: str, pixels: Pixels, engine: object) -> Path:
    scene = work / f"{name}.tif"
    profile = {"width": pixels.shape[2], "height": pixels.shape[1], "count": 3, "dtype": "uint8", "tiled": True}
    with _unlocated(), rasterio.open(scene, "w", "GTiff", compress="deflate", **profile) as file:
        file.write(pixels)
    return map_scene(MapRequest(scene, work / "maps"), engine).map_path  # type: ignore[arg-type]


def _codes(path: Path) -> Pixels:
    with _unlocated(), rasterio.open(path) as file:
        codes: Pixels = file.read(1)
    return codes


def _change_bytes(work: Path, change: Pixels) -> int:
    profile = {"width": change.shape[1], "height": change.shape[0], "count": 1, "dtype": "uint8", "nodata": 0}
    with _unlocated():
        with rasterio.open(work / "plain.tif", "w", "GTiff", tiled=True, **profile) as file:
            file.write(change, 1)
        rasterio.shutil.copy(work / "plain.tif", work / "changes.tif", driver="COG", **CHANGE_OPTIONS)
    return (work / "changes.tif").stat().st_size


def _rebuilt(work: Path, codes: Pixels, like: Path, classes: tuple[ClassInfo, ...]) -> Path:
    """A map of these codes as the satellite writes it, with the tags of another."""
    with _unlocated(), rasterio.open(like) as file:
        tags = {key: value for key, value in file.tags().items() if not key.startswith(("CLASS_", "AREA_OR"))}
        georeference = georeference_of(file)
    layer = Layer(work / "layer", width=codes.shape[1], height=codes.shape[0])
    codes.tofile(work / "layer")
    write_map(layer, work / "rebuilt.tif", georeference=georeference, classes=classes, tags=tags)
    layer.close()
    return work / "rebuilt.tif"


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
