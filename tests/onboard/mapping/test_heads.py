"""Maps of several heads: one run of the encoder, one canvas, a file and an asset for each head."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

from engines.open import open_engine
from onboard import cli
from onboard.jobs.published import map_row_of
from onboard.mapping.canvas import Canvas
from onboard.mapping.dask_executor import Part, map_part
from onboard.mapping.integrity import forget_damaged
from onboard.mapping.journal import HeadRecord, TileRecord, checksum
from onboard.mapping.quicklook import Kind
from onboard.mapping.run import MapRequest, MapSummary, map_scene
from onboard.scene.areas import areas_of
from onboard.scene.grid import Grid
from onboard.scene.reader import Scene, SceneOptions
from tests.tiny_heads import write_heads_model

BOTH = ("bands", "light")
MAPPER = Path(__file__).with_name("mapper.py")
ROOT = Path(__file__).parents[3]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_heads_model(tmp_path / "model")


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """Noise with a corner of no data, in UTM."""
    pixels = np.random.default_rng(3).integers(1, 255, (3, 150, 170), dtype=np.uint8)
    pixels[:, :70, :80] = 0
    path = tmp_path / "scene.tif"
    with rasterio.open(
        path, "w", driver="GTiff", width=170, height=150, count=3, dtype="uint8", nodata=0, crs="EPSG:32640",
        transform=rasterio.Affine(2, 0, 5e5, 0, -2, 2.8e6),
    ) as target:  # fmt: skip
        target.write(pixels)
    return path


def mapped(model: Path, scene: Path, out: Path, heads: tuple[str, ...], **options: Any) -> MapSummary:
    with open_engine(model, heads=heads, backend="onnxruntime", threads=1) as engine:
        request = MapRequest(scene, out, scene_options=SceneOptions(collar=False), **options)
        return map_scene(request, engine)


def read(path: Path) -> NDArray[np.uint8]:
    with rasterio.open(path) as source:
        pixels: NDArray[np.uint8] = source.read(1)
    return pixels


def item_of(summary: MapSummary) -> dict[str, Any]:
    item: dict[str, Any] = json.loads(summary.item_path.read_text())
    return item


def test_each_head_has_the_map_that_it_makes_alone(
    model: Path, scene: Path, tmp_path: Path, validate_item: Callable[[dict[str, Any]], None]
) -> None:
    both = mapped(model, scene, tmp_path / "both", BOTH, confidence=True, sieve_px=3)
    alone = {head: mapped(model, scene, tmp_path / head, (head,), confidence=True, sieve_px=3) for head in BOTH}
    assert [head.name for head in both.further] == ["light"]
    assert np.array_equal(read(both.map_path), read(alone["bands"].map_path))
    assert np.array_equal(read(both.folder / "light.tif"), read(alone["light"].map_path))
    for head, name in (("bands", "confidence.tif"), ("light", "light-confidence.tif")):
        assert np.array_equal(read(both.folder / name), read(alone[head].folder / "confidence.tif"))
    assert both.further[0].class_shares == alone["light"].class_shares
    item, properties = item_of(both), item_of(alone["light"])["properties"]
    validate_item(item)
    assert list(item["assets"]) == [
        "map", "quicklook", "light", "light-quicklook", "confidence", "light-confidence"
    ]  # fmt: skip
    light = item["properties"]["onboard:heads"]["light"]
    assert light["class_cover"] == properties["onboard:class_cover"]
    assert light["no_data_pixels"] == properties["onboard:no_data_pixels"] > 0
    assert light["mean_confidence"] == properties["onboard:mean_confidence"]
    legend = item["assets"]["light"]["classification:classes"]
    assert [row["title"] for row in legend] == ["no data", "light 1", "light 2"]
    assert item["properties"]["onboard:model"]["heads"] == list(BOTH)
    with rasterio.open(both.folder / "light.tif") as source:
        assert source.tags()["ONBOARD_HEAD"] == "light"
        assert source.tags()["CLASS_2"] == "light 2"
    with rasterio.open(both.map_path) as source:
        assert source.tags()["ONBOARD_HEAD"] == "bands"


def test_maps_of_other_heads_are_other_maps(model: Path, scene: Path, tmp_path: Path) -> None:
    assert not mapped(model, scene, tmp_path / "out", ("bands",)).already_mapped
    assert not mapped(model, scene, tmp_path / "out", BOTH).already_mapped
    assert mapped(model, scene, tmp_path / "out", BOTH).already_mapped
    swapped = mapped(model, scene, tmp_path / "out", BOTH[::-1])
    assert not swapped.already_mapped
    assert (swapped.folder / "bands.tif").is_file()
    assert not (swapped.folder / "light.tif").exists()


def test_a_head_without_confidence_has_no_such_file(scene: Path, tmp_path: Path) -> None:
    model = write_heads_model(tmp_path / "other", without_confidence=("light",))
    summary = mapped(model, scene, tmp_path / "out", BOTH, confidence=True)
    assert list(item_of(summary)["assets"]) == ["map", "quicklook", "light", "light-quicklook", "confidence"]
    assert item_of(summary)["properties"]["onboard:heads"]["light"]["mean_confidence"] is None


def test_a_damaged_map_of_a_head_is_no_whole_map(model: Path, scene: Path, tmp_path: Path) -> None:
    summary = mapped(model, scene, tmp_path / "out", BOTH)
    row = map_row_of(summary.folder)
    assert row is not None
    assert set(row.assets) == {"map.tif", "map.json", "quicklook.webp", "light.tif", "light-quicklook.webp"}
    content = bytearray((summary.folder / "light.tif").read_bytes())
    content[-3] ^= 1
    (summary.folder / "light.tif").write_bytes(content)
    assert map_row_of(summary.folder) is None


def test_a_changed_byte_of_any_heads_canvas_is_found(tmp_path: Path) -> None:
    grid = Grid(40, 40, tile_size=32, halo=4)
    with Canvas(tmp_path / "c", {"scene": "a"}, width=40, height=40, further={"light": True}) as canvas:
        core = grid[0].core
        pixels: NDArray[np.uint8] = np.full((core.height, core.width), 7, np.uint8)
        canvas.write(core, pixels)
        canvas.write(core, pixels + 1, pixels + 2, head=1)
        crc = checksum(pixels)
        heads = HeadRecord(classes_crc=crc), HeadRecord(1, 1, checksum(pixels + 1), checksum(pixels + 2))
        canvas.finish([0, 1], {0: TileRecord(heads)})
        assert forget_damaged(canvas, grid) == []
        for name in ("light.classes.raw", "light.confidence.raw"):
            with (tmp_path / "c" / name).open("r+b") as raw:
                raw.seek(core.row * 40 + core.col)
                raw.write(b"\xaa")
            assert forget_damaged(canvas, grid) == [0]
            assert not canvas.heads[1].classes.read(0, 40).any()
            canvas.write(core, pixels)
            canvas.write(core, pixels + 1, pixels + 2, head=1)
            canvas.finish([0], {0: TileRecord(heads)})


def start(scene: Path, out: Path, model: Path, die_at: int) -> tuple[int, str]:
    command = [sys.executable, str(MAPPER), str(scene), str(out), str(die_at), str(model)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    return ended.returncode, ended.stdout or ended.stderr


def digest(out: Path) -> str:
    files = [out / "scene" / name for name in ("map.tif", "light.tif", "light-confidence.tif")]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def test_a_killed_run_continues_to_the_same_bytes_of_all_heads(model: Path, scene: Path, tmp_path: Path) -> None:
    code, told = start(scene, tmp_path / "undisturbed", model, -1)
    assert code == 0, told
    steps, expected = int(told.split()[1]), digest(tmp_path / "undisturbed")
    for die_at in range(6, steps, max(1, steps // 6)):
        out = tmp_path / str(die_at)
        assert start(scene, out, model, die_at)[0] == -signal.SIGKILL
        assert not (out / "scene").exists() or (out / "scene" / "light.tif").is_file()
        code, told = start(scene, out, model, -1)
        assert code == 0, told
        assert digest(out) == expected, f"killed at step {die_at}"


def test_the_command_takes_heads(model: Path, scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["process", str(scene), "--model", str(model), "--backend", "onnxruntime", "--out", str(tmp_path / "out")]
    assert cli.main([*command, "--heads", "light,bands", "--confidence"]) == 0
    shown = capsys.readouterr().out
    assert f"map        {tmp_path / 'out' / 'scene' / 'bands.tif'} (head bands)" in shown
    assert "bands 4" in shown
    assert cli.main([*command, "--heads", "light,roads"]) == 2
    told = capsys.readouterr().err
    assert "roads" in told
    assert "bands, light" in told
    assert cli.main([*command, "--heads", "light", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["further"] == []
    one_graph = ["process", str(scene), "--model", "dubai-lite", "--heads", "light", "--out", str(tmp_path / "out")]
    assert cli.main(one_graph) == 2
    assert "has no heads: leave the option out" in capsys.readouterr().err


@pytest.mark.parametrize(("first", "further"), [("side", "side"), ("off", "side"), ("side", "off"), ("map", "map")])
def test_each_head_has_a_quicklook_of_its_own(
    model: Path, scene: Path, tmp_path: Path, first: Kind, further: Kind
) -> None:
    options = {"quicklook": first, "head_quicklook": further}
    both = mapped(model, scene, tmp_path / "both", BOTH, **options)
    looks = {"bands": both.quicklook_path, "light": both.further[0].quicklook_path}
    for (head, path), kind in zip(looks.items(), (first, further), strict=True):
        alone = mapped(model, scene, tmp_path / head, (head,), quicklook=kind)
        if kind == "off":
            assert path is None
            continue
        assert path is not None
        assert alone.quicklook_path is not None
        assert path.read_bytes() == alone.quicklook_path.read_bytes()
    assert (both.folder / "light-quicklook.webp").exists() == (further != "off")
    assert item_of(both)["assets"].get("light-quicklook", {}).get("type") == (
        None if further == "off" else "image/webp"
    )
    assert mapped(model, scene, tmp_path / "both", BOTH, **options).already_mapped
    other: Kind = "map" if further != "map" else "off"
    assert not mapped(model, scene, tmp_path / "both", BOTH, **options | {"head_quicklook": other}).already_mapped


def test_an_area_is_measured_on_the_map_of_its_head(model: Path, scene: Path, tmp_path: Path) -> None:
    def area(name: str, **facts: Any) -> dict[str, Any]:
        return {"type": "Feature", "geometry": None, "properties": {"name": name, **facts}}

    document = {"type": "FeatureCollection", "features": [
        area("any"), area("dark", head="light", classes=["light 2"], priority="high"),
        area("red", head="bands", classes=["bands1"]), area("roads", head="roads"),
    ]}  # fmt: skip
    areas = tuple(areas_of(json.dumps(document).encode(), "areas").features)
    both = item_of(mapped(model, scene, tmp_path / "both", BOTH, areas=areas))["properties"]
    rows = {row["name"]: row for row in both["onboard:areas"]}
    assert list(rows) == ["any", "dark", "red"]  # no map shows the head roads
    assert list(rows["any"]["shares"]) == [row["title"] for row in both["onboard:class_cover"]]
    assert "head" not in rows["any"]
    light = both["onboard:heads"]["light"]["class_cover"][1]
    assert rows["dark"]["shares"] == {"light 2": pytest.approx(light["share"], abs=1e-4)}
    assert (rows["dark"]["head"], rows["dark"]["priority"]) == ("light", "high")
    # Asked for alone or first, the same head says the same, by the same model.
    for heads in (("light",), ("light", "bands")):
        other = item_of(mapped(model, scene, tmp_path / "-".join(heads), heads, areas=areas))["properties"]
        assert {row["name"]: row for row in other["onboard:areas"]}["dark"] == rows["dark"]
    assert rows["dark"]["model"] != rows["red"]["model"]


def test_a_canvas_that_lost_a_heads_raster_is_begun_anew(tmp_path: Path) -> None:
    def opened() -> Canvas:
        return Canvas(tmp_path / "c", {"scene": "a"}, width=40, height=40, further={"light": False})

    with opened() as canvas:
        canvas.finish([0, 1])
    with opened() as canvas:
        assert canvas.finished == {0, 1}
    (tmp_path / "c" / "light.classes.raw").unlink()
    with opened() as canvas:
        assert canvas.finished == frozenset()


def test_a_clusters_worker_writes_each_head_onto_its_own_raster(model: Path, scene: Path, tmp_path: Path) -> None:
    expected = mapped(model, scene, tmp_path / "out", BOTH, confidence=True)
    opener = partial(open_engine, model, heads=BOTH, backend="onnxruntime", threads=1)
    options, identity, further = SceneOptions(collar=False), {"what": "this work"}, {"light": True}
    with opener() as engine:
        digest, halo = engine.digest, engine.manifest.halo
    with (
        Scene.open(scene, options) as opened,
        Canvas(tmp_path / "canvas", identity, width=170, height=150, confidence=True, further=further) as canvas,
    ):
        part = Part(
            opener, digest, scene, options, opened.decisions, (170, 150), (32, 32), halo, 1, 60.0,
            canvas.folder, identity, confidence=True, further=further, tiles=(),
        )  # fmt: skip
        grid = Grid(170, 150, tile_size=32, halo=halo)
        finished = map_part(part, tuple(range(len(grid))))
        assert finished.failure is None
        names = (("map.tif", "confidence.tif"), ("light.tif", "light-confidence.tif"))
        for head, (classes, confidence) in zip(canvas.heads, names, strict=True):
            assert head.confidence is not None
            assert np.array_equal(head.classes.read(0, 150), read(expected.folder / classes))
            assert np.array_equal(head.confidence.read(0, 150), read(expected.folder / confidence))
        canvas.finish(range(len(grid)), finished.records)
        assert forget_damaged(canvas, grid) == []
