"""Changes aboard: what the item and changes.tif say is what the pixels say, and the map can be made of them."""

from __future__ import annotations

import errno
import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio import Affine
from rasterio.control import GroundControlPoint

from engines.testing import IdentityEngine
from onboard import cli
from onboard.mapping import run
from onboard.mapping.changes import EarlierMaps, read_earlier_map
from onboard.mapping.run import MapRequest, map_scene
from onboard.scene.reader import SceneOptions
from products.change.rebuild import rebuild
from products.errors import ProductError, ProductRefused
from tests.onboard.mapping.mapper import few_classes

WIDTH, HEIGHT = 330, 260
MAPPER = Path(__file__).with_name("mapper.py")
ROOT = Path(__file__).resolve().parents[3]
GRID: dict[str, Any] = {"crs": "EPSG:32640", "transform": Affine(2, 0, 3e5, 0, -2, 2.8e6)}
Codes = NDArray[np.uint8]


@pytest.fixture(autouse=True)
def _no_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "probe_scene", lambda *_: None)  # a process a scene: its own tests run it


def blocks(seed: int = 0) -> Codes:
    codes = np.random.default_rng(seed).integers(1, 5, (HEIGHT // 10, WIDTH // 10), dtype=np.uint8)
    raster: Codes = np.kron(codes, np.ones((10, 10), np.uint8))
    return raster


def later(codes: Codes) -> Codes:
    changed = codes.copy()
    changed[40:90, 60:160] = 3
    changed[200:220, 10:30] = 0
    return changed


def mapped(folder: Path, name: str, codes: Codes, earlier: Path | None = None, **place: Any) -> Path:
    """Maps a scene whose first band is its codes; gives the map's folder."""
    scene = folder / f"{name}.tif"
    height, width = codes.shape
    with rasterio.open(scene, "w", "GTiff", width, height, 3, dtype="uint8", nodata=0, **(place or GRID)) as file:
        file.write(np.stack([codes] * 3))
    request = MapRequest(scene, folder / "maps", halo=8, scene_options=SceneOptions(collar=False))
    if earlier is not None:
        found = read_earlier_map(earlier)
        assert found is not None
        request = replace(request, earlier=EarlierMaps(lambda: [found], key=str(earlier), any_time=True))
    with IdentityEngine(tile_size=64) as engine:
        engine.manifest = few_classes(engine.manifest)
        return map_scene(request, engine).folder


def codes_of(path: Path) -> Codes:
    with rasterio.open(path) as file:
        codes: Codes = file.read(1)
    return codes


def facts_of(folder: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((folder / "map.json").read_text())["properties"]["onboard:changes"]
    return facts


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_item_and_the_raster_say_what_changed(
    tmp_path: Path, validate_item: Callable[[dict[str, Any]], None]
) -> None:
    first = mapped(tmp_path, "first", blocks())
    second = mapped(tmp_path, "second", later(blocks()), first)
    before, after = codes_of(first / "map.tif"), codes_of(second / "map.tif")
    assert np.array_equal(codes_of(second / "changes.tif"), np.where(before == after, 0, after + 1))
    facts = facts_of(second)
    both = (before > 0) & (after > 0)
    assert (facts["earlier"], facts["earlier_sha256"]) == ("first", sha256(first / "map.tif"))
    assert facts["pixels_compared"] == np.count_nonzero(both)
    assert facts["pixels_changed"] == np.count_nonzero(both & (before != after))
    item = json.loads((second / "map.json").read_text())
    titles = {entry["title"]: entry["value"] for entry in item["assets"]["map"]["classification:classes"]}
    for row in facts["from_to"]:
        pixels = np.count_nonzero((before == titles[row["from"]]) & (after == titles[row["to"]]))
        assert row["pixels"] == pixels
        assert row["area_m2"] == pytest.approx(4 * pixels, rel=2e-3)
    assert sum(row["pixels"] for row in facts["from_to"]) == facts["pixels_changed"]
    assert item["assets"]["changes"]["file:checksum"] == "1220" + sha256(second / "changes.tif")
    assert "classification:classes" not in item["assets"]["changes"], "it is no map of classes"
    validate_item(item)
    with rasterio.open(second / "changes.tif") as file:
        assert (file.tags()["CLASS_0"], file.tags()["CLASS_1"]) == ("unchanged", "now no data")


@pytest.mark.parametrize(("place", "times"), [("grid", 1), ("custom", 1), ("grid", 4)])
def test_the_later_map_is_made_of_the_earlier_one_and_the_changes_byte_for_byte(
    tmp_path: Path, place: str, times: int
) -> None:
    """The last one has overviews."""
    grid = GRID if place == "grid" else {**GRID, "crs": "+proj=laea +lat_0=25.1 +lon_0=55.2 +datum=WGS84 +units=m"}
    codes = np.tile(blocks(), (times, times))
    first = mapped(tmp_path, "first", codes, **grid)
    second = mapped(tmp_path, "second", later(codes), first, **grid)
    with rasterio.open(second / "map.tif") as file:
        assert bool(file.overviews(1)) == (times > 1)
    rebuild(first / "map.tif", second / "changes.tif", tmp_path / "map.tif")
    assert (tmp_path / "map.tif").read_bytes() == (second / "map.tif").read_bytes()


def test_maps_that_overlap_in_part_are_compared_there(tmp_path: Path) -> None:
    whole = blocks()
    moved = {**GRID, "transform": Affine(2, 0, 3e5 + 2 * 130, 0, -2, 2.8e6 + 2 * 60)}
    first = mapped(tmp_path, "first", whole)
    second = mapped(tmp_path, "second", later(whole), first, **moved)
    facts, codes = facts_of(second), codes_of(second / "map.tif")
    before = np.zeros_like(codes)
    before[60:, : WIDTH - 130] = codes_of(first / "map.tif")[: HEIGHT - 60, 130:]
    assert facts["pixels_compared"] == np.count_nonzero((before > 0) & (codes > 0)) > 0
    rebuild(first / "map.tif", second / "changes.tif", tmp_path / "map.tif")
    assert sha256(tmp_path / "map.tif") == sha256(second / "map.tif")


CORNERS = [(0, 0, 10.0, 45.0), (0, WIDTH, 10.02, 45.0), (HEIGHT, 0, 10.0, 44.99), (HEIGHT, WIDTH, 10.02, 44.99)]
POINTS = [GroundControlPoint(row, col, x, y) for row, col, x, y in CORNERS]


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ({"crs": "EPSG:32640", "transform": Affine(2, 0, 3e5 + 1, 0, -2, 2.8e6)}, "do not lie on those of this map"),
        ({"crs": "EPSG:32640", "transform": Affine(3, 0, 3e5, 0, -3, 2.8e6)}, "do not lie on those of this map"),
        ({"crs": "EPSG:32640", "transform": Affine(2, 0, 9e5, 0, -2, 2.8e6)}, "no earlier map here shows"),
        ({"crs": "EPSG:4326", "gcps": POINTS}, "without orthorectification"),
    ],
)
def test_maps_that_cannot_be_compared_say_why(tmp_path: Path, place: dict[str, Any], why: str) -> None:
    first = mapped(tmp_path, "first", blocks())
    second = mapped(tmp_path, "second", later(blocks()), first, **place)
    facts = facts_of(second)
    assert facts["earlier"] is None
    assert why in facts["reason"]
    assert not (second / "changes.tif").exists()


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_map_without_a_place_says_so(tmp_path: Path) -> None:
    first = mapped(tmp_path, "first", blocks())
    second = mapped(tmp_path, "second", later(blocks()), first, compress="lzw")
    assert "no place on Earth" in facts_of(second)["reason"]


def test_a_damaged_earlier_map_is_not_compared_with(tmp_path: Path) -> None:
    first = mapped(tmp_path, "first", blocks())
    path = first / "map.tif"
    path.write_bytes(path.read_bytes() + b"\0")
    second = mapped(tmp_path, "second", later(blocks()), first)
    assert facts_of(second)["reason"] == "first: its file is damaged"


def test_the_newest_map_before_the_scene_is_taken(tmp_path: Path) -> None:
    folders = [mapped(tmp_path, name, blocks()) for name in ("early", "late")]
    maps = [read_earlier_map(folder) for folder in folders]
    for found, time in zip(maps, ("2020-01-01T00:00:00Z", "2099-01-01T00:00:00Z"), strict=True):
        assert found is not None
        found.item["properties"]["datetime"] = time
    scene = tmp_path / "second.tif"
    mapped(tmp_path, "second", later(blocks()))
    request = MapRequest(
        scene, tmp_path / "again", halo=8, scene_options=SceneOptions(collar=False),
        earlier=EarlierMaps(lambda: [found for found in reversed(maps) if found is not None], key="newest"),
    )  # fmt: skip
    with IdentityEngine(tile_size=64) as engine:
        engine.manifest = few_classes(engine.manifest)
        assert facts_of(map_scene(request, engine).folder)["earlier"] == "early"


def test_another_earlier_map_does_not_pass_for_the_one_that_was_compared(tmp_path: Path) -> None:
    first, other = mapped(tmp_path, "first", blocks()), mapped(tmp_path, "other", blocks(7))
    second = mapped(tmp_path, "second", later(blocks()), first)
    with pytest.raises(ProductRefused, match="is not the map that changes"):
        rebuild(other / "map.tif", second / "changes.tif", tmp_path / "map.tif")
    assert not (tmp_path / "map.tif").exists()


def test_other_bytes_than_aboard_are_no_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = mapped(tmp_path, "first", blocks())
    second = mapped(tmp_path, "second", later(blocks()), first)
    monkeypatch.setattr("products.map_blocks.ZSTANDARD", {})
    with pytest.raises(ProductRefused, match="other bytes than aboard"):
        rebuild(first / "map.tif", second / "changes.tif", tmp_path / "map.tif")
    assert not (tmp_path / "map.tif").exists()


def test_a_full_disk_of_the_station_is_told_as_what_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = mapped(tmp_path, "first", blocks())
    second = mapped(tmp_path, "second", later(blocks()), first)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("products.map_file.MapBands.keep", full)
    with pytest.raises(ProductError, match=r"cannot be made of it .*No space left"):
        rebuild(first / "map.tif", second / "changes.tif", tmp_path / "map.tif")
    assert not (tmp_path / "map.tif").exists()


def test_changes_from_of_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.tiny_model import write_model

    model = write_model(tmp_path / "model")
    for name, codes in (("first", blocks()), ("second", later(blocks()))):
        with rasterio.open(tmp_path / f"{name}.tif", "w", "GTiff", WIDTH, HEIGHT, 3, dtype="uint8", **GRID) as file:
            file.write(np.stack([60 * codes, 255 - 60 * codes, codes]).astype(np.uint8))
    common = ["--out", str(tmp_path / "maps"), "--model", str(model), "--backend", "onnxruntime"]
    assert cli.main(["process", str(tmp_path / "first.tif"), *common]) == 0
    assert cli.main(["process", str(tmp_path / "second.tif"), *common]) == 0
    assert not (tmp_path / "maps" / "second" / "changes.tif").exists(), "off unless asked for"
    changes = ["--changes-from", str(tmp_path / "maps" / "first")]
    assert cli.main(["process", str(tmp_path / "second.tif"), *common, *changes]) == 0
    assert "changes: " in capsys.readouterr().err
    assert (tmp_path / "maps" / "second" / "changes.tif").is_file()
    assert (
        cli.main(["process", str(tmp_path / "second.tif"), *common, "--changes-from", str(tmp_path / "nowhere")]) == 2
    )
    assert "give one that holds map.tif and map.json" in capsys.readouterr().err


def test_dying_at_every_step_of_publication_gives_the_same_changes(tmp_path: Path) -> None:
    first = mapped(tmp_path, "first", blocks())
    mapped(tmp_path, "second", later(blocks()))
    scene = tmp_path / "second.tif"

    def start(out: Path, die_at: int = -1) -> tuple[int, str]:
        command = [sys.executable, str(MAPPER), str(scene), str(out), str(die_at), f"changes:{first}"]
        process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        return process.returncode, process.stdout or process.stderr

    code, shown = start(tmp_path / "undisturbed")
    assert code == 0, shown
    expected = [sha256(tmp_path / "undisturbed" / "second" / name) for name in ("map.tif", "changes.tif")]
    steps = int(shown.split()[1])
    for die_at in range(steps - 14, steps + 1):
        out = tmp_path / str(die_at)
        assert start(out, die_at)[0] == -signal.SIGKILL, die_at
        for folder in out.iterdir() if out.exists() else []:
            if not folder.name.startswith("."):
                assert {path.name for path in folder.iterdir()} == {
                    "map.tif", "map.json", "quicklook.webp", "changes.tif",
                }  # fmt: skip
        assert start(out)[0] == 0
        assert [sha256(out / "second" / name) for name in ("map.tif", "changes.tif")] == expected, die_at
