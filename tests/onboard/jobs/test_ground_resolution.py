"""The service's settings on ground resolution."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import rasterio
from rasterio.errors import NotGeoreferencedWarning

from onboard.jobs.kind import MapKind
from onboard.jobs.room import demand_of
from onboard.settings import read_settings
from tests.onboard.service import running, write_scene
from tests.tiny_model import write_model


def test_the_service_maps_at_the_models_resolution_on_the_grid_that_is_set(tmp_path: Path) -> None:
    """A scene that says its size (2 m), and one that does not: it has the size of the setting."""
    write_model(tmp_path / "run" / "model", {"gsd_m": 4.0})
    plain = write_scene(tmp_path / "plain.tif", 64)
    with rasterio.open(plain) as source:
        profile, pixels = source.profile, source.read()
    for key in ("crs", "transform"):
        del profile[key]
    with pytest.warns(NotGeoreferencedWarning), rasterio.open(tmp_path / "silent.tif", "w", **profile) as file:
        file.write(pixels)
    facts = {}
    with running(tmp_path / "run" / "data", ONBOARD_GSD_M="1", ONBOARD_RESOLUTION="scene") as served:
        for name in ("plain", "silent"):
            scene = served.post(tmp_path / f"{name}.tif")["id"]
            served.wait_for(scene, "mapped")
            item = json.loads((served.data / "maps" / scene / "map.json").read_text())
            facts[name] = item["properties"]["onboard:ground_resolution"]
            assert item["properties"]["proj:shape"] == [64, 64]
    assert [facts[name]["read_shape"] for name in ("plain", "silent")] == [[32, 32], [16, 16]]
    assert [facts[name]["scene_gsd_from"] for name in ("plain", "silent")] == ["georeferencing", "setting"]


def test_other_settings_are_another_kind_of_map_and_ask_for_room(tmp_path: Path) -> None:
    model = str(write_model(tmp_path / "model", {"gsd_m": 4.0}))
    settings = read_settings(data_dir=tmp_path / "data", model=model)
    kinds = [
        MapKind.of(settings.model_copy(update=changes)).options
        for changes in ({}, {"gsd_m": 1.0}, {"resolution": "scene"})
    ]
    assert len(set(kinds)) == 3
    manifest = MapKind.of(settings).manifest
    on_scene = settings.model_copy(update={"resolution": "scene"})
    assert demand_of(1000, on_scene, manifest).canvas == demand_of(1000, settings, manifest).canvas + 1000
