"""What `onboard process` has as options of a scene, the service has as settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from engines.testing import manifest_for_testing
from onboard.errors import OptionsRefused
from onboard.jobs.mapping_config import MappingConfig
from onboard.jobs.scene_options import options_of
from onboard.scene.reader import SceneOptions
from onboard.settings import Settings, read_settings
from tests.onboard.service import running
from tests.tiny_model import write_model

PLACE = rasterio.Affine(2, 0, 3e5, 0, -2, 2.8e6)


def bordered_scene(path: Path) -> Path:
    """Noise with a black border, which a collar is taken for."""
    pixels = np.random.default_rng(3).integers(40, 256, (3, 96, 96), dtype=np.uint8)
    pixels[:, :, :24] = 0
    with rasterio.open(path, "w", "GTiff", 96, 96, 3, dtype="uint8", crs="EPSG:32640", transform=PLACE) as file:
        file.write(pixels)
    return path


@pytest.mark.parametrize(("collar", "no_data"), [("true", 24 * 96), ("false", 0)])
def test_a_border_is_mapped_where_the_setting_says_so(tmp_path: Path, collar: str, no_data: int) -> None:
    with running(tmp_path / "served" / "data", ONBOARD_COLLAR=collar) as served:
        posted = served.post(bordered_scene(tmp_path / "scene.tif"))
        served.wait_for(posted["id"], "mapped")
        with rasterio.open(served.data / "maps" / posted["id"] / "map.tif") as file:
            assert int((file.read(1) == 0).sum()) == no_data


def test_a_scene_is_judged_at_its_delivery_as_it_will_be_read(tmp_path: Path) -> None:
    """Two bands are refused by their names, but not where the setting says which to take."""
    two = tmp_path / "two.tif"
    with rasterio.open(two, "w", "GTiff", 96, 96, 2, dtype="uint8", crs="EPSG:32640", transform=PLACE) as file:
        file.write(np.random.default_rng(3).integers(40, 256, (2, 96, 96), dtype=np.uint8))
    with running(tmp_path / "strict" / "data") as served, pytest.raises(AssertionError, match="band"):
        served.post(two)
    with running(tmp_path / "told" / "data", ONBOARD_BANDS="1,2,1") as served:
        served.wait_for(served.post(two)["id"], "mapped")


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, {}),
        ({"bands": "3,2,1"}, {"bands": (3, 2, 1)}),
        ({"stretch": "1,99"}, {"stretch_percentiles": (1.0, 99.0)}),
        ({"nodata": "255"}, {"nodata": 255.0}),
        ({"nodata": "none"}, {"nodata": "none"}),
        ({"alpha": 0}, {"alpha": 0}),
    ],
)
def test_settings_become_the_options_of_the_command(given: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert options_of(Settings(**given), manifest_for_testing()) == SceneOptions(**wanted)


@pytest.mark.parametrize(
    ("name", "value"), [("BANDS", "red"), ("BANDS", "0,1,2"), ("STRETCH", "98,2"), ("NODATA", "black"), ("ALPHA", "-1")]
)
def test_a_setting_that_cannot_be_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"ONBOARD_{name}", value)
    with pytest.raises(OptionsRefused, match=f"ONBOARD_{name} is '{value}'"):
        read_settings()


def test_another_option_is_another_map_and_the_defaults_keep_their_key(tmp_path: Path) -> None:
    model = str(write_model(tmp_path / "model"))
    plain, bare = (
        MappingConfig.of(Settings(model=model)).options,
        MappingConfig.of(Settings(model=model, collar=False)).options,
    )
    assert "collar" not in plain
    assert "collar" in bare
