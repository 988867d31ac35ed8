"""`ground polygons`: the files, read by others, say what the map and its item say."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pyogrio
import pytest
import rasterio
import rasterio.features
import shapely
from numpy.typing import NDArray
from rasterio._env import get_gdal_config
from rasterio.errors import NotGeoreferencedWarning
from rasterio.rpc import RPC
from rasterio.transform import GCPTransformer, RPCTransformer

from ground import cli
from ground.export.maps import opened
from ground.polygons.command import PACKAGES
from tests.full_disk import files_of_at_most
from tests.ground.made_maps import (
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

FORMATS = {"geoparquet": ".parquet", "flatgeobuf": ".fgb", "gpkg": ".gpkg"}


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_maps(tmp_path_factory.mktemp("polygons") / "made")


@pytest.fixture(autouse=True)
def _unlocated_is_no_news() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def polygons(*arguments: str | Path) -> int:
    return cli.main(["polygons", *map(str, arguments)])


def columns_of(path: Path) -> tuple[dict[str, NDArray[Any]], NDArray[Any], dict[str, Any]]:
    """Columns, geometries, and the metadata `geo`."""
    table = pq.read_table(path)
    columns = {name: table[name].to_numpy() for name in table.column_names if name not in ("geometry", "bbox")}
    return columns, shapely.from_wkb(table["geometry"].to_pylist()), json.loads(table.schema.metadata[b"geo"])


def read_map(path: Path) -> NDArray[np.uint8]:
    with rasterio.open(path) as file:
        codes: NDArray[np.uint8] = file.read(1)
    return codes


@pytest.mark.parametrize("name", ["grid", "points", "antimeridian"])
def test_areas_of_a_class_are_those_of_the_item(maps: Path, tmp_path: Path, name: str) -> None:
    assert polygons(maps / name, "--out", tmp_path) == 0
    columns, shapes, _ = columns_of(tmp_path / f"{name}.parquet")
    cover = json.loads((maps / name / "map.json").read_text())["properties"]["onboard:class_cover"]
    for row in cover:
        of_class = columns["class"] == row["value"]
        assert columns["pixels"][of_class].sum() == row["pixels"]
        assert columns["area_m2"][of_class].sum() == pytest.approx(row["area_m2"], rel=2e-4)
        assert set(columns["name"][of_class]) <= {row["title"]}
    assert columns["area_m2"].sum() == pytest.approx(sum(row["area_m2"] for row in cover), rel=1e-6)
    assert shapely.coverage_is_valid(shapes)


def test_a_grid_keeps_its_crs_and_pixels(maps: Path, tmp_path: Path) -> None:
    assert polygons(maps / "grid", "--out", tmp_path, "--simplify", "0") == 0
    columns, shapes, geo = columns_of(tmp_path / "grid.parquet")
    assert geo["columns"]["geometry"]["crs"]["id"] == {"authority": "EPSG", "code": 32640}
    codes = read_map(maps / "grid" / "map.tif")
    pairs = list(zip(shapes, columns["class"].tolist(), strict=True))
    burnt = rasterio.features.rasterize(pairs, codes.shape, transform=PLACES["grid"]["transform"], dtype="uint8")
    assert np.array_equal(burnt, codes)
    assert not np.any(burnt[:60, :60])  # no data is no polygon
    plane = shapely.area(shapes)  # UTM, off its central meridian
    assert np.allclose(plane, columns["area_m2"], rtol=2e-3)
    assert not np.allclose(plane, columns["area_m2"], rtol=1e-5)


def test_every_format_has_the_same_polygons(maps: Path, tmp_path: Path) -> None:
    assert polygons(maps / "grid", "--out", tmp_path, "--format", ",".join(FORMATS)) == 0
    columns, shapes, _ = columns_of(tmp_path / "grid.parquet")
    names = ["class", "name", "color", "pixels", "area_m2", "confidence"]
    rows = zip(shapes, *(columns[name] for name in names[:-1]), strict=True)
    wanted = {(shape.normalize().wkb, *row) for shape, *row in rows}
    for kind in ("flatgeobuf", "gpkg"):
        path = tmp_path / f"grid{FORMATS[kind]}"
        info = pyogrio.read_info(path)
        assert (info["layer_name"], info["geometry_type"], info["features"]) == ("grid", "Polygon", len(shapes))
        assert info["crs"] == "EPSG:32640"
        assert list(info["fields"]) == names
        _, table = pyogrio.read_arrow(path)
        geometries = shapely.from_wkb(table[table.column_names[-1]].to_pylist())
        read = zip(geometries, *(table[name].to_pylist() for name in names[:-1]), strict=True)
        assert {(shape.normalize().wkb, *row) for shape, *row in read} == wanted
        assert table["confidence"].null_count == len(table)


def test_geoparquet_says_what_a_reader_needs(maps: Path, tmp_path: Path) -> None:
    assert polygons(maps / "grid", "--out", tmp_path, "--format", "geoparquet") == 0
    _, shapes, geo = columns_of(tmp_path / "grid.parquet")
    column = geo["columns"]["geometry"]
    assert (geo["version"], geo["primary_column"], column["encoding"]) == ("1.1.0", "geometry", "WKB")
    assert column["geometry_types"] == ["Polygon"]
    assert column["bbox"] == list(shapely.total_bounds(shapes))
    assert np.all(shapely.is_ccw(shapely.get_exterior_ring(shapes)))
    boxes = pq.read_table(tmp_path / "grid.parquet")["bbox"].to_pylist()
    assert [tuple(box.values()) for box in boxes] == [tuple(row) for row in shapely.bounds(shapes).tolist()]
    assert not (tmp_path / "grid.fgb").exists()


def test_mean_confidence_of_each_polygon(maps: Path, tmp_path: Path) -> None:
    shutil.copytree(maps / "grid", tmp_path / "grid")
    codes = read_map(tmp_path / "grid" / "map.tif")
    confidence = np.where(codes == 0, 0, 50 + 40 * codes).astype(np.uint8)
    options = {"crs": "EPSG:32640", "transform": PLACES["grid"]["transform"]}
    beside = tmp_path / "grid" / "confidence.tif"
    with rasterio.open(beside, "w", "GTiff", WIDTH, HEIGHT, 1, dtype="uint8", **options) as file:
        file.write(confidence, 1)
    assert polygons(tmp_path / "grid", "--out", tmp_path / "out") == 0
    columns, _, _ = columns_of(tmp_path / "out" / "grid.parquet")
    assert np.allclose(columns["confidence"], (50 + 40 * columns["class"]) / 255, atol=1e-6)


def test_confidence_of_another_map_is_refused(maps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(maps / "grid", tmp_path / "grid")
    beside = tmp_path / "grid" / "confidence.tif"
    with rasterio.open(beside, "w", "GTiff", WIDTH, HEIGHT + 1, 1, dtype="uint8") as file:
        file.write(np.zeros((HEIGHT + 1, WIDTH), np.uint8), 1)
    assert polygons(tmp_path / "grid", "--out", tmp_path / "out") == 1
    assert "is not of this map" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_control_points_place_each_vertex(maps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert polygons(maps / "points", "--out", tmp_path, "--simplify", "0") == 0
    assert "placed by its control points" in capsys.readouterr().out
    assert polygons(maps / "nowhere", "--out", tmp_path, "--simplify", "0") == 0
    _, shapes, geo = columns_of(tmp_path / "points.parquet")
    _, pixels, _ = columns_of(tmp_path / "nowhere.parquet")
    assert geo["columns"]["geometry"]["crs"]["id"]["code"] == 4326
    at = shapely.get_coordinates(shapely.normalize(pixels))
    with GCPTransformer(PLACES["points"]["gcps"]) as transformer:
        x, y = transformer.xy(-at[:, 1], at[:, 0], offset="ul")
    assert np.allclose(shapely.get_coordinates(shapely.normalize(shapes)), np.column_stack([x, y]), atol=1e-12)


def test_points_on_two_rows_place_each_vertex_as_the_corners_do(
    maps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = with_points(maps / "points", tmp_path / "rows", ON_TWO_ROWS)
    shapes, areas = [], []
    for path in (folder, maps / "points"):
        assert polygons(path, "--out", tmp_path / "out", "--simplify", "0") == 0
        assert "placed by its control points" in capsys.readouterr().out
        columns, found, _ = columns_of(tmp_path / "out" / f"{path.name}.parquet")
        shapes.append(shapely.get_coordinates(shapely.normalize(found)))
        areas.append(columns["area_m2"])
    assert np.allclose(shapes[0], shapes[1], atol=1e-9)
    assert np.allclose(areas[0], areas[1], rtol=1e-6)


def test_a_map_whose_points_fix_no_place_has_its_pixels_as_coordinates(maps: Path, tmp_path: Path) -> None:
    folder = with_points(maps / "points", tmp_path / "line", ON_ONE_LINE)
    for path in (folder, maps / "nowhere"):
        assert polygons(path, "--out", tmp_path / "out", "--simplify", "0") == 0
    ours, theirs = (columns_of(tmp_path / "out" / f"{name}.parquet") for name in ("line", "nowhere"))
    assert np.array_equal(ours[1], theirs[1])


def test_rational_polynomials_place_each_vertex_at_their_height(
    maps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rpcs = RPC(
        height_off=300.0, height_scale=500.0, lat_off=25.0, lat_scale=0.05, long_off=55.0, long_scale=0.05,
        line_off=HEIGHT / 2, line_scale=HEIGHT / 2, samp_off=WIDTH / 2, samp_scale=WIDTH / 2,
        line_num_coeff=[0, 0, -1, 0.02, *[0] * 16], line_den_coeff=[1, *[0] * 19],
        samp_num_coeff=[0, 1, 0, 0.05, *[0] * 16], samp_den_coeff=[1, *[0] * 19], err_bias=0.0, err_rand=0.0,
    )  # fmt: skip
    shutil.copytree(maps / "nowhere", tmp_path / "polynomials")
    with rasterio.open(tmp_path / "polynomials" / "map.tif", "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file:
        file.rpcs = rpcs
    assert polygons(tmp_path / "polynomials", "--out", tmp_path, "--simplify", "0") == 0
    assert "placed by its rational polynomials" in capsys.readouterr().out
    columns, shapes, geo = columns_of(tmp_path / "polynomials.parquet")
    assert geo["columns"]["geometry"]["crs"]["id"]["code"] == 4326
    corners = {tuple(np.round(point, 6)) for point in shapely.get_coordinates(shapes).tolist()}
    with RPCTransformer(rpcs, RPC_HEIGHT="300", RPC_PIXEL_ERROR_THRESHOLD="0.001") as transformer:
        x, y = transformer.xy([HEIGHT, 0], [WIDTH, WIDTH], offset="ul")
    assert {tuple(np.round(point, 6)) for point in zip(x, y, strict=True)} <= corners
    sides = 0.1 * 111_320 * np.cos(np.radians(25)), 0.1 * 110_900
    pixel = sides[0] * sides[1] / (HEIGHT * WIDTH)
    assert np.allclose(columns["area_m2"] / columns["pixels"], pixel, rtol=0.01)


def test_a_map_without_a_place_lies_as_qgis_draws_it(
    maps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert polygons(maps / "nowhere", "--out", tmp_path, "--simplify", "0", "--format", ",".join(FORMATS)) == 0
    assert "in pixels: the map has no place" in capsys.readouterr().out
    columns, shapes, geo = columns_of(tmp_path / "nowhere.parquet")
    assert geo["columns"]["geometry"]["crs"] is None
    assert np.all(np.isnan(columns["area_m2"]))
    assert tuple(shapely.total_bounds(shapes)) == (0, -HEIGHT, WIDTH, 0)
    assert np.array_equal(shapely.area(shapes), columns["pixels"])
    for kind in ("flatgeobuf", "gpkg"):
        assert "EPSG" not in str(pyogrio.read_info(tmp_path / f"nowhere{FORMATS[kind]}")["crs"])


@pytest.mark.parametrize("crs", [LOCAL, GEOCENTRIC])
def test_a_map_whose_crs_has_no_place_on_earth_keeps_its_coordinates_and_has_no_areas(
    maps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], crs: str
) -> None:
    folder = with_crs(maps / "grid", tmp_path / "local", crs)
    assert polygons(folder, "--out", tmp_path, "--simplify", "0", "--format", ",".join(FORMATS)) == 0
    assert "without areas: the map's CRS has no place on Earth" in capsys.readouterr().out
    columns, shapes, _ = columns_of(tmp_path / "local.parquet")
    assert np.all(np.isnan(columns["area_m2"]))
    with rasterio.open(folder / "map.tif") as file:
        bounds, pixel = file.bounds, file.res[0] * file.res[1]
    assert tuple(shapely.total_bounds(shapes)) == tuple(bounds)
    assert np.allclose(shapely.area(shapes), pixel * columns["pixels"])
    assert polygons(folder, "--out", tmp_path / "small", "--min-area", "100m2") == 2
    assert "no areas; give the smallest patch in pixels" in capsys.readouterr().err


@pytest.mark.parametrize("room", [30_000, 70_000, 90_000])
def test_a_geopackage_that_a_full_disk_cut_is_not_put_in_place(
    maps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], room: int
) -> None:
    """Without polygons: for one of them GDAL says it itself."""
    folder = shutil.copytree(maps / "nowhere", tmp_path / "empty")
    with rasterio.open(folder / "map.tif", "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file:
        file.write(np.zeros((HEIGHT, WIDTH), np.uint8), 1)
    out = tmp_path / "out"
    assert polygons(folder, "--out", out, "--format", "gpkg") == 0
    (whole,) = out.iterdir()
    assert whole.stat().st_size > room
    whole.unlink()
    with files_of_at_most(room):
        assert polygons(folder, "--out", out, "--format", "gpkg") == 1
    assert "cannot be written" in capsys.readouterr().err
    assert list(out.iterdir()) == []


def test_the_smallest_patch_in_square_metres_or_pixels(
    maps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for size, folder, name in (("2000m2", "a", "grid"), ("0.2ha", "b", "grid"), ("500px", "c", "nowhere")):
        assert polygons(maps / name, "--out", tmp_path / folder, "--min-area", size) == 0
    first, second, third = (
        columns_of(tmp_path / path)[0] for path in ("a/grid.parquet", "b/grid.parquet", "c/nowhere.parquet")
    )
    assert first["area_m2"].min() >= 2000
    assert np.array_equal(first["pixels"], second["pixels"])
    assert third["pixels"].min() >= 500
    assert third["pixels"].sum() == np.count_nonzero(read_map(maps / "nowhere" / "map.tif"))
    capsys.readouterr()
    assert polygons(maps / "nowhere", "--out", tmp_path / "d", "--min-area", "100m2") == 2
    assert "no place on Earth, so no areas; give the smallest patch in pixels, like 50px" in capsys.readouterr().err
    assert list((tmp_path / "d").iterdir()) == []


def test_what_is_there_stays_and_what_is_missing_is_added(
    maps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert polygons(maps / "grid", "--out", tmp_path, "--format", "geoparquet") == 0
    before = (tmp_path / "grid.parquet").stat().st_mtime_ns
    assert polygons(maps / "grid", "--out", tmp_path) == 0
    assert (tmp_path / "grid.parquet").stat().st_mtime_ns == before
    assert (tmp_path / "grid.fgb").exists()
    capsys.readouterr()
    assert polygons(maps / "grid", "--out", tmp_path) == 0
    assert "is there already; --overwrite writes it anew" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"grid.parquet", "grid.fgb"}
    data = (tmp_path / "grid.parquet").read_bytes()
    assert polygons(maps / "grid", "--out", tmp_path, "--overwrite", "--quiet") == 0
    assert (tmp_path / "grid.parquet").read_bytes() == data  # same map, same bytes


def test_what_is_no_map_is_refused_in_one_line(maps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "map.tif").write_bytes((maps / "grid" / "map.tif").read_bytes()[:2000])
    for path, code, text in (
        (tmp_path / "nothing", 2, "no such file or folder"),
        (tmp_path / "torn", 1, "cannot be read"),
        (maps.parent / "grid.tif", 2, "is no land-cover map"),
    ):
        assert polygons(path, "--out", tmp_path / "out", "--quiet") == code
        error = capsys.readouterr().err
        assert text in error
        assert error.count("\n") == 1
        assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        ("--format", "shapefile", "give geoparquet, flatgeobuf, gpkg"),
        ("--min-area", "many", "give one like 100m2, 0.5ha or 50px"),
        ("--simplify", "-1", "not pixels from 0 to 1000"),
        ("--simplify", "nan", "not pixels from 0 to 1000"),
    ],
)
def test_odd_options_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str, text: str
) -> None:
    with pytest.raises(SystemExit) as end:
        polygons(tmp_path, "--out", tmp_path, option, value)
    assert end.value.code == 2
    assert text in capsys.readouterr().err


def test_reading_a_map_keeps_a_small_cache(maps: Path) -> None:
    """By default GDAL takes a twentieth of the machine's memory: over a gigabyte of 23."""
    with opened(maps / "grid" / "map.tif"):
        assert get_gdal_config("GDAL_CACHEMAX") == 128 << 20


@pytest.mark.parametrize("package", PACKAGES)
def test_without_a_package_one_line_says_what_to_install(maps: Path, tmp_path: Path, package: str) -> None:
    code = (
        f"import sys; sys.modules[{package!r}] = None\nfrom ground.cli import main\n"
        f"sys.exit(main(['polygons', {str(maps)!r}, '--out', {str(tmp_path / 'out')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.endswith(f"-m pip install {package} (the extra polygons has all)\n")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
