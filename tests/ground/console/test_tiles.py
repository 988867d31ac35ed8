"""Tiles of scenes, and what GDAL is given for them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.env import get_gdal_config

from tests.ground.console.made import NORTH, SIDE, STEP, WEST

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
