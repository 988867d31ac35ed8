"""What a map says of ground that its model has not seen. The identity engine's familiarity is a tile's brightness."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

import engines.open
from engines.testing import IdentityEngine
from onboard import cli, summary_text
from onboard.errors import OptionsRefused
from onboard.mapping.familiarity import MapFamiliarity, map_familiarity, recorded
from onboard.mapping.run import MapRequest, map_scene
from onboard.scene.reader import SceneOptions

PLAIN = SceneOptions(collar=False)
TILE = 64


def write_scene(path: Path, pixels: NDArray[np.uint8], **more: Any) -> Path:
    count, height, width = pixels.shape
    keys = {"driver": "GTiff", "width": width, "height": height, "count": count, "dtype": "uint8"}
    place = {"crs": "EPSG:32640", "transform": rasterio.Affine(2, 0, 5e5, 0, -2, 2.8e6)}
    with rasterio.open(path, "w", **(keys | place | more)) as target:
        target.write(pixels)
    return path


def half_dark(dark_columns: int = 2) -> NDArray[np.uint8]:
    """A scene of 4 x 1 tiles without halo, the first ones dark: 0.004 and 0.392 by the identity engine."""
    pixels = np.full((3, TILE, 4 * TILE), 100, np.uint8)
    pixels[:, :, : dark_columns * TILE] = 1
    return pixels


def familiarity(item: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(item.read_text())["properties"]["onboard:familiarity"]
    return found


def mapped(scene: Path, out: Path, **more: Any) -> Any:
    request = MapRequest(scene, out, halo=0, scene_options=PLAIN, **more)
    return map_scene(request, IdentityEngine(tile_size=TILE, familiarity=True, halo=0))


def test_the_item_says_how_many_tiles_are_unfamiliar(
    tmp_path: Path, validate_item: Callable[[dict[str, Any]], None]
) -> None:
    summary = mapped(write_scene(tmp_path / "scene.tif", half_dark()), tmp_path / "out")
    assert familiarity(summary.item_path) == {
        "tiles": 4, "tiles_unfamiliar": 2, "share_unfamiliar": 0.5, "lowest": pytest.approx(1 / 255, abs=2e-6),
        "median": pytest.approx(101 / 510, abs=2e-6), "threshold": 0.02,
    }  # fmt: skip
    validate_item(json.loads(summary.item_path.read_text()))
    assert summary.familiarity.warning == (
        "unlike anything the model was trained on: treat this map as a guess (2 of 4 tiles)"
    )
    assert summary.as_json()["familiarity"]["tiles_unfamiliar"] == 2
    again = mapped(tmp_path / "scene.tif", tmp_path / "out")
    assert again.already_mapped
    assert again.familiarity.warning == summary.familiarity.warning


def test_one_unfamiliar_tile_in_five_is_no_guess_yet(tmp_path: Path) -> None:
    pixels = np.concatenate([half_dark(1), np.full((3, TILE, TILE), 100, np.uint8)], axis=2)
    summary = mapped(write_scene(tmp_path / "scene.tif", pixels), tmp_path / "out")
    assert (summary.familiarity.unfamiliar, summary.familiarity.tiles) == (1, 5)
    assert summary.familiarity.warning == ""
    assert summary.familiarity.is_known_ground


def test_a_model_without_it_is_not_known_and_maps_as_ever(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene.tif", half_dark())
    summary = map_scene(MapRequest(scene, tmp_path / "out", halo=0, scene_options=PLAIN), IdentityEngine(TILE))
    assert familiarity(summary.item_path) == {"unknown": "model identity 1 does not give it"}
    assert summary.familiarity.warning == ""


def test_tiles_with_little_data_give_no_figure(tmp_path: Path) -> None:
    """The first tile holds data in a quarter of its pixels, the second in three quarters; both are dark."""
    pixels = np.full((3, TILE, 2 * TILE), 2, np.uint8)
    pixels[:, :, : 3 * TILE // 4] = 0
    pixels[:, : TILE // 4, TILE:] = 0
    summary = mapped(write_scene(tmp_path / "scene.tif", pixels, nodata=0), tmp_path / "out")
    assert (summary.familiarity.tiles, summary.familiarity.unfamiliar) == (1, 1)
    few = pixels.copy()
    few[:, TILE // 4 :] = 0
    summary = mapped(write_scene(tmp_path / "few.tif", few, nodata=0), tmp_path / "out")
    assert familiarity(summary.item_path) == {"unknown": "no tile holds data in 50% of its pixels"}


def test_records_keep_a_figure_and_zero_is_none() -> None:
    assert recorded(None) == 0
    assert [recorded(value) for value in (0.0, 1.0, -1.0, 2.0)] == [1, 1_000_001, 1, 1_000_001]
    manifest = IdentityEngine(familiarity=True).manifest
    found = map_familiarity([0, recorded(0.0199996), recorded(0.02), recorded(0.5)], manifest)
    assert (found.tiles, found.unfamiliar) == (3, 0), "a figure is compared as it is kept"
    assert MapFamiliarity.from_json(found.as_json()).as_json() == found.as_json()
    assert MapFamiliarity.from_json(None).unknown


@pytest.fixture
def engine_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    made = lambda *_, **__: IdentityEngine(tile_size=TILE, familiarity=True, halo=0)  # noqa: E731
    monkeypatch.setattr(engines.open, "open_engine", made)


def test_a_median_under_the_limit_does_not_look_like_the_limit() -> None:
    said = summary_text._familiar(SimpleNamespace(familiarity=MapFamiliarity(1, 1, 0.018, 0.018, 0.02)))  # type: ignore[arg-type]
    assert said == "0 of 1 tile (median 0.018, unfamiliar below 0.02)"
    assert MapFamiliarity(1, 1, 0.018, 0.018, 0.02).warning.endswith("(1 of 1 tile)")


@pytest.mark.usefixtures("engine_of_the_command")
def test_strict_writes_the_map_and_ends_with_three(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dark = write_scene(tmp_path / "dark.tif", half_dark())
    bright = write_scene(tmp_path / "bright.tif", half_dark(0))
    common = ["--out", str(tmp_path / "out"), "--no-collar"]
    assert cli.main(["process", str(dark), *common]) == 0
    printed = capsys.readouterr()
    assert "onboard: unlike anything the model was trained on: treat this map as a guess (2 of 4 tiles)" in printed.err
    assert "familiar   2 of 4 tiles (median " in printed.out
    assert ", unfamiliar below 0.02)" in printed.out
    strict = [str(dark), "--name", "again", "--strict", *common]
    assert cli.main(["process", *strict]) == 3
    assert (tmp_path / "out" / "again" / "map.tif").is_file()
    assert cli.main(["process", str(bright), "--strict", *common]) == 0
    capsys.readouterr()
    assert cli.main(["batch", str(dark), str(bright), "--strict", *common]) == 3
    assert "dark.tif    unlike anything" in capsys.readouterr().err
    assert cli.main(["batch", str(bright), str(tmp_path / "gone.tif"), "--strict", *common]) == 2


def test_strict_needs_a_model_that_can_say(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene.tif", half_dark())
    request = MapRequest(scene, tmp_path / "out", halo=0, scene_options=PLAIN, strict=True)
    with pytest.raises(OptionsRefused, match="model identity does not say how familiar a scene is; leave --strict out"):
        map_scene(request, IdentityEngine(TILE))
    assert not (tmp_path / "out").exists()
