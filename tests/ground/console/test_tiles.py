"""Tiles of scenes, and what GDAL is given for them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.env import get_gdal_config

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
