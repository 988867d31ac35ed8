"""`ground export`: what is written is the map, and readers that are not ours open it."""

from __future__ import annotations

import hashlib
import io
import shutil
import sqlite3
import subprocess
import sys
import warnings
import xml.etree.ElementTree as ET
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from PIL import Image
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning
from rasterio.warp import transform
from rio_cogeo.cogeo import cog_validate

from ground import cli
from ground.errors import DiskFailed, GroundError
from ground.export import whole
from tests.ground.made_maps import (
    CORNERS,
    GEOCENTRIC,
    HEIGHT,
    LOCAL,
    ON_ONE_LINE,
    ON_TWO_ROWS,
    PLACES,
    WIDTH,
    make_maps,
    with_crs,
    with_points,
)
from tests.onboard.service import ROOT

FILES = {"cog8": ".tif", "png": ".png", "mbtiles": ".mbtiles", "pmtiles": ".pmtiles"}


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_maps(tmp_path_factory.mktemp("export") / "made")


def export(*arguments: str | Path) -> int:
    return cli.main(["export", *map(str, arguments)])


def read(path: Path) -> tuple[NDArray[np.uint8], dict[int, Any], Any, Any, Any]:
    """Codes, palette of the five classes, CRS, transform and control points."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as file:
            points, points_crs = file.gcps
            places = [(point.row, point.col, point.x, point.y) for point in points]
            palette = {code: colour for code, colour in file.colormap(1).items() if code < 5}
            return file.read(1), palette, file.crs, file.transform, (places, points_crs)


@pytest.mark.parametrize("name", PLACES)
def test_cog8_is_the_map_in_eight_bits_and_deflate(maps: Path, tmp_path: Path, name: str) -> None:
    assert export(maps / name, "--format", "cog8", "--out", tmp_path) == 0
    path = tmp_path / f"{name}.tif"
    ours, theirs = read(maps / name / "map.tif"), read(path)
    assert np.array_equal(ours[0], theirs[0])
    assert ours[1:] == theirs[1:]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as file, rasterio.open(maps / name / "map.tif") as map_file:
            assert (file.compression.value, file.nodata, file.overviews(1)) == ("DEFLATE", 0, [2])
            assert "NBITS" not in file.tags(1, ns="IMAGE_STRUCTURE")
            assert map_file.tags(1, ns="IMAGE_STRUCTURE")["NBITS"] == "4"
            assert map_file.tags().items() <= file.tags().items()
        is_valid, errors, _ = cog_validate(path, quiet=True)
    assert is_valid, errors


def test_pillow_reads_codes_and_colours_of_cog8_and_png(maps: Path, tmp_path: Path) -> None:
    codes, palette, *_ = read(maps / "grid" / "map.tif")
    for kind in ("cog8", "png"):
        assert export(maps / "grid", "--format", kind, "--out", tmp_path) == 0
        with Image.open(tmp_path / f"grid{FILES[kind]}") as picture:
            assert picture.mode == "P"
            assert np.array_equal(np.asarray(picture), codes)
            colours = np.asarray(picture.convert("RGB"))
        for code in range(1, 5):
            assert np.all(colours[codes == code] == palette[code][:3])


@pytest.mark.parametrize("name", PLACES)
def test_a_png_keeps_the_place(maps: Path, tmp_path: Path, name: str) -> None:
    assert export(maps / name, "--format", "png", "--out", tmp_path) == 0
    ours, theirs = read(maps / name / "map.tif"), read(tmp_path / f"{name}.png")
    assert np.array_equal(ours[0], theirs[0])
    assert ours[1:] == theirs[1:]


@pytest.mark.parametrize("kind", ["cog8", "png"])
def test_names_and_areas_of_classes_are_where_gdal_looks(maps: Path, tmp_path: Path, kind: str) -> None:
    assert export(maps / "grid", "--format", kind, "--out", tmp_path) == 0
    path = tmp_path / f"grid{FILES[kind]}"
    codes, palette, *_ = read(path)
    rows = [[cell.text for cell in row] for row in ET.parse(f"{path}.aux.xml").getroot().iter("Row")]
    pixels = np.bincount(codes.ravel(), minlength=5)
    titles = ["no data", "class 1", "class 2", "class 3", "class 4"]
    colours = [(0, 0, 0, 0), *(palette[code] for code in range(1, 5))]
    assert rows == [[str(code), str(pixels[code]), titles[code], *map(str, colours[code])] for code in range(5)]
    rasterio.shutil.copy(path, tmp_path / "read.vrt", driver="VRT")  # GDAL reads the names, and writes what it read
    names = [item.text for item in ET.parse(tmp_path / "read.vrt").getroot().iter("Category")]
    assert names == titles


def place_of(name: str, rows: NDArray[Any], columns: NDArray[Any]) -> tuple[list[float], list[float]]:
    """Web Mercator of the middles of pixels."""
    if name == "grid":
        grid = PLACES["grid"]["transform"]
        x, y = grid.c + grid.a * (columns + 0.5), grid.f + grid.e * (rows + 0.5)
        crs = "EPSG:32640"
    else:
        (_, _, west, north), (_, _, east, _), (_, _, _, south) = CORNERS[:3]
        x, y = west + (east - west) * (columns + 0.5) / WIDTH, north + (south - north) * (rows + 0.5) / HEIGHT
        crs = "EPSG:4326"
    xs, ys = transform(crs, "EPSG:3857", x, y)
    return list(xs), list(ys)


@pytest.mark.parametrize("name", ["grid", "points"])
def test_tiles_have_each_class_where_the_map_has_it(maps: Path, tmp_path: Path, name: str) -> None:
    assert export(maps / name, "--format", "mbtiles", "--out", tmp_path) == 0
    codes, palette, *_ = read(maps / name / "map.tif")
    rows, columns = np.random.default_rng(0).integers(0, codes.shape, (3000, 2)).T
    with rasterio.open(tmp_path / f"{name}.mbtiles") as tiles:
        assert tiles.driver == "MBTiles"
        pixels = tiles.read()
        at = [tiles.index(x, y) for x, y in zip(*place_of(name, rows, columns), strict=True)]
    same = total = 0
    for row, column, (i, j) in zip(rows, columns, at, strict=True):
        if 0 <= i < pixels.shape[1] and 0 <= j < pixels.shape[2]:
            total += 1
            code = codes[row, column]
            same += bool(np.all(pixels[:, i, j] == palette[code])) if code else pixels[3, i, j] == 0
    assert total > 2900
    assert same / total > 0.94  # the rest lies on borders between stripes of 20 pixels


def test_tiles_by_points_on_two_rows_are_those_by_the_corners(maps: Path, tmp_path: Path) -> None:
    folder = with_points(maps / "points", tmp_path / "rows", ON_TWO_ROWS)
    pixels = []
    for path in (folder, maps / "points"):
        assert export(path, "--format", "mbtiles", "--out", tmp_path / "out") == 0
        with rasterio.open(tmp_path / "out" / f"{path.name}.mbtiles") as tiles:
            pixels.append(tiles.read())
    assert pixels[0].shape == pixels[1].shape
    # Half of a pixel of the map decides which class a pixel of a tile takes; the two fits differ in their last digits.
    assert np.mean(np.any(pixels[0] != pixels[1], axis=0)) < 1e-3


def write_two_classes(source: Path, target: Path) -> Path:
    """The map with classes 1 and 4 alone: what lies between them in number or colour is neither."""
    with rasterio.open(source) as file:
        codes, palette = file.read(1), file.colormap(1)
        tags, profile = file.tags(), file.profile | {"driver": "GTiff"}
    with rasterio.open(target, "w", **profile) as file:
        file.write(np.choose(codes, [0, 1, 1, 4, 4]).astype(np.uint8), 1)
        file.write_colormap(1, palette)
        file.update_tags(**tags)
    return target


def test_each_zoom_is_there_and_has_no_colour_that_is_no_class(maps: Path, tmp_path: Path) -> None:
    alone = write_two_classes(maps / "grid" / "map.tif", tmp_path / "grid.tif")
    assert export(alone, "--format", "mbtiles", "--out", tmp_path) == 0
    _, palette, *_ = read(maps / "grid" / "map.tif")
    known = {tuple(palette[code]) for code in (1, 4)}
    with closing(sqlite3.connect(tmp_path / "grid.mbtiles")) as base:
        facts = dict(base.execute("SELECT name, value FROM metadata"))
        tiles = base.execute("SELECT zoom_level, tile_data FROM tiles").fetchall()
    zooms = {zoom for zoom, _ in tiles}
    assert zooms == set(range(int(facts["minzoom"]), int(facts["maxzoom"]) + 1))
    assert sum(zoom == min(zooms) for zoom, _ in tiles) == 1
    for _, data in tiles:
        with Image.open(io.BytesIO(data)) as picture:
            assert (picture.mode, picture.size) == ("P", (256, 256))
            shown = {tuple(colour) for colour in np.unique(np.asarray(picture.convert("RGBA")).reshape(-1, 4), axis=0)}
        assert {colour for colour in shown if colour[3]} <= known
    west, south, east, north = map(float, facts["bounds"].split(","))
    assert (west, north) == pytest.approx((55.01338, 25.30335), abs=1e-4)
    assert (east, south) == pytest.approx((55.02745, 25.29306), abs=1e-4)


def test_pmtiles_has_the_same_tiles(maps: Path, tmp_path: Path) -> None:
    reader = pytest.importorskip("pmtiles.reader")
    for kind in ("mbtiles", "pmtiles"):
        assert export(maps / "grid", "--format", kind, "--out", tmp_path) == 0
    with closing(sqlite3.connect(tmp_path / "grid.mbtiles")) as base:
        rows = base.execute("SELECT zoom_level, tile_column, tile_row, tile_data FROM tiles").fetchall()
    expected = {(zoom, column, 2**zoom - 1 - row): data for zoom, column, row, data in rows}
    with (tmp_path / "grid.pmtiles").open("rb") as file:
        source = reader.MmapSource(file)
        assert dict(reader.all_tiles(source)) == expected
        assert reader.Reader(source).metadata()["name"] == "grid"


def put_at(source: Path, target: Path, crs: str, place: rasterio.Affine) -> Path:
    """The same map somewhere else."""
    target.parent.mkdir(parents=True)
    with rasterio.open(source) as file:
        codes, palette, tags = file.read(1), file.colormap(1), file.tags()
    profile = {"width": codes.shape[1], "height": codes.shape[0], "count": 1, "dtype": "uint8", "nodata": 0}
    with rasterio.open(target, "w", driver="GTiff", crs=crs, transform=place, **profile) as file:
        file.write(codes, 1)
        file.write_colormap(1, palette)
        file.update_tags(**tags)
    with rasterio.open(target, "r+") as file:
        file.build_overviews([2, 4], Resampling.mode)
    return target


NO_ROOM = {
    "over the pole": ("EPSG:3031", rasterio.Affine(0.5, 0, -150, 0, -0.5, 130)),
    "near the pole": ("EPSG:3031", rasterio.Affine(10, 0, 9e4, 0, -10, 9e4)),
    "antimeridian in metres": ("EPSG:32601", rasterio.Affine(2, 0, 166500, 0, -2, 500000)),
}


@pytest.mark.parametrize("kind", ["mbtiles", "pmtiles"])
@pytest.mark.parametrize("name", ["nowhere", *NO_ROOM])
def test_tiles_of_a_map_that_web_mercator_has_no_room_for_are_refused(
    maps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, name: str
) -> None:
    pytest.importorskip("pmtiles")
    path, text, out = maps / name, "has no grid or control points", tmp_path / "out"
    if name in NO_ROOM:
        path = put_at(maps / "grid" / "map.tif", tmp_path / "made" / "map.tif", *NO_ROOM[name]).parent
        text = "crosses the antimeridian or lies at a pole"
    assert export(path, maps / "grid", "--format", kind, "--out", out) == 1
    said, err = capsys.readouterr()
    assert text in err
    assert err.count("\n") == 1
    assert said.splitlines()[-1] == "1 map exported, 1 failed"
    assert [path.name for path in out.iterdir()] == [f"grid{FILES[kind]}"]


STEP = 1e-4
"""Degrees a pixel: stripes of 20 pixels are broad enough to be found in tiles."""


@pytest.mark.parametrize("west", [200.0, 540.0, -200.0, 180.0, 179.965, 539.965, -180.035])
def test_tiles_of_a_grid_beyond_180_degrees_are_where_the_same_places_are(
    maps: Path, tmp_path: Path, west: float
) -> None:
    """On both sides of the antimeridian, where the map crosses it."""
    source = maps / "grid" / "map.tif"
    path = put_at(source, tmp_path / "made" / "map.tif", "EPSG:4326", rasterio.Affine(STEP, 0, west, 0, -STEP, 10))
    assert export(path.parent, "--format", "mbtiles", "--out", tmp_path) == 0
    codes, palette, *_ = read(source)
    with closing(sqlite3.connect(tmp_path / "made.mbtiles")) as base:
        facts = dict(base.execute("SELECT name, value FROM metadata"))
        rows = base.execute("SELECT zoom_level, tile_column, tile_row, tile_data FROM tiles").fetchall()
    zoom = int(facts["maxzoom"])
    tiles = {(column, 2**zoom - 1 - row): data for z, column, row, data in rows if z == zoom}
    pictures = {place: np.asarray(Image.open(io.BytesIO(data)).convert("RGBA")) for place, data in tiles.items()}
    same = total = 0
    for row, column in np.random.default_rng(0).integers(0, codes.shape, (3000, 2)):
        longitude = (west + (column + 0.5) * STEP + 180) % 360 - 180
        (x,), (y,) = transform("EPSG:4326", "EPSG:3857", [longitude], [10 - (row + 0.5) * STEP])
        across, down = ((place / 40075016.6855784 + 0.5) * 2**zoom * 256 for place in (x, -y))
        picture = pictures.get((int(across // 256), int(down // 256)), np.zeros((256, 256, 4), np.uint8))
        shown, code = picture[int(down % 256), int(across % 256)], codes[row, column]
        total += 1
        same += bool(np.all(shown == palette[code])) if code else shown[3] == 0
    assert same / total > 0.94
    crosses = west % 360 in (179.965, 539.965 % 360, -180.035 % 360)
    coarsest = int(facts["minzoom"])
    assert len({column for z, column, *_ in rows if z == coarsest}) == (2 if crosses else 1)
    ends = {0, 2**coarsest - 1}
    assert ({column for z, column, *_ in rows if z == coarsest} == ends) == crosses
    bounds = [float(number) for number in facts["bounds"].split(",")]
    assert (bounds[2] - bounds[0] == pytest.approx(360)) == crosses
    assert -180 <= float(facts["center"].split(",")[0]) <= 180


def test_pmtiles_of_a_grid_beyond_180_degrees_is_written(maps: Path, tmp_path: Path) -> None:
    reader = pytest.importorskip("pmtiles.reader")
    place = rasterio.Affine(STEP, 0, 200, 0, -STEP, 10)
    path = put_at(maps / "grid" / "map.tif", tmp_path / "made" / "map.tif", "EPSG:4326", place)
    for each in (path.parent, maps / "antimeridian"):
        assert export(each, "--format", "pmtiles", "--out", tmp_path) == 0
    with (tmp_path / "made.pmtiles").open("rb") as file:
        assert len(dict(reader.all_tiles(reader.MmapSource(file)))) > 1
    with (tmp_path / "antimeridian.pmtiles").open("rb") as file:
        places = [place for place, _ in reader.all_tiles(reader.MmapSource(file))]
    deepest = max(zoom for zoom, *_ in places)
    assert {0, 2**deepest - 1} <= {column for zoom, column, _ in places if zoom == deepest}


def test_a_map_of_the_whole_world_and_a_little_more_has_tiles(maps: Path, tmp_path: Path) -> None:
    width, height = 700, 560
    for name, west in (("hangs over", -180.5), ("from zero", 0.0)):
        place = rasterio.Affine(361 / width if "over" in name else 360 / width, 0, west, 0, -160 / height, 80)
        path = put_at(maps / "grid" / "map.tif", tmp_path / name / "map.tif", "EPSG:4326", place)
        assert export(path.parent, "--format", "mbtiles", "--out", tmp_path) == 0
        with rasterio.open(tmp_path / f"{name}.mbtiles") as tiles:
            shown = tiles.read(4) > 0
        assert shown[shown.shape[0] // 2, :].mean() > 0.95


def test_tiles_by_points_that_fix_no_place_are_refused_in_one_line(
    maps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = with_points(maps / "points", tmp_path / "line", ON_ONE_LINE)
    assert export(folder, "--format", "mbtiles", "--out", tmp_path / "out") == 2
    err = capsys.readouterr().err
    assert "7 control points on one line fix no place, tiles need one" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(("crs", "reason"), [
    (LOCAL, "no way leads from its CRS to longitude and latitude"), (GEOCENTRIC, "its CRS is geocentric"),
])  # fmt: skip
def test_tiles_of_a_map_whose_crs_has_no_place_on_earth_are_refused_in_one_line(
    maps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], crs: str, reason: str
) -> None:
    folder = with_crs(maps / "grid", tmp_path / "local", crs)
    assert export(folder, "--format", "mbtiles", "--out", tmp_path / "out") == 2
    err = capsys.readouterr().err
    assert f"has no place on Earth ({reason}), tiles need one" in err
    assert err.count("\n") == 1


def test_a_description_that_a_full_disk_cut_is_one_line(
    maps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = rasterio.shutil.copy

    def cut(source: Any, target: Path, **options: Any) -> None:
        copy(source, target, **options)
        Path(f"{target}.aux.xml").write_bytes(b"")

    monkeypatch.setattr(rasterio.shutil, "copy", cut)
    assert export(maps / "grid", "--format", "png", "--out", tmp_path / "out") == 1
    err = capsys.readouterr().err
    assert "aux.xml was not written whole" in err
    assert err.count("\n") == 1
    assert list((tmp_path / "out").iterdir()) == []


def test_maps_are_given_as_folders_as_a_station_or_as_files(maps: Path, tmp_path: Path) -> None:
    alone = shutil.copy(maps / "grid" / "map.tif", tmp_path / "alone.tif")
    for paths, names in (
        ([maps], sorted(PLACES)),
        ([maps / "grid", maps / "points", maps / "grid"], ["grid", "points"]),
        ([maps / "grid" / "map.tif"], ["grid"]),
        ([alone], ["alone"]),
    ):
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        assert export(*paths, "--format", "cog8", "--out", out, "--quiet") == 0
        assert sorted(path.stem for path in out.glob("*.tif")) == names


def test_what_is_no_map_is_refused_in_one_line(maps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    shutil.copytree(maps / "grid", tmp_path / "other" / "grid")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "map.tif").write_bytes((maps / "grid" / "map.tif").read_bytes()[:300])
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "map.tif").write_text("no TIFF")
    for arguments, code, text in (
        ([tmp_path / "nothing"], 2, "no such file or folder"),
        ([tmp_path / "other" / "grid" / "quicklook.webp"], 1, "cannot be read"),
        ([out.parent / "text"], 1, "fetch it again with `ground pull`"),
        ([tmp_path / "torn"], 1, "torn/map.tif: cannot be read"),
        ([maps.parent / "grid.tif"], 2, "is no land-cover map"),
        ([maps / "grid", tmp_path / "other"], 2, "2 maps are called grid"),
    ):
        assert export(*arguments, "--format", "cog8", "--out", out, "--quiet") == code, arguments
        error = capsys.readouterr().err
        assert text in error
        assert error.count("\n") == 1
    empty = tmp_path / "empty"
    empty.mkdir()
    assert export(empty, "--format", "png", "--out", out) == 2
    assert "there is no map in it" in capsys.readouterr().err
    assert not out.exists() or list(out.iterdir()) == []


def test_what_is_there_stays_unless_it_may_be_overwritten(
    maps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "grid.tif"
    path.write_bytes(b"mine")
    assert export(maps, "--format", "cog8", "--out", tmp_path) == 0
    out = capsys.readouterr().out
    assert "is there already; --overwrite writes it anew" in out
    assert out.splitlines()[-1] == "3 maps exported, 1 there already"
    assert path.read_bytes() == b"mine"
    assert export(maps / "grid", "--format", "cog8", "--out", tmp_path, "--overwrite") == 0
    assert np.array_equal(read(path)[0], read(maps / "grid" / "map.tif")[0])


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "grid.tif"
    target.write_bytes(b"before")
    killed = tmp_path / ".grid.tif.export"  # of a command that was killed
    killed.mkdir()
    (killed / "grid.tif").write_bytes(b"half")

    def break_off(path: Path) -> str:
        assert not path.exists()
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    def refuse(path: Path) -> str:
        path.write_bytes(b"half")
        raise sqlite3.OperationalError("disk I/O error")

    with pytest.raises(DiskFailed, match="make room"):
        whole.write_whole_files(break_off, target)
    with pytest.raises(GroundError, match="cannot be written"):
        whole.write_whole_files(refuse, target)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("grid.tif", b"before")]


def test_the_same_map_gives_the_same_bytes(maps: Path, tmp_path: Path) -> None:
    for kind in ("cog8", "png"):
        digests = set()
        for folder in ("a", "b"):
            assert export(maps / "grid", "--format", kind, "--out", tmp_path / folder) == 0
            data = b"".join(path.read_bytes() for path in sorted((tmp_path / folder).glob(f"grid{FILES[kind]}*")))
            digests.add(hashlib.sha256(data).hexdigest())
        assert len(digests) == 1


@pytest.mark.parametrize(("package", "kind"), [("rasterio", "cog8"), ("pmtiles", "pmtiles")])
def test_without_the_package_one_line_says_what_to_install(maps: Path, tmp_path: Path, package: str, kind: str) -> None:
    code = (
        f"import sys; sys.modules[{package!r}] = None\nfrom ground.cli import main\n"
        f"sys.exit(main(['export', {str(maps)!r}, '--format', {kind!r}, '--out', {str(tmp_path / 'out')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.endswith(f"pip install {package}\n")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["same", "symbolic", "hard"])
def test_a_map_never_takes_the_place_of_its_own_source(
    maps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    """Whatever name or link leads there."""
    (tmp_path / "out").mkdir()
    target = tmp_path / "out" / "grid.tif"
    source = target if kind == "same" else tmp_path / "grid.tif"
    shutil.copy(maps / "grid" / "map.tif", source)
    if kind == "symbolic":
        target.symlink_to(source)
    elif kind == "hard":
        target.hardlink_to(source)
    before = source.read_bytes()
    assert export(source, "--format", "cog8", "--out", target.parent, "--overwrite") == 2
    assert "is a map that is read here; choose another --out" in capsys.readouterr().err
    assert (source.read_bytes(), [path.name for path in target.parent.iterdir()]) == (before, ["grid.tif"])


def test_a_map_never_takes_the_place_of_another_ones_source(maps: Path, tmp_path: Path) -> None:
    """`points` would go to points.tif, which is a map to be exported itself, by another name."""
    kept = tmp_path / "kept.tif"
    (tmp_path / "points.tif").symlink_to(shutil.copy(maps / "grid" / "map.tif", kept))
    before = kept.read_bytes()
    assert export(maps / "points", kept, "--format", "cog8", "--out", tmp_path, "--overwrite") == 2
    assert (tmp_path / "points.tif").is_symlink()
    assert kept.read_bytes() == before
