"""Labelled sets in the layouts of their publishers, made small, and what is said of those that are not right."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import yaml
from affine import Affine
from numpy.typing import NDArray
from PIL import Image
from rasterio.io import MemoryFile
from rasterio.shutil import copy

from onboard.scene.grid import Window
from trainer.data.description import READY_MADE, read_description
from trainer.data.rasters import read_label_values
from trainer.data.sets import LabelledSet, open_set
from trainer.errors import DataMissing, DataRefused, SettingsRefused
from trainer.export.package import reporting_only

DEEPGLOBE = ["#000000", "#00FFFF", "#FFFF00", "#FF00FF", "#00FF00", "#0000FF", "#FFFFFF"]
PLACE = Affine(0.5, 0, 5e5, 0, -0.5, 4e6)


def codes(classes: int, *, height: int = 40, width: int = 50, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, classes + 1, (height, width)).astype(np.uint8)


def pixels(height: int = 40, width: int = 50, seed: int = 1) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (3, height, width)).astype(np.uint8)


def save(path: Path, bands: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(bands if bands.ndim == 2 else bands.transpose(1, 2, 0)).save(path, quality=95)


def save_tiff(path: Path, bands: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = bands[None] if bands.ndim == 2 else bands
    count, height, width = bands.shape
    with rasterio.open(
        path, "w", driver="GTiff", width=width, height=height, count=count, dtype=bands.dtype, tiled=True,
        blockxsize=16, blockysize=16, crs="EPSG:32640", transform=PLACE,
    ) as target:  # fmt: skip
        target.write(bands)


def coloured(labels: NDArray[np.uint8], table: list[str]) -> NDArray[np.uint8]:
    colours = np.array([[int(colour[start : start + 2], 16) for start in (1, 3, 5)] for colour in table], np.uint8)
    return colours[labels].transpose(2, 0, 1)


def own_set(folder: Path, **changes: Any) -> LabelledSet:
    """A set of one's own: images/N.png, labels/N.png, codes 1 and 2, 0 ignored."""
    description = {
        "name": "own", "title": "Own", "source": "made", "licence": "CC0", "folder": "own",
        "images": "images/{id}.png", "labels": "labels/{id}.png", "ignore": {"codes": [0]},
        "classes": [
            {"code": 1, "name": "low", "title": "Low", "colour": "#112233", "codes": [10]},
            {"code": 2, "name": "high", "title": "High", "colour": "#445566", "codes": [20, 21]},
        ],
        "splits": {"all": {"names": ["*"]}},
    }  # fmt: skip
    (folder / "own.yaml").write_text(yaml.safe_dump(description | changes))
    (folder / "own").mkdir(exist_ok=True)
    return open_set(str(folder / "own.yaml"))


@pytest.mark.parametrize("path", sorted(READY_MADE.glob("*.yaml")), ids=lambda path: path.stem)
def test_ready_made_descriptions_hold_together(path: Path) -> None:
    assert read_description(path.stem).name == path.stem


def test_deepglobe_is_read_by_colours_that_are_a_little_off(tmp_path: Path) -> None:
    folder = tmp_path / "deepglobe" / "train"
    for number in (120, 121, 125, 128):
        labels = codes(6, seed=number)
        off = coloured(labels, DEEPGLOBE).astype(int) + np.random.default_rng(0).integers(-60, 60, (3, 40, 50))
        save(folder / f"{number}_mask.png", off.clip(0, 255).astype(np.uint8))
        save(folder / f"{number}_sat.jpg", pixels(seed=number))
    (folder.parent / "metadata.csv").write_text("")  # lies there too
    deepglobe = open_set("deepglobe", tmp_path)
    assert [deepglobe.split(name) for name in ("train", "val", "test")] == [("125", "128"), ("120",), ("121",)]
    scene = deepglobe.read("125")
    assert np.array_equal(scene.labels, codes(6, seed=125))
    with Image.open(folder / "125_sat.jpg") as image:
        assert np.array_equal(scene.pixels, np.asarray(image).transpose(2, 0, 1))


def test_loveda_is_read_by_codes_from_folders_of_folders(tmp_path: Path) -> None:
    for number, (part, area) in enumerate((("Train", "Urban"), ("Train", "Rural"), ("Val", "Urban"))):
        folder = tmp_path / "loveda" / part / area
        save(folder / "images_png" / f"{number}.png", pixels(seed=number))
        save(folder / "masks_png" / f"{number}.png", codes(7, seed=number))
    save(tmp_path / "loveda" / "Test" / "Urban" / "images_png" / "9.png", pixels())  # has no public label
    loveda = open_set("loveda", tmp_path)
    assert loveda.split("train") == ("Train/Rural/1", "Train/Urban/0")
    assert loveda.split("train_urban") == ("Train/Urban/0",)
    assert loveda.split("val") == ("Val/Urban/2",)
    assert np.array_equal(loveda.read("Val/Urban/2").labels, codes(7, seed=2))
    assert [item.code for item in loveda.classes] == [1, 2, 3, 4, 5, 6, 7]


def test_openearthmap_is_read_by_its_lists_without_the_images_to_be_fetched_elsewhere(tmp_path: Path) -> None:
    root = tmp_path / "openearthmap"
    for region, number in (("aachen", 1), ("aachen", 2), ("new_york", 1)):
        name = f"{region}_{number}.tif"
        save_tiff(root / region / "images" / name, pixels(seed=number))
        save_tiff(root / region / "labels" / name, codes(8, seed=number))
    (root / "train.txt").write_text("aachen_1.tif\nnew_york_1.tif\njoplin_3.tif\n")
    (root / "val.txt").write_text("aachen_2.tif\n\n")
    earth = open_set("openearthmap", tmp_path)
    assert earth.split("train") == ("aachen_1", "new_york_1")
    assert earth.split("val") == ("aachen_2",)
    scene = earth.read("aachen_2")
    assert np.array_equal(scene.labels, codes(8, seed=2))
    assert np.array_equal(scene.pixels, pixels(seed=2))


def test_dubai_reads_as_it_lies(shared_data: Path) -> None:
    dubai = open_set("dubai", shared_data)
    assert dubai.split("train") == tuple(f"scene_{number}" for number in (3, 4, 5, 6, 7, 8))
    assert dubai.split("test") == ("scene_1",)
    real = dubai.read("scene_3")
    assert real.name == "dubai/scene_3"
    assert real.pixels.shape == (3, 1974, 2046)
    assert real.pixels.dtype == real.labels.dtype == np.uint8
    assert set(np.unique(real.labels)) <= set(range(6))
    part = dubai.read("scene_3", Window(700, 300, 200, 100))
    assert np.array_equal(part.pixels, real.pixels[:, 300:400, 700:900])
    assert np.array_equal(part.labels, real.labels[300:400, 700:900])


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_a_window_is_that_part_of_the_whole(tmp_path: Path, kind: str) -> None:
    own = own_set(tmp_path, images=f"images/{{id}}.{kind}", labels=f"labels/{{id}}.{kind}")
    labels = np.array([0, 10, 20, 21], np.uint8)[codes(3)]
    (save if kind == "png" else save_tiff)(own.folder / "images" / f"a.{kind}", pixels())
    (save if kind == "png" else save_tiff)(own.folder / "labels" / f"a.{kind}", labels)
    whole, part = own.read("a"), own.read("a", Window(7, 11, 30, 20))
    assert np.array_equal(whole.labels, np.array([0, 1, 2, 2])[codes(3)])
    assert np.array_equal(whole.pixels, pixels())
    assert np.array_equal(part.pixels, whole.pixels[:, 11:31, 7:37])
    assert np.array_equal(part.labels, whole.labels[11:31, 7:37])


@pytest.mark.parametrize("kind", [np.uint16, np.int16, np.int32])
def test_label_codes_of_any_whole_type_are_looked_up(tmp_path: Path, kind: type[np.generic]) -> None:
    own = own_set(tmp_path, images="images/{id}.tif", labels="labels/{id}.tif", ignore={"codes": [0, 40000]})
    save_tiff(own.folder / "images" / "a.tif", pixels())
    labels = np.full((40, 50), 10, dtype=kind)
    if kind is np.uint16:
        labels[0, 0] = 40000
    save_tiff(own.folder / "labels" / "a.tif", labels)
    assert own.read("a").labels[0].tolist() == [0 if kind is np.uint16 else 1, *[1] * 49]
    if kind is not np.uint16:
        labels[3, 4] = -25536  # 40000 where 16 bits are taken for unsigned
        save_tiff(own.folder / "labels" / "a.tif", labels)
        with pytest.raises(DataRefused, match="code -25536 at row 3, column 4"):
            own.read("a")


def test_a_palette_counts_by_its_colours_where_colours_are_what_is_told(tmp_path: Path) -> None:
    classes = [{"code": 1, "name": "red", "title": "Red", "colour": "#FF0000", "colours": ["#ff0000"]}]
    own = own_set(tmp_path, classes=classes, ignore={"colours": ["#0000FF"]})
    labels = codes(1)
    indexed = Image.fromarray(labels + 3).convert("P")
    indexed.putpalette([9] * 9 + [0, 0, 255, 255, 0, 0])
    save(own.folder / "images" / "a.png", pixels())
    (own.folder / "labels").mkdir()
    indexed.save(own.folder / "labels" / "a.png")
    assert np.array_equal(own.read("a").labels, labels)


def test_a_palette_of_16_bits_is_read_whole(tmp_path: Path) -> None:
    classes = [{"code": 1, "name": "red", "title": "Red", "colour": "#FF0000", "colours": ["#ff0000"]}]
    own = own_set(tmp_path, classes=classes, ignore={"colours": ["#0000FF"]}, labels="labels/{id}.tif")
    save(own.folder / "images" / "a.png", pixels())
    labels = codes(1)
    path = own.folder / "labels" / "a.tif"
    path.parent.mkdir()
    size = {"width": 50, "height": 40, "count": 1, "transform": PLACE}
    with rasterio.open(path, "w", driver="GTiff", dtype="uint16", photometric="palette", **size) as target:
        target.write(np.where(labels == 1, 300, 7).astype(np.uint16), 1)
        target.write_colormap(1, {7: (0, 0, 255, 255), 300: (255, 0, 0, 255)})
    assert np.array_equal(own.read("a").labels, labels)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_codes_of_a_grey_png_of_few_bits_are_those_in_the_file(tmp_path: Path, bits: int) -> None:
    table = [{"code": 1, "name": "one", "title": "One", "colour": "#112233", "codes": list(range(1, 255))}]
    own = own_set(tmp_path, classes=table)
    stored = codes(2**bits - 1)
    path = own.folder / "labels" / "a.png"
    path.parent.mkdir()
    with MemoryFile(ext=".tif") as memory:
        with memory.open(driver="GTiff", width=50, height=40, count=1, dtype="uint8", transform=PLACE) as source:
            source.write(stored, 1)
        copy(memory.name, path, driver="PNG", NBITS=str(bits))
    path.with_suffix(".png.aux.xml").unlink(missing_ok=True)
    assert path.read_bytes()[24] == bits
    assert np.array_equal(read_label_values(path, palette=False).values, stored)


@pytest.mark.parametrize("kind", ["jpg", "tif"])
def test_labels_in_a_jpeg_are_refused_unless_a_threshold_makes_them_sure(tmp_path: Path, kind: str) -> None:
    own = own_set(tmp_path, labels=f"labels/{{id}}.{kind}")
    save(own.folder / "images" / "a.png", pixels())
    path = own.folder / "labels" / f"a.{kind}"
    path.parent.mkdir()
    # Near 10 and 20 lies 21, which is a code too: some pixels would be of the other class, and no error.
    if kind == "jpg":
        save(path, np.where(codes(1) == 1, 10, 20).astype(np.uint8))
    else:
        size = {"width": 50, "height": 40, "count": 1, "dtype": "uint8", "compress": "JPEG", "transform": PLACE}
        with rasterio.open(path, "w", driver="GTiff", **size) as target:
            target.write(np.full((40, 50), 10, np.uint8), 1)
    with pytest.raises(DataRefused, match="it is a JPEG, whose compression changes codes and colours; write labels"):
        own.read("a")
    classes = [{"code": 1, "name": "red", "title": "Red", "colour": "#FF0000", "colours": ["#FF0000"]}]
    sure = own_set(tmp_path, labels="labels/{id}.jpg", classes=classes, ignore={"colours": ["#000000"]}, threshold=128)
    red = np.zeros((3, 40, 50), np.uint8)
    red[0, :, 24:] = 255
    save(sure.folder / "labels" / "a.jpg", red)
    assert (sure.read("a").labels[:, 32:] == 1).all()


def test_a_field_that_comes_twice_is_the_same_text(tmp_path: Path) -> None:
    own = own_set(tmp_path, images="{area}/{area}_{id}.png", labels="{area}/{area}_{id}_label.png")
    for name in ("a/a_1.png", "a/b_2.png", "b/b_3.png"):
        save(own.folder / name, pixels())
    assert own.split("all") == ("a/1", "b/3")


def broken(own: LabelledSet, trouble: str) -> None:
    save(own.folder / "images" / "a.png", pixels())
    save(own.folder / "labels" / "a.png", np.full((40, 50), 10, np.uint8))
    if trouble == "image without label":
        (own.folder / "labels" / "a.png").unlink()
    elif trouble == "sizes":
        save(own.folder / "labels" / "a.png", np.full((40, 49), 10, np.uint8))
    elif trouble == "code":
        save(own.folder / "labels" / "a.png", np.where(np.arange(2000).reshape(40, 50) == 507, 7, 20).astype(np.uint8))
    elif trouble == "colours where codes are told":
        save(own.folder / "labels" / "a.png", pixels())
    elif trouble == "no image":
        (own.folder / "images" / "a.png").write_bytes(b"not an image")
    elif trouble == "torn image":
        whole = (own.folder / "images" / "a.png").read_bytes()
        (own.folder / "images" / "a.png").write_bytes(whole[: len(whole) // 2])
    elif trouble == "torn label":
        whole = (own.folder / "labels" / "a.png").read_bytes()
        (own.folder / "labels" / "a.png").write_bytes(whole[: len(whole) // 2])


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        ("image without label", r"labels/a\.png: own has an image .*images/a\.png without this label; fetch the label"),
        ("sizes", r"labels/a\.png: it is 49x40 pixels and its image .*a\.png 50x40; .*correct"),
        ("code", r"code 7 at row 10, column 7 is not in the class table \(ignored 0, low 10, high 20 21\); correct"),
        ("colours where codes are told", r"labels/a\.png: it holds colours; the class table of own tells codes"),
        ("no image", r"images/a\.png: cannot be read .*; fetch the file again"),
        ("torn image", r"images/a\.png: cannot be read .*; fetch the file again"),
        ("torn label", r"labels/a\.png: cannot be read .*; fetch the file again"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_with_its_name_and_the_remedy(
    tmp_path: Path, trouble: str, message: str
) -> None:
    own = own_set(tmp_path)
    broken(own, trouble)
    with pytest.raises(DataRefused, match=message):
        own.read("a")


def test_a_picture_too_large_to_decode_whole_is_not_called_torn(tmp_path: Path) -> None:
    own = own_set(tmp_path)
    path = own.folder / "images" / "a.png"
    save(path, pixels(2, 2))
    save(own.folder / "labels" / "a.png", np.full((2, 2), 10, np.uint8))
    content = bytearray(path.read_bytes())
    content[16:24] = (20_000).to_bytes(4, "big") * 2  # width and height in the header, IHDR
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)
    with pytest.raises(DataRefused, match=r"a\.png: too large to decode whole; convert it to GeoTIFF"):
        own.read("a")
    with pytest.raises(DataRefused, match="convert it to GeoTIFF"):
        read_label_values(path, palette=False)


def test_a_colour_outside_the_table_is_told_as_it_stands_in_the_file(tmp_path: Path) -> None:
    table = [{"code": 1, "name": "red", "title": "Red", "colour": "#FF0000", "colours": ["#FF0000"]}]
    own = own_set(tmp_path, classes=table, ignore={"colours": ["#000000"]}, threshold=128)
    save(own.folder / "images" / "a.png", pixels(2, 2))
    save(
        own.folder / "labels" / "a.png",
        coloured(np.array([[0, 1], [1, 2]], np.uint8), ["#101010", "#F00000", "#08E010"]),
    )
    with pytest.raises(DataRefused, match=r"colour #08E010 at row 1, column 1 .*ignored #000000, red #FF0000"):
        own.read("a")
    assert own.read_labels("a", Window(0, 0, 2, 1)).tolist() == [[0, 1]]
    with pytest.raises(DataRefused, match="at row 1, column 1"):  # of the file, not of the window
        own.read_labels("a", Window(1, 1, 1, 1))


def test_what_is_missing_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataMissing, match=r"loveda: no folder .*SHARED_DATA"):
        open_set("loveda", tmp_path)
    (tmp_path / "dubai" / "scenes").mkdir(parents=True)
    (tmp_path / "dubai" / "scenes" / "scene_1.tif").touch()
    with pytest.raises(DataMissing, match=r"scenes/\{scene\}\.tif: no image 'scene_3' of dubai; scene_1 there"):
        open_set("dubai", tmp_path).split("train")
    with pytest.raises(DataMissing, match=r"no image 'x\*'"):
        open_set("dubai", tmp_path).named(["x*"])
    with pytest.raises(SettingsRefused, match="no split 'trial'; there are train, test"):
        open_set("dubai", tmp_path).split("trial")
    with pytest.raises(SettingsRefused, match=r"there are deepglobe, .*dubai, .*loveda, .*openearthmap"):
        open_set("dubay")


def test_an_empty_split_and_a_list_that_is_not_there_are_refused(tmp_path: Path) -> None:
    splits = {"none": {"names": ["z*"]}, "list": {"lists": ["l.txt"]}, "strict": {"lists": ["strict.txt"]}}
    own = own_set(tmp_path, splits=splits)
    save(own.folder / "images" / "a.png", pixels())
    (own.folder / "strict.txt").write_text("a.png\nb.png\n")
    with pytest.raises(DataRefused, match=r"split 'none' of own has no image .*1 images fit"):
        own.split("none")
    with pytest.raises(DataRefused, match=r"l\.txt: list of a split, cannot be read"):
        own.split("list")
    with pytest.raises(DataMissing, match="no image 'b'"):
        own.split("strict")


def test_what_a_split_is_without_is_left_out_by_its_own_name(tmp_path: Path) -> None:
    splits = {
        "odd": {"names": ["*"], "without": ["a[1]"]}, "glob": {"names": ["*"], "without": ["z*", "b"]},
        "misspelt": {"names": ["*"], "without": ["B"]},
    }  # fmt: skip
    own = own_set(tmp_path, splits=splits)
    for name in ("a[1]", "a1", "b"):
        save(own.folder / "images" / f"{name}.png", pixels())
    assert own.split("odd") == ("a1", "b")  # as a glob it would be a1
    assert own.split("glob") == ("a1", "a[1]")
    with pytest.raises(DataMissing, match=r"is without 'B', and no image is called so; a1, a\[1\], b there; correct"):
        own.split("misspelt")
    assert own.at_hand("misspelt") == ("a1", "a[1]", "b")


def test_the_first_name_of_a_list_counts_whatever_mark_an_editor_put_before_it(tmp_path: Path) -> None:
    own = own_set(tmp_path, splits={"all": {"lists": ["list.txt"], "missing": "leave out"}})
    for name in ("a", "b"):
        save(own.folder / "images" / f"{name}.png", pixels())
    (own.folder / "list.txt").write_text("a.png\nb.png\nelsewhere.png\n", encoding="utf-8-sig")
    assert own.split("all") == ("a", "b")


def test_a_key_that_stands_twice_is_refused_and_not_the_last_one_taken(tmp_path: Path) -> None:
    path = own_set(tmp_path).folder.parent / "own.yaml"
    path.write_text(path.read_text() + "\ntitle: Another\n")
    with pytest.raises(SettingsRefused, match=r"own\.yaml: line \d+: 'title' stands there once more; correct"):
        read_description(str(path))
    path.write_text("a: &base {name: x}\nb: {<<: *base, name: y}\n")
    with pytest.raises(SettingsRefused, match="Field required"):  # read: merged keys may be given anew
        read_description(str(path))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"images": "images/a.png"}, "no field in braces"),
        ({"labels": "labels/{number}.png"}, r"fields \['number'\]"),
        ({"labels": "labels/{id:03d}.png"}, "a brace that is none of a field"),
        ({"labels": "labels/{id}{0}.png"}, "a brace that is none of a field"),
        ({"images": "{id}/{id.png"}, "a brace that is none of a field"),
        ({"images": "/data/{id}.png"}, "must lie below `folder`"),
        ({"images": "./images/{id}.png"}, "must lie below `folder`"),
        ({"images": "../images/{id}.png"}, "must lie below `folder`"),
        ({"name": "my/city"}, "a name without slashes"),
        ({"name": ".."}, "a name without slashes"),
        ({"ignore": {"codes": [20]}}, "label code 20 stands for more than one thing"),
        ({"classes": [{"code": 2, "name": "x", "title": "X", "colour": "#000000", "codes": [1]}]}, "1 to K"),
        ({"classes": [{"code": 1, "name": "x", "title": "X", "colour": "#000000"}]}, "needs the codes or colours"),
        ({"splits": {"train": {}}}, "names or lists"),
        ({"threshold": 128, "ignore": {"colours": ["#808080"]}}, "00 and FF only"),
        ({"license": "MIT"}, "Extra inputs"),
    ],
)
def test_a_description_that_does_not_hold_together_is_one_line(
    tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(SettingsRefused, match=rf"own\.yaml: .*{problem}"):
        own_set(tmp_path, **changes)


def turned(array: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Stored so that a viewer which heeds the EXIF orientation shows ``array`` (h, w, ...)."""
    across = array.swapaxes(0, 1)
    stored = [array, array[:, ::-1], array[::-1, ::-1], array[::-1], across, np.rot90(array), across[::-1, ::-1],
              np.rot90(array, -1)]  # fmt: skip
    return np.ascontiguousarray(stored[orientation - 1])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_and_labels_are_turned_as_viewers_show_them(tmp_path: Path, orientation: int) -> None:
    labelled = own_set(tmp_path)
    image, label = pixels().transpose(1, 2, 0), np.full((40, 50), 10, np.uint8)
    label[:7] = 20
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind, array in (("images", image), ("labels", label)):
        (tmp_path / "own" / kind).mkdir()
        Image.fromarray(turned(array, orientation)).save(tmp_path / "own" / kind / "a.png", exif=exif)
    scene = labelled.read("a")
    assert labelled.size("a") == (40, 50)
    assert np.array_equal(scene.pixels, image.transpose(2, 0, 1))
    assert np.array_equal(scene.labels, np.where(label == 10, 1, 2))
    window = Window(5, 3, 20, 10)
    assert np.array_equal(labelled.read("a", window).pixels, scene.pixels[:, window.rows, window.cols])


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_png_of_16_bits_is_stretched_as_a_geotiff_of_the_same_pixels(tmp_path: Path, count: int) -> None:
    deep = np.random.default_rng(5).integers(200, 2000, (count, 40, 50)).astype(np.uint16)
    for kind, name in (("png", "PNG"), ("tif", "GTiff")):
        labelled = own_set(tmp_path, images=f"images/{{id}}.{kind}")
        path = tmp_path / "own" / "images" / f"a.{kind}"
        path.parent.mkdir(exist_ok=True)
        colour = {"photometric": "RGB", "alpha": "YES"} if kind == "tif" and count == 4 else {}
        colour |= {"alpha": "YES"} if kind == "tif" and count == 2 else {}
        with rasterio.open(path, "w", driver=name, width=50, height=40, count=count, dtype="uint16", **colour) as file:
            file.write(deep)
    save(tmp_path / "own" / "labels" / "a.png", np.full((40, 50), 10, np.uint8))
    by_png = own_set(tmp_path).read("a").pixels
    assert np.array_equal(by_png, labelled.read("a").pixels)
    assert np.unique(by_png).size > 5
    assert 100 < by_png.mean() < 160
    window = Window(5, 3, 20, 10)
    assert np.array_equal(own_set(tmp_path).read("a", window).pixels, by_png[:, window.rows, window.cols])


def test_pixels_that_pillow_would_clip_are_refused(tmp_path: Path) -> None:
    labelled = own_set(tmp_path, images="images/{id}.tga")
    (tmp_path / "own" / "images").mkdir()
    Image.fromarray(np.full((40, 50), 700, np.int32), "I").save(tmp_path / "own" / "images" / "a.tga", "TIFF")
    save(tmp_path / "own" / "labels" / "a.png", np.full((40, 50), 10, np.uint8))
    with pytest.raises(DataRefused, match="its pixels are of kind I"):
        labelled.read("a")


COLOURS: dict[str, Any] = {
    "classes": [
        {"code": 1, "name": "low", "title": "Low", "colour": "#112233", "colours": ["#102030"]},
        {"code": 2, "name": "high", "title": "High", "colour": "#445566", "colours": ["#405060"]},
    ],
    "ignore": {"colours": ["#000000"]},
}


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("kind", ["RGBA", "LA", "P", "tif RGBA", "tif codes", "tif mask"])
def test_what_is_transparent_is_not_labelled_whatever_stands_under_it(tmp_path: Path, kind: str) -> None:
    by_colour = "RGBA" in kind
    ending = "tif" if kind.startswith("tif") else "png"
    labelled = own_set(tmp_path, labels=f"labels/{{id}}.{ending}", **(COLOURS if by_colour else {}))
    save(tmp_path / "own" / "images" / "a.png", pixels())
    values = codes(1) * 10 + 10  # codes 10 and 20
    values[0, 0] = 99  # under transparency anything may stand
    clear = np.zeros((40, 50), bool)
    clear[:20] = True
    alpha = np.where(clear, 0, 255).astype(np.uint8)
    path = tmp_path / "own" / "labels" / f"a.{ending}"
    path.parent.mkdir()
    colours = coloured((values != 10).astype(np.uint8), ["#102030", "#405060"])
    if kind == "RGBA":
        Image.fromarray(np.concatenate([colours, alpha[None]]).transpose(1, 2, 0)).save(path)
    elif kind == "LA":
        Image.fromarray(np.stack([values, alpha], axis=2), "LA").save(path)
    elif kind == "P":
        image = Image.fromarray(np.where(clear, 0, values).astype(np.uint8), "P")
        image.putpalette([level for entry in range(256) for level in (entry, entry, entry)])
        image.save(path, transparency=0)
    else:
        bands = np.concatenate([colours, alpha[None]]) if by_colour else np.stack([values, alpha])
        bands = values[None] if kind == "tif mask" else bands
        extra = {"photometric": "RGB"} if by_colour else {}
        extra |= {} if kind == "tif mask" else {"alpha": "YES"}
        profile = {"driver": "GTiff", "width": 50, "height": 40, "count": len(bands), "dtype": "uint8"}
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "w", **profile, **extra) as file:
            file.write(bands)
            if kind == "tif mask":
                file.write_mask(alpha)
    expected = np.where(clear, 0, np.where(values == 10, 1, 2))
    assert np.array_equal(labelled.read_labels("a"), expected)
    window = Window(5, 15, 20, 10)
    assert np.array_equal(labelled.read_labels("a", window), expected[window.rows, window.cols])


def test_labels_of_16_bits_keep_all_of_them(tmp_path: Path) -> None:
    labelled = own_set(tmp_path)
    save(tmp_path / "own" / "images" / "a.png", pixels())
    deep = np.full((40, 50), 266, np.uint16)  # 10 in its lower eight bits, 1 in its upper eight
    (tmp_path / "own" / "labels").mkdir()
    Image.fromarray(deep).save(tmp_path / "own" / "labels" / "a.png")
    with pytest.raises(DataRefused, match="code 266"):
        labelled.read_labels("a")


def write_placed(path: Path, bands: NDArray[Any], transform: Affine, crs: str | None = "EPSG:32640") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = bands[None] if bands.ndim == 2 else bands
    profile = {"width": 50, "height": 40, "count": len(bands), "dtype": bands.dtype, "crs": crs}
    with rasterio.open(path, "w", driver="GTiff", transform=transform, **profile) as target:
        target.write(bands)


IMAGE_PLACE = Affine(0.5, 0, 5e5, 0, -0.5, 4e6)


@pytest.mark.parametrize(
    ("place", "crs", "problem"),
    [
        (IMAGE_PLACE, "EPSG:32640", ""),
        (Affine(0.5, 0, 5e5 + 0.25, 0, -0.5, 4e6 - 0.25), "EPSG:32640", ""),
        (IMAGE_PLACE, None, ""),
        (Affine(0.5, 0, 5e5, 0, 0.5, 4e6 - 20), "EPSG:32640", "its rows run the other way than those of"),
        (Affine(-0.5, 0, 5e5 + 25, 0, -0.5, 4e6), "EPSG:32640", "its columns run the other way than those of"),
        (Affine(0.5, 0, 5e5 + 100, 0, -0.5, 4e6), "EPSG:32640", "it lies 200.0 pixels off"),
        (Affine(1, 0, 5e5, 0, -1, 4e6), "EPSG:32640", "pixels off"),
        (IMAGE_PLACE, "EPSG:32641", "pixels off"),
    ],
)
def test_a_label_that_lies_elsewhere_by_its_georeferencing_is_refused(
    tmp_path: Path, place: Affine, crs: str | None, problem: str
) -> None:
    labelled = own_set(tmp_path, images="images/{id}.tif", labels="labels/{id}.tif")
    write_placed(tmp_path / "own" / "images" / "a.tif", pixels(), IMAGE_PLACE)
    write_placed(tmp_path / "own" / "labels" / "a.tif", np.full((40, 50), 10, np.uint8), place, crs)
    if not problem:
        assert labelled.size("a") == (40, 50)
        return
    with pytest.raises(DataRefused, match=problem) as caught:
        labelled.size("a")
    assert "a.tif" in str(caught.value)


def test_a_label_in_degrees_on_the_grid_of_its_image_is_taken(tmp_path: Path) -> None:
    labelled = own_set(tmp_path, images="images/{id}.tif", labels="labels/{id}.tif")
    degrees = Affine(1e-5, 0, 55, 0, -1e-5, 25)
    write_placed(tmp_path / "own" / "images" / "a.tif", pixels(), degrees, "EPSG:4326")
    write_placed(tmp_path / "own" / "labels" / "a.tif", np.full((40, 50), 10, np.uint8), degrees, "EPSG:4258")
    assert labelled.size("a") == (40, 50)


def test_world_files_place_pictures(tmp_path: Path) -> None:
    labelled = own_set(tmp_path)
    save(tmp_path / "own" / "images" / "a.png", pixels())
    save(tmp_path / "own" / "labels" / "a.png", np.full((40, 50), 10, np.uint8))
    (tmp_path / "own" / "images" / "a.pgw").write_text("0.5\n0\n0\n-0.5\n500000.25\n3999999.75\n")
    assert labelled.size("a") == (40, 50)
    (tmp_path / "own" / "labels" / "a.pgw").write_text("0.5\n0\n0\n0.5\n500000.25\n3999980.25\n")
    with pytest.raises(DataRefused, match="rows run the other way"):
        own_set(tmp_path).size("a")


def test_images_of_a_test_split_stay_reserved_where_others_of_it_were_not_fetched(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "test.txt").write_text("4.png\n5.png\n")
    splits = {
        "test": {"names": ["1", "2", "3*"], "lists": ["test.txt"]},
        "all": {"names": ["*"]},
    }
    labelled = own_set(tmp_path, splits=splits)
    for number in (1, 4, 6):
        save(tmp_path / "own" / "images" / f"{number}.png", pixels(seed=number))
        save(tmp_path / "own" / "labels" / f"{number}.png", np.full((40, 50), 10, np.uint8))
    assert reporting_only(labelled) == {"1", "4"}
    with pytest.raises(DataMissing, match="no image '2'"):
        labelled.split("test")
    assert reporting_only(own_set(tmp_path, splits={"test": {"names": ["9"]}})) == set()
    assert reporting_only(own_set(tmp_path, splits={"all": {"names": ["*"]}})) == set()


def test_a_test_split_whose_list_is_not_there_is_refused_and_reserves_not_nothing(tmp_path: Path) -> None:
    labelled = own_set(tmp_path, splits={"test": {"lists": ["test.txt"]}})
    save(tmp_path / "own" / "images" / "1.png", pixels())
    with pytest.raises(DataRefused, match="list of a split, cannot be read"):
        reporting_only(labelled)
