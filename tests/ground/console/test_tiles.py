"""Tiles of scenes, and what GDAL is given for them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint
from rasterio.env import get_gdal_config
from rasterio.io import MemoryFile

from tests.ground.console.made import NORTH, SIDE, STEP, WEST, write_made_map

pytest.importorskip("rio_tiler", reason="the extra console is not installed: rio_tiler")

from ground.console import tiles


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # of rasterio, about affine
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_scene_is_measured_once_for_all_its_tiles_and_gdal_has_a_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "scene.tif"
    profile = {"driver": "GTiff", "width": SIDE, "height": SIDE, "count": 3, "dtype": "uint16", "crs": "EPSG:4326"}
    data = np.random.default_rng(0).integers(0, 4000, (3, SIDE, SIDE)).astype(np.uint16)
    transform = rasterio.Affine(STEP, 0, WEST, 0, -STEP, NORTH)
    with rasterio.open(path, "w", transform=transform, **profile) as file:
        file.write(data)
    measured: list[Any] = []
    whole = np.nanpercentile

    def measure(*arguments: Any, **options: Any) -> Any:
        measured.append(arguments)
        return whole(*arguments, **options)

    monkeypatch.setattr("ground.console.tiles.np.nanpercentile", measure)
    tile = pytest.importorskip("morecantile").tms.get("WebMercatorQuad").tile(WEST + STEP, NORTH - STEP, 18)
    first = tiles.scene_tile(path, tile.x, tile.y, tile.z)
    assert tiles.scene_tile(path, tile.x, tile.y, tile.z) == first
    assert len(measured) == 1
    with rasterio.open(path, "w", transform=transform, **profile) as file:
        file.write(data // 2)
    os.utime(path, ns=(1, 1))
    tiles.scene_tile(path, tile.x, tile.y, tile.z)
    assert len(measured) == 2, "another scene of this name has the stretch of the first"
    with tiles.displayed(path):
        assert get_gdal_config("GDAL_CACHEMAX") == 64 << 20  # bytes, as rasterio hands it on


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # of rasterio, about affine
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_map_with_points_on_two_rows_is_drawn_where_they_lie(tmp_path: Path) -> None:
    path = write_made_map(tmp_path, "rows", place="gcps") / "map.tif"
    places = [(row, col) for row in (0, SIDE) for col in (0, SIDE / 2, SIDE)]
    set_points(path, [GroundControlPoint(row, col, WEST + STEP * col, NORTH - STEP * row) for row, col in places])
    for row, col, code in ((0.25, 0.25, 1), (0.25, 0.75, 2), (0.75, 0.25, 3), (0.75, 0.75, 4)):
        assert tiles.pixel(path, WEST + STEP * SIDE * col, NORTH - STEP * SIDE * row) == code
    assert tiles.pixel(path, WEST - STEP * SIDE / 4, NORTH) is None


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_map_whose_points_fix_no_place_is_not_drawn(tmp_path: Path) -> None:
    path = write_made_map(tmp_path, "line", place="gcps") / "map.tif"
    set_points(path, [GroundControlPoint(9 * n, 9 * n, WEST + STEP * n, NORTH - STEP * n) for n in range(7)])
    with pytest.raises(tiles.NoTile, match="7 control points on one line fix no place"):
        tiles.pixel(path, WEST, NORTH)


def set_points(path: Path, points: list[GroundControlPoint]) -> None:
    with rasterio.open(path, "r+") as file:
        file.gcps = points, "EPSG:4326"


def write_codes(path: Path, west: float, *, side: int = 600) -> NDArray[np.uint8]:
    """A map of four classes in squares of 50 pixels, on a grid of degrees."""
    codes = np.kron(np.random.default_rng(1).integers(1, 5, (side // 50, side // 50)), np.ones((50, 50))).astype("u1")
    profile = {"driver": "GTiff", "width": side, "height": side, "count": 1, "dtype": "uint8", "nodata": 0}
    transform = rasterio.Affine(STEP, 0, west, 0, -STEP, NORTH)
    with rasterio.open(path, "w", crs="EPSG:4326", transform=transform, **profile) as file:
        file.write(codes, 1)
        file.write_colormap(1, {code: (code, 0, 0, 255) for code in range(1, 5)})
    return codes


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # of rasterio, about affine
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.filterwarnings("ignore::rio_tiler.errors.NoOverviewWarning")
@pytest.mark.parametrize("west", [200.0, -200.0, 180.0, 180 - 290 * STEP, 540 - 290 * STEP, -180 - 290 * STEP])
def test_a_grid_beyond_180_degrees_is_drawn_where_the_same_places_are(tmp_path: Path, west: float) -> None:
    path = tmp_path / "map.tif"
    codes = write_codes(path, west)
    tms = pytest.importorskip("morecantile").tms.get("WebMercatorQuad")
    for row in range(25, 600, 50):
        for column in range(25, 600, 50):
            longitude, latitude = west + (column + 0.5) * STEP, NORTH - (row + 0.5) * STEP
            # As the page asks, which counts on beyond 180, and within the world.
            within = (longitude + 180) % 360 - 180
            assert tiles.pixel(path, within, latitude) == codes[row, column]
            assert tiles.pixel(path, within + 360, latitude) == codes[row, column]
            tile = tms.tile(within, latitude, 18)
            corner = tms.ul(tile)
            edge = 360 / 2**18 / 256
            x = int((within - corner.x) / edge)
            y = int((corner.y - latitude) / (edge * np.cos(np.radians(latitude))))
            with MemoryFile(tiles.class_tile(path, tile.x, tile.y, tile.z)) as memory, memory.open() as picture:
                assert picture.read(1)[y, x] == codes[row, column]
    assert tiles.pixel(path, 10.0, NORTH) is None
    with pytest.raises(tiles.NoTile):
        tiles.class_tile(path, 2**17 + 5000, 2**17, 18)
    # Both sides of the antimeridian share the one tile of zoom 0, and have their own at its two ends in zoom 1.
    assert tiles.class_tile(path, 0, 0, 0)


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # of rasterio, about affine
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.filterwarnings("ignore::rio_tiler.errors.NoOverviewWarning")
def test_a_mask_of_a_scene_beyond_180_degrees_stays_a_mask(tmp_path: Path) -> None:
    path = tmp_path / "scene.tif"
    profile = {"driver": "GTiff", "width": SIDE, "height": SIDE, "count": 3, "dtype": "uint8", "crs": "EPSG:4326"}
    mask = np.full((SIDE, SIDE), 255, np.uint8)
    mask[:, : SIDE // 2] = 0
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(path, "w", transform=rasterio.Affine(STEP, 0, 200, 0, -STEP, NORTH), **profile) as file,
    ):
        file.write(np.full((3, SIDE, SIDE), 90, np.uint8))
        file.write_mask(mask)
    tms = pytest.importorskip("morecantile").tms.get("WebMercatorQuad")
    for share, opaque in ((0.25, 0), (0.75, 255)):
        longitude, latitude = 200 + share * SIDE * STEP - 360, NORTH - SIDE * STEP / 2
        tile = tms.tile(longitude, latitude, 22)
        with MemoryFile(tiles.scene_tile(path, tile.x, tile.y, tile.z)) as memory, memory.open() as picture:
            assert np.unique(picture.read(4)).tolist() == [opaque]
