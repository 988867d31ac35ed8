"""`--head` of `ground export`, `polygons` and `change`, over maps that a tiny model with two heads made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

from engines.open import open_engine
from ground.cli import main
from ground.heads import Head, heads_of, read_heads
from onboard.mapping.run import MapRequest, map_scene
from tests.tiny_heads import write_heads_model

pyarrow_parquet = pytest.importorskip("pyarrow.parquet", reason="the extra polygons is not installed")
BOTH = ("bands", "light")


def write_scene(path: Path, seed: int) -> Path:
    """Broad squares of noise, in UTM."""
    pixels = np.kron(np.random.default_rng(seed).integers(1, 255, (3, 8, 9), dtype=np.uint8), np.ones((20, 20), "u1"))
    place = {"crs": "EPSG:32640", "transform": rasterio.Affine(2, 0, 5e5, 0, -2, 2.8e6)}
    with rasterio.open(path, "w", "GTiff", 180, 160, 3, dtype="uint8", nodata=0, **place) as file:
        file.write(pixels)
    return path


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """monday and friday with the heads bands and light, sunday with light alone, plain with bands alone."""
    folder = tmp_path_factory.mktemp("heads")
    model = write_heads_model(folder / "model")
    wanted = (("monday", 1, BOTH), ("friday", 2, BOTH), ("sunday", 3, ("light",)), ("plain", 4, ("bands",)))
    for name, seed, heads in wanted:
        scene = write_scene(folder / f"{name}.tif", seed)
        with open_engine(model, heads=heads, backend="onnxruntime", threads=1) as engine:
            map_scene(MapRequest(scene, folder / "maps", name=name, confidence=True), engine)
    return folder / "maps"


def ground(*arguments: str | Path) -> int:
    return main([str(argument) for argument in arguments])


def read(path: Path) -> NDArray[np.uint8]:
    with rasterio.open(path) as source:
        codes: NDArray[np.uint8] = source.read(1)
    return codes


def test_export_writes_the_head_that_is_asked_for(
    maps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("export", maps, "--format", "cog8", "--out", tmp_path)
    assert ground(*command, "--head", "light") == 0
    assert "1 of 4 maps left out: no head light there" in capsys.readouterr().err
    # Of sunday light is the first head, so map.tif.
    assert sorted(path.name for path in tmp_path.glob("*.tif")) == [
        "friday-light.tif", "monday-light.tif", "sunday.tif",
    ]  # fmt: skip
    assert np.array_equal(read(tmp_path / "monday-light.tif"), read(maps / "monday" / "light.tif"))
    assert np.array_equal(read(tmp_path / "sunday.tif"), read(maps / "sunday" / "map.tif"))
    with rasterio.open(tmp_path / "monday-light.tif") as file:
        assert file.tags()["CLASS_1"] == "light 1"
    assert ground("export", maps / "monday", "--format", "cog8", "--out", tmp_path) == 0
    assert np.array_equal(read(tmp_path / "monday.tif"), read(maps / "monday" / "map.tif"))


def test_polygons_are_of_the_head_and_of_its_confidence(maps: Path, tmp_path: Path) -> None:
    command = ("polygons", maps / "monday", "--out", tmp_path, "--format", "geoparquet", "--head")
    assert ground(*command, "light") == 0
    table = pyarrow_parquet.read_table(tmp_path / "monday-light.parquet")
    properties = json.loads((maps / "monday" / "map.json").read_text())["properties"]["onboard:heads"]["light"]
    for row in properties["class_cover"]:
        of_class = np.array(table["class"]) == row["value"]
        assert np.array(table["pixels"])[of_class].sum() == row["pixels"]
    sure = read(maps / "monday" / "light-confidence.tif")
    mean = np.average(np.array(table["confidence"]), weights=np.array(table["pixels"]))
    assert mean == pytest.approx(sure[sure > 0].mean() / 255, abs=1e-3)
    assert mean != pytest.approx(read(maps / "monday" / "confidence.tif").mean() / 255, abs=1e-3)
    assert ground(*command, "bands") == 0
    assert (tmp_path / "monday.parquet").is_file()


def test_change_is_that_of_the_head(maps: Path, tmp_path: Path) -> None:
    command = ("change", maps / "monday", maps / "friday", "--out", tmp_path, "--no-polygons", "--quiet")
    assert ground(*command, "--head", "light") == 0
    document = json.loads((tmp_path / "monday-light-to-friday-light.json").read_text())
    before, after = (read(maps / name / "light.tif") for name in ("monday", "friday"))
    assert np.count_nonzero(read(tmp_path / "monday-light-to-friday-light.tif") > 1) == np.count_nonzero(
        before != after
    )
    assert Path(document["before"]["map"]).name == "light.tif"
    # Further head of the one, first of the other.
    assert ground("change", maps / "monday", maps / "sunday", "--out", tmp_path, "--quiet", "--head", "light") == 0
    assert (tmp_path / "monday-light-to-sunday.tif").is_file()


@pytest.mark.parametrize("command", ["export", "polygons", "change"])
def test_a_head_that_a_map_lacks_is_refused_in_one_line(
    maps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    arguments = {"export": ("--format", "png"), "change": (maps / "monday",)}.get(command, ())
    assert ground(command, maps / "plain", *arguments, "--out", tmp_path, "--head", "light") == 2
    said = capsys.readouterr().err.strip()
    assert "plain: has no head light here; --head takes bands" in said
    assert "\n" not in said
    assert not list(tmp_path.iterdir())


def test_a_head_whose_file_has_not_come_and_an_item_that_cannot_be_read_are_refused(
    maps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(maps / "monday", tmp_path / "maps" / "monday"))
    command = ("export", folder, "--format", "png", "--out", tmp_path / "out", "--head", "light")
    (folder / "light.tif").unlink()
    assert ground(*command) == 2
    assert "has no head light here" in capsys.readouterr().err
    (folder / "map.json").write_text("{")
    assert ground(*command) == 2
    assert "nothing says which heads the map has" in capsys.readouterr().err
    assert ground(*command[:-2]) == 0, "without --head the item is not needed"


def test_heads_are_called_as_the_item_has_them(maps: Path) -> None:
    assert read_heads(maps / "monday") == [Head("bands", "map", "map.tif"), Head("light", "light", "light.tif")]
    assert read_heads(maps / "sunday") == [Head("light", "map", "map.tif")]
    hrefs = {"further": "./further.tif", "map": "x", "up": "../up.tif", "no/name": "./a.tif", "text": "./map.json"}
    assert [head.asset for head in heads_of(hrefs)] == ["map", "further"]
    assert [head.name for head in heads_of(hrefs, ["../x"])] == ["map", "further"]
    assert heads_of({"map": ""})[0].confidence == "confidence.tif"
