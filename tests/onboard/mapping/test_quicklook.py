"""The picture of scene and map, looked at as a person would: what is where, how long the bar is, what it costs."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

from engines.manifest import ClassInfo
from engines.testing import IdentityEngine
from onboard.errors import MappingStopped, OptionsRefused
from onboard.mapping.control import StopPolicy
from onboard.mapping.executors import LocalExecutor
from onboard.mapping.lettering import HEIGHT, is_drawable, lettered
from onboard.mapping.quicklook import GAP, SHEET, Facts, Kind, panel_size, write_quicklook
from onboard.mapping.run import MapRequest, MapSummary, map_scene
from onboard.mapping.thumbnail import SceneThumbnail
from onboard.scene.grid import Grid
from onboard.scene.reader import Scene, SceneOptions

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

WIDTH, HEIGHT_PX = 1200, 1000
PLACE = {"crs": "EPSG:32640", "transform": rasterio.Affine(2, 0, 5e5, 0, -2, 2.8e6)}
INK = 100


def write_scene(path: Path, width: int = WIDTH, height: int = HEIGHT_PX, **profile: Any) -> Path:
    """Four quarters of one colour each; the identity engine takes band 1 for the class. A corner without data."""
    pixels = np.empty((3, height, width), np.uint8)
    for down in (0, 1):
        for across in (0, 1):
            code = 1 + across + 2 * down
            place = np.s_[
                :, down * height // 2 : (down + 1) * height // 2, across * width // 2 : (across + 1) * width // 2
            ]
            pixels[place] = np.array([code, 60 * code, 250 - 60 * code], np.uint8)[:, None, None]
    pixels[:, -height // 8 :, -width // 8 :] = 0
    keys = {"driver": "GTiff", "width": width, "height": height, "count": 3, "dtype": "uint8", "nodata": 0}
    with rasterio.open(path, "w", **keys, **profile) as target:
        target.write(pixels)
    return path


def mapped(scene: Path, out: Path, **options: Any) -> MapSummary:
    request = MapRequest(scene, out, halo=8, scene_options=SceneOptions(collar=False), **options)
    return map_scene(request, IdentityEngine(tile_size=256))


def picture_of(summary: MapSummary) -> NDArray[np.uint8]:
    assert summary.quicklook_path is not None
    with rasterio.open(summary.quicklook_path) as file:
        pixels: NDArray[np.uint8] = np.moveaxis(file.read(), 0, -1)
    return pixels


def close(pixel: NDArray[np.uint8], colour: tuple[int, ...]) -> bool:
    return bool(np.abs(pixel.astype(int) - colour).max() < 16)  # with loss


def test_scene_and_map_lie_side_by_side_with_the_colours_of_each(tmp_path: Path) -> None:
    summary = mapped(write_scene(tmp_path / "scene.tif", **PLACE), tmp_path / "out")
    sheet = picture_of(summary)
    width, height = panel_size(WIDTH, HEIGHT_PX)
    assert sheet.shape[1] == SHEET
    assert 2 * width + GAP <= SHEET
    with rasterio.open(summary.map_path) as source:
        palette = source.colormap(1)
    left = (SHEET - 2 * width - GAP) // 2
    for code, across, down in ((1, 0.25, 0.25), (2, 0.75, 0.25), (3, 0.25, 0.75), (4, 0.6, 0.7)):
        row, column = int(down * height), left + int(across * width)
        assert close(sheet[row, column], (code, 60 * code, 250 - 60 * code)), code
        assert close(sheet[row, column + width + GAP], palette[code][:3]), code
    for panel in (0, width + GAP):  # the corner without data
        corner = sheet[height - 10, left + panel + width - 10]
        assert close(corner, (225, 225, 225))


@pytest.mark.parametrize(("metres", "text"), [(2.0, "500 m"), (0.3, "100 m"), (30.0, "10 km")])
def test_the_bar_is_as_long_as_its_text_says(tmp_path: Path, metres: float, text: str) -> None:
    place = {"crs": "EPSG:32640", "transform": rasterio.Affine(metres, 0, 5e5, 0, -metres, 2.8e6)}
    sheet = picture_of(mapped(write_scene(tmp_path / "scene.tif", **place), tmp_path / "out"))
    width, height = panel_size(WIDTH, HEIGHT_PX)
    legend = sheet[height + 5 :].max(axis=2) < INK
    runs = [longest_run(row) for row in legend]
    length, unit = text.split()
    pixels = float(length) * (1000 if unit == "km" else 1) / (metres * WIDTH / width)
    assert max(runs) == pytest.approx(pixels, abs=2)
    letters = lettered(text) > 0.5
    assert found_in(legend, letters), f"{text} is not there"


def longest_run(row: NDArray[np.bool_]) -> int:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], row, [False]]).astype(int)))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def found_in(picture: NDArray[np.bool_], letters: NDArray[np.bool_]) -> bool:
    """Whether the letters stand somewhere in it, all but a few pixels."""
    rows, columns = letters.shape
    windows = np.lib.stride_tricks.sliding_window_view(picture, (rows, columns))
    return bool((windows != letters).mean(axis=(2, 3)).min() < 0.06)


def test_a_scene_without_a_place_says_that_its_scale_is_not_known(tmp_path: Path) -> None:
    sheet = picture_of(mapped(write_scene(tmp_path / "scene.tif"), tmp_path / "out"))
    legend = sheet[panel_size(WIDTH, HEIGHT_PX)[1] + 5 :].max(axis=2) < INK
    assert found_in(legend, lettered("scale not known") > 0.5)


def test_the_legend_names_the_classes_with_their_shares(tmp_path: Path) -> None:
    summary = mapped(write_scene(tmp_path / "scene.tif"), tmp_path / "out")
    legend = picture_of(summary)[panel_size(WIDTH, HEIGHT_PX)[1] + 5 :].max(axis=2) < INK
    titles = list(summary.class_shares)
    assert found_in(legend, lettered(f"{titles[0]} 25 %") > 0.5)
    assert found_in(legend, lettered("no data") > 0.5)
    assert not found_in(legend, lettered(f"{titles[4]} 0 %") > 0.5)  # none of it in this scene


@pytest.mark.parametrize(
    ("size", "panels"), [((4000, 1000), (768, 192)), ((1000, 4000), (188, 750)), ((60, 60), (360, 360))]
)
def test_panels_fit_a_sheet(tmp_path: Path, size: tuple[int, int], panels: tuple[int, int]) -> None:
    assert panel_size(*size) == panels
    sheet = picture_of(mapped(write_scene(tmp_path / "scene.tif", *size, **PLACE), tmp_path / "out"))
    assert sheet.shape[1] == SHEET
    assert sheet.shape[0] < 1000


def test_the_picture_costs_no_second_read_of_a_tile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = write_scene(tmp_path / "scene.tif")
    windows: list[Any] = []
    read = Scene.read

    def counted(self: Scene, window: Any) -> Any:
        windows.append(window)
        return read(self, window)

    monkeypatch.setattr(Scene, "read", counted)
    summary = mapped(scene, tmp_path / "out")
    assert len(windows) == summary.tiles


def test_a_run_that_was_interrupted_gives_the_same_picture(tmp_path: Path) -> None:
    class After(StopPolicy):
        batches = 0

        def before_batch(self) -> None:
            self.batches += 1
            if self.batches > 7:
                raise MappingStopped("enough")

    scene = write_scene(tmp_path / "scene.tif", **PLACE)
    whole = mapped(scene, tmp_path / "whole").quicklook_path
    request = MapRequest(scene, tmp_path / "out", halo=8, scene_options=SceneOptions(collar=False))
    engine = IdentityEngine(tile_size=256)
    with pytest.raises(MappingStopped):
        map_scene(request, LocalExecutor(engine, stop=After()))
    summary = map_scene(request, engine)
    assert summary.tiles_resumed > 0
    assert whole is not None
    assert summary.quicklook_path is not None
    assert summary.quicklook_path.read_bytes() == whole.read_bytes()


def test_no_quicklook_is_no_asset(tmp_path: Path) -> None:
    summary = mapped(write_scene(tmp_path / "scene.tif"), tmp_path / "out", quicklook="off")
    assert summary.quicklook_path is None
    assert sorted(path.name for path in summary.folder.iterdir()) == ["map.json", "map.tif"]
    assert "quicklook" not in json.loads(summary.item_path.read_text("utf-8"))["assets"]


def test_another_kind_of_picture_is_made_when_it_is_asked_for(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene.tif")
    assert mapped(scene, tmp_path / "out", quicklook="map").already_mapped is False
    assert mapped(scene, tmp_path / "out", quicklook="map").already_mapped is True
    assert mapped(scene, tmp_path / "out").already_mapped is False
    with pytest.raises(OptionsRefused, match="side, map, off"):
        mapped(scene, tmp_path / "out", quicklook="both")


def test_a_thumbnail_is_the_mean_of_what_is_valid(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene.tif")
    with Scene.open(scene, SceneOptions(collar=False)) as source:
        thumbnail = SceneThumbnail((WIDTH, HEIGHT_PX), 24, 20)
        thumbnail.complete(source, Grid(WIDTH, HEIGHT_PX, tile_size=256, halo=8))
    colours, valid = thumbnail.picture()
    assert colours[0, 0].tolist() == [1, 60, 190]
    assert colours[-1, 0].tolist() == [3, 180, 70]
    assert valid.sum() == 24 * 20 - 3 * 2  # sides of an eighth: 3 columns, 2.5 rows


def test_a_sheet_of_noise_is_smaller_than_its_map_alone(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    codes = np.kron(rng.integers(1, 6, (512, 512)), np.ones((4, 4))).astype(np.uint8)
    with rasterio.open(tmp_path / "map.tif", "w", "GTiff", 2048, 2048, 1, dtype="uint8") as target:
        target.write(codes, 1)
    classes = tuple(
        ClassInfo(code=code, name=f"c{code}", title=f"Class {code}", color=f"#{code * 40:02x}8040")
        for code in range(1, 6)
    )
    thumbnail = SceneThumbnail((2048, 2048), *panel_size(2048, 2048))
    thumbnail._samples[:] = rng.integers(0, 256, thumbnail._samples.shape)
    thumbnail._state[:] = 2
    facts = Facts(classes, [0, *[2048 * 2048 // 5] * 5], 2048.0)
    sizes = {}
    kinds: tuple[Kind, ...] = ("side", "map")
    for kind in kinds:
        write_quicklook(kind, tmp_path / "map.tif", tmp_path / kind, thumbnail, facts)
        sizes[kind] = (tmp_path / kind).stat().st_size
    assert sizes["side"] < min(sizes["map"], 70_000), sizes


def test_every_character_is_drawn_and_no_two_alike() -> None:
    shapes = [lettered(char).tobytes() for char in string.ascii_letters + string.digits + string.punctuation]
    assert len(set(shapes)) == len(shapes)
    assert all(any(np.frombuffer(shape, np.float64)) for shape in shapes)
    assert lettered("Ay").shape[0] == HEIGHT
    assert np.array_equal(lettered("Caf\u00e9"), lettered("Cafe"))


def test_titles_that_cannot_be_drawn_are_known() -> None:
    assert is_drawable("V\u00e9g\u00e9tation basse")
    assert not is_drawable("\u0645\u0628\u0627\u0646\u064a")
    assert lettered("").shape == (HEIGHT, 3)
