from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from engines.engine import Prediction
from engines.errors import EngineError
from engines.testing import ConstantEngine, IdentityEngine
from onboard.errors import OptionsRefused, SceneRefused
from onboard.mapping import run
from onboard.mapping.run import MapRequest, map_scene
from onboard.scene.reader import SceneOptions

PLAIN = SceneOptions(collar=False)


def write_scene(path: Path, pixels: NDArray[Any], **profile: Any) -> Path:
    count, height, width = pixels.shape
    keys = {"driver": "GTiff", "width": width, "height": height, "count": count, "dtype": pixels.dtype}
    place = {"crs": "EPSG:32640", "transform": rasterio.Affine(2, 0, 5e5, 0, -2, 2.8e6)}
    with rasterio.open(path, "w", **(keys | place | profile)) as target:
        target.write(pixels)
    return path


def noise(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(1, 255, (3, height, width), dtype=np.uint8)


def read(path: Path) -> NDArray[np.uint8]:
    with rasterio.open(path) as source:
        pixels: NDArray[np.uint8] = source.read(1)
    return pixels


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    width=st.integers(1, 150), height=st.integers(1, 150), tile=st.sampled_from([16, 32, 64]),
    halo_share=st.floats(0, 0.49), batch=st.integers(1, 3),
)  # fmt: skip
def test_the_identity_engine_maps_a_scene_onto_itself(
    *, tmp_path_factory: pytest.TempPathFactory, width: int, height: int, tile: int, halo_share: float, batch: int
) -> None:
    folder = tmp_path_factory.mktemp("identity")
    pixels = noise(width, height, seed=width * height)
    scene = write_scene(folder / "scene.tif", pixels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "probe_scene", lambda *_: None)  # a process a scene: its own tests run it
        engine = IdentityEngine(tile_size=tile, max_batch=4)
        request = MapRequest(scene, folder / "out", halo=int(tile * halo_share), batch=batch, scene_options=PLAIN)
        summary = map_scene(request, engine)
    assert np.array_equal(read(summary.map_path), pixels[0])


def test_the_second_run_finds_the_map_and_has_nothing_to_do(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene.tif", noise(100, 80))
    request = MapRequest(scene, tmp_path / "out", halo=8, scene_options=PLAIN)
    first = map_scene(request, IdentityEngine(tile_size=64))
    stamp = first.map_path.stat().st_mtime_ns
    second = map_scene(request, IdentityEngine(tile_size=64))
    assert not first.already_mapped
    assert second.already_mapped
    assert second.map_path.stat().st_mtime_ns == stamp
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["scene"]


def test_a_damaged_map_is_made_again(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene.tif", noise(100, 80))
    request = MapRequest(scene, tmp_path / "out", halo=8, scene_options=PLAIN)
    first = map_scene(request, IdentityEngine(tile_size=64))
    whole = first.map_path.read_bytes()
    first.map_path.write_bytes(whole[:-1])
    assert not map_scene(request, IdentityEngine(tile_size=64)).already_mapped
    assert first.map_path.read_bytes() == whole


def test_other_options_replace_the_map_but_another_scene_does_not(tmp_path: Path) -> None:
    one = write_scene(tmp_path / "scene.tif", noise(100, 80))
    (tmp_path / "other").mkdir()
    other = write_scene(tmp_path / "other" / "scene.tif", noise(100, 80, seed=1))
    out = tmp_path / "out"
    map_scene(MapRequest(one, out, halo=8, scene_options=PLAIN), IdentityEngine(tile_size=64))
    again = map_scene(MapRequest(one, out, halo=4, scene_options=PLAIN), IdentityEngine(tile_size=64))
    assert not again.already_mapped
    with pytest.raises(OptionsRefused, match="another scene"):
        map_scene(MapRequest(other, out, halo=8, scene_options=PLAIN), IdentityEngine(tile_size=64))
    request = MapRequest(other, out, halo=8, scene_options=PLAIN, overwrite=True)
    assert np.array_equal(read(map_scene(request, IdentityEngine(tile_size=64)).map_path), noise(100, 80, seed=1)[0])


def test_a_folder_that_is_no_map_is_left_alone(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene.tif", noise(40, 40))
    (tmp_path / "out" / "scene").mkdir(parents=True)
    (tmp_path / "out" / "scene" / "thesis.txt").write_text("precious")
    with pytest.raises(OptionsRefused, match="no map of ours"):
        map_scene(MapRequest(scene, tmp_path / "out", halo=8, overwrite=True), IdentityEngine(tile_size=64))
    assert (tmp_path / "out" / "scene" / "thesis.txt").read_text() == "precious"


class CountingEngine(IdentityEngine):
    """Remembers how many tiles it was given; fails at a chosen one."""

    seen = 0
    fail_at = -1
    thread: int | None = None

    def infer(self, tiles: NDArray[np.uint8]) -> Prediction:
        self.thread = threading.get_ident()
        self.seen += len(tiles)
        if 0 < self.fail_at <= self.seen:
            raise EngineError("lost the device")
        return super().infer(tiles)


def test_no_data_pixels_are_zero_and_empty_tiles_never_reach_the_engine(tmp_path: Path) -> None:
    pixels = noise(256, 64)
    pixels[:, :, 100:] = 0
    scene = write_scene(tmp_path / "scene.tif", pixels, nodata=0)
    engine = CountingEngine(tile_size=64)
    summary = map_scene(MapRequest(scene, tmp_path / "out", halo=0, scene_options=PLAIN), engine)
    assert (summary.tiles, summary.tiles_empty, engine.seen) == (4, 2, 2)
    assert np.array_equal(read(summary.map_path), pixels[0])
    assert summary.no_data_share == pytest.approx(156 / 256)
    assert sum(summary.class_shares.values()) + summary.no_data_share == pytest.approx(1)


def test_the_engine_is_driven_by_the_calling_thread(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene.tif", noise(64, 64))
    engine = CountingEngine(tile_size=64)
    map_scene(MapRequest(scene, tmp_path / "out", halo=0, scene_options=PLAIN), engine)
    assert engine.thread == threading.get_ident()


def test_an_engine_that_fails_keeps_what_was_done(tmp_path: Path) -> None:
    pixels = noise(640, 64)
    scene = write_scene(tmp_path / "scene.tif", pixels)
    request = MapRequest(scene, tmp_path / "out", halo=0, scene_options=PLAIN)
    failing = CountingEngine(tile_size=64)
    failing.fail_at = 7
    with pytest.raises(EngineError, match="lost the device"):
        map_scene(request, failing)
    engine = CountingEngine(tile_size=64)
    summary = map_scene(request, engine)
    assert summary.tiles_resumed == 6
    assert engine.seen == 4
    assert np.array_equal(read(summary.map_path), pixels[0])


def test_a_scene_damaged_in_the_middle_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    layout = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate", "interleave": "pixel"}
    scene = write_scene(tmp_path / "scene.tif", noise(640, 640), **layout)
    raw = bytearray(scene.read_bytes())
    middle = len(raw) // 2
    raw[middle : middle + 4000] = bytes(4000)
    scene.write_bytes(raw)
    with pytest.raises(SceneRefused, match=r"scene\.tif"):
        map_scene(MapRequest(scene, tmp_path / "out", halo=0, scene_options=PLAIN), IdentityEngine(tile_size=64))
    assert not (tmp_path / "out").exists()


def test_whoever_judges_is_asked_before_the_scene_is_opened(tmp_path: Path) -> None:
    scene = tmp_path / "scene.tif"
    scene.write_bytes(b"nothing a reader may touch")

    def judge(path: Path, options: SceneOptions) -> None:
        assert options == PLAIN
        raise SceneRefused(path, "was judged", "deliver another")

    with pytest.raises(SceneRefused, match="was judged"):
        map_scene(MapRequest(scene, tmp_path / "out", scene_options=PLAIN), IdentityEngine(64), judge=judge)
    assert not (tmp_path / "out").exists()


def test_the_sieve_removes_small_patches_and_keeps_no_data(tmp_path: Path) -> None:
    pixels = np.full((3, 90, 90), 2, np.uint8)
    pixels[:, 40:43, 40:43] = 3
    pixels[:, 60:80, 60:80] = 3
    pixels[:, 0, 0] = 0
    scene = write_scene(tmp_path / "scene.tif", pixels, nodata=0)
    request = MapRequest(scene, tmp_path / "out", halo=0, scene_options=PLAIN, sieve_px=10)
    mapped = read(map_scene(request, IdentityEngine(tile_size=64)).map_path)
    assert (mapped[40:43, 40:43] == 2).all()
    assert (mapped[60:80, 60:80] == 3).all()
    assert mapped[0, 0] == 0


def test_the_item_tells_pixels_shares_and_areas(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene.tif", np.full((3, 50, 40), 1, np.uint8))
    summary = map_scene(
        MapRequest(scene, tmp_path / "out", halo=0, scene_options=PLAIN), ConstantEngine(code=1, tile_size=64)
    )
    properties = json.loads(summary.item_path.read_text())["properties"]
    cover = {row["value"]: row for row in properties["onboard:class_cover"]}
    assert cover[1]["pixels"] == 2000
    assert cover[1]["share"] == 1
    # UTM's scale factor is left out: areas are those of the projected plane.
    assert cover[1]["area_m2"] == pytest.approx(8000)


class _Sure(IdentityEngine):
    """As sure as the first band is bright."""

    def _predicted(self, tiles: NDArray[np.uint8]) -> Prediction:
        return Prediction(np.maximum(tiles[:, 0], np.uint8(1)), np.ascontiguousarray(tiles[:, 0]))


def test_mean_confidence_is_that_of_the_valid_pixels(tmp_path: Path) -> None:
    pixels = noise(90, 70)
    pixels[:, :30, :40] = 0
    scene = write_scene(tmp_path / "scene.tif", pixels, nodata=0)
    engine = _Sure(tile_size=32, confidence=True)
    for confidence in (True, False):  # it is told whether or not it is kept as a raster
        request = MapRequest(scene, tmp_path / str(confidence), halo=4, confidence=confidence, scene_options=PLAIN)
        properties = json.loads(map_scene(request, engine).item_path.read_text())["properties"]
        told = pixels[0][(pixels != 0).any(axis=0)] / 255
        assert properties["onboard:mean_confidence"] == pytest.approx(told.mean(), abs=1e-4)
    request = MapRequest(scene, tmp_path / "silent", scene_options=PLAIN)
    silent = map_scene(request, ConstantEngine(code=1, tile_size=64))
    assert json.loads(silent.item_path.read_text())["properties"]["onboard:mean_confidence"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "--batch"),
        ({"sieve_px": -1}, "--sieve"),
        ({"name": "../etc"}, "--name"),
        ({"name": ".x"}, "--name"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionsRefused, match=message):
        MapRequest(Path("scene.tif"), Path("out"), **options)


def test_a_batch_larger_than_the_engine_takes_is_refused(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene.tif", noise(64, 64))
    with pytest.raises(OptionsRefused, match="--batch 9"):
        map_scene(MapRequest(scene, tmp_path / "out", batch=9), IdentityEngine(tile_size=64, max_batch=8))
