"""Scenes read through larger and smaller pixels, against GDAL's own averages and cubics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling

from onboard.scene.grid import Window
from onboard.scene.radiometry import Stretch
from onboard.scene.reader import Scene, SceneOptions, ScenePixels
from onboard.scene.resample import _cuts, read_at
from onboard.scene.taps import area_taps, cubic_taps

PLAIN = SceneOptions(collar=False)


def write(path: Path, pixels: NDArray[Any], **profile: Any) -> Path:
    count, height, width = pixels.shape
    keys = {"driver": "GTiff", "width": width, "height": height, "count": count, "dtype": pixels.dtype}
    place = {"crs": "EPSG:32640", "transform": rasterio.Affine(0.5, 0, 5e5, 0, -0.5, 2.8e6)}
    with rasterio.open(path, "w", **(keys | place | profile)) as target:
        target.write(pixels)
    return path


def noise(width: int, height: int) -> NDArray[np.uint8]:
    return np.random.default_rng(width).integers(0, 256, (3, height, width), dtype=np.uint8)


def resampled(path: Path, size: tuple[int, int], window: Window | None = None) -> ScenePixels:
    with Scene.open(path, PLAIN) as scene, read_at(scene, size) as other:
        assert (other.width, other.height) == size
        return other.read(window or Window(0, 0, *size))


def shares(source: int, target: int) -> NDArray[np.float64]:
    """(target, source): the share of each source pixel in each target pixel."""
    low = np.arange(target)[:, None] * source / target
    first = np.arange(source)
    overlap: NDArray[np.float64] = np.minimum(first + 1, low + source / target) - np.maximum(first, low)
    return np.clip(overlap, 0, 1) * (target / source)


@pytest.mark.parametrize("blocks", [{"tiled": True, "blockxsize": 64, "blockysize": 64}, {"blockysize": 1}, {}])
@pytest.mark.parametrize("size", [(150, 100), (113, 77), (9, 6), (1, 1), (299, 200), (40, 190)])
def test_reduced_pixels_are_averages_by_area(size: tuple[int, int], blocks: dict[str, Any], tmp_path: Path) -> None:
    path = write(tmp_path / "s.tif", noise(300, 200), **blocks)
    with rasterio.open(path) as source:
        expected = source.read(out_shape=(3, size[1], size[0]), resampling=Resampling.average)
    found = resampled(path, size)
    assert found.valid is None
    exact = shares(200, size[1]) @ noise(300, 200).astype(float) @ shares(300, size[0]).T
    assert np.abs(found.pixels - exact).max() < 0.5 + 1e-4
    # Which way a half goes is up to the last bit of a sum, and of GDAL's.
    assert np.abs(found.pixels.astype(int) - expected).max() <= 1
    assert (found.pixels != expected).mean() < 0.01


@pytest.mark.parametrize("size", [(600, 400), (451, 333), (301, 201)])
def test_enlarged_pixels_are_cubics(size: tuple[int, int], tmp_path: Path) -> None:
    path = write(tmp_path / "s.tif", noise(300, 200))
    with rasterio.open(path) as source:
        expected = source.read(out_shape=(3, size[1], size[0]), resampling=Resampling.cubic)
    found = resampled(path, size).pixels
    assert np.abs(found[:, 5:-5, 5:-5].astype(int) - expected[:, 5:-5, 5:-5]).max() <= 1


@pytest.mark.parametrize("size", [(113, 77), (451, 333)])
def test_a_pixel_does_not_depend_on_the_window_it_is_read_with(size: tuple[int, int], tmp_path: Path) -> None:
    path = write(tmp_path / "s.tif", np.where(noise(300, 200) < 60, 0, noise(300, 200)).astype(np.uint8), nodata=0)
    whole = resampled(path, size)
    assert whole.valid is not None
    for window in (Window(0, 0, 1, 1), Window(17, 30, 50, 41), Window(size[0] - 9, size[1] - 7, 9, 7)):
        part = resampled(path, size, window)
        assert np.array_equal(part.pixels, whole.pixels[:, window.rows, window.cols])
        valid = np.ones((window.height, window.width), bool) if part.valid is None else part.valid
        assert np.array_equal(valid, whole.valid[window.rows, window.cols])


@pytest.mark.parametrize("size", [(4, 4), (24, 24)])
def test_a_pixel_is_valid_where_half_of_it_is_and_has_the_colour_of_that_part(
    size: tuple[int, int], tmp_path: Path
) -> None:
    """No data on the left: 5 of 12 columns are cut by a pixel of three columns, and by one of half a column."""
    pixels = np.full((3, 12, 12), 200, np.uint8)
    pixels[:, :, :5] = 7
    found = resampled(write(tmp_path / "s.tif", pixels, nodata=7), size)
    assert found.valid is not None
    first = 2 if size[0] == 4 else 10  # of columns 3 to 5 one third is valid, of 6 to 8 all
    assert found.valid[:, first:].all()
    assert not found.valid[:, :first].any()
    assert (found.pixels[:, :, first:] == 200).all(), "what is no data must not ring into the image"
    pixels[:, :, 4] = 200
    more = resampled(write(tmp_path / "t.tif", pixels, nodata=7), (4, 4))
    assert more.valid is not None
    assert more.valid[:, 1:].all(), "two thirds of columns 3 to 5 are valid"
    assert (more.pixels[:, :, 1] == 200).all()


def test_values_that_mean_no_data_enter_no_sum_and_the_stretch_is_the_scenes(tmp_path: Path) -> None:
    values = np.random.default_rng(0).uniform(100, 900, (3, 60, 80)).astype(np.float32)
    values[:, 10:20, 10:20] = -3.4e38
    values[:, 30:33, 30:33] = np.nan
    path = write(tmp_path / "s.tif", values)
    with Scene.open(path, PLAIN) as scene, read_at(scene, (20, 15)) as half:
        assert isinstance(scene.stretch, Stretch)
        assert half.stretch == scene.stretch
        full, read = scene.read(Window(0, 0, 80, 60)), half.read(Window(0, 0, 20, 15))
    assert full.valid is not None
    assert read.valid is not None
    cells = full.pixels.reshape(3, 15, 4, 20, 4).astype(float)
    weights = full.valid.reshape(15, 4, 20, 4)
    means = (cells * weights).sum((2, 4)) / np.maximum(weights.sum((1, 3)), 1)
    assert np.array_equal(read.valid, weights.mean((1, 3)) >= 0.5)
    assert np.abs(means - read.pixels)[:, read.valid].max() <= 0.5001


def test_overviews_are_not_read(tmp_path: Path) -> None:
    """They are made of other pixels here, as stale ones are."""
    path = write(tmp_path / "s.tif", np.full((3, 512, 512), 9, np.uint8), tiled=True, blockxsize=128, blockysize=128)
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4], Resampling.nearest)
        file.write(np.full((3, 512, 512), 77, np.uint8))
    with rasterio.open(path) as file:
        assert (file.read(1, out_shape=(128, 128)) == 9).any(), "GDAL would take the stale overview"
    assert (resampled(path, (128, 128)).pixels == 77).all()


@pytest.mark.parametrize("blocks", [{"tiled": True, "blockxsize": 256, "blockysize": 256}, {"blockysize": 8}])
def test_a_tile_is_read_in_pieces_however_many_pixels_it_is_made_of(
    blocks: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "s.tif", np.zeros((3, 2500, 2000), np.uint8), compress="deflate", zlevel=1, **blocks)
    sizes = []
    plain_read = Scene.read

    def read(scene: Scene, window: Window) -> ScenePixels:
        sizes.append(window.width * window.height)
        return plain_read(scene, window)

    monkeypatch.setattr(Scene, "read", read)
    resampled(path, (20, 25))
    assert sum(sizes) == 2500 * 2000
    assert max(sizes) <= 4 << 20
    assert len(sizes) > 1


def test_strips_are_decoded_once_for_a_row_of_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a row of tiles is more than GDAL keeps decoded; what is read is what is read without."""
    pixels = noise(900, 600)
    pixels[:, 100:300, 200:700] = 0
    path = write(tmp_path / "s.tif", pixels, nodata=0)
    windows = [Window(col, row, 64, 64) for row in (0, 32) for col in (0, 60, 122)]
    with Scene.open(path, PLAIN) as scene, read_at(scene, (200, 130)) as plain:
        expected = [plain.read(window) for window in windows]
    read_windows = []
    plain_read = Scene.read

    def read(scene: Scene, window: Window) -> ScenePixels:
        read_windows.append(window)
        return plain_read(scene, window)

    monkeypatch.setattr(Scene, "read", read)
    monkeypatch.setattr("onboard.scene.resample.CACHE_BYTES", 1 << 20)
    monkeypatch.setattr("onboard.scene.resample._SUM_ROWS", 90)
    with Scene.open(path, PLAIN) as scene, read_at(scene, (200, 130)) as other:
        found = [other.read(window) for window in windows]
    assert {window.width for window in read_windows} == {900}
    assert sum(window.height for window in read_windows) < 2.2 * 64 * 600 / 130, "each row of tiles once"
    for one, two in zip(found, expected, strict=True):
        assert np.array_equal(one.pixels, two.pixels)
        assert one.valid is not None
        assert two.valid is not None
        assert np.array_equal(one.valid, two.valid)


def test_pieces_are_cut_at_the_same_places_for_every_window() -> None:
    """The order of sums, and so the last bit of each, depends on where pieces end."""
    assert list(_cuts((100, 300), 64)) == [(100, 128), (128, 192), (192, 256), (256, 300)]


def test_another_handle_reads_the_same(tmp_path: Path) -> None:
    path = write(tmp_path / "s.tif", noise(300, 200))
    with Scene.open(path, PLAIN) as scene, read_at(scene, (90, 70)) as one, one.reopen() as other:
        assert (other.width, other.height, other.georeference) == (90, 70, one.georeference)
        assert np.array_equal(other.read(Window(3, 4, 50, 60)).pixels, one.read(Window(3, 4, 50, 60)).pixels)


@pytest.mark.parametrize(("source", "target"), [(300, 113), (7, 7), (1000, 1), (5, 10), (1, 2), (3, 5), (2, 3)])
def test_shares_add_up_to_one(source: int, target: int) -> None:
    ways = [area_taps, cubic_taps] if target >= source else [area_taps]
    for taps_of in ways:
        taps = taps_of(source, target, 0, target)
        assert np.allclose(taps.weights.sum(axis=1), 1, atol=1e-6)
        assert taps.span == (0, source)
