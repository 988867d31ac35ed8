"""Room for canvas and map: asked at intake and at the start; nothing that the ground lacks goes for work not begun."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio

from onboard.downlink.retention import make_room, tend
from onboard.jobs.disk_space import demand_of, missing_bytes
from onboard.jobs.map_store import MapRow
from onboard.jobs.mapping_config import MappingConfig
from onboard.jobs.reconcile import open_ledger, reconcile
from onboard.jobs.scene_store import SceneRow
from onboard.jobs.scheduler import SceneScheduler
from onboard.mapping.canvas import Layer
from onboard.mapping.product import write_confidence, write_map
from onboard.mapping.quicklook import Facts, write_quicklook
from onboard.scene.georeference import georeference_of
from onboard.settings import Settings, read_settings
from tests.onboard.service import running, until, write_scene
from tests.tiny_model import write_model

MIB = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def sparse_scene(path: Path, side: int) -> Path:
    """Few bytes that declare many pixels."""
    with rasterio.open(
        path, "w", "GTiff", side, side, 3, dtype="uint8", crs="EPSG:32640", tiled=True, blockxsize=512, blockysize=512,
        transform=rasterio.Affine(2, 0, 3e5, 0, -2, 2.8e6), compress="deflate", sparse_ok=True,
    ) as file:  # fmt: skip
        file.write(np.full((3, 64, 64), 90, np.uint8), window=rasterio.windows.Window(0, 0, 64, 64))
    assert path.stat().st_size < 20_000
    return path


def held_map(settings: Settings, number: int, size: int, *, delivered: bool = False) -> str:
    """A map of so many bytes."""
    name = f"m{number}"
    with open_ledger(settings) as ledger:
        ledger.scenes.add(SceneRow(name, number, f"{number:064d}", 1, name, "routine", None, "m", "{}", {}))
        folder = settings.maps_dir / name
        folder.mkdir(parents=True)
        (folder / "map.tif").write_bytes(bytes(size))
        ledger.maps.adopt(MapRow(name, 0, "routine", {"map.tif": {"bytes": size, "sha256": "0" * 64}}, {}), {})
        if delivered:
            ledger.maps.record_receipt(name)
    return name


@pytest.mark.parametrize("options", [{}, {"confidence": True}, {"sieve_px": 5}, {"confidence": True, "sieve_px": 9}])
@pytest.mark.parametrize("side", [40, 700, 1500])
def test_no_map_takes_more_than_was_asked_for(tmp_path: Path, options: dict[str, object], side: int) -> None:
    """Noise, which no compression makes smaller."""
    model = write_model(tmp_path / "model")
    settings = read_settings(data_dir=tmp_path / "data", model=str(model), **options)
    manifest = MappingConfig.of(settings).manifest
    classes = tuple(manifest.classes)
    canvas, product = tmp_path / "canvas", tmp_path / "product"
    for folder in (canvas, product):
        folder.mkdir()
    chance = np.random.default_rng(side)
    codes = [item.code for item in classes]
    layers = {"map": chance.choice(codes, (side, side)).astype(np.uint8)}
    if settings.confidence:
        layers["confidence"] = chance.integers(1, 256, (side, side), dtype=np.uint8)
    with rasterio.open(write_scene(tmp_path / "scene.tif", 32)) as source:
        place = georeference_of(source)
    for name, pixels in layers.items():
        layer = Layer(canvas / f"{name}.raw", width=side, height=side)
        layer.write_rows(0, pixels)
        target = product / f"{name}.tif"
        if name == "map":
            write_map(layer, target, georeference=place, classes=classes, tags={})
            facts = Facts(classes, [1] * (len(classes) + 1))
            write_quicklook("map", target, product / "quicklook.webp", None, facts)  # the largest there is
        else:
            write_confidence(layer, target, georeference=place, tags={})
        layer.close()
    (canvas / "sieved.raw").write_bytes(bytes(side * side if settings.sieve_px else 0))
    demand = demand_of(side * side, settings, manifest)
    assert _bytes_in(product) <= demand.product
    assert _bytes_in(canvas) <= demand.canvas + 20_000  # its VRTs and its journal: of the product's share


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


@pytest.fixture
def settings(disk: Path) -> Settings:
    write_model(disk / "model")
    return read_settings(data_dir=disk / "data", model=str(disk / "model"), disk_reserve_bytes=8 * MIB)


def test_work_that_is_not_begun_costs_no_map_that_the_ground_lacks(settings: Settings) -> None:
    kind = MappingConfig.of(settings)
    with open_ledger(settings) as ledger:
        reconcile(settings, ledger)
    names = [held_map(settings, number, 4 * MIB) for number in range(1, 6)]
    with open_ledger(settings) as ledger:
        assert shutil.disk_usage(settings.data_dir).free < settings.disk_reserve_bytes
        row = ledger.scenes.add(SceneRow("s9", 9, "9" * 64, 1, "large", "urgent", None, "m", "{}", {}, pixels=10**8))
        starter = SceneScheduler(settings, ledger, lambda *_: 0)
        assert starter.next(kind.manifest) is None
        assert make_room(settings, ledger, 100 * MIB) == 0
        assert tend(settings, ledger, kind) == 0
        ledger.scenes.start(row.id)  # but no canvas stands yet
        assert tend(settings, ledger, kind) == 0
        assert [found.id for found in ledger.maps.page()] == names
        (settings.canvases_dir / row.id / "canvas").mkdir(parents=True)
        (settings.canvases_dir / row.id / "canvas" / "journal").write_bytes(b"begun")
        (settings.data_dir / "filler").write_bytes(bytes(shutil.disk_usage(settings.data_dir).free - MIB))
        assert tend(settings, ledger, kind) == 1  # a quarter of the reserve, not all of it
        assert [found.id for found in ledger.maps.page()] == names[1:]


def test_maps_that_the_ground_holds_make_room_only_if_that_is_enough(settings: Settings) -> None:
    kind = MappingConfig.of(settings)
    with open_ledger(settings) as ledger:
        reconcile(settings, ledger)
    for number in range(1, 4):
        held_map(settings, number, 3 * MIB, delivered=True)
    with open_ledger(settings) as ledger:
        assert make_room(settings, ledger, 100 * MIB) == 0
        ledger.scenes.add(SceneRow("s9", 9, "9" * 64, 1, "large", "urgent", None, "m", "{}", {}, pixels=7 * 10**6))
        starter = SceneScheduler(settings, ledger, lambda *_: 0)
        assert starter.next(kind.manifest) is None
        assert "no room: its canvas and map take up to" in str(ledger.scenes.waiting_aside()[0].waiting_reason)
        assert tend(settings, ledger, kind) >= 1
        found = starter.next(kind.manifest)
        assert found is not None
        assert found.waiting_reason is not None  # as it was read: the row says so no more
        assert ledger.scenes.waiting_aside() == []
        assert [event.kind for event in ledger.events.page()].count("scene-waits") == 1


def test_a_canvas_that_stands_is_not_asked_for_again(settings: Settings) -> None:
    manifest = MappingConfig.of(settings).manifest
    row = SceneRow("s9", 9, "9" * 64, 1, "x", "urgent", None, "m", "{}", {}, pixels=4 * MIB)
    before = missing_bytes(settings, manifest, row)
    canvas = settings.canvases_dir / "s9" / "canvas"
    canvas.mkdir(parents=True)
    (canvas / "classes.raw").write_bytes(bytes(4 * MIB))
    assert missing_bytes(settings, manifest, row) == before - 4 * MIB


def test_a_scene_that_waits_aside_interrupts_nothing(settings: Settings) -> None:
    with open_ledger(settings) as ledger:
        ledger.scenes.add(SceneRow("s1", 1, "1" * 64, 1, "x", "urgent", None, "m", "{}", {}))
        assert ledger.scenes.more_urgent_waits("routine")
        assert ledger.scenes.set_waiting_reason("s1", "no room")
        assert not ledger.scenes.set_waiting_reason("s1", "no room")
        assert not ledger.scenes.more_urgent_waits("routine")
        assert ledger.scenes.start("s1")
        assert ledger.scenes.waiting_aside() == []


def test_the_service_refuses_what_cannot_fit_and_passes_over_what_does_not_fit_now(disk: Path, tmp_path: Path) -> None:
    write_model(disk / "model")
    data = disk / "data"
    with running(data, ONBOARD_DISK_RESERVE_BYTES=str(MIB)) as served, served.client() as client:
        huge = sparse_scene(tmp_path / "huge.tif", 6000).read_bytes()
        refused = client.post("/scenes", content=huge, headers={"Content-Type": "image/tiff"})
        assert (refused.status_code, refused.json()["type"]) == (507, "urn:onboard:problem:no-room")
        assert "for its canvas and map would leave less than the reserve" in refused.json()["detail"]
        assert list((data / "scenes").glob("s*")) == []
        kept = served.post(write_scene(tmp_path / "kept.tif", 60, seed=1))
        served.wait_for(kept["id"], "mapped")

        served.kill("worker")
        filler = disk / "filler"
        filler.write_bytes(bytes(4 * MIB))
        large = served.post(sparse_scene(tmp_path / "large.tif", 2500), priority="urgent")
        filler.write_bytes(bytes(14 * MIB))
        behind = served.post(write_scene(tmp_path / "behind.tif", 80, seed=2))
        served.wait_for(behind["id"], "mapped")
        told = client.get(f"/scenes/{large['id']}").json()
        if told["state"] == "queued":  # its canvas may have stood before the disk was filled
            assert "its canvas and map take up to" in told["waiting_reason"]
            ready = client.get("/health/ready")
            assert ready.status_code == 503
            assert f"1 scene is skipped until there is space, {large['id']} first: no room" in ready.text
        filler.unlink()
        served.wait_for(large["id"], "mapped")
        until(lambda: client.get("/health/ready").status_code == 200, "never ready")
        assert client.get(f"/scenes/{large['id']}").json()["waiting_reason"] is None
        assert {row["id"] for row in client.get("/maps").json()["features"]} == {
            kept["id"], behind["id"], large["id"]
        }  # fmt: skip
