from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from onboard.scene import cells
from onboard.scene.flood import flooded, grown, in_long_runs, inside_hull, longest_run
from onboard.scene.grid import Window
from onboard.scene.reader import Scene, SceneOptions
from onboard.scene.sample import read_bands

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
    monkeypatch.setattr(cells, "LARGEST", largest)
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


def test_it_can_be_switched_off(tmp_path: Path) -> None:
    made(tmp_path / "s.tif", value=0)
    with Scene.open(tmp_path / "s.tif", SceneOptions(collar=False)) as scene:
        assert scene.read(Window(0, 0, 300, 300)).valid is None
        assert scene.assumptions == ()


def test_a_tag_of_another_value_ends_no_search(tmp_path: Path) -> None:
    inside = made(tmp_path / "t.tif", value=0, nodata=255)
    with Scene.open(tmp_path / "t.tif") as scene:
        valid = scene.read(Window(0, 0, 300, 300)).valid
        assert valid is not None
        assert np.array_equal(valid, inside)
        text = f"a black border ({1 - inside.mean():.1%} of the scene) is taken for no data"
        assert [str(row) for row in scene.assumptions] == [f"{text}; say otherwise with --no-collar"]


def turned(degrees: float, side: int, fill: int, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """An image (3, h, w) turned in the box around it, and where the image is (h, w)."""
    angle = np.deg2rad(degrees)
    box = round(side * (np.cos(angle) + np.sin(angle)))
    rows, cols = np.mgrid[:box, :box] - (box - 1) / 2
    across, down = cols * np.cos(angle) + rows * np.sin(angle), rows * np.cos(angle) - cols * np.sin(angle)
    inside: NDArray[np.bool_] = (np.abs(across) < side / 2) & (np.abs(down) < side / 2)
    # Fields and roofs with noise, of little colour as imagery is, none of it near black or white.
    random = np.random.default_rng(seed)
    fields = random.integers(60, 190, (1, box // 10 + 1, box // 10 + 1)) + random.integers(-9, 10, (3, 1, 1))
    blocks = fields.repeat(10, 1).repeat(10, 2)[:, :box, :box]
    pixels = (blocks + random.integers(-8, 9, blocks.shape)).astype(np.uint8)
    pixels[:, ~inside] = fill
    return pixels, inside


def written(path: Path, pixels: NDArray[Any], **profile: Any) -> Path:
    count, height, width = pixels.shape
    keys = {"driver": "GTiff", "width": width, "height": height, "count": count, "dtype": pixels.dtype}
    with rasterio.open(path, "w", **(keys | profile)) as target:
        target.write(pixels)
    return path


def left_and_lost(path: Path, inside: NDArray[np.bool_]) -> tuple[float, float]:
    """Share of the collar that counts as data, and share of the image that does not."""
    with Scene.open(path) as scene:
        valid = scene.read(Window(0, 0, scene.width, scene.height)).valid
    if valid is None:
        return 1.0, 0.0
    return float(valid[~inside].mean()), float((~valid)[inside].mean())


@pytest.mark.parametrize("fill", [0, 255])
@pytest.mark.parametrize("degrees", [0.3, 1, 3, 20])
def test_wedges_of_a_scene_turned_by_any_angle_are_exact(tmp_path: Path, degrees: float, fill: int) -> None:
    pixels, inside = turned(degrees, 400, fill)
    left, lost = left_and_lost(written(tmp_path / "s.tif", pixels), inside)
    assert left < 0.01
    assert lost < 0.001


JPEG = {"compress": "jpeg", "photometric": "ycbcr", "tiled": True, "blockxsize": 256, "blockysize": 256}


@pytest.mark.parametrize("profile", [{}, {"nodata": 0}])
@pytest.mark.parametrize("again", [False, True], ids=["jpeg", "once-jpeg"])
@pytest.mark.parametrize(("degrees", "most"), [(1, 0.08), (3, 0.02), (20, 0.02)])
def test_wedges_that_jpeg_rang_are_found_whatever_the_tag_and_the_compression_now(
    tmp_path: Path, degrees: float, most: float, again: bool, profile: dict[str, Any]
) -> None:
    pixels, inside = turned(degrees, 400, 0)
    path = written(tmp_path / "s.tif", pixels, **JPEG, **profile)
    if again:
        with rasterio.open(path) as source:
            path = written(tmp_path / "t.tif", source.read(), compress="deflate", **profile)
    left, lost = left_and_lost(path, inside)
    assert left < most
    assert lost < 0.01


def test_a_border_of_many_values_near_black_is_a_collar_and_dark_water_beside_land_is_not(tmp_path: Path) -> None:
    pixels, inside = turned(20, 400, 0)
    pixels[:, ~inside] = np.random.default_rng(1).integers(0, 4, (3, int((~inside).sum())))
    left, lost = left_and_lost(written(tmp_path / "s.tif", pixels), inside)
    assert (left, lost) < (0.01, 0.001)
    # A bay: as dark, at two corners, but with a crooked shore.
    rows, cols = np.mgrid[:400, :400]
    water = rows > 250 + 60 * np.sin(cols / 30) + 20 * np.sin(cols / 7)
    sea, _ = turned(0, 400, 0)
    sea[:, water] = np.random.default_rng(1).integers(0, 4, (3, int(water.sum())))
    with Scene.open(written(tmp_path / "w.tif", sea)) as scene:
        assert scene.decisions.collar is None


@pytest.mark.parametrize("dtype", ["uint16", "int16", "uint32"])
def test_a_border_near_black_is_a_collar_in_longer_integers_and_bends_no_stretch(tmp_path: Path, dtype: str) -> None:
    pixels, inside = turned(20, 400, 0)
    values = np.where(inside, pixels.astype(dtype) * 10 + 300, 0).astype(dtype)
    values[:, ~inside] = np.random.default_rng(1).integers(0, 4, (3, int((~inside).sum())))
    path = written(tmp_path / "s.tif", values)
    left, lost = left_and_lost(path, inside)
    assert (left, lost) < (0.01, 0.001)
    with Scene.open(path) as scene:
        assert scene.stretch is not None
        assert min(scene.stretch.low) >= 300


def test_a_bay_of_nearly_nothing_in_longer_integers_is_data(tmp_path: Path) -> None:
    pixels, _ = turned(0, 400, 0)
    values = pixels.astype(np.uint16) * 10 + 300
    rows, cols = np.mgrid[:400, :400]
    water = rows > 250 + 60 * np.sin(cols / 30) + 20 * np.sin(cols / 7)
    values[:, water] = np.random.default_rng(1).integers(0, 4, (3, int(water.sum())))
    with Scene.open(written(tmp_path / "w.tif", values)) as scene:
        assert scene.decisions.collar is None


def test_black_water_and_white_sand_beside_a_collar_stay_data(tmp_path: Path) -> None:
    for fill, sand in ((0, 0), (255, 255)):
        pixels, inside = turned(10, 400, fill)
        rows, cols = np.mgrid[: inside.shape[0], : inside.shape[1]]
        lake = inside & (np.hypot(rows - 250, cols - 40) < 90)
        pixels[:, lake] = sand
        left, lost = left_and_lost(written(tmp_path / f"{fill}.tif", pixels), inside)
        assert left < 0.01
        assert lost < 0.01


def test_a_white_roof_and_snow_at_a_corner_are_data(tmp_path: Path) -> None:
    roof, _ = turned(0, 400, 0)
    roof[:, :50, :60] = 255
    snow, _ = turned(0, 400, 0)
    rows, cols = np.mgrid[:400, :400]
    # Gets less by and by, as snow and clouds do.
    far = np.hypot(rows, cols) + 8 * np.sin(rows / 9) - 120
    snow = np.where(far < 0, 255, np.where(far < 60, 255 - far, snow)).astype(np.uint8)
    for name, pixels in (("roof", roof), ("snow", snow)):
        with Scene.open(written(tmp_path / f"{name}.tif", pixels)) as scene:
            assert scene.decisions.collar is None, name


def test_a_border_of_one_grey_at_all_corners_is_a_collar(tmp_path: Path) -> None:
    pixels, inside = turned(20, 200, 45)
    left, lost = left_and_lost(written(tmp_path / "s.tif", pixels), inside)
    assert (left, lost) < (0.01, 0.001)


@pytest.mark.parametrize("profile", [{}, {"tiled": True, "blockxsize": 256, "blockysize": 256}])
def test_of_a_large_scene_only_the_collar_and_what_lies_beside_it_are_read_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profile: dict[str, Any]
) -> None:
    side, wide = 3000, 200
    pixels = np.random.default_rng(0).integers(40, 200, (3, side, side)).astype(np.uint8)
    pixels[:, :, :wide] = 0
    path = written(tmp_path / "s.tif", pixels, compress="deflate", **profile)
    read: list[int] = []
    whole = read_bands

    def counted(source: Any, bands: tuple[int, ...], window: Window) -> Any:
        read.append(window.width * window.height)
        return whole(source, bands, window)

    monkeypatch.setattr("onboard.scene.cells.read_bands", counted)
    with Scene.open(path) as scene:
        valid = scene.read(Window(0, 0, side, side)).valid
        assert valid is not None
        assert np.array_equal(valid, np.broadcast_to(np.arange(side) >= wide, (side, side)))
    # Strips hold whole rows: of those every second one is sampled.
    assert sum(read) <= side * side * (0.5 if not profile else 0.2)


@given(st.integers(1, 14), st.integers(1, 14), st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_shapes_on_masks_equal_slow_ones(height: int, width: int, seed: int, steps: int) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < 0.6
    near, runs = np.zeros_like(mask), np.zeros_like(mask)
    for row, col in np.argwhere(mask):
        near[max(0, row - steps) : row + steps + 1, max(0, col - steps) : col + steps + 1] = True
    for row in range(height):
        for col in range(width):
            if col + steps <= width and mask[row, col : col + steps].all():
                runs[row, col : col + steps] = True
            if row + steps <= height and mask[row : row + steps, col].all():
                runs[row : row + steps, col] = True
    assert np.array_equal(grown(mask, steps), near)
    assert np.array_equal(in_long_runs(mask, steps), runs)
    assert longest_run(mask[0]) == max(map(len, "".join("x "[not cell] for cell in mask[0]).split()), default=0)
    hull = inside_hull(mask)
    assert (hull | ~mask).all()
    assert np.array_equal(inside_hull(hull), hull)


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
