from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from onboard.scene import collar as collar_module
from onboard.scene.collar import flooded
from onboard.scene.grid import Window
from onboard.scene.reader import Scene, SceneOptions

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def slow_flood(candidates: NDArray[np.bool_]) -> NDArray[np.bool_]:
    height, width = candidates.shape
    reached = np.zeros_like(candidates)
    todo = [(r, c) for r in range(height) for c in range(width) if r in (0, height - 1) or c in (0, width - 1)]
    while todo:
        row, col = todo.pop()
        if 0 <= row < height and 0 <= col < width and candidates[row, col] and not reached[row, col]:
            reached[row, col] = True
            todo += [(row + 1, col), (row - 1, col), (row, col + 1), (row, col - 1)]
    return reached


@given(st.integers(1, 14), st.integers(1, 14), st.integers(0, 2**32 - 1), st.floats(0.3, 0.9))
def test_the_flood_equals_a_pixel_by_pixel_one(height: int, width: int, seed: int, share: float) -> None:
    candidates = np.random.default_rng(seed).random((height, width)) < share
    assert np.array_equal(flooded(candidates), slow_flood(candidates))


def made(path: Path, *, value: int, noise: int = 160, side: int = 300, **profile: Any) -> NDArray[np.bool_]:
    """A scene with a tilted collar of `value`; returns where there is data. Holes of the same value lie inside."""
    rows, cols = np.mgrid[:side, :side]
    inside: NDArray[np.bool_] = (rows + cols // 3 > 80) & (rows - cols // 3 < 180)
    pixels = np.random.default_rng(0).integers(40, 40 + noise, (3, side, side)).astype(np.uint8)
    pixels[:, ~inside] = value
    pixels[:, 150:160, 150:160] = value
    keys = {"driver": "GTiff", "width": side, "height": side, "count": 3, "dtype": "uint8"}
    with rasterio.open(path, "w", **keys, **profile) as target:
        target.write(pixels)
    return inside


@pytest.mark.parametrize(("value", "name"), [(0, "black"), (255, "white")])
@pytest.mark.parametrize("largest", [2048, 100])
def test_an_untagged_collar_is_no_data_but_holes_inside_are_not(
    tmp_path: Path, value: int, name: str, largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collar_module, "_LARGEST", largest)
    inside = made(tmp_path / "s.tif", value=value)
    with Scene.open(tmp_path / "s.tif") as scene:
        valid = scene.read(Window(0, 0, 300, 300)).valid
        assert valid is not None
        assert np.array_equal(valid, inside)
        part = scene.read(Window(20, 10, 50, 40)).valid
        assert part is not None
        assert np.array_equal(part, inside[10:50, 20:70])
        assert name in scene.valid_rule


def test_a_lossy_collar_is_found_with_its_ringing(tmp_path: Path) -> None:
    inside = made(tmp_path / "s.tif", value=0, noise=20, compress="jpeg", photometric="ycbcr", jpeg_quality=75)
    with Scene.open(tmp_path / "s.tif") as scene:
        valid = scene.read(Window(0, 0, 300, 300)).valid
        assert valid is not None
        assert (valid == inside).mean() > 0.97
        assert valid[150:160, 150:160].all()


def test_it_can_be_switched_off_and_a_tag_goes_before_it(tmp_path: Path) -> None:
    made(tmp_path / "s.tif", value=0)
    with Scene.open(tmp_path / "s.tif", SceneOptions(collar=False)) as scene:
        assert scene.read(Window(0, 0, 300, 300)).valid is None
    made(tmp_path / "t.tif", value=0, nodata=7)
    with Scene.open(tmp_path / "t.tif") as scene:
        assert scene.valid_rule == "nodata tag 7"


def test_a_dark_scene_is_not_a_collar(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 3, (3, 300, 300)).astype(np.uint8)
    pixels[:, :4, :4] = 0
    keys = {"driver": "GTiff", "width": 300, "height": 300, "count": 3, "dtype": "uint8", "compress": "jpeg"}
    with rasterio.open(tmp_path / "s.tif", "w", **keys) as target:
        target.write(pixels)
    with Scene.open(tmp_path / "s.tif") as scene:
        assert scene.valid_rule == "all valid"


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("geotiffs/deepforest__5b90f92da0d7280005fab355_4310.tif", 0.15, 0.22),
        ("geotiffs/ramp__test_img.tif", 0.14, 0.19),
        ("geotiffs/rio-alpha__2012_6156D.tiny.tif", 0.6, 0.75),
        *((f"dubai/scenes/scene_{number}.tif", 0, 0) for number in (1, 3, 4, 5, 6, 7, 8)),
        ("geotiffs/rio-glui__16-21560-29773_small_ycbcr.tif", 0, 0),
        ("geotiffs/rio-alpha__1km176280474802010MAPCON.tiny.tif", 0, 0),
    ],
)
def test_real_collars_are_found_and_real_water_is_not_taken_for_one(
    shared_data: Path, name: str, low: float, high: float
) -> None:
    with Scene.open(shared_data / name) as scene:
        found = scene.decisions.collar
        assert low <= (found.share if found else 0) <= high
