"""Polygons aboard: the files that `ground polygons` makes of the map, and a clear word where a package is missing."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio import Affine

from ground import cli as ground_cli
from onboard import cli
from onboard.errors import OptionsRefused
from onboard.settings import read_settings
from tests.tiny_heads import HEADS, write_heads_model
from tests.tiny_model import write_model

ROOT = Path(__file__).resolve().parents[3]
shapely = pytest.importorskip("shapely")
pytest.importorskip("pyogrio")
pq = pytest.importorskip("pyarrow.parquet")


def write_scene(path: Path, crs: str = "EPSG:32640") -> Path:
    pixels = np.kron(np.random.default_rng(2).integers(0, 256, (3, 20, 25), dtype=np.uint8), np.ones((9, 9), np.uint8))
    place: dict[str, Any] = {"crs": crs, "transform": Affine(2, 0, 3e5, 0, -2, 2.8e6)}
    with rasterio.open(path, "w", "GTiff", 225, 180, 3, dtype="uint8", **place) as file:
        file.write(pixels)
    return path


def process(tmp_path: Path, model: Path, *more: str, crs: str = "EPSG:32640") -> Path:
    scene = write_scene(tmp_path / "scene.tif", crs)
    command = [
        "process",
        str(scene),
        "--out",
        str(tmp_path / "maps"),
        "--model",
        str(model),
        "--backend",
        "onnxruntime",
    ]
    assert cli.main([*command, *more]) == 0
    return tmp_path / "maps" / "scene"


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_they_are_the_grounds_and_stand_in_the_item(
    tmp_path: Path, validate_item: Callable[[dict[str, Any]], None]
) -> None:
    model = write_model(tmp_path / "model")
    folder = process(tmp_path, model)
    assert not list(folder.glob("polygons.*")), "off unless asked for"
    process(tmp_path, model, "--polygons", "geoparquet,flatgeobuf")
    out = tmp_path / "polygons"
    assert ground_cli.main(["polygons", str(folder), "--out", str(out), "--quiet"]) == 0
    made = {path.suffix: path for path in out.iterdir()}
    assert digest(folder / "polygons.parquet") == digest(made[".parquet"])
    assert (folder / "polygons.fgb").stat().st_size == pytest.approx(made[".fgb"].stat().st_size, rel=0.1)
    item = json.loads((folder / "map.json").read_text())
    validate_item(item)
    assert item["assets"]["polygons"]["type"] == "application/vnd.apache.parquet"
    assert item["assets"]["polygons"]["file:checksum"] == f"1220{digest(folder / 'polygons.parquet')}"
    assert item["assets"]["polygons-fgb"]["href"] == "./polygons.fgb"
    cover = {row["title"]: row["pixels"] for row in item["properties"]["onboard:class_cover"]}
    table = pq.read_table(folder / "polygons.parquet")
    for title, pixels in cover.items():
        of_class = [
            n for name, n in zip(table["name"].to_pylist(), table["pixels"].to_pylist(), strict=True) if name == title
        ]
        assert sum(of_class) == pixels


def test_a_scene_in_a_local_crs_has_polygons_without_areas(tmp_path: Path) -> None:
    local = 'LOCAL_CS["site",UNIT["metre",1],AXIS["Easting",EAST],AXIS["Northing",NORTH]]'
    folder = process(tmp_path, write_model(tmp_path / "model"), "--polygons", "geoparquet", crs=local)
    table = pq.read_table(folder / "polygons.parquet")
    assert table["area_m2"].null_count == len(table) > 0
    assert json.loads((folder / "map.json").read_text())["geometry"] is None


def test_each_head_has_polygons_with_its_confidence(tmp_path: Path) -> None:
    model = write_heads_model(tmp_path / "model")
    folder = process(tmp_path, model, "--heads", ",".join(HEADS), "--confidence", "--polygons")
    for name in ("polygons.parquet", *(f"{head}-polygons.parquet" for head in list(HEADS)[1:])):
        table = pq.read_table(folder / name)
        assert table.num_rows
        assert all(0 < sure <= 1 for sure in table["confidence"].to_pylist())


@pytest.mark.parametrize("package", ["shapely", "pyogrio", "scipy", "pyarrow"])
def test_a_missing_package_is_one_line_before_the_work(package: str, tmp_path: Path) -> None:
    write_scene(tmp_path / "scene.tif")
    code = f"import sys; sys.modules[{package!r}] = None; from onboard.cli import main; sys.exit(main(sys.argv[1:]))"
    for command in (["process", "scene.tif", "--out", "maps", "--polygons"], ["serve"]):
        environment = {
            "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "ONBOARD_POLYGONS": "geoparquet",
        }  # fmt: skip
        ran = subprocess.run(
            [sys.executable, "-c", code, *command],
            check=False, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert ran.stderr == (
            f"onboard: polygons need the package {package}, which is not installed here; "
            f"{sys.executable} -m pip install {package} (the extra polygons has all), or leave polygons out\n"
        )
        assert ran.returncode == 2
    assert not (tmp_path / "maps").exists()


def test_a_format_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["process", "--polygons", "scene.tif"])
    assert "no format 'scene.tif' of polygons; give some of geoparquet, flatgeobuf, gpkg" in capsys.readouterr().err
    with pytest.raises(OptionsRefused, match="ONBOARD_POLYGONS"):
        read_settings(polygons="shapefile")
