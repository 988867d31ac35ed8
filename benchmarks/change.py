"""What flies when changes are sent in place of maps: bytes on two dates of one place, made by honest edits."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio import Affine

from benchmarks.compression import _scenes, _unlocated
from engines.manifest import ClassInfo
from engines.open import open_engine
from onboard.mapping.changes import EarlierMaps, read_earlier_map
from onboard.mapping.product import CHANGE_OPTIONS
from onboard.mapping.run import MapRequest, map_scene
from products.change.rebuild import rebuild
from products.errors import ProductError

Pixels = NDArray[np.uint8]
_BLOCK = 320
_LIGHTER, _NOISE = 1.03, 2.0
"""Of another day: brightness, and the sensor's noise in steps of 255."""
_PLACE: dict[str, Any] = {"crs": "EPSG:32640", "transform": Affine(1, 0, 325000, 0, -1, 2788000)}
"""Made: the scene has none, and without one no map lies on another's grid."""
_POLYGONS = ("geoparquet", "flatgeobuf")


def bytes_of_changes(folder: Path, *, quick: bool) -> None:
    """Bytes of changes.tif beside the whole map's as the satellite writes both; whether the ground makes the map."""
    scenes = _scenes(folder, quick=False)
    scene = next((path for path in scenes if path.stem == "scene_5"), scenes[0])
    with open_engine(None) as engine, tempfile.TemporaryDirectory(dir=folder) as work_name:
        work, classes = Path(work_name), tuple(engine.manifest.classes)
        with _unlocated(), rasterio.open(scene) as file:
            pixels: Pixels = file.read([1, 2, 3])
        if quick:
            pixels = pixels[:, :1024, :1024]
        first = _mapped(work, "first", pixels, engine)
        before = _codes(first / "map.tif")
        print(f"{scene.name}, {before.shape[1]} x {before.shape[0]}; map.tif {_size(first / 'map.tif'):,} bytes")
        polygons = ", ".join(f"{path.name} {_size(path):,}" for path in sorted(first.glob("polygons.*")))
        print(f"its polygons aboard: {polygons or 'none: the extra polygons is not installed'}")
        print(
            f"{'the second date':<38} {'changed':>8} {'map.tif':>9} {'changes.tif':>11} {'share':>6} {'from-to':>9} "
            f"{'rebuilt in':>10}"
        )
        for name, later in _later(pixels, before, classes):
            map_folder = _mapped(work, name.split(",")[0].replace(" ", "_"), later, engine, first)
            whole, changes = _size(map_folder / "map.tif"), _size(map_folder / "changes.tif")
            facts = json.loads((map_folder / "map.json").read_text())["properties"]["onboard:changes"]
            from_to = _from_to_bytes(work, before, _codes(map_folder / "map.tif"))
            print(
                f"{name:<38} {facts['share_changed']:8.2%} {whole:9,} {changes:11,} {changes / whole:6.2f} "
                f"{from_to:9,} {_rebuilt(work, first, map_folder)}",
                flush=True,
            )


def _later(pixels: Pixels, codes: Pixels, classes: tuple[ClassInfo, ...]) -> Iterator[tuple[str, Pixels]]:
    """The scene later: blocks of it copied elsewhere in it; then in other light; then a pixel aside as well."""
    # Blocks where a class has most pixels, moved on by one class: each edit changes classes, not textures alone.
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
    # From 1 on: black pixels at the border would count as a collar without data.
    other_day = np.clip(edited * _LIGHTER + noise, 1, 255).astype(np.uint8)
    yield "other light, 3 % brighter and noise", other_day
    yield "a pixel aside, and other light", np.pad(other_day, ((0, 0), (1, 0), (1, 0)), mode="edge")[:, :-1, :-1]


def _most_of(codes: Pixels, code: int, side: int) -> tuple[int, int]:
    """Row and column of the block that has most of a class."""
    # A table of sums: every block of the scene for the price of one pass.
    sums = np.pad((codes == code).astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    inside = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    row, column = np.unravel_index(int(inside.argmax()), inside.shape)
    return int(row), int(column)


def _mapped(work: Path, name: str, pixels: Pixels, engine: object, earlier: Path | None = None) -> Path:
    """Maps a scene with what changed since an earlier map; the first one also as polygons. Gives the map's folder."""
    scene = work / f"{name}.tif"
    profile = {"width": pixels.shape[2], "height": pixels.shape[1], "count": 3, "dtype": "uint8", "tiled": True}
    with rasterio.open(scene, "w", "GTiff", compress="deflate", **profile, **_PLACE) as file:
        file.write(pixels)
    request = MapRequest(scene, work / "maps")
    if earlier is None:
        request = replace(request, polygons=_POLYGONS if _has_polygons() else ())
    else:
        found = read_earlier_map(earlier)
        # These scenes have no time of acquisition, so their order is not asked for.
        request = replace(request, earlier=EarlierMaps(lambda: [found] if found else [], "first", any_time=True))
    return map_scene(request, engine).folder  # type: ignore[arg-type]


def _has_polygons() -> bool:
    from onboard.errors import OptionsRefused
    from onboard.mapping.polygons import check_packages

    try:
        check_packages()
    except OptionsRefused:
        return False
    return True


def _codes(path: Path) -> Pixels:
    with rasterio.open(path) as file:
        codes: Pixels = file.read(1)
    return codes


def _from_to_bytes(work: Path, before: Pixels, after: Pixels) -> int:
    """The same with a code for each pair of classes, as `ground change` writes it: 8 bits."""
    classes = int(max(before.max(), after.max())) + 1
    pairs = np.where(before == after, 0, before * classes + after + 1).astype(np.uint8)
    profile = {"width": pairs.shape[1], "height": pairs.shape[0], "count": 1, "dtype": "uint8", "nodata": 0}
    # The options of changes.tif, so that the codes alone differ; pairs of classes need eight bits.
    options = {**CHANGE_OPTIONS, "NBITS": "8"}
    with _unlocated():
        with rasterio.open(work / "plain.tif", "w", "GTiff", tiled=True, **profile) as file:
            file.write(pairs, 1)
        rasterio.shutil.copy(work / "plain.tif", work / "from-to.tif", driver="COG", **options)
    return _size(work / "from-to.tif")


def _rebuilt(work: Path, first: Path, second: Path) -> str:
    """Time that the ground takes to make the map, or that its bytes are others."""
    begin = time.perf_counter()
    try:
        rebuild(first / "map.tif", second / "changes.tif", work / "rebuilt.tif")
    except ProductError:
        return "OTHER BYTES"
    seconds = time.perf_counter() - begin
    # Not only without an error: the promise is the same bytes.
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (work / "rebuilt.tif", second / "map.tif")]
    return f"{seconds:.1f} s, same bytes" if digests[0] == digests[1] else "OTHER BYTES"


def _size(path: Path) -> int:
    return path.stat().st_size
