from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning

from engines.cli import main
from engines.compare import Comparison, RealTile, carried_tiles, compare, scene_tiles
from engines.engine import Prediction, Tiles
from engines.errors import SettingRefused
from engines.manifest import Manifest
from engines.open import open_engine
from engines.testing import ConstantEngine
from tests.tiny_heads import write_heads_model
from tests.tiny_model import random_tiles, tiny_classes

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
assert NotGeoreferencedWarning


class Tiny(ConstantEngine):
    """The tiny model, with every n-th row said to be of class 1, or a whole tile."""

    def __init__(self, folder: Path, *, every: int = 0, all_one: bool = False) -> None:
        super().__init__(tile_size=32)
        self.manifest, self.folder, self.every, self.all_one = Manifest.load(folder), folder, every, all_one

    def _predicted(self, tiles: Tiles) -> Prediction:
        classes = tiny_classes(tiles)
        if self.every:
            classes[:, :: self.every] = 1
        if self.all_one:
            classes[:] = 1
        return Prediction(classes)


class Said(ConstantEngine):
    """Says this class map of every tile."""

    def __init__(self, folder: Path, classes: NDArray[Any]) -> None:
        super().__init__(tile_size=32)
        self.manifest, self.folder, self.classes = Manifest.load(folder), folder, classes.astype(np.uint8)

    def _predicted(self, tiles: Tiles) -> Prediction:
        return Prediction(np.repeat(self.classes[np.newaxis], len(tiles), axis=0))


@pytest.fixture
def scene(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """A scene of noise and its labels, the tiny model's own map with a corner unlabelled."""

    def make(height: int = 61, width: int = 50) -> tuple[Path, Path]:
        pixels = np.random.default_rng(3).integers(0, 256, (3, height, width), dtype=np.uint8)
        labels = tiny_classes(pixels[np.newaxis])[0]
        labels[:7, :9] = 0
        return write(tmp_path / "scene.tif", pixels), write(tmp_path / "labels.tif", labels[np.newaxis])

    return make


def write(path: Path, bands: NDArray[np.uint8]) -> Path:
    count, height, width = bands.shape
    with rasterio.open(path, "w", driver="GTiff", count=count, height=height, width=width, dtype="uint8") as out:
        out.write(bands)
    return path


def test_rasters_that_lie_nowhere_are_read_without_a_warning(
    tiny_model: Path, scene: Callable[..., tuple[Path, Path]]
) -> None:
    pixels, labels = scene()
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        assert list(scene_tiles(pixels, labels, Tiny(tiny_model)))
    assert not shown


def test_tiles_cover_a_scene_once_with_the_labels_of_their_place(
    tiny_model: Path, scene: Callable[..., tuple[Path, Path]]
) -> None:
    pixels, labels = scene()
    with rasterio.open(pixels) as source, rasterio.open(labels) as truth:
        wanted, known = source.read(), truth.read(1)
    engine = Tiny(tiny_model)  # tiles of 32 with a halo of 4
    seen, count = np.zeros_like(known), 0
    for tile in scene_tiles(pixels, labels, engine):
        row, col = (int(word) for word in tile.name.split()[2::2])
        place = slice(row, row + 24), slice(col, col + 24)
        assert np.array_equal(tile.pixels[(slice(None), *tile.core)], wanted[(slice(None), *place)])
        assert tile.labels is not None
        assert np.array_equal(tile.labels[tile.core], known[place])
        assert tile.labels.sum() == known[place].sum()
        seen[place] += 1
        count += 1
    assert count == 3 * 3
    assert (seen == 1).all()


def test_equal_engines_agree_and_lose_nothing(tiny_model: Path, scene: Callable[..., tuple[Path, Path]]) -> None:
    engine = Tiny(tiny_model)
    found = compare(Tiny(tiny_model), engine, scene_tiles(*scene(), engine))
    assert found.pixel_agreement == 1
    assert found.iou_between == [1, 1, 1, 1]
    assert found.miou == (1, 1)
    assert found.collapsed == []
    assert found.acceptance(engine, "noise").passed


def test_what_differs_is_counted_as_numpy_counts_it(tiny_model: Path, scene: Callable[..., tuple[Path, Path]]) -> None:
    engine = Tiny(tiny_model, every=4)
    pixels, labels = scene()
    tiles = list(scene_tiles(pixels, labels, engine))
    found = compare(Tiny(tiny_model), engine, tiles)
    shares = []
    for tile in tiles:
        right = tiny_classes(tile.pixels[np.newaxis])[0]
        wrong = right.copy()
        wrong[::4] = 1
        shares.append((right[tile.core] == wrong[tile.core]).mean())
    assert found.worst_tile[0] == pytest.approx(min(shares))
    assert found.worst_tile[1] == tiles[int(np.argmin(shares))].name
    assert 0.7 < found.pixel_agreement < 0.9
    assert found.miou is not None
    assert found.miou[0] == 1 > found.miou[1]
    acceptance = found.acceptance(engine, "noise")
    assert not acceptance.passed
    assert found.acceptance(engine, "noise", most_loss=0.9).passed


def test_a_tile_of_one_class_is_a_collapse(tiny_model: Path) -> None:
    tiles = [RealTile(f"tile {n}", random_tiles(1, seed=n)[0], (slice(4, 28), slice(4, 28))) for n in range(2)]
    found = compare(Tiny(tiny_model), Tiny(tiny_model, all_one=True), tiles)
    assert found.collapsed == ["tile 0", "tile 1"]
    assert found.miou is None
    with pytest.raises(SettingRefused, match="labelled scenes"):
        found.acceptance(Tiny(tiny_model), "noise")


def test_a_tile_just_of_one_class_in_both_has_not_collapsed(tiny_model: Path) -> None:
    """A sea with one boat more or less on it: one side of 0.999 each."""
    whole = (slice(0, 32), slice(0, 32))
    nearly = np.full((32, 32), 1, np.uint8)
    nearly[0, :2] = 2  # 1,022 of 1,024
    one, other = Said(tiny_model, nearly), Said(tiny_model, np.where(np.arange(1024).reshape(32, 32) < 1, 2, 1))
    assert not compare(one, other, [RealTile("sea", random_tiles(1)[0], whole)]).collapsed
    assert compare(one, Said(tiny_model, np.full((32, 32), 3)), [RealTile("sea", random_tiles(1)[0], whole)]).collapsed


def test_a_reference_that_takes_more_sides_is_compared(tiny_model: Path) -> None:
    """landcover takes tiles from 512 pixels on, landcover-int8 squares of 1024 alone: both take those."""
    reference = Tiny(tiny_model)
    sides = reference.manifest.input.model_copy(update={"tile_sides": (16, 32)})
    reference.manifest = reference.manifest.model_copy(update={"input": sides})
    found = compare(reference, Tiny(tiny_model), carried_tiles(Tiny(tiny_model)))
    assert found.worst_tile == (1.0, "golden tile")


def test_a_head_is_compared_with_the_head_of_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """landcover-deepglobe is the second head of landcover by itself."""
    reference = write_heads_model(tmp_path / "reference")
    alone = json.loads((reference / "manifest.json").read_text())
    other = write_heads_model(tmp_path / "alone")
    del alone["heads"][0]
    (other / "manifest.json").write_text(json.dumps(alone))
    command = ["verify", str(other), "--reference", str(reference), "--backend", "onnxruntime", "--threads", "1"]
    assert main(command) == 0
    assert "agreement  100.0000% of 1 tile" in capsys.readouterr().out


def test_a_class_in_neither_map_is_null_in_json(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grey = write(tmp_path / "grey.tif", np.full((3, 32, 32), 90, np.uint8))
    command = ["verify", str(tiny_model), "--backend", "onnxruntime", "--threads", "1", "--scenes", str(grey)]
    assert main([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert None in told["iou_between"].values()
    assert main(command) == 0
    assert "in neither map" in capsys.readouterr().out


@pytest.mark.parametrize(("kind", "fill", "says"), [("int16", -1, "which holds -1"), ("float32", 2.5, "of float32")])
def test_labels_that_are_no_codes_are_refused(
    tiny_model: Path, scene: Callable[..., tuple[Path, Path]], kind: str, fill: float, says: str
) -> None:
    pixels, labels = scene()
    with rasterio.open(labels) as source:
        codes = source.read().astype(kind)
    codes[0, :5] = fill
    with rasterio.open(labels, "w", driver="GTiff", count=1, height=61, width=50, dtype=kind) as out:
        out.write(codes)
    with pytest.raises(SettingRefused, match=says):
        list(scene_tiles(pixels, labels, Tiny(tiny_model)))


def test_models_of_other_classes_are_not_compared(tiny_model: Path) -> None:
    with pytest.raises(SettingRefused, match="classes and input"):
        compare(ConstantEngine(tile_size=32), Tiny(tiny_model), carried_tiles(Tiny(tiny_model)))
    with pytest.raises(SettingRefused, match="at least one scene"):
        compare(Tiny(tiny_model), Tiny(tiny_model), [])


def test_labels_of_another_size_are_refused(tiny_model: Path, scene: Callable[..., tuple[Path, Path]]) -> None:
    pixels, _ = scene()
    other = write(pixels.with_name("other.tif"), np.ones((1, 60, 50), np.uint8))
    with pytest.raises(SettingRefused, match=r"other\.tif, 60 x 50 pixels; give labels of the scene's 61 x 50"):
        list(scene_tiles(pixels, other, Tiny(tiny_model)))
    with pytest.raises(SettingRefused, match="1 bands"):
        list(scene_tiles(other, None, Tiny(tiny_model)))
    with pytest.raises(SettingRefused, match=r"nothing\.tif.*give a readable raster"):
        list(scene_tiles(pixels.with_name("nothing.tif"), None, Tiny(tiny_model)))
    odd = write(pixels.with_name("odd.tif"), np.full((1, 61, 50), 255, np.uint8))
    with pytest.raises(SettingRefused, match=r"odd\.tif, which holds 255; give codes of 0 \(none\) to \d"):
        list(scene_tiles(pixels, odd, Tiny(tiny_model)))


def test_verify_prints_decides_and_records(
    tiny_model: Path, scene: Callable[..., tuple[Path, Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    pixels, labels = scene()
    common = ["verify", str(tiny_model), "--backend", "onnxruntime", "--threads", "1"]
    assert main(common) == 0
    assert "agreement  100.0000% of 1 tile," in capsys.readouterr().out
    assert main([*common, "--scenes", str(pixels), "--labels", str(labels), "--record", "--data", "noise"]) == 0
    assert "passed" in capsys.readouterr().out
    (entry,) = Manifest.load(tiny_model).acceptance
    assert (entry.precision, entry.data, entry.tiles, entry.miou, entry.most_loss) == ("fp32", "noise", 9, 1.0, 0.0002)
    assert main([*common, "--scenes", str(pixels), "--labels", str(labels), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["miou"] == {"reference": 1.0, "engine": 1.0}
    assert main([*common, "--record"]) == 2
    assert "labelled scenes" in capsys.readouterr().err
    open_engine(tiny_model, backend="onnxruntime").close()
    other = tiny_model / "other.json"
    other.write_bytes((tiny_model / "manifest.json").read_bytes())
    recorded = ["verify", str(other), *common[2:], "--scenes", str(pixels), "--labels", str(labels), "--record"]
    assert main(recorded) == 2  # it would go into manifest.json, which may say something else
    assert "give a model folder" in capsys.readouterr().err


def test_an_engine_with_a_collapsed_tile_is_not_recorded(
    tiny_model: Path, scene: Callable[..., tuple[Path, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there are no labels a collapse costs no mIoU, and what is recorded flies by its mIoU alone."""

    def collapsing(*arguments: Any) -> Comparison:
        found = compare(*arguments)
        found.collapsed.append("a tile without labels")
        return found

    monkeypatch.setattr("engines.compare.compare", collapsing)
    pixels, labels = scene()
    command = ["verify", str(tiny_model), "--backend", "onnxruntime", "--threads", "1", "--scenes", str(pixels)]
    assert main([*command, "--labels", str(labels), "--record"]) == 1
    assert Manifest.load(tiny_model).acceptance == ()
