"""Changes by setting: the service compares each map with the newest earlier one on its grid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

from onboard.jobs.disk_space import demand_of
from onboard.jobs.mapping_config import MappingConfig
from onboard.settings import read_settings
from tests.onboard.service import running, until
from tests.tiny_model import write_model


def write_scene(path: Path, edited: bool) -> Path:
    pixels = np.kron(np.random.default_rng(1).integers(1, 256, (3, 8, 8), dtype=np.uint8), np.ones((16, 16), np.uint8))
    if edited:
        pixels[:, 16:48, 16:64] = np.array([250, 5, 5], np.uint8)[:, None, None]
    place: dict[str, Any] = {"crs": "EPSG:32640", "transform": rasterio.Affine(2, 0, 3e5, 0, -2, 2.8e6)}
    with rasterio.open(path, "w", "GTiff", 128, 128, 3, dtype="uint8", **place) as file:
        file.write(pixels)
    return path


def test_the_second_map_of_a_place_says_what_changed(tmp_path: Path) -> None:
    with running(tmp_path / "data", ONBOARD_CHANGES="true") as served:
        ids = []
        for edited in (False, True):
            scene = write_scene(tmp_path / f"{edited}.tif", edited)
            ids.append(served.post(scene)["id"])
            path = served.data / "maps" / ids[-1] / "map.json"
            until(path.is_file, f"no map of {scene.name}")
        first, second = (
            json.loads((served.data / "maps" / name / "map.json").read_text())["properties"]["onboard:changes"]
            for name in ids
        )
        assert first == {"earlier": None, "reason": "no earlier map here shows any of its ground"}
        assert second["earlier"] == ids[0]
        assert second["pixels_changed"] > 0
        assert (served.data / "maps" / ids[1] / "changes.tif").is_file()
        with served.ledger() as ledger:
            row = until(lambda: ledger.maps.get(ids[1]), "not listed")
            assert "changes.tif" in row.assets


def test_room_is_asked_for_what_changes_and_polygons_take(tmp_path: Path) -> None:
    model = str(write_model(tmp_path / "model"))
    plain = read_settings(data_dir=tmp_path / "data", model=model)
    manifest = MappingConfig.of(plain).manifest
    usual = demand_of(10**6, plain, manifest)
    changes = demand_of(10**6, read_settings(data_dir=tmp_path / "data", model=model, changes=True), manifest)
    assert changes.canvas == usual.canvas + 10**6
    assert changes.product >= usual.product + 10**6
    polygons = demand_of(10**6, read_settings(data_dir=tmp_path / "data", model=model, polygons="geoparquet"), manifest)
    assert polygons.product > usual.product
