"""Tiles of made scenes are found by their edges and joined again; holes are filled, and nothing is lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image

from onboard.scene.grid import Window
from trainer import cli
from trainer.data.mosaics import Grid, grids_of, neighbours, write_mosaics
from trainer.data.sets import LabelledSet, open_set
from trainer.errors import DataMissing, DataRefused

SIDE = 64
ROWS, COLUMNS = 4, 3
MISSING = {(0, 1, 1), (0, 3, 2), (1, 0, 0)}
"""Scene, row and column of tiles that are not in the set."""


def landscape(seed: int) -> NDArray[np.uint8]:
    """Smooth brightness over a whole scene, uint8 (H, W, 3)."""
    noise = np.random.default_rng(seed).integers(30, 220, (ROWS * 4, COLUMNS * 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize((COLUMNS * SIDE, ROWS * SIDE), Image.Resampling.BICUBIC))


def tiles_of(scenes: int) -> dict[str, tuple[int, int, int]]:
    """Tiles by name, numbered as they are cut: scene after scene, down each column."""
    places = [
        (scene, row, column)
        for scene in range(scenes) for column in range(COLUMNS) for row in range(ROWS)
        if (scene, row, column) not in MISSING
    ]  # fmt: skip
    return {f"t_{number:03d}": place for number, place in enumerate(places)}


@pytest.fixture
def tiles(tmp_path: Path) -> LabelledSet:
    """Tiles of three scenes, labels 10 and 20 by the brightness."""
    for name, (scene, row, column) in tiles_of(3).items():
        part = landscape(scene)[row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE]
        for kind, pixels in (("images", part), ("labels", np.where(part[..., 0] > 120, 20, 10).astype(np.uint8))):
            (tmp_path / "tiles" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / "tiles" / kind / f"{name}.png")
    description = {
        "name": "tiles", "title": "Tiles", "source": "made", "licence": "CC0", "folder": "tiles", "gsd_m": 0.5,
        "images": "images/{id}.png", "labels": "labels/{id}.png", "ignore": {"codes": [0]},
        "classes": [
            {"code": 1, "name": "dark", "title": "Dark", "colour": "#112233", "codes": [10]},
            {"code": 2, "name": "bright", "title": "Bright", "colour": "#445566", "codes": [20]},
        ],
        "translations": {"dubai": {"dark": "water"}},
        "splits": {"train": {"names": ["*"]}},
    }  # fmt: skip
    (tmp_path / "tiles.yaml").write_text(yaml.safe_dump(description))
    return open_set(str(tmp_path / "tiles.yaml"))


def test_tiles_of_a_scene_lie_where_they_were_cut(tiles: LabelledSet, tmp_path: Path) -> None:
    report = write_mosaics(tiles, tiles.split("train"), tmp_path / "out")
    joined = open_set(str(tmp_path / "out" / "tiles.yaml"))
    names = joined.split("train")
    assert (report.mosaics, report.tiles, report.fillers) == (3, 3 * ROWS * COLUMNS - len(MISSING), len(MISSING))
    for scene, name in enumerate(names):
        mosaic, whole = joined.read(name), landscape(scene)
        true = np.where(whole[..., 0] > 120, 2, 1)
        for row in range(ROWS):
            for column in range(COLUMNS):
                place = np.s_[row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE]
                is_here = (scene, row, column) not in MISSING
                assert (np.moveaxis(mosaic.pixels, 0, -1)[place] == whole[place]).all() == is_here
                assert (mosaic.labels[place] == true[place]).all() == is_here
    # What a filler shows is a tile of the set with its own labels.
    filler = joined.read(names[1], Window(0, 0, SIDE, SIDE))
    assert ((filler.pixels[0] > 120) == (filler.labels == 2)).all()


def test_the_description_keeps_what_the_set_says_of_itself(tiles: LabelledSet, tmp_path: Path) -> None:
    write_mosaics(tiles, tiles.split("train"), tmp_path / "out")
    before, after = tiles.description, open_set(str(tmp_path / "out" / "tiles.yaml")).description
    assert [(item.code, item.name) for item in after.classes] == [(item.code, item.name) for item in before.classes]
    for name in ("name", "licence", "source", "gsd_m", "translations"):
        assert getattr(after, name) == getattr(before, name)


def test_tiles_without_neighbours_are_all_there(tmp_path: Path, tiles: LabelledSet) -> None:
    """Five tiles of which none continues another: two rectangles, and a tile more than once."""
    alone = [name for name, (_, row, column) in tiles_of(3).items() if (row, column) in {(0, 0), (2, 2)}]
    report = write_mosaics(tiles, alone, tmp_path / "out")
    assert report.tiles == len(alone) == 5
    assert report.mosaics * 4 == report.tiles + report.fillers == 8


def test_calm_water_that_meets_without_a_step_is_no_neighbour(tmp_path: Path, tiles: LabelledSet) -> None:
    rng = np.random.default_rng(5)
    for name in tiles.split("train"):
        flat = rng.integers(60, 63, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(flat).save(tmp_path / "tiles" / "images" / f"{name}.png")
    assert {len(grid) for grid in neighbours(tiles, tiles.split("train"))} == {1}


def test_no_mosaic_replaces_another_that_holds_the_same_filler(
    tiles: LabelledSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three grids of three tiles without a single tile: each hole is filled by a tile of any grid."""
    names = tiles.split("train")[:9]
    own = [dict(zip([(0, 0), (0, 1), (1, 0)], names[at : at + 3], strict=True)) for at in (0, 3, 6)]
    monkeypatch.setattr("trainer.data.mosaics.neighbours", lambda *_, **__: own)
    for seed in range(6):
        report = write_mosaics(tiles, names, tmp_path / f"out-{seed}", seed=seed)
        written = open_set(str(tmp_path / f"out-{seed}" / "tiles.yaml")).split("train")
        assert len(written) == report.mosaics == 3


def test_tiles_without_labels_are_refused_before_the_folder_is_made(tiles: LabelledSet, tmp_path: Path) -> None:
    description = tiles.description.model_copy(update={"labels": None, "classes": (), "translations": {}})
    with pytest.raises(DataMissing, match="no labels"):
        write_mosaics(LabelledSet(description, tiles.folder), tiles.split("train"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_pair_goes_beside_another_of_its_direction() -> None:
    pairs: list[Grid] = [
        {(0, 0): "a", (1, 0): "b"}, {(0, 0): "c", (0, 1): "d"}, {(0, 0): "e", (1, 0): "f"}, {(0, 0): "g", (0, 1): "h"},
    ]  # fmt: skip
    assert grids_of(pairs, np.random.default_rng(0)) == [
        {(0, 0): "a", (1, 0): "b", (0, 1): "e", (1, 1): "f"}, {(0, 0): "c", (0, 1): "d", (1, 0): "g", (1, 1): "h"},
    ]  # fmt: skip


def test_tiles_of_two_sizes_and_a_folder_in_use_are_refused(
    tiles: LabelledSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    with pytest.raises(DataRefused, match="not empty"):
        write_mosaics(tiles, tiles.split("train"), tmp_path / "used")
    for kind in ("images", "labels"):
        Image.new("RGB" if kind == "images" else "L", (32, 32), 10).save(tmp_path / "tiles" / kind / "t_000.png")
    assert cli.main(["mosaics", str(tmp_path / "tiles.yaml"), "--out", str(tmp_path / "out")]) == 2
    assert "square tiles of one size" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
