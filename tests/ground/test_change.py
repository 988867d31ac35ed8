"""`ground change`: what it says of two maps is what their pixels say, and it refuses maps that say nothing together."""

from __future__ import annotations

import csv
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
import rasterio.features
import shapely
from numpy.typing import NDArray
from rasterio import Affine
from rasterio.control import GroundControlPoint
from rasterio.errors import NotGeoreferencedWarning
from rasterio.rpc import RPC
from rio_cogeo.cogeo import cog_validate

from ground import cli

TITLES = ("Building", "Road", "Water")
GRID: dict[str, Any] = {"crs": "EPSG:32640", "transform": Affine(2, 0, 3e5, 0, -2, 2.8e6)}
CODES = {(1, 2): 2, (1, 3): 3, (2, 1): 4, (2, 3): 5, (3, 1): 6, (3, 2): 7}
"""Of the raster of changes, for pairs of three classes."""


@pytest.fixture(autouse=True)
def _unlocated_is_no_news() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def blocks(seed: int, shape: tuple[int, int] = (40, 50), lowest: int = 0) -> NDArray[np.uint8]:
    codes = np.random.default_rng(seed).integers(lowest, 4, shape, dtype=np.uint8)
    raster: NDArray[np.uint8] = np.kron(codes, np.ones((6, 6), np.uint8))
    return raster


def write(folder: Path, codes: NDArray[np.uint8], titles: tuple[str, ...] = TITLES, **place: Any) -> Path:
    folder.mkdir(parents=True)
    height, width = codes.shape
    with rasterio.open(
        folder / "map.tif", "w", "GTiff", width, height, 1, dtype="uint8", nodata=0, tiled=True, **(place or GRID)
    ) as file:
        file.write(codes, 1)
        file.write_colormap(1, {0: (0, 0, 0, 0), **{code + 1: (40 * code, 90, 10, 255) for code in range(len(titles))}})
        file.update_tags(CLASS_0="no data", **{f"CLASS_{code + 1}": title for code, title in enumerate(titles)})
    return folder


def item(folder: Path, time: str, model: str) -> None:
    properties = {"datetime": time, "onboard:model": {"name": model, "version": "1"}}
    (folder / "map.json").write_text(json.dumps({"properties": properties}))


def change(*arguments: str | Path) -> int:
    return cli.main(["change", *map(str, arguments)])


def expected(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> NDArray[np.uint8]:
    codes = np.where((before > 0) & (before == after), 1, 0).astype(np.uint8)
    for (old, new), code in CODES.items():
        codes[(before == old) & (after == new)] = code
    return codes


def test_raster_tables_and_polygons_are_what_the_pixels_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = blocks(1), blocks(2)
    before, after = write(tmp_path / "old", old), write(tmp_path / "new", new)
    assert change(before, after, "--out", tmp_path / "out", "--simplify", "0") == 0
    wanted = expected(old, new)
    path = tmp_path / "out" / "old-to-new.tif"
    with rasterio.open(path) as file:
        assert np.array_equal(file.read(1), wanted)
        assert (file.nodata, file.crs, file.transform) == (0, "EPSG:32640", GRID["transform"])
        tags = file.tags()
        assert (tags["CLASS_1"], tags["CLASS_3"]) == ("unchanged", "Building to Water")
        assert file.colormap(1)[3] == (60, 90, 10, 255)  # a quarter of (0, 90, 10), three of (80, 90, 10)
    assert cog_validate(path, quiet=True)[0]
    rows = list(csv.DictReader((tmp_path / "out" / "old-to-new.csv").read_text().splitlines()))
    for row in rows:
        pixels = np.count_nonzero((old == int(row["from"])) & (new == int(row["to"])))
        assert int(row["pixels"]) == pixels
        assert float(row["area_m2"]) == pytest.approx(4 * pixels, rel=2e-3)
        assert float(row["share"]) == pytest.approx(pixels / np.count_nonzero(wanted), abs=1e-6)
    assert len(rows) == 9
    document = json.loads((tmp_path / "out" / "old-to-new.json").read_text())
    assert document["pixels_compared"] == np.count_nonzero(wanted)
    assert document["pixels_changed"] == np.count_nonzero(wanted > 1)
    assert document["pixels_without_data"] == np.count_nonzero(wanted == 0)
    for row in document["classes"]:
        assert row["pixels_after"] == np.count_nonzero((new == row["class"]) & (wanted > 0))
    table = pq.read_table(tmp_path / "out" / "old-to-new.parquet")
    codes = [CODES[pair] for pair in zip(table["from"].to_pylist(), table["to"].to_pylist(), strict=True)]
    shapes = shapely.from_wkb(table["geometry"].to_pylist())
    burnt = rasterio.features.rasterize(
        list(zip(shapes, codes, strict=True)), wanted.shape, transform=GRID["transform"], dtype="uint8"
    )
    assert np.array_equal(burnt, np.where(wanted > 1, wanted, 0))
    out = capsys.readouterr().out
    assert out.splitlines()[0].split() == ["from", "to", "pixels", "area", "share"]
    assert f"{np.count_nonzero(wanted > 1) / np.count_nonzero(wanted):.2%} changed" in out


def test_maps_that_overlap_on_one_grid_are_compared_where_they_do(tmp_path: Path) -> None:
    whole = blocks(3, (50, 60), lowest=1)
    other = np.where(blocks(4, (50, 60)) == 1, 2, whole).astype(np.uint8)
    before = write(tmp_path / "old", whole[:200, :250])
    moved = Affine(2, 0, 3e5 + 2 * 30, 0, -2, 2.8e6 - 2 * 20)
    after = write(tmp_path / "new", other[20:, 30:], crs="EPSG:32640", transform=moved)
    assert change(before, after, "--out", tmp_path / "out", "--no-polygons") == 0
    with rasterio.open(tmp_path / "out" / "old-to-new.tif") as file:
        assert np.array_equal(file.read(1), expected(whole[20:200, 30:250], other[20:200, 30:250]))
        assert file.transform.almost_equals(moved)
    assert sorted(path.suffix for path in (tmp_path / "out").iterdir()) == [".csv", ".json", ".tif", ".xml"]


def test_another_grid_is_resampled_only_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    codes = blocks(5, lowest=1)
    before = write(tmp_path / "old", codes)
    after = write(
        tmp_path / "new",
        np.kron(codes, np.ones((2, 2), np.uint8)),
        crs="EPSG:32640",
        transform=Affine(1, 0, 3e5, 0, -1, 2.8e6),
    )
    assert change(before, after, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "pixels of 2 and 1 units of EPSG:32640; --resample warps AFTER onto BEFORE's grid" in error
    assert list((tmp_path / "out").iterdir()) == []
    assert change(before, after, "--out", tmp_path / "out", "--resample") == 0
    said = capsys.readouterr()
    assert "0.00% changed" in said.out
    assert "AFTER was resampled" in said.err
    half = write(tmp_path / "half", codes, crs="EPSG:32640", transform=Affine(2, 0, 3e5 + 1, 0, -2, 2.8e6))
    assert change(before, half, "--out", tmp_path / "out") == 2
    assert "apart by parts of a pixel" in capsys.readouterr().err
    degrees = write(tmp_path / "degrees", codes, crs="EPSG:4326", transform=Affine(2e-5, 0, 55, 0, -2e-5, 25.3))
    assert change(before, degrees, "--out", tmp_path / "out") == 2
    assert "the maps lie in EPSG:32640 and EPSG:4326" in capsys.readouterr().err


def test_maps_apart_and_maps_of_other_classes_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    codes = blocks(6)
    before = write(tmp_path / "old", codes)
    apart = write(tmp_path / "apart", codes, crs="EPSG:32640", transform=Affine(2, 0, 4e5, 0, -2, 2.8e6))
    others = write(tmp_path / "others", codes, ("Building", "Forest", "Water"))
    for after, text in (
        (apart, "the maps do not overlap; give two maps of one place"),
        (others, "2 Forest, 3 Water; map both scenes with one model"),
        (tmp_path / "missing", "no such file or folder"),
        (tmp_path, "holds 3 maps; give the folder of one"),
    ):
        assert change(before, after, "--out", tmp_path / "out") == 2
        error = capsys.readouterr().err
        assert text in error
        assert error.count("\n") == 1
    assert not list(tmp_path.glob("out/*"))


def rpcs(offset: float) -> RPC:
    return RPC(
        height_off=10.0, height_scale=500.0, lat_off=25.0, lat_scale=0.05, long_off=55.0 + offset, long_scale=0.05,
        line_off=120, line_scale=120, samp_off=150, samp_scale=150, line_num_coeff=[0, 0, -1, *[0] * 17],
        line_den_coeff=[1, *[0] * 19], samp_num_coeff=[0, 1, *[0] * 18], samp_den_coeff=[1, *[0] * 19],
        err_bias=0.0, err_rand=0.0,
    )  # fmt: skip


def points(offset: float) -> dict[str, Any]:
    corners = [(0, 0, 55, 25), (0, 300, 55.1, 25), (240, 0, 55, 24.9), (240, 300, 55.1, 24.9)]
    return {"crs": "EPSG:4326", "gcps": [GroundControlPoint(row, col, x + offset, y) for row, col, x, y in corners]}


@pytest.mark.parametrize("kind", ["RPCs", "control points"])
def test_level_1_geometry_is_no_grid_for_change(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    first, second = ({"rpcs": rpcs(0.0)}, {"rpcs": rpcs(1e-4)}) if kind == "RPCs" else (points(0.0), points(1e-4))
    old, new = blocks(7), blocks(8)
    before, after = write(tmp_path / "old", old, **first), write(tmp_path / "new", new, **second)
    for resample in ([], ["--resample"]):
        assert change(before, after, "--out", tmp_path / "out", *resample) == 2
        error = capsys.readouterr().err
        assert f"placed by {kind}, without orthorectification" in error
        assert "orthorectify both scenes" in error
    again = write(tmp_path / "again", new, **first)  # one image, mapped twice
    assert change(before, again, "--out", tmp_path / "out", "--no-polygons") == 0
    assert change(before, after, "--out", tmp_path / "out", "--same-pixels", "--no-polygons") == 0
    for name in ("old-to-again", "old-to-new"):
        with rasterio.open(tmp_path / "out" / f"{name}.tif") as file:
            assert np.array_equal(file.read(1), expected(old, new))
            assert bool(file.rpcs) == (kind == "RPCs")


def test_maps_without_a_place_are_compared_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = blocks(9), blocks(10)
    before, after = (write(tmp_path / name, codes, compress="lzw") for name, codes in (("old", old), ("new", new)))
    assert change(before, after, "--out", tmp_path / "out") == 2
    assert "has no place on Earth" in capsys.readouterr().err
    assert change(before, after, "--out", tmp_path / "out", "--same-pixels") == 0
    document = json.loads((tmp_path / "out" / "old-to-new.json").read_text())
    assert document["pixels_changed"] == np.count_nonzero(expected(old, new) > 1)
    assert {row["area_m2"] for row in document["changes"]} == {None}
    smaller = write(tmp_path / "smaller", new[:100], compress="lzw")
    assert change(before, smaller, "--out", tmp_path / "out", "--same-pixels") == 2
    assert "300 x 240 and 300 x 100 pixels" in capsys.readouterr().err


def test_what_speaks_against_a_change_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = write(tmp_path / "old", blocks(1)), write(tmp_path / "new", blocks(2))
    item(before, "2026-05-02T06:00:00Z", "dubai-lite")
    item(after, "2026-05-01T06:00:00Z", "landcover")
    assert change(before, after, "--out", tmp_path / "out", "--no-polygons") == 0
    error = capsys.readouterr().err
    assert "different models (dubai-lite 1, landcover 1)" in error
    assert "BEFORE is of 2026-05-02T06:00:00Z, later than AFTER" in error
    doubts = json.loads((tmp_path / "out" / "old-to-new.json").read_text())["doubts"]
    assert len(doubts) == 2
    assert change(before, before, "--out", tmp_path / "out", "--no-polygons") == 0
    assert "byte for byte" in capsys.readouterr().err


def test_what_is_there_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = write(tmp_path / "old", blocks(1)), write(tmp_path / "new", blocks(2))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.tif").write_bytes(b"mine")
    arguments = (before, after, "--out", tmp_path / "out", "--name", "mine", "--no-polygons")
    assert change(*arguments) == 0
    assert "is there already" in capsys.readouterr().out
    assert (tmp_path / "out" / "mine.tif").read_bytes() == b"mine"
    assert change(*arguments, "--overwrite", "--quiet") == 0
    assert capsys.readouterr().out == ""
    data = (tmp_path / "out" / "mine.tif").read_bytes()
    assert change(*arguments, "--overwrite") == 0
    assert (tmp_path / "out" / "mine.tif").read_bytes() == data  # same maps, same bytes
    assert change(*arguments[:4], "--name", "../mine") == 2


def test_a_change_never_takes_the_place_of_a_map_that_it_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    maps = [write(tmp_path / name, blocks(seed)) for seed, name in enumerate(("a", "b"))]
    sources = [path if path.is_file() else path / "map.tif" for path in maps]
    out = tmp_path / "out"
    out.mkdir()
    (out / "c.tif").symlink_to(sources[1])
    before = sources[1].read_bytes()
    assert change(*maps, "--out", out, "--name", "c", "--overwrite") == 2
    assert "is a map that is read here; choose another --out" in capsys.readouterr().err
    assert ((out / "c.tif").is_symlink(), sources[1].read_bytes()) == (True, before)


def test_maps_without_a_pixel_in_common_are_refused_and_not_called_unchanged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codes = blocks(1, lowest=1)
    before = write(tmp_path / "before", codes)
    upper, lower = codes.copy(), codes.copy()
    upper[120:], lower[:120] = 0, 0
    zone = write(tmp_path / "zone", codes, crs="EPSG:32641", transform=GRID["transform"])
    pairs = {
        "far away": (before, zone, "--resample"),
        "other halves": (write(tmp_path / "upper", upper), write(tmp_path / "lower", lower)),
    }
    for name, arguments in pairs.items():
        assert change(*arguments, "--out", tmp_path / name) == 2
        assert "no pixel has a class in both maps" in capsys.readouterr().err
        assert list((tmp_path / name).iterdir()) == []


def test_grids_of_one_place_that_begin_on_both_sides_of_the_antimeridian_are_compared(tmp_path: Path) -> None:
    codes = blocks(1, lowest=1)
    later = codes.copy()
    later[60:120, 60:120] = codes[60:120, 60:120] % 3 + 1
    step = 1 / 4096  # exact in both numbers
    east, west = (
        {"crs": "EPSG:4326", "transform": Affine(step, 0, start, 0, -step, -16)} for start in (179.96875, -180.03125)
    )
    for number, (before, after) in enumerate([(east, west), (west, east), (east, east)]):
        folders = (
            write(tmp_path / f"before{number}", codes, **before),
            write(tmp_path / f"after{number}", later, **after),
        )
        assert change(*folders, "--out", tmp_path / "out", "--name", str(number)) == 0
        document = json.loads((tmp_path / "out" / f"{number}.json").read_text())
        assert (document["pixels_compared"], document["pixels_changed"]) == (codes.size, 3600)
