"""The service's settings on ground resolution."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import rasterio
from rasterio.errors import NotGeoreferencedWarning

from onboard.jobs.disk_space import demand_of
from onboard.jobs.mapping_config import MappingConfig
from onboard.scene.probe import MappedAt, Probes
from onboard.scene.reader import SceneOptions
from onboard.scene.resolution import ModelResolution
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
        MappingConfig.of(settings.model_copy(update=changes)).options
        for changes in ({}, {"gsd_m": 1.0}, {"resolution": "scene"})
    ]
    assert len(set(kinds)) == 3
    manifest = MappingConfig.of(settings).manifest
    on_scene = settings.model_copy(update={"resolution": "scene"})
    assert demand_of(1000, on_scene, manifest).canvas == demand_of(1000, settings, manifest).canvas + 1000


def test_room_is_asked_for_the_enlargement_of_a_coarse_scene(tmp_path: Path) -> None:
    """64 x 64 pixels of 2 m are mapped as 128 x 128 of 1 m; of a model of 4 m the canvas is smaller than the scene."""
    scene = write_scene(tmp_path / "scene.tif", 64)
    options = SceneOptions()
    with Probes() as probes:
        pixels = [
            probes.judge(scene, options, MappedAt(ModelResolution(gsd_m, None))) for gsd_m in (1.0, 2.0, 4.0, None)
        ]
        assert probes.judge(scene, options) == 64 * 64
    assert pixels == [128 * 128, 64 * 64, 64 * 64, 64 * 64]
    write_model(tmp_path / "run" / "model", {"gsd_m": 1.0})
    with running(tmp_path / "run" / "data") as served:
        posted = served.post(scene)["id"]
        with served.ledger() as ledger:
            row = ledger.scenes.get(posted)
        assert row is not None
        assert row.pixels == 128 * 128
