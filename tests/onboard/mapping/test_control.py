from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

from engines.engine import Prediction, Tiles
from engines.errors import GoldenFailed, InferenceFailed
from engines.testing import IdentityEngine
from onboard.errors import MappingStopped
from onboard.mapping.control import EngineHealth, StopPolicy
from onboard.mapping.executors import LocalExecutor
from onboard.mapping.run import MapRequest, MapSummary, map_scene
from onboard.scene.reader import SceneOptions


@pytest.fixture
def request_(tmp_path: Path) -> MapRequest:
    """A scene of 25 tiles."""
    pixels = np.random.default_rng(3).integers(1, 255, (3, 240, 240), dtype=np.uint8)
    place = rasterio.Affine(2, 0, 5e5, 0, -2, 2.8e6)
    with rasterio.open(
        tmp_path / "scene.tif", "w", "GTiff", 240, 240, 3, dtype="uint8", crs="EPSG:32640", transform=place
    ) as file:
        file.write(pixels)
    return MapRequest(
        tmp_path / "scene.tif", tmp_path / "maps", halo=8, work=tmp_path / "canvases",
        scene_options=SceneOptions(collar=False),
    )  # fmt: skip


def mapped(summary: MapSummary) -> NDArray[np.uint8]:
    with rasterio.open(summary.map_path) as file:
        pixels: NDArray[np.uint8] = file.read(1)
    return pixels


class FailingEngine(IdentityEngine):
    """Says 9 everywhere from its so many-th tile on, as an engine whose memory was hit would."""

    def __init__(self, good_tiles: int) -> None:
        super().__init__(tile_size=64)
        self.left = good_tiles

    def infer(self, tiles: Tiles) -> Prediction:
        told = super().infer(tiles)
        self.left -= len(tiles)
        return told if self.left >= 0 else Prediction(np.full_like(told.classes, 9), None)


@dataclass
class Checking(EngineHealth):
    """Asks the engine for a tile it knows, every so many batches, and remembers how it went."""

    engine: IdentityEngine
    every: int
    batches: int = 0
    verdicts: list[bool] = field(default_factory=list)

    def note_tiles(self, count: int, shape: tuple[int, int]) -> None:  # noqa: ARG002 -- the base's
        self.batches += count

    def check_due(self) -> bool:
        return self.batches % self.every == 0

    def check(self) -> None:
        known = np.full((1, 3, 64, 64), 3, np.uint8)
        good = bool((self.engine.infer(known).classes == 3).all())
        self.verdicts.append(good)
        if not good:
            raise GoldenFailed("testing", "fp32", agreement=0.0, required=1.0)


def test_a_run_told_to_stop_continues_where_it_was(request_: MapRequest, tmp_path: Path) -> None:
    @dataclass
    class Stopping(StopPolicy):
        left: int

        def before_batch(self) -> None:
            self.left -= 1
            if self.left < 0:
                raise MappingStopped("something more urgent came")

    with pytest.raises(MappingStopped, match="something more urgent came; the same request continues"):
        map_scene(request_, LocalExecutor(IdentityEngine(tile_size=64), stop=Stopping(7)))
    assert not (tmp_path / "maps" / "scene").exists()
    summary = map_scene(request_, IdentityEngine(tile_size=64))
    assert (summary.tiles, summary.tiles_resumed) == (25, 7)
    assert list((tmp_path / "canvases").glob("*")) == []


@pytest.mark.parametrize(("good", "kept"), [(0, 0), (3, 0), (11, 9), (24, 19), (30, 24)])
def test_nothing_of_an_engine_in_doubt_is_published(request_: MapRequest, tmp_path: Path, good: int, kept: int) -> None:
    failing = FailingEngine(good)
    with pytest.raises(GoldenFailed):
        map_scene(request_, LocalExecutor(failing, health=Checking(failing, every=5)))
    assert not (tmp_path / "maps" / "scene").exists()
    engine = IdentityEngine(tile_size=64)
    health = Checking(engine, every=5)
    summary = map_scene(request_, LocalExecutor(engine, health=health))
    assert not (mapped(summary) == 9).all(axis=None)
    with rasterio.open(request_.scene) as scene:
        assert np.array_equal(mapped(summary), scene.read(1))
    # What came before the last good check is kept: the checks are the 5th, 11th, 17th ... tile the engine sees.
    assert summary.tiles_resumed == kept
    assert health.verdicts
    assert all(health.verdicts)


def test_the_engine_is_checked_after_the_last_tile(request_: MapRequest) -> None:
    engine = IdentityEngine(tile_size=64)
    health = Checking(engine, every=10**6)
    map_scene(request_, LocalExecutor(engine, health=health))
    assert health.verdicts == [True]


def test_without_checks_an_engines_failure_keeps_what_was_done(request_: MapRequest) -> None:
    class Raising(FailingEngine):
        def infer(self, tiles: Tiles) -> Prediction:
            if self.left <= 0:
                raise InferenceFailed("testing", "out of memory", retryable=True)
            return super().infer(tiles)

    with pytest.raises(InferenceFailed):
        map_scene(request_, Raising(12))
    assert map_scene(request_, IdentityEngine(tile_size=64)).tiles_resumed == 12
