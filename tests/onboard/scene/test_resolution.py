"""The decision at which ground resolution a scene is read."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint

from engines.manifest import Manifest
from engines.testing import manifest_for_testing
from onboard.errors import OptionsRefused
from onboard.scene.reader import Scene, SceneOptions
from onboard.scene.resolution import Resolution, ResolutionOptions, resolution_of
from tests.onboard.scene.products import linear_rpcs

UTM = "EPSG:32640"
EAST, NORTH = 3e5, 2.8e6
# Scale of UTM there: metres of the grid for one on the ground.
SCALE = 1.0001


def model(gsd_m: float | None = 1.0, range_m: tuple[float, float] | None = (0.7, 1.5)) -> Manifest:
    return manifest_for_testing().model_copy(update={"gsd_m": gsd_m, "gsd_range_m": range_m})


def write(path: Path, width: int = 80, height: int = 60, **profile: Any) -> Path:
    keys: dict[str, Any] = {"driver": "GTiff", "width": width, "height": height, "count": 3, "dtype": "uint8"}
    with rasterio.open(path, "w", **keys, **profile) as file:
        file.write(np.full((3, height, width), 7, np.uint8))
    return path


def place(gsd_m: float) -> dict[str, Any]:
    return {"crs": UTM, "transform": rasterio.Affine(gsd_m, 0, EAST, 0, -gsd_m, NORTH)}


def decide(path: Path, manifest: Manifest, **options: Any) -> Resolution:
    with Scene.open(path, SceneOptions(collar=False)) as scene:
        return resolution_of(scene, manifest, ResolutionOptions(**options))


@pytest.mark.parametrize(
    ("gsd_m", "rule", "size", "said"),
    [
        (0.8, "in_range", (80, 60), "mapped as it is"), (1.4, "in_range", (80, 60), "mapped as it is"),
        (0.5, "reduced", (40, 30), "ground resolution 0.5 m, the model is made for 1 m: read at 1 m"),
        (0.1, "reduced", (8, 6), "read at 1 m"), (0.45, "reduced", (36, 27), "read at 1 m"),
        (1.8, "enlarged", (144, 108), "enlarged, read at 1 m"),
        (10, "enlarged_twofold", (160, 120), "enlarged twofold, not more: the map is a guess"),
        (0.01, "under_one_pixel", (80, 60), "at that the map would be under one pixel; mapped as it is"),
    ],
)  # fmt: skip
def test_a_scene_outside_the_models_range_is_read_at_the_models_resolution(
    gsd_m: float, rule: str, size: tuple[int, int], said: str, tmp_path: Path
) -> None:
    found = decide(write(tmp_path / "s.tif", **place(gsd_m)), model())
    assert (found.rule, found.read_size) == (rule, size)
    assert said in found.text
    assert found.is_remarkable == (rule != "in_range")
    assert found.is_resampled == (size != (80, 60))
    assert found.scene_gsd_m == pytest.approx(gsd_m, rel=1e-3)
    assert found.gsd_of(size) == pytest.approx(gsd_m * math.sqrt(80 * 60 / math.prod(size)), rel=1e-3)


def test_the_ground_and_not_the_projection_decides(tmp_path: Path) -> None:
    """Two metres of Web Mercator are one on the ground at 60 degrees; control points and polynomials count as well."""
    north = {"crs": "EPSG:3857", "transform": rasterio.Affine(1, 0, 2.7e6, 0, -1, 8.4e6)}
    assert decide(write(tmp_path / "mercator.tif", **north), model()).read_size == (40, 30)
    points = [GroundControlPoint(row, col, EAST + 0.5 * col, NORTH - 0.5 * row) for row in (0, 60) for col in (0, 80)]
    assert decide(write(tmp_path / "gcps.tif", gcps=points, crs=UTM), model()).read_size == (40, 30)
    found = decide(write(tmp_path / "rpcs.tif", rpcs=linear_rpcs(80, 60)), model(gsd_m=2.0, range_m=None))
    assert found.scene_gsd_m == pytest.approx(1.055, rel=0.01)
    assert found.rule == "reduced"


def test_oblong_pixels_become_square_on_the_ground(tmp_path: Path) -> None:
    """A scene in degrees at 60 north: its pixels are half as wide as high."""
    side = 0.4 / 111_412
    degrees = {"crs": "EPSG:4326", "transform": rasterio.Affine(side, 0, 10, 0, -side, 60)}
    found = decide(write(tmp_path / "s.tif", **degrees), model())
    assert found.read_size == (16, 24)
    assert decide(write(tmp_path / "t.tif", **degrees), model(), gsd_m=0.4).read_size == (23, 34)


@pytest.mark.parametrize(
    ("across", "down", "rule", "size"),
    [
        (1.0, 1.15, "in_range", (80, 60)),
        (0.8, 1.25, "made_square", (64, 75)), (1.25, 0.8, "made_square", (100, 48)),
        (0.25, 4.0, "made_square", (20, 120)),  # twofold at most
        (0.01, 100.0, "in_range", (80, 60)),  # of square pixels no column would be left
    ],
)  # fmt: skip
def test_oblong_pixels_are_made_square_where_their_mean_lies_within_the_range(
    across: float, down: float, rule: str, size: tuple[int, int], tmp_path: Path
) -> None:
    transform = rasterio.Affine(across, 0, EAST, 0, -down, NORTH)
    found = decide(write(tmp_path / "s.tif", crs=UTM, transform=transform), model())
    assert (found.rule, found.read_size) == (rule, size)
    assert found.is_remarkable == (rule != "in_range")
    said = f"its pixels are {across:.3g} m wide and {down:.3g} m high, read as square ones"
    assert (said in found.text) == (rule != "in_range")
    # A size that was given is that of the mean pixel: the shape stays the scene's own.
    assert decide(tmp_path / "s.tif", model(), gsd_m=1.0).read_size == size


def test_what_is_not_known_is_said_and_mapped_as_it_is(tmp_path: Path) -> None:
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        scene = write(tmp_path / "s.tif")
    found = decide(scene, model())
    assert (found.rule, found.read_size, found.scene_gsd_m) == ("unknown", (80, 60), None)
    assert found.text == (
        "the scene does not say how large its pixels are, the model is made for 1 m: mapped as it is; "
        "give their size with --gsd METRES"
    )
    assert decide(scene, model(), gsd_m=0.5).read_size == (40, 30)
    assert decide(scene, model(), default_gsd_m=0.5).as_json()["scene_gsd_from"] == "setting"
    # What the scene says goes before the default.
    assert decide(write(tmp_path / "t.tif", **place(1)), model(), default_gsd_m=0.5).rule == "in_range"


def test_a_model_that_does_not_say_changes_nothing(tmp_path: Path) -> None:
    scene = write(tmp_path / "s.tif", **place(0.1))
    found = decide(scene, model(None, None))
    assert (found.rule, found.read_size) == ("unknown_model", (80, 60))
    assert found.text == "the model says no ground resolution that it is made for: mapped as it is"
    assert "though 0.1 m lie outside 0.7 to 1.5 m" in decide(scene, model(None)).text


def test_a_model_without_a_range_takes_what_is_nearer_to_it_than_to_half_or_double(tmp_path: Path) -> None:
    for gsd_m, rule in ((0.72, "in_range"), (1.4, "in_range"), (0.69, "reduced"), (1.44, "enlarged")):
        assert decide(write(tmp_path / f"{gsd_m}.tif", **place(gsd_m)), model(range_m=None)).rule == rule


def test_a_size_that_contradicts_the_scene_is_taken_and_said(tmp_path: Path) -> None:
    scene = write(tmp_path / "s.tif", **place(1))
    found = decide(scene, model(), gsd_m=0.5)
    assert found.read_size == (40, 30)
    assert found.text.endswith("read at 1 m (--gsd is taken, though the scene's georeferencing says 1 m)")
    assert found.as_json()["georeferenced_gsd_m"] == pytest.approx(1, rel=1e-3)
    near = decide(scene, model(), gsd_m=0.9)
    assert "is taken" not in near.text
    assert not near.is_remarkable
    far = decide(write(tmp_path / "t.tif", **place(0.2)), model(), gsd_m=0.9)
    assert (far.rule, far.is_remarkable) == ("in_range", True)


@pytest.mark.parametrize("gsd_m", [0.0, -1.0, math.nan, math.inf])
def test_a_size_that_is_none_is_refused(gsd_m: float) -> None:
    with pytest.raises(OptionsRefused, match="give the ground size of a pixel in metres, such as"):
        ResolutionOptions(gsd_m=gsd_m)


def test_a_given_size_that_leaves_less_than_a_pixel_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionsRefused, match=r"--gsd 0.001 leaves a map of 0.08 x 0.06 pixels at the model's 1 m"):
        decide(write(tmp_path / "s.tif", **place(1)), model(), gsd_m=0.001)
