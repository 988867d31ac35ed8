from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp

from onboard.errors import OptionsRefused, SceneRefused
from onboard.scene.acquired import acquisition_text
from onboard.scene.grid import Window
from onboard.scene.reader import Scene, SceneOptions

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def write(
    path: Path,
    pixels: NDArray[Any],
    *,
    colours: list[ColorInterp] | None = None,
    descriptions: list[str] | None = None,
    mask: NDArray[Any] | None = None,
    tags: dict[str, str] | None = None,
    **profile: Any,
) -> Path:
    count, height, width = pixels.shape
    keys = {"driver": "GTiff", "width": width, "height": height, "count": count, "dtype": pixels.dtype}
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "w", **(keys | profile)) as target:
        if colours:
            target.colorinterp = colours
        target.write(pixels)
        for number, text in enumerate(descriptions or [], 1):
            target.set_band_description(number, text)
        if mask is not None:
            target.write_mask(mask)
        target.update_tags(**(tags or {}))
    return path


def whole(scene: Scene) -> Window:
    return Window(0, 0, scene.width, scene.height)


def ramp(count: int = 3, side: int = 64, dtype: str = "uint8") -> NDArray[Any]:
    return np.arange(1, 1 + count * side * side).reshape(count, side, side).astype(dtype)


GREY, RED, GREEN, BLUE = ColorInterp.gray, ColorInterp.red, ColorInterp.green, ColorInterp.blue


def test_bands_are_chosen_by_colour_interpretation(tmp_path: Path) -> None:
    path = write(tmp_path / "s.tif", ramp(4), colours=[BLUE, GREEN, RED, GREY], photometric="minisblack")
    with Scene.open(path) as scene:
        assert (scene.bands.indexes, scene.bands.how) == ((3, 2, 1), "colour interpretation")


def test_bands_are_chosen_by_description(tmp_path: Path) -> None:
    path = write(tmp_path / "s.tif", ramp(4, dtype="uint16"), descriptions=["NIR", "Blue band", "green", "RED"])
    with Scene.open(path) as scene:
        assert (scene.bands.indexes, scene.bands.how) == ((4, 3, 2), "band descriptions")


def test_bands_fall_back_to_order_and_one_grey_band_serves_for_all(tmp_path: Path) -> None:
    with Scene.open(write(tmp_path / "s.tif", ramp(5, dtype="uint16"))) as scene:
        assert (scene.bands.indexes, scene.bands.how) == ((1, 2, 3), "order")
    with Scene.open(write(tmp_path / "g.tif", ramp(1))) as scene:
        assert (scene.bands.indexes, scene.bands.how) == ((1, 1, 1), "one grey band")
        assert scene.read(whole(scene)).pixels.shape == (3, 64, 64)


def test_asked_bands_win_and_wrong_ones_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "s.tif", ramp(3))
    with Scene.open(path, SceneOptions(bands=(3, 2, 1))) as scene:
        assert np.array_equal(scene.read(whole(scene)).pixels, ramp(3)[::-1])
    with pytest.raises(OptionsRefused, match="bands 1 to 3"):
        Scene.open(path, SceneOptions(bands=(1, 2, 4)))
    with pytest.raises(OptionsRefused, match="one for each of red, green, blue"):
        Scene.open(path, SceneOptions(bands=(1, 2)))


def test_two_bands_are_refused_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(SceneRefused, match=r"has 2 bands.*--bands"):
        Scene.open(write(tmp_path / "s.tif", ramp(2)))


def test_complex_pixels_and_mixed_types_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SceneRefused, match="complex64"):
        Scene.open(write(tmp_path / "s.tif", ramp(3).astype(np.complex64)))


def test_uint8_is_read_as_it_is(tmp_path: Path) -> None:
    with Scene.open(write(tmp_path / "s.tif", ramp())) as scene:
        read = scene.read(Window(5, 7, 20, 10))
        assert np.array_equal(read.pixels, ramp()[:, 7:17, 5:25])
        assert (read.valid, scene.stretch, scene.valid_rule) == (None, None, "all valid")


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32", "uint32", "float64"])
def test_other_types_get_one_stretch_for_the_whole_scene(tmp_path: Path, dtype: str) -> None:
    values = np.linspace(100, 2000, 128 * 128).reshape(1, 128, 128).repeat(3, 0).astype(dtype)
    with Scene.open(write(tmp_path / "s.tif", values), SceneOptions(stretch_percentiles=(0, 100))) as scene:
        assert scene.stretch is not None
        assert scene.stretch.low == pytest.approx((100,) * 3, abs=1)
        assert scene.stretch.high == pytest.approx((2000,) * 3, abs=1)
        pixels = scene.read(whole(scene)).pixels
        assert pixels.dtype == np.uint8
        assert (pixels.min(), pixels.max()) == (0, 255)
        part = scene.read(Window(0, 64, 32, 32)).pixels
        assert np.array_equal(part, pixels[:, 64:96, :32]), "a window is stretched as the scene is"


def test_no_data_does_not_bend_the_stretch(tmp_path: Path) -> None:
    values = np.full((3, 64, 64), 500, np.int16)
    values[:, :, :32] = np.arange(32) + 1000
    values[:, 32:] = -9999
    with Scene.open(write(tmp_path / "s.tif", values, nodata=-9999)) as scene:
        assert scene.stretch is not None
        assert min(scene.stretch.low) >= 500


def test_not_a_number_is_no_data(tmp_path: Path) -> None:
    values = ramp(dtype="float32")
    values[1, 3, 4] = np.nan
    values[0, 9, 9] = np.inf
    with Scene.open(write(tmp_path / "s.tif", values)) as scene:
        valid = scene.read(whole(scene)).valid
        assert valid is not None
        assert {(int(row), int(col)) for row, col in zip(*np.nonzero(~valid), strict=True)} == {(3, 4), (9, 9)}
        assert scene.stretch is not None
        assert np.isfinite(scene.stretch.high).all()


def test_a_pixel_is_no_data_where_all_bands_have_the_tag(tmp_path: Path) -> None:
    values = np.full((3, 40, 40), 9, np.uint8)
    values[:, 0, 0] = 255
    values[0, 5, 5] = 255
    with Scene.open(write(tmp_path / "s.tif", values, nodata=255)) as scene:
        valid = scene.read(whole(scene)).valid
        assert valid is not None
        assert not valid[0, 0]
        assert valid[5, 5], "a lone 255 is a colour"
        assert scene.valid_rule == "nodata tag 255"


@pytest.mark.parametrize("inside", [True, False])
def test_masks_inside_and_beside_the_file_count(tmp_path: Path, inside: bool) -> None:
    mask = np.full((40, 40), 255, np.uint8)
    mask[:10] = 0
    path = write(tmp_path / "s.tif", ramp(side=40), mask=mask if inside else None)
    if not inside:
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as target:
            target.write_mask(mask)
        assert path.with_name("s.tif.msk").exists()
    with Scene.open(path) as scene:
        valid = scene.read(Window(0, 5, 40, 20)).valid
        assert valid is not None
        assert np.array_equal(valid, mask[5:25] > 0)
        assert scene.valid_rule == "mask"


@pytest.mark.parametrize("ending", [".msk", ".MSK", ".ovr", ".msk.ovr"])
def test_a_mask_beside_the_file_that_is_no_tiff_is_refused(tmp_path: Path, ending: str) -> None:
    """As a VRT it could have any file of this machine opened."""
    path = write(tmp_path / "scene.tif", ramp())
    beside = tmp_path / f"scene.tif{ending}"
    beside.write_text("<VRTDataset/>")
    with pytest.raises(SceneRefused, match=f"scene.tif{ending} beside it is no TIFF"):
        Scene.open(path, SceneOptions())
    shutil.copy(path, beside)
    Scene.open(path, SceneOptions()).close()


def test_alpha_zero_is_no_data_and_alpha_is_no_colour(tmp_path: Path) -> None:
    values = ramp(4, side=40)
    values[3] = 255
    values[3, :, :7] = 0
    path = write(tmp_path / "s.tif", values, photometric="rgb", alpha="yes")
    with Scene.open(path) as scene:
        valid = scene.read(whole(scene)).valid
        assert valid is not None
        assert np.array_equal(valid, values[3] > 0)
        assert scene.valid_rule == "alpha band 4"


def test_reopening_keeps_the_decisions(tmp_path: Path) -> None:
    with Scene.open(write(tmp_path / "s.tif", ramp(dtype="uint16"))) as scene, scene.reopen() as again:
        assert again.decisions is scene.decisions
        assert np.array_equal(again.read(whole(scene)).pixels, scene.read(whole(scene)).pixels)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2012:12:07 04:45:41", "2012-12-07T04:45:41Z"),
        ("0000:00:00 00:00:00", None),
        ("0001:01:01 00:00:00", None),
        ("0987:12:07 04:45:41", "0987-12-07T04:45:41Z"),
        ("2012:13:07 04:45:41", None),
        ("yesterday", None),
    ],
)
def test_acquisition_time(tmp_path: Path, text: str, expected: str | None) -> None:
    with Scene.open(write(tmp_path / "s.tif", ramp(), tags={"TIFFTAG_DATETIME": text})) as scene:
        assert scene.acquired == expected


@pytest.mark.parametrize(
    "text", ["0001:01:01 00:00:00", "0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000+02:00", "00010101", "0001-01-01"]
)
def test_the_first_moment_of_the_calendar_is_no_time_and_nothing_is_said_of_it(text: str) -> None:
    assert acquisition_text({"TIFFTAG_DATETIME": text}) == ""
    assert acquisition_text({"TIFFTAG_DATETIME": text.replace("0001", "1001")}) != ""
