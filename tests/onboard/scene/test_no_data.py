from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, Resampling

from onboard.errors import OptionsRefused
from onboard.scene import sample
from onboard.scene.fills import is_graded, untagged_fill
from onboard.scene.grid import Window
from onboard.scene.reader import Scene, SceneOptions
from onboard.scene.sample import BLOCK_PIXELS, sample_windows

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
RED, GREEN, BLUE, ALPHA = ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha


def write(path: Path, pixels: NDArray[Any], colours: list[ColorInterp] | None = None, **profile: Any) -> Path:
    count, height, width = pixels.shape
    keys = {"driver": "GTiff", "width": width, "height": height, "count": count, "dtype": pixels.dtype}
    with rasterio.open(path, "w", **(keys | profile)) as target:
        if colours:
            target.colorinterp = colours
        target.write(pixels)
    return path


def no_data(path: Path, options: SceneOptions | None = None) -> NDArray[np.bool_]:
    with Scene.open(path, options) as scene:
        valid = scene.read(Window(0, 0, scene.width, scene.height)).valid
        return np.zeros((scene.height, scene.width), bool) if valid is None else ~valid


def measured(dtype: str, side: int = 80, count: int = 3) -> NDArray[Any]:
    values = np.random.default_rng(0).integers(200, 1900, (count, side, side))
    return (values / 10000 if dtype.startswith("float") else values).astype(dtype)


@pytest.mark.parametrize(
    ("dtype", "fill", "profile"),
    [
        ("uint16", 65535, {}),
        ("uint32", 2**32 - 1, {}),
        ("int16", -9999, {}),
        ("int16", -32768, {}),
        ("int32", -(2**31), {}),
        ("int16", -9999, {"nodata": 0}),
        ("float32", -9999, {}),
        ("float32", -3.4028234663852886e38, {}),
        ("float32", -3.4028234663852886e38, {"nodata": float("nan")}),
        ("float32", -3.4028234663852886e38, {"nodata": -3.40282e38}),
        ("float64", 1.7976931348623157e308, {}),
        ("float64", 1e20, {}),
        ("uint16", 55537, {}),  # -9999 in a type that has none
        ("uint16", 32767, {}),
        ("float32", -10000, {}),
        ("float32", -9998.9, {}),  # scaled or shifted
        ("float32", -1, {}),
    ],
)
def test_a_fill_value_no_tag_names_is_no_data_and_bends_no_stretch(
    tmp_path: Path, dtype: str, fill: float, profile: dict[str, Any]
) -> None:
    values = measured(dtype)
    with Scene.open(write(tmp_path / "whole.tif", values)) as scene:
        usual = scene.stretch
    filled = np.zeros((80, 80), bool)
    filled[:25, :30] = filled[40:44, 40:44] = True  # at a corner, and as a hole
    values[:, filled] = fill
    path = write(tmp_path / "s.tif", values, **profile)
    assert np.array_equal(no_data(path), filled)
    with Scene.open(path) as scene:
        assert usual is not None
        assert scene.stretch is not None
        assert scene.stretch.low == pytest.approx(usual.low, rel=0.1)
        assert scene.stretch.high == pytest.approx(usual.high, rel=0.02)
        assert [row.about for row in scene.assumptions if row.about == "nodata"] == ["nodata"]


@pytest.mark.parametrize(("dtype", "fill"), [("uint16", 65535), ("int16", -9999), ("float32", -9999)])
def test_a_fill_value_of_one_band_is_no_data_and_bends_no_stretch(tmp_path: Path, dtype: str, fill: float) -> None:
    values = measured(dtype)
    values[1, :30, :20] = fill
    path = write(tmp_path / "s.tif", values)
    assert np.array_equal(no_data(path), values[1] == fill)
    with Scene.open(path) as scene:
        assert scene.stretch is not None
        assert scene.stretch.low == pytest.approx([scene.stretch.low[0]] * 3, rel=0.1)
        assert scene.stretch.high == pytest.approx([scene.stretch.high[0]] * 3, rel=0.1)
        assert [row.about for row in scene.assumptions if row.about == "nodata"] == ["nodata"]


def test_a_few_pixels_that_saturate_in_one_band_are_data(tmp_path: Path) -> None:
    values = measured("uint16")
    values[1, 40, 40:45] = 65535
    assert not no_data(write(tmp_path / "s.tif", values)).any()


def test_saturated_pixels_near_the_others_are_no_fill(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (3, 80, 80)).astype("uint16")
    values[:, 30:40, 30:40] = 65535
    assert not no_data(write(tmp_path / "s.tif", values)).any()


def test_a_value_that_cannot_be_measured_in_one_band_makes_the_pixel_no_data(tmp_path: Path) -> None:
    values = measured("int16")
    values[0, 5, 5] = -9999
    values[:, 9, 9] = -9999
    values[2, 11, 11:15] = -9999
    one = np.zeros((80, 80), bool)
    one[5, 5] = one[9, 9] = one[11, 11:15] = True
    assert np.array_equal(no_data(write(tmp_path / "s.tif", values, nodata=-9999)), one)
    # A tag that is an ordinary value counts where all bands have it, as before.
    values[values == -9999] = 1000
    values[:, 9, 9] = 300
    values[0, 5, 5] = 300
    assert np.argwhere(no_data(write(tmp_path / "t.tif", values, nodata=300))).tolist() == [[9, 9]]


def test_the_option_names_the_value_or_none(tmp_path: Path) -> None:
    values = measured("int16")
    values[:, :20, :20] = -9999
    values[:, 50:, 50:] = 777
    path = write(tmp_path / "s.tif", values)
    at = np.zeros((80, 80), bool)
    at[50:, 50:] = True
    assert np.array_equal(no_data(path, SceneOptions(nodata=777, collar=False)), at)
    assert not no_data(path, SceneOptions(nodata="none", collar=False)).any()


def test_near_infrared_marked_as_alpha_is_no_mask_and_the_option_says_otherwise(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(30, 220, (4, 60, 60)).astype(np.uint8)
    values[3, :20] = 0  # water
    path = write(tmp_path / "s.tif", values, [RED, GREEN, BLUE, ALPHA], photometric="rgb")
    assert not no_data(path).any()
    with Scene.open(path) as scene:
        assert "band 4 is marked as alpha but holds measurements" in str(scene.assumptions[0])
        assert scene.assumptions[0].option == "--alpha 4"
    assert np.array_equal(no_data(path, SceneOptions(alpha=4)), values[3] == 0)
    with pytest.raises(OptionsRefused, match="bands 1 to 4"):
        Scene.open(path, SceneOptions(alpha=5))


def test_where_near_infrared_and_a_mask_are_both_marked_alpha_the_mask_is_one(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rgb = random.integers(60, 190, (3, 80, 80), dtype=np.uint8)
    mask = np.full((1, 80, 80), 255, np.uint8)
    mask[0, :20] = 0
    infrared = random.integers(0, 256, (1, 80, 80), dtype=np.uint8)
    path = write(tmp_path / "s.tif", np.concatenate([rgb, infrared, mask]), [RED, GREEN, BLUE, ALPHA, ALPHA])
    assert np.array_equal(no_data(path), mask[0] == 0)
    with Scene.open(path) as scene:
        assert "band 4 is marked as alpha" in scene.assumptions[0].text


def test_what_lossy_compression_once_left_of_a_mask_is_a_mask(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rgb = random.integers(60, 190, (3, 80, 80), dtype=np.uint8)
    outside = np.zeros((80, 80), bool)
    outside[:20] = True
    mask = np.where(outside, random.integers(0, 6, (80, 80)), random.integers(246, 256, (80, 80))).astype(np.uint8)
    path = write(tmp_path / "s.tif", np.concatenate([rgb, mask[None]]), [RED, GREEN, BLUE, ALPHA], compress="deflate")
    assert np.array_equal(no_data(path), outside)


def test_a_mask_of_floats_may_hold_not_a_number(tmp_path: Path) -> None:
    pixels = np.concatenate([measured("float32"), np.ones((1, 80, 80), np.float32)])
    pixels[3, :20] = 0
    pixels[3, 20:30] = np.nan
    path = write(tmp_path / "s.tif", pixels, [RED, GREEN, BLUE, ALPHA])
    assert np.array_equal(no_data(path), np.arange(80)[:, None].repeat(80, 1) < 30)


def test_an_alpha_band_that_shows_a_part_that_was_not_sampled_is_a_mask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures keep their colours under a mask, and all that it hides would be mapped."""
    for name in ("WHOLE_PIXELS", "BLOCK_PIXELS", "_MIN_BLOCKS"):
        monkeypatch.setattr(sample, name, 1)
    pixels = np.zeros((4, 256, 256), np.uint8)
    pixels[:3] = np.random.default_rng(0).integers(30, 220, (3, 256, 256))
    pixels[3, :9, :9] = 255
    path = write(tmp_path / "s.tif", pixels, [RED, GREEN, BLUE, ALPHA], tiled=True, blockxsize=64, blockysize=64)
    assert np.array_equal(no_data(path), pixels[3] == 0)
    with Scene.open(path) as scene:
        assert scene.assumptions == ()


@pytest.mark.parametrize(("largest", "edge"), [(1.0, 0.9), (0.5, 0.5), (255.0, 200.0)])
def test_a_mask_of_floats_is_read_by_its_own_largest_value(tmp_path: Path, largest: float, edge: float) -> None:
    pixels = np.concatenate([measured("float32"), np.full((1, 80, 80), largest, np.float32)])
    pixels[3, :20] = 0
    pixels[3, 20:22] = edge
    path = write(tmp_path / "s.tif", pixels, [RED, GREEN, BLUE, ALPHA])
    outside = np.arange(80)[:, None].repeat(80, 1) < 20
    assert np.array_equal(no_data(path), outside)
    assert np.array_equal(no_data(path, SceneOptions(alpha=4)), outside)


@pytest.mark.parametrize(("dtype", "value"), [("uint8", 0), ("uint16", 0), ("int16", -1), ("float32", 0)])
def test_an_alpha_band_that_hides_the_whole_scene_is_no_mask_and_that_is_said(
    tmp_path: Path, dtype: str, value: int
) -> None:
    pixels = np.full((4, 80, 80), value, dtype)
    pixels[:3] = np.random.default_rng(0).integers(30, 220, (3, 80, 80)).astype(dtype)
    path = write(tmp_path / "s.tif", pixels, [RED, GREEN, BLUE, ALPHA])
    assert not no_data(path).any()
    with Scene.open(path) as scene:
        assert scene.valid_rule in ("all valid", "not-a-number")
        assert "band 4 is marked as alpha but would leave no pixel of the scene" in scene.assumptions[0].text
        assert scene.assumptions[0].option == "--alpha 4"
    assert no_data(path, SceneOptions(alpha=4)).all()
    # A scene without a picture stays without data.
    blank = write(tmp_path / "blank.tif", np.zeros((4, 80, 80), dtype), [RED, GREEN, BLUE, ALPHA])
    assert no_data(blank, SceneOptions(collar=False)).all()


def test_a_mask_with_smooth_edges_stays_one_and_can_be_left_out(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(30, 220, (4, 60, 60)).astype(np.uint8)
    values[3] = np.clip(np.arange(60) * 40 - 400, 0, 255)
    path = write(tmp_path / "s.tif", values, [RED, GREEN, BLUE, ALPHA], photometric="rgb")
    assert np.array_equal(no_data(path), values[3] == 0)
    assert not no_data(path, SceneOptions(alpha=0)).any()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0] * 50 + [255] * 50, False),
        ([255] * 100, False),
        ([128] * 100, False),
        (list(range(256)), True),
        ([0] * 60 + list(range(1, 30)) * 5, True),  # near infrared over water
        ([1, 2, 3, 4, 5, 6, 7, 8] * 20 + [255 - n for n in range(9)] * 20, False),  # a mask through lossy compression
    ],
)
def test_measurements_are_told_from_masks(values: list[int], expected: bool) -> None:
    assert is_graded(np.array(values, np.uint8)) is expected


def test_a_mask_of_one_band_counts(tmp_path: Path) -> None:
    values = measured("uint8") % 200 + 20
    path = write(tmp_path / "s.tif", values.astype(np.uint8))
    masks = np.full((3, 80, 80), 255, np.uint8)
    masks[1, :10] = 0
    with rasterio.open(
        tmp_path / "s.tif.msk", "w", driver="GTiff", width=80, height=80, count=3, dtype="uint8"
    ) as beside:
        beside.write(masks)
        beside.update_tags(**{f"INTERNAL_MASK_FLAGS_{band}": "0" for band in (1, 2, 3)})
    assert np.array_equal(no_data(path), masks[1] == 0)


@pytest.mark.parametrize("kind", ["none", "right", "stale", "empty"])
def test_nothing_is_decided_on_overviews(tmp_path: Path, kind: str) -> None:
    side = 2600
    values = np.random.default_rng(0).integers(200, 1900, (3, side, side)).astype("uint16")
    wrong = np.full_like(values, 60000 if kind == "stale" else 0)
    path = write(tmp_path / "s.tif", wrong if kind in ("stale", "empty") else values, tiled=True)
    if kind != "none":
        with rasterio.open(path, "r+") as target:
            target.build_overviews([2, 4], Resampling.nearest)
    with rasterio.open(path, "r+") as target:
        target.write(values)
    with Scene.open(path) as scene:
        assert scene.stretch is not None
        assert scene.stretch.low == pytest.approx((234,) * 3, abs=3)
        assert scene.stretch.high == pytest.approx((1866,) * 3, abs=3)


@pytest.mark.parametrize("block", [(512, 512), (256, 256), (1, 12000), (64, 12000), (12000, 12000), (4096, 4096)])
def test_a_sample_reaches_all_over_and_decodes_little(block: tuple[int, int]) -> None:
    side = 12000
    windows = list(sample_windows(side, side, block))
    assert len({(window.col, window.row) for window in windows}) == len(windows)
    decoded = sum(window.width * window.height for window in windows)
    assert decoded <= max(2 * BLOCK_PIXELS, min(side * side, 17 * block[0] * block[1]))
    seen = np.zeros((3, 3), bool)
    for window in windows:
        assert window.col + window.width <= side
        assert window.row + window.height <= side
        rows = {min(2, place * 3 // side) for place in (window.row, window.row + window.height - 1)}
        cols = {min(2, place * 3 // side) for place in (window.col, window.col + window.width - 1)}
        seen[np.ix_(range(min(rows), max(rows) + 1), range(min(cols), max(cols) + 1))] = True
    assert seen.all()


def test_a_few_pixels_far_from_all_others_are_data_and_a_hundredth_is_a_fill() -> None:
    """Of a value that nobody uses as a fill: glints and hot roofs are as far off, and few."""
    pixels = np.random.default_rng(0).integers(1000, 2000, (3, 10_000)).astype(np.uint16)
    valid = np.ones(10_000, bool)
    pixels[:, :50] = 55_537
    assert untagged_fill(pixels, valid) is None
    pixels[:, :100] = 55_537
    assert untagged_fill(pixels, valid) == 55_537
