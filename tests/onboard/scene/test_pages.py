from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

from onboard.errors import OptionsRefused, SceneRefused
from onboard.scene.acquired import rfc3339_utc
from onboard.scene.codecs import missing_codec
from onboard.scene.grid import Window
from onboard.scene.reader import Scene, SceneOptions

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def of_pages(path: Path, *pages: NDArray[Any]) -> Path:
    for number, pixels in enumerate(pages):
        count, height, width = pixels.shape
        keys = {"driver": "GTiff", "width": width, "height": height, "count": count, "dtype": "uint8"}
        append = {"APPEND_SUBDATASET": "YES"} if number else {}
        with rasterio.open(path, "w", **keys, **append) as target:
            target.write(pixels)
    return path


def page(value: int, side: int, count: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(value).integers(value, value + 50, (count, side, side)).astype(np.uint8)


def test_the_largest_page_is_mapped_and_told(tmp_path: Path) -> None:
    path = of_pages(tmp_path / "s.tif", page(30, 28), page(100, 90))
    with Scene.open(path) as scene:
        assert (scene.page, scene.width, scene.height) == (2, 90, 90)
        assert np.array_equal(scene.read(Window(0, 0, 90, 90)).pixels, page(100, 90))
        assert "has 2 pages: page 2 (90 x 90" in str(scene.assumptions[0])
        with scene.reopen() as again:
            assert (again.page, again.width) == (2, 90)


def test_a_page_can_be_asked_for(tmp_path: Path) -> None:
    path = of_pages(tmp_path / "s.tif", page(30, 28), page(100, 90))
    with Scene.open(path, SceneOptions(page=1)) as scene:
        assert (scene.page, scene.width, scene.assumptions) == (1, 28, ())
    with pytest.raises(OptionsRefused, match="pages 1 to 2"):
        Scene.open(path, SceneOptions(page=3))


def test_pages_of_one_band_each_are_refused_with_what_to_do(tmp_path: Path) -> None:
    path = of_pages(tmp_path / "s.tif", page(30, 40, 1), page(60, 40, 1), page(90, 40, 1))
    with pytest.raises(SceneRefused, match=r"3 pages of one band each.*--page N"):
        Scene.open(path)


def test_overviews_and_masks_are_no_pages(tmp_path: Path) -> None:
    path = of_pages(tmp_path / "s.tif", page(30, 600))
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as target:
        target.write_mask(np.full((600, 600), 255, np.uint8))
        target.build_overviews([2, 4])
    with Scene.open(path) as scene:
        assert (scene.page, scene.assumptions) == (1, ())


@pytest.mark.parametrize(
    ("text", "codec"),
    [
        ("the file: Cannot open TIFF file due to missing codec JXL.", "JPEG XL"),
        ("the file: Cannot open TIFF file due to missing codec of code 34933.", "34933"),
        ("JP2000 compression support is not configured", "JPEG 2000"),
        ("JPEGSetupDecode: Unsupported JPEG data precision 12", "12-bit JPEG"),
        ("TIFFReadEncodedTile() failed.", None),
        ("Using code not yet in table", None),
    ],
)
def test_a_codec_that_is_not_built_in_is_no_damage(text: str, codec: str | None) -> None:
    assert missing_codec(text) == codec


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2021-05-04T10:11:12+02:00", "2021-05-04T08:11:12Z"),
        ("2021-05-04T10:11:12-0530", "2021-05-04T15:41:12Z"),
        ("2021-05-04T10:11:12.987Z", "2021-05-04T10:11:12Z"),
        ("2021:05:04 10:11:12", "2021-05-04T10:11:12Z"),
        ("20210504T101112Z", "2021-05-04T10:11:12Z"),
        ("2021-05-04 10:11", "2021-05-04T10:11:00Z"),
        ("2021-12-31T23:30:00-01:00", "2022-01-01T00:30:00Z"),
        ("0042-05-04T10:11:12Z", "0042-05-04T10:11:12Z"),
        ("2021-05-04", None),
        ("2021-05-04T10:11:12+99:00", None),
        ("0001-01-01T00:00:00+02:00", None),
        ("last Tuesday", None),
    ],
)
def test_times_are_read_with_their_offset(text: str, expected: str | None) -> None:
    assert rfc3339_utc(text) == expected
