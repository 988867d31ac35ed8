"""Maps of scenes whose tiles have the smallest sides that will do."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.backends.onnxruntime import OnnxRuntimeEngine
from engines.engine import EngineOptions, Prediction, Tiles
from engines.errors import EngineError
from engines.manifest import Manifest
from engines.testing import IdentityEngine
from onboard.mapping.canvas import Canvas
from onboard.mapping.control import MapObserver
from onboard.mapping.dask_executor import Part, map_part
from onboard.mapping.executors import EngineDescription, LocalExecutor
from onboard.mapping.job import Job
from onboard.mapping.run import MapRequest, map_scene
from onboard.scene.reader import Scene
from onboard.scene.resolution import ResolutionOptions, resolution_of
from tests.onboard.mapping.test_run import PLAIN, noise, read, write_scene
from tests.tiny_convolutional import SIDES, ground, write_convolutional


class Seen(IdentityEngine):
    """Notes the shapes of its tiles; fails at one call where that is wanted."""

    def __init__(self, sides: tuple[int, ...] | None = SIDES, *, fail_at: int | None = None) -> None:
        super().__init__(tile_size=1024, halo=64, tile_sides=sides)
        self.shapes: list[tuple[int, ...]] = []
        self.fail_at = fail_at

    def infer(self, tiles: Tiles) -> Prediction:
        if len(self.shapes) == self.fail_at:
            raise EngineError("lost the device")
        self.shapes.append(tiles.shape)
        return super().infer(tiles)


@pytest.fixture
def request_(tmp_path: Path) -> MapRequest:
    """1100 x 700 pixels of noise: two tiles of 1024 in a row, or two of 768."""
    scene = write_scene(tmp_path / "scene.tif", noise(1100, 700))
    return MapRequest(scene, tmp_path / "out", scene_options=PLAIN)


def mapped(request: MapRequest, engine: IdentityEngine, **more: Any) -> Any:
    return map_scene(request, engine, judge=lambda *_: None, **more)


def identity_of(request: MapRequest, engine: IdentityEngine) -> dict[str, Any]:
    with Scene.open(request.scene, request.scene_options) as scene:
        resolution = resolution_of(scene, engine.manifest, ResolutionOptions())
        return Job.of(request, scene, LocalExecutor(engine), resolution).identity


def test_a_scene_is_mapped_in_tiles_that_fit_it(request_: MapRequest) -> None:
    engine = Seen()
    summary = mapped(request_, engine)
    assert engine.shapes == [(1, 3, 768, 768)] * 2
    assert summary.tiles == 2
    assert np.array_equal(read(summary.map_path), noise(1100, 700)[0])
    assert json.loads(summary.item_path.read_text())["properties"]["onboard:tiles"] == 2


def test_a_model_of_one_size_is_given_that_size(request_: MapRequest) -> None:
    engine = Seen(None)
    summary = mapped(request_, engine)
    assert engine.shapes == [(1, 3, 1024, 1024)] * 2
    assert np.array_equal(read(summary.map_path), noise(1100, 700)[0])


def test_a_small_scene_is_padded_to_the_smallest_tile_that_holds_it(tmp_path: Path) -> None:
    engine = Seen()
    scene = write_scene(tmp_path / "scene.tif", noise(900, 300))
    summary = mapped(MapRequest(scene, tmp_path / "out", scene_options=PLAIN), engine)
    assert engine.shapes == [(1, 3, 512, 1024)]
    assert np.array_equal(read(summary.map_path), noise(900, 300)[0])


def test_a_run_that_was_stopped_goes_on_with_the_same_tiles(tmp_path: Path) -> None:
    pixels = noise(2000, 1100)
    scene = write_scene(tmp_path / "scene.tif", pixels)
    request = MapRequest(scene, tmp_path / "out", scene_options=PLAIN)
    with pytest.raises(EngineError, match="lost the device"):
        mapped(request, Seen(fail_at=4))
    engine = Seen()
    summary = mapped(request, engine)
    assert (summary.tiles, summary.tiles_resumed) == (6, 4)
    assert engine.shapes == [(1, 3, 768, 768)] * 2
    assert np.array_equal(read(summary.map_path), pixels[0])


def test_tiles_of_another_shape_are_other_work(tmp_path: Path) -> None:
    """A canvas begun with squares of 1024 holds cores of other places: nothing of it may be kept."""
    pixels = noise(2000, 1100)
    scene = write_scene(tmp_path / "scene.tif", pixels)
    request = MapRequest(scene, tmp_path / "out", scene_options=PLAIN)
    with pytest.raises(EngineError):
        mapped(request, Seen(None, fail_at=4))
    summary = mapped(request, Seen())
    assert summary.tiles_resumed == 0
    assert np.array_equal(read(summary.map_path), pixels[0])


def test_the_identity_names_a_shape_only_where_it_is_not_the_usual_square(tmp_path: Path) -> None:
    names = {}
    for name, (width, height) in {"wide": (1100, 700), "row": (900, 300), "usual": (1024, 1024)}.items():
        scene = write_scene(tmp_path / f"{name}.tif", noise(width, height))
        request = MapRequest(scene, tmp_path / "out", scene_options=PLAIN)
        names[name] = [identity_of(request, Seen(sides))["tile"] for sides in (SIDES, None)]
    assert names == {"wide": [[768, 768], 1024], "row": [[1024, 512], 1024], "usual": [1024, 1024]}


def test_whoever_watches_hears_of_tiles_and_pixels_before_the_first_tile(request_: MapRequest) -> None:
    told: list[tuple[int, int, int]] = []
    engine = Seen()

    class Watching(MapObserver):
        def before_mapping(self, *, tiles: int, pixels: int) -> None:
            told.append((tiles, pixels, len(engine.shapes)))

    mapped(request_, engine, observer=Watching())
    assert told == [(2, 1100 * 700, 0)]


def test_an_executor_says_the_sides_of_its_engine() -> None:
    assert LocalExecutor(Seen()).engine.tile_sides == SIDES
    assert LocalExecutor(Seen(None)).engine.tile_sides == (1024,)
    described = EngineDescription.of(Seen())
    assert EngineDescription(described.manifest, "x", "fp32", 1, "sha256:0").tile_sides == (1024,)


def test_a_worker_of_a_cluster_cuts_the_tiles_that_it_is_told(request_: MapRequest, tmp_path: Path) -> None:
    opener = partial(IdentityEngine, 1024, halo=64, tile_sides=SIDES)
    with (
        Scene.open(request_.scene, PLAIN) as scene,
        Canvas(tmp_path / "canvas", {"a": 1}, width=1100, height=700) as canvas,
    ):
        part = Part(
            opener, opener().digest, request_.scene, PLAIN, scene.decisions, (1100, 700), (768, 768), 64, 1, 60.0,
            canvas.folder, {"a": 1}, confidence=False, further={}, tiles=(),
        )  # fmt: skip
        finished = map_part(part, (0, 1))
        assert finished.failure is None
        assert finished.stats.tiles_inferred == 2
        assert np.array_equal(canvas.classes.read(0, 700), noise(1100, 700)[0])


def test_a_convolutional_model_maps_a_scene_as_it_maps_it_in_larger_tiles(tmp_path: Path) -> None:
    """Real tiles and real halos: with halos wider than the network sees the map does not depend on the tiles."""
    write_convolutional(tmp_path / "model")
    manifest = Manifest.load(tmp_path / "model")
    one_size = manifest.model_copy(update={"input": manifest.input.model_copy(update={"tile_sides": None})})
    pixels = np.concatenate([ground(1), ground(2)], axis=2)[:, :700, :1100]
    scene = write_scene(tmp_path / "scene.tif", np.ascontiguousarray(pixels))
    maps = []
    for number, view in enumerate((manifest, one_size)):
        request = MapRequest(scene, tmp_path / f"out-{number}", halo=192, scene_options=PLAIN)
        with OnnxRuntimeEngine(view, tmp_path / "model", EngineOptions(threads=1)) as engine:
            maps.append(read(map_scene(request, engine, judge=lambda *_: None).map_path))
    # Mirrored pixels below the scene reach in differently: 700 rows are padded to 768, or to 1024.
    above = maps[0][:500] == maps[1][:500]
    assert above.mean() > 0.9999
    assert len(np.unique(maps[0])) > 2
