"""The default model on a real scene it never saw, by the pipeline that flies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

from engines.open import open_engine
from onboard.mapping.run import MapRequest, MapSummary, map_scene

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


@pytest.fixture(scope="module")
def mapped(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> MapSummary:
    scene = shared_data / "dubai" / "scenes" / "scene_1.tif"
    with open_engine(None) as engine:
        return map_scene(MapRequest(scene, tmp_path_factory.mktemp("maps")), engine)


def test_a_map_is_under_a_150th_of_its_scene_and_smaller_than_other_formats(mapped: MapSummary, tmp_path: Path) -> None:
    with rasterio.open(mapped.map_path) as source:
        codes = source.read(1)
    with rasterio.open(
        tmp_path / "plain.tif", "w", driver="GTiff", compress="deflate", dtype="uint8", count=1,
        width=codes.shape[1], height=codes.shape[0],
    ) as target:  # fmt: skip
        target.write(codes, 1)
    Image.fromarray(codes).save(tmp_path / "plain.png", optimize=True)
    assert mapped.map_bytes * 150 <= 3 * codes.size
    assert mapped.map_bytes < (tmp_path / "plain.tif").stat().st_size
    assert mapped.map_bytes < (tmp_path / "plain.png").stat().st_size


def test_the_map_is_as_accurate_as_its_card_promises_at_least(mapped: MapSummary, shared_data: Path) -> None:
    with (
        rasterio.open(mapped.map_path) as source,
        rasterio.open(shared_data / "dubai" / "labels" / "scene_1.tif") as truth,
    ):
        said, labels = source.read(1), truth.read(1)
    scores = []
    for code in range(1, 6):
        both = np.count_nonzero((said == code) & (labels == code))
        either = np.count_nonzero(((said == code) | (labels == code)) & (labels != 0))
        scores.append(both / either)
    assert np.mean(scores) >= 0.5
