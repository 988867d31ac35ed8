"""What changes on the disk behind a mapping's back: canvas, scene, written map."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

from engines.testing import ConstantEngine, IdentityEngine
from onboard.errors import MappingStopped, SceneRefused, StorageError
from onboard.files import sha256_file
from onboard.mapping import integrity, job, product, run, scene_files
from onboard.mapping.canvas import Canvas, Layer
from onboard.mapping.control import EngineHealth, MapObserver, StopPolicy
from onboard.mapping.executors import LocalExecutor
from onboard.mapping.integrity import forget_damaged
from onboard.mapping.journal import HeadRecord, TileRecord, checksum
from onboard.mapping.run import MapRequest, MapSummary, map_scene
from onboard.scene.grid import Grid
from onboard.scene.reader import SceneOptions


@pytest.fixture
def request_(tmp_path: Path) -> MapRequest:
    """A scene of 25 tiles; a map of it by the identity engine equals its first band."""
    pixels = np.random.default_rng(3).integers(1, 255, (3, 240, 240), dtype=np.uint8)
    place = rasterio.Affine(2, 0, 5e5, 0, -2, 2.8e6)
    with rasterio.open(
        tmp_path / "scene.tif", "w", "GTiff", 240, 240, 3, dtype="uint8", crs="EPSG:32640", transform=place
    ) as file:
        file.write(pixels)
    return MapRequest(
        tmp_path / "scene.tif", tmp_path / "maps", halo=8, work=tmp_path / "canvases",
        scene_options=SceneOptions(collar=False), scene_sha256=sha256_file(tmp_path / "scene.tif"),
    )  # fmt: skip


class Meddling(StopPolicy, EngineHealth, MapObserver):
    """Does something to the disk after so many tiles, or after the last one, and notes what was repaired."""

    def __init__(self, deed: object, after: int | None = None) -> None:
        self.deed, self.left = deed, after
        self.kinds: list[str] = []

    def before_batch(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                self.deed()  # type: ignore[operator]

    def check(self) -> None:
        if self.left is None:
            self.left = -1
            self.deed()  # type: ignore[operator]

    def repaired(self, kind: str, text: str) -> None:  # noqa: ARG002
        self.kinds.append(kind)


def mapped(request: MapRequest, engine: IdentityEngine | ConstantEngine, meddling: Meddling) -> MapSummary:
    return map_scene(request, LocalExecutor(engine, stop=meddling, health=meddling), observer=meddling)


def flip_byte(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        byte = os.pread(file.fileno(), 1, at)[0]
        os.pwrite(file.fileno(), bytes([byte ^ 4]), at)


def canvas_of(request: MapRequest) -> Path:
    assert request.work is not None
    return request.work / "scene" / "canvas" / "classes.raw"


def is_right(request: MapRequest, path: Path) -> bool:
    with rasterio.open(path) as ours, rasterio.open(request.scene) as scene:
        return bool(np.array_equal(ours.read(1), scene.read(1)))


def test_a_changed_byte_of_the_canvas_is_not_published(request_: MapRequest) -> None:
    meddling = Meddling(lambda: flip_byte(canvas_of(request_), 240 * 120 + 7))
    summary = mapped(request_, IdentityEngine(tile_size=64), meddling)
    assert is_right(request_, summary.map_path)
    assert meddling.kinds == ["canvas-damaged"]


def test_a_changed_byte_of_a_tile_without_data_is_not_published(request_: MapRequest) -> None:
    """Such a tile is done again by writing nothing, so what the flip left has to be removed."""
    with rasterio.open(request_.scene, "r+") as file:
        file.nodata = 0
        file.write(np.zeros((3, 120, 240), np.uint8), window=((0, 120), (0, 240)))
    request = replace(request_, scene_sha256=sha256_file(request_.scene))
    meddling = Meddling(lambda: flip_byte(canvas_of(request), 240 * 3 + 7))
    summary = mapped(request, IdentityEngine(tile_size=64), meddling)
    assert is_right(request, summary.map_path)
    assert (meddling.kinds, summary.tiles_empty > 0) == (["canvas-damaged"], True)


def test_a_canvas_that_changed_while_nobody_worked_is_mended_on_resuming(request_: MapRequest) -> None:
    def stop() -> None:
        raise MappingStopped("for a test")

    with pytest.raises(MappingStopped):
        mapped(request_, IdentityEngine(tile_size=64), Meddling(stop, after=12))
    flip_byte(canvas_of(request_), 3)
    meddling = Meddling(lambda: None)
    summary = mapped(request_, IdentityEngine(tile_size=64), meddling)
    assert is_right(request_, summary.map_path)
    assert (meddling.kinds, summary.tiles_resumed) == (["canvas-damaged"], 10)


def test_a_scene_that_is_not_the_accepted_one_is_refused(request_: MapRequest) -> None:
    flip_byte(request_.scene, request_.scene.stat().st_size // 2)
    with pytest.raises(SceneRefused, match="not those that were accepted; deliver the scene again"):
        map_scene(request_, IdentityEngine(tile_size=64))
    assert not (request_.out / "scene").exists()


def test_a_scene_that_changes_while_it_is_mapped_is_refused(request_: MapRequest) -> None:
    meddling = Meddling(lambda: flip_byte(request_.scene, request_.scene.stat().st_size // 2), after=3)
    with pytest.raises(SceneRefused, match="not those that were accepted"):
        mapped(request_, IdentityEngine(tile_size=64), meddling)
    assert not (request_.out / "scene").exists()


def test_a_scene_changed_in_memory_alone_is_mapped_again(request_: MapRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system keeps of a file in memory is given up before the scene is condemned."""
    digests = iter([request_.scene_sha256, "0" * 64])
    whole = scene_files.digest_of_all
    for module in (job, run):
        monkeypatch.setattr(module, "digest_of_all", lambda found: next(digests, None) or whole(found))
    meddling = Meddling(lambda: None)
    engine = IdentityEngine(tile_size=64)
    summary = mapped(request_, engine, meddling)
    assert is_right(request_, summary.map_path)
    assert (meddling.kinds, summary.tiles_resumed) == (["scene-reread"], 0)


def test_a_map_that_was_written_wrong_is_written_again(request_: MapRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    written, whole = [], product.write_map

    def write_map(layer: object, target: Path, **options: object) -> object:
        counts = whole(layer, target, **options)  # type: ignore[arg-type]
        written.append(target)
        if len(written) == 1:
            with rasterio.open(target, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file:
                file.write(np.full((1, 1), 9, np.uint8), 1, window=((5, 6), (5, 6)))
        return counts

    monkeypatch.setattr("onboard.mapping.publish.write_map", write_map)
    meddling = Meddling(lambda: None)
    summary = mapped(request_, IdentityEngine(tile_size=64), meddling)
    assert is_right(request_, summary.map_path)
    assert meddling.kinds == ["map-rewritten"]


def test_a_class_that_there_is_not_on_the_canvas_at_the_last_moment_is_no_failure(
    request_: MapRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bit flips between the comparison of the canvas and the making of the map's blocks."""
    begun, whole = [], product.write_map

    def write_map(layer: Layer, target: Path, **options: object) -> object:
        begun.append(target)
        if len(begun) == 1:
            with layer.path.open("r+b") as file:
                file.write(b"\xc8")
            options["bands"] = None  # else what was made ahead has the place of it
        return whole(layer, target, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("onboard.mapping.publish.write_map", write_map)
    meddling = Meddling(lambda: None)
    summary = mapped(request_, ConstantEngine(2, tile_size=64), meddling)
    with rasterio.open(summary.map_path) as file:
        assert set(np.unique(file.read(1))) == {2}
    assert meddling.kinds == ["map-rewritten", "canvas-damaged"]


def test_a_disk_that_keeps_nothing_as_it_was_is_said_to(request_: MapRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integrity, "forget_damaged", lambda canvas, _: canvas.forget([3]) or [3])
    with pytest.raises(StorageError, match="does not stay as it was"):
        map_scene(request_, IdentityEngine(tile_size=64))
    assert not (request_.out / "scene").exists()


def test_each_layer_and_each_empty_tile_is_compared(tmp_path: Path) -> None:
    grid = Grid(40, 40, tile_size=32, halo=4)
    with Canvas(tmp_path / "c", {"scene": "a"}, width=40, height=40, confidence=True) as canvas:
        records = {}
        for index in range(len(grid) - 1):
            core = grid[index].core
            pixels: NDArray[np.uint8] = np.full((core.height, core.width), index + 1, np.uint8)
            canvas.write(core, pixels, pixels + 100)
            records[index] = TileRecord((HeadRecord(0, 0, checksum(pixels), checksum(pixels + 100)),))
        canvas.finish(range(len(grid)), records)  # the last one holds no data
        assert forget_damaged(canvas, grid) == []
        assert canvas.confidence is not None
        first, last = grid[0].core, grid[len(grid) - 1].core
        flip_byte(canvas.confidence.path, first.row * 40 + first.col)
        assert forget_damaged(canvas, grid) == [0]
        flip_byte(canvas.classes.path, last.row * 40 + last.col)
        assert forget_damaged(canvas, grid) == [len(grid) - 1]
        assert len(canvas.finished) == len(grid) - 2
