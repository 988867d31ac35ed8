"""Blocks of a map that are made while it is still being mapped, and what happens where they cannot be."""

from __future__ import annotations

import errno
import logging
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio

from engines.engine import Prediction, Tiles
from engines.errors import InferenceFailed
from engines.testing import ConstantEngine, IdentityEngine
from onboard.mapping.canvas import Canvas
from onboard.mapping.early_bands import EarlyBands
from onboard.mapping.run import MapRequest, map_scene
from onboard.scene.grid import Grid
from onboard.scene.reader import SceneOptions
from products.map_file import MapBands

WIDTH, HEIGHT = 300, 1300


@pytest.fixture
def noisy_scene(tmp_path: Path) -> Path:
    path = tmp_path / "scene.tif"
    pixels = np.random.default_rng(3).integers(1, 6, (3, 1100, WIDTH), dtype=np.uint8)
    profile = {"driver": "GTiff", "width": WIDTH, "height": 1100, "count": 3, "dtype": "uint8", "crs": "EPSG:32640"}
    with rasterio.open(path, "w", transform=rasterio.Affine(1, 0, 5e5, 0, -1, 2.8e6), **profile) as target:
        target.write(pixels)
    return path


def canvas_of(folder: Path) -> Canvas:
    return Canvas(folder, {"scene": "a"}, width=WIDTH, height=HEIGHT)


def fill(canvas: Canvas, grid: Grid, tiles: range | list[int]) -> None:
    for tile in tiles:
        core = grid[tile].core
        canvas.write(core, np.full((core.height, core.width), 1 + tile % 5, np.uint8))
        canvas.finish([tile])


def until(bands: MapBands, missing: list[int]) -> None:
    end = time.monotonic() + 30
    while bands.missing != missing and time.monotonic() < end:
        time.sleep(0.01)
    assert bands.missing == missing


def test_a_band_is_made_as_soon_as_its_last_tile_is_finished(tmp_path: Path) -> None:
    grid = Grid(WIDTH, HEIGHT, tile_size=256, halo=16)
    with canvas_of(tmp_path / "c") as canvas:
        lower = [tile for tile in range(len(grid)) if grid[tile].core.row + grid[tile].core.height > 1024]
        fill(canvas, grid, lower)  # by an earlier run
        canvas.commit()
        with EarlyBands(canvas, grid, [MapBands(WIDTH, HEIGHT, 5, tmp_path)]) as ahead:
            (bands,) = ahead.heads
            until(bands, [0, 1])
            rest = [tile for tile in range(len(grid)) if tile not in lower]
            first = [tile for tile in rest if grid[tile].core.row < 512]
            fill(canvas, grid, first[:-1])
            fill(canvas, grid, first[:1])  # once more, as a group of tiles that is done again whole
            time.sleep(0.2)
            assert bands.missing == [0, 1]
            fill(canvas, grid, first[-1:])
            until(bands, [1])
            fill(canvas, grid, [tile for tile in rest if tile not in first])
            until(bands, [])
            truth = np.bincount(canvas.classes.read(0, HEIGHT).ravel(), minlength=6)
            assert bands.counts.tolist() == truth.tolist()
        assert canvas.on_finished is None


def test_at_rest_no_band_is_begun_any_more(tmp_path: Path) -> None:
    grid = Grid(WIDTH, HEIGHT, tile_size=256, halo=16)
    with (
        canvas_of(tmp_path / "c") as canvas,
        EarlyBands(canvas, grid, [MapBands(WIDTH, HEIGHT, 5, tmp_path)]) as ahead,
    ):
        ahead.rest()
        fill(canvas, grid, range(len(grid)))
        assert ahead.heads[0].missing == [0, 1, 2]


def test_who_waits_for_rest_waits_for_a_part_of_a_band_and_not_for_all_that_are_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, go, whole = Grid(WIDTH, HEIGHT, tile_size=256, halo=16), threading.Event(), MapBands.make

    def make(bands: MapBands, number: int, *how: object) -> object:
        assert go.wait(30)
        return whole(bands, number, *how)  # type: ignore[arg-type]

    monkeypatch.setattr(MapBands, "make", make)
    with (
        canvas_of(tmp_path / "c") as canvas,
        EarlyBands(canvas, grid, [MapBands(WIDTH, HEIGHT, 5, tmp_path)]) as ahead,
    ):
        fill(canvas, grid, range(len(grid)))
        waiting = threading.Thread(target=ahead.rest)
        waiting.start()
        assert ahead._resting.wait(30)
        go.set()
        waiting.join(30)
        assert ahead.heads[0].missing == [0, 1, 2]


def test_where_no_band_can_be_made_ahead_the_map_is_made_all_the_same(
    noisy_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    request = MapRequest(noisy_scene, tmp_path / "a", scene_options=SceneOptions(collar=False))
    with IdentityEngine(tile_size=128) as engine:
        plain = map_scene(request, engine).map_path.read_bytes()
        whole = MapBands.keep
        failed: list[int] = []

        def keep(bands: MapBands, number: int, band: object) -> None:
            if not failed:
                failed.append(number)
                raise OSError(errno.ENOSPC, "No space left on device")
            whole(bands, number, band)  # type: ignore[arg-type]

        monkeypatch.setattr(MapBands, "keep", keep)
        with caplog.at_level(logging.WARNING, "onboard.mapping.early_bands"):
            request = MapRequest(noisy_scene, tmp_path / "b", scene_options=SceneOptions(collar=False))
            assert map_scene(request, engine).map_path.read_bytes() == plain
    assert failed == [0]
    assert "not made ahead any more" in caplog.text


def test_what_was_made_of_a_tile_that_is_mapped_again_is_not_published(
    noisy_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bit flips on the canvas behind a band that is made already: tile and band are made again."""
    request = MapRequest(noisy_scene, tmp_path / "a", scene_options=SceneOptions(collar=False))
    with IdentityEngine(tile_size=128) as engine:
        plain = map_scene(request, engine).map_path.read_bytes()
        made: list[int] = []
        whole = MapBands.make

        def make(bands: MapBands, number: int, *how: object) -> object:
            made.append(number)
            if len(made) == 1:  # what the map would be of, were it not compared with the tiles' checksums
                (layer,) = (tmp_path / "b").glob(".onboard/*/canvas/classes.raw")
                with layer.open("r+b") as file:
                    file.write(b"\x09")
            return whole(bands, number, *how)  # type: ignore[arg-type]

        monkeypatch.setattr(MapBands, "make", make)
        request = MapRequest(noisy_scene, tmp_path / "b", scene_options=SceneOptions(collar=False))
        assert map_scene(request, engine).map_path.read_bytes() == plain
    assert made.count(0) == 2


def test_a_run_that_fails_is_told_by_its_own_error_whatever_the_disk_says(
    noisy_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks that still wait to be written when the engine fails: closing their file fails too, and nobody cares."""

    class Failing(IdentityEngine):
        def infer(self, tiles: Tiles) -> Prediction:  # noqa: ARG002 -- as engines have it
            raise InferenceFailed("identity", "broken", retryable=False)

    class Full:
        def close(self) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("products.map_file.tempfile.TemporaryFile", lambda **_: Full())
    request = MapRequest(noisy_scene, tmp_path / "a", scene_options=SceneOptions(collar=False))
    with Failing(tile_size=128) as engine, pytest.raises(InferenceFailed, match="broken"):
        map_scene(request, engine)


def test_where_blocks_have_no_place_the_map_is_made_at_the_end(
    noisy_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with IdentityEngine(tile_size=128) as engine:
        request = MapRequest(noisy_scene, tmp_path / "a", scene_options=SceneOptions(collar=False))
        plain = map_scene(request, engine).map_path.read_bytes()
        calls: list[object] = []

        def bands_of(*given: object) -> object:
            calls.append(given)
            raise OSError(errno.EMFILE, "Too many open files")

        monkeypatch.setattr("onboard.mapping.run.bands_of", bands_of)
        request = MapRequest(noisy_scene, tmp_path / "b", scene_options=SceneOptions(collar=False))
        assert map_scene(request, engine).map_path.read_bytes() == plain
    assert calls


def test_a_class_that_the_manifest_does_not_name_is_no_map(noisy_scene: Path, tmp_path: Path) -> None:
    class Wrong(ConstantEngine):
        def _predicted(self, tiles: Tiles) -> Prediction:
            return Prediction(np.full((len(tiles), *tiles.shape[2:]), 6, np.uint8))

    request = MapRequest(noisy_scene, tmp_path / "a", scene_options=SceneOptions(collar=False))
    with Wrong(1, tile_size=128) as engine, pytest.raises(InferenceFailed, match=r"gave the class 6, .* is 5"):
        map_scene(request, engine)
    assert not (tmp_path / "a" / "scene").exists()
