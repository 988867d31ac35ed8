from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml
from affine import Affine
from PIL import Image

from onboard.scene.grid import Window
from trainer.config import DataSettings
from trainer.data.labelled import CropSampler, class_shares
from trainer.data.scene_cache import SceneCache, scenes_of
from trainer.data.sets import LabelledSet, open_set
from trainer.errors import DataRefused, SettingsRefused

SIDES = {"a": 200, "b": 64, "c": 100, "d": 64}


@pytest.fixture
def labelled(tmp_path: Path) -> LabelledSet:
    """Four GeoTIFFs, 160 KB decoded the largest and 16 KB the smallest."""
    description = {
        "name": "made", "title": "Made", "source": "made", "licence": "CC0", "folder": "made",
        "images": "{id}.tif", "labels": "{id}.label.tif", "ignore": {"codes": [0]},
        "classes": [
            {"code": code, "name": f"c{code}", "title": f"C{code}", "colour": "#000000", "codes": [code]}
            for code in (1, 2, 3)
        ],
        "splits": {"train": {"names": ["[a-d]"]}},
    }  # fmt: skip
    (tmp_path / "made.yaml").write_text(yaml.safe_dump(description))
    for seed, (name, side) in enumerate(SIDES.items()):
        rng = np.random.default_rng(seed)
        for path, count in ((f"{name}.tif", 3), (f"{name}.label.tif", 1)):
            (tmp_path / "made").mkdir(exist_ok=True)
            with rasterio.open(
                tmp_path / "made" / path, "w", driver="GTiff", width=side, height=side, count=count, dtype="uint8",
                tiled=True, blockxsize=32, blockysize=32, crs="EPSG:32640", transform=Affine(1, 0, 5e5, 0, -1, 4e6),
            ) as target:  # fmt: skip
                values = rng.integers(0, 256, (3, side, side)) if count == 3 else rng.integers(0, 4, (1, side, side))
                target.write(values.astype(np.uint8))
    return open_set(str(tmp_path / "made.yaml"))


def pool_of(labelled: LabelledSet, memory_mb: float) -> SceneCache:
    return SceneCache(labelled, labelled.split("train"), memory_mb=memory_mb)


@pytest.mark.parametrize("memory_mb", [10.0, 0.2, 0.05])
def test_what_is_drawn_does_not_depend_on_the_memory(labelled: LabelledSet, memory_mb: float) -> None:
    held = [labelled.read(name) for name in labelled.split("train")]
    pool = pool_of(labelled, memory_mb)
    samplers = [CropSampler(scenes, classes=3, balanced=0.5, seed=0) for scenes in (held, pool)]
    for code in (1, 2, 3):
        assert np.array_equal(samplers[0].places[code], samplers[1].places[code])
    for seed in range(40):
        expected, found = (sampler.draw(48, (0.5, 2.0), np.random.default_rng(seed)) for sampler in samplers)
        assert np.array_equal(expected.pixels, found.pixels)
        assert np.array_equal(expected.labels, found.labels)
    assert class_shares(pool, 3) == pytest.approx(class_shares(held, 3))


def test_strips_of_a_tall_scene_are_its_labels_from_top_to_bottom(
    labelled: LabelledSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = pool_of(labelled, 0.05)
    monkeypatch.setattr("trainer.data.scene_cache._STRIP", 1)
    monkeypatch.setattr("trainer.data.scene_cache._STRIP_ROWS", 64)
    strips = list(pool.strips(0))
    assert [top for top, _ in strips] == [0, 64, 128, 192]
    assert np.array_equal(np.concatenate([labels for _, labels in strips]), labelled.read("a").labels)
    held = CropSampler([labelled.read("a")], classes=3, balanced=1.0, seed=0)
    striped = CropSampler(SceneCache(labelled, ["a"], memory_mb=0.05), classes=3, balanced=1.0, seed=0)
    assert all(np.array_equal(held.places[code], striped.places[code]) for code in (1, 2, 3))


def test_places_are_of_their_class(labelled: LabelledSet) -> None:
    pool = pool_of(labelled, 10)
    sampler = CropSampler(pool, classes=3, balanced=1.0, seed=0)
    for code, places in sampler.places.items():
        assert len(places) > 1000
        assert len(np.unique(places, axis=0)) == len(places)
        assert all(pool[index].labels[row, column] == code for index, row, column in places[::50].tolist())


def test_scenes_used_last_stay_and_the_budget_holds(labelled: LabelledSet, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    plain = LabelledSet.read

    def counted(self: LabelledSet, name: str, window: Window | None = None) -> object:
        read.append(name if window is None else f"{name} by window")
        return plain(self, name, window)

    monkeypatch.setattr(LabelledSet, "read", counted)
    pool = pool_of(labelled, 0.081)  # b, c and d fit: 16 + 40 + 16 KB; a, of 160, never
    window = Window(0, 0, 16, 16)
    for index in (1, 2, 3, 1, 2, 3):
        pool.crop(index, window)
    assert read == ["b", "c by window", "d", "c by window"]  # c takes more than a quarter
    pool.crop(0, window)
    assert read[-1] == "a by window"
    pool = pool_of(labelled, 0.17)
    read.clear()
    for index in (1, 2, 3, 1, 0, 1, 3):
        pool[index]
    assert read == ["b", "c", "d", "a", "b", "d"]  # a alone drove all others out
    pool = pool_of(labelled, 0.06)
    read.clear()
    for index in (1, 3, 1, 2, 1):
        pool[index]
    assert read == ["b", "d", "c"]  # d made room for c: b was used after it
    assert sum(4 * scene.labels.size for scene in pool._held.values()) <= pool.budget


@pytest.mark.usefixtures("labelled")
def test_a_png_larger_than_the_budget_is_refused(tmp_path: Path) -> None:
    text = (tmp_path / "made.yaml").read_text().replace(".tif", ".png")
    (tmp_path / "png.yaml").write_text(text)
    for name in ("a.png", "a.label.png"):
        Image.fromarray(np.ones((200, 200), np.uint8)).save(tmp_path / "made" / name)
    with pytest.raises(
        DataRefused, match=r"a\.png: decoded it takes 0.16 MB, more than the 0.1 MB of `memory_mb`; raise"
    ):
        SceneCache(open_set(str(tmp_path / "png.yaml")), ["a"], memory_mb=0.1)


def test_a_configuration_chooses_by_split_or_by_names(tmp_path: Path, labelled: LabelledSet) -> None:
    path = str(tmp_path / "made.yaml")
    assert scenes_of(DataSettings(set=path), classes=3).names == ("a", "b", "c", "d")
    assert scenes_of(DataSettings(set=path, names=("c", "[ab]"))).names == ("c", "a", "b")
    assert [scene.name for scene in scenes_of(DataSettings(set=path, names=("d",)))] == [f"{labelled.name}/d"]
    with pytest.raises(SettingsRefused, match="it has 3 classes and the model 5"):
        scenes_of(DataSettings(set=path), classes=5)
