"""Changes in place of maps: the station makes the map of its earlier one, byte for byte, or fetches the whole."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
import rasterio
import uvicorn
from rasterio import Affine

from engines.open import open_engine
from ground.link import Link, Window
from ground.station import PassReport, Station
from onboard.api.app import app_of
from onboard.api.downlink import held_of
from onboard.api.service import Service
from onboard.downlink.retention import make_room
from onboard.jobs.ledger import Ledger
from onboard.jobs.mapping_config import MappingConfig
from onboard.jobs.published import map_row_of
from onboard.jobs.reconcile import reconcile
from onboard.mapping import run
from onboard.mapping.changes import EarlierMaps, read_earlier_map
from onboard.mapping.run import MapRequest, map_scene
from onboard.settings import Settings, read_settings
from products.change.rebuild import rebuild
from products.errors import ProductError, ProductRefused
from tests.onboard.api.conftest import running as in_thread
from tests.tiny_heads import HEADS, write_heads_model
from tests.tiny_model import write_model

GRID: dict[str, Any] = {"crs": "EPSG:32640", "transform": Affine(2, 0, 3e5, 0, -2, 2.8e6)}
SIDE = 400


def write_scene(path: Path, *, edited: bool) -> Path:
    rng = np.random.default_rng(3)
    pixels = np.kron(rng.integers(1, 256, (3, SIDE // 4, SIDE // 4), dtype=np.uint8), np.ones((4, 4), np.uint8))
    if edited:
        pixels[:, 40:80, 60:160] = np.array([220, 10, 10], np.uint8)[:, None, None]
    with rasterio.open(path, "w", "GTiff", SIDE, SIDE, 3, dtype="uint8", **GRID) as file:
        file.write(pixels)
    return path


def make_maps(folder: Path, model: Path, heads: tuple[str, ...] = ()) -> Path:
    """Maps first and second of one place, the second with what changed since the first."""
    with pytest.MonkeyPatch.context() as patch, open_engine(str(model), heads=heads, backend="onnxruntime") as engine:
        patch.setattr(run, "probe_scene", lambda *_: None)  # a process a scene: its own tests run it
        map_scene(MapRequest(write_scene(folder / "first.tif", edited=False), folder / "maps"), engine)
        earlier = read_earlier_map(folder / "maps" / "first")
        assert earlier is not None
        request = MapRequest(
            write_scene(folder / "second.tif", edited=True), folder / "maps",
            earlier=EarlierMaps(lambda: [earlier], key="first", any_time=True),
        )  # fmt: skip
        map_scene(request, engine)
    return folder / "maps"


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("maps")
    return make_maps(folder, write_model(folder / "model"))


@pytest.fixture(scope="module")
def maps_of_heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("heads")
    return make_maps(folder, write_heads_model(folder / "model"), tuple(HEADS))


@dataclass
class Aboard:
    """The API of a service in a thread; nothing maps there."""

    data: Path
    url: str

    def ledger(self) -> Ledger:
        return Ledger(self.data / "ledger.sqlite")


@pytest.fixture
def serving(maps: Path, tmp_path: Path) -> Iterator[Aboard]:
    """A service that holds both maps and knows that the ground has the first."""
    with served(maps, tmp_path) as aboard:
        yield aboard


@contextmanager
def served(maps: Path, tmp_path: Path, *, receipt: bool = True, **more: Any) -> Iterator[Aboard]:
    shutil.copytree(maps, tmp_path / "data" / "maps")
    dest = tmp_path / "dest" / "first"
    shutil.copytree(maps / "first", dest)
    (dest / "receipt.json").write_text(json.dumps({"map": "first"}))
    options: dict[str, Any] = {
        "model": str(maps.parent / "model"),
        "changes_first": True,
        "max_requests_per_s": 1e5,
    } | more
    settings = read_settings(data_dir=tmp_path / "data", **options)
    with Ledger(settings.ledger_path) as ledger:
        reconcile(settings, ledger)
        if receipt:
            ledger.maps.record_receipt("first")
    service = Service(settings, MappingConfig.of(settings))
    config = uvicorn.Config(app_of(service), port=0, log_level="error")
    with in_thread(config) as (host, port):
        yield Aboard(settings.data_dir, f"http://{host}:{port}")
    service.close()


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def pull(service: Aboard, dest: Path, **options: Any) -> tuple[PassReport, list[str]]:
    lines: list[str] = []
    with Link(service.url) as link:
        return Station(link, dest, lines.append, **options).pull(), lines


def planned(service: Aboard, **query: Any) -> set[str]:
    answer = httpx.get(f"{service.url}/downlink/plan", params=query).json()
    return {item["asset"] for item in answer["items"] if item["map"] == "second"}


def delivered(service: Aboard, name: str) -> bool:
    with service.ledger() as ledger:
        row = ledger.maps.get(name)
        return row is not None and row.delivered is not None


def test_a_map_comes_as_its_changes_and_is_made_byte_for_byte(serving: Aboard, maps: Path, tmp_path: Path) -> None:
    assert planned(serving) == {"map.tif", "map.json", "quicklook.webp"}, "an earlier station gets whole maps"
    assert planned(serving, changes="true", whole="second") == {"map.tif", "map.json", "quicklook.webp"}
    assert planned(serving, changes="true") == {"changes.tif", "map.json", "quicklook.webp"}
    report, lines = pull(serving, tmp_path / "dest")
    assert (report.maps, report.rebuilt, report.receipts, report.left) == (["second"], ["second"], ["second"], 0)
    assert sha256(tmp_path / "dest" / "second" / "map.tif") == sha256(maps / "second" / "map.tif")
    files = sum((maps / "second" / name).stat().st_size for name in ("changes.tif", "map.json", "quicklook.webp"))
    assert report.received_bytes == files, "the map itself was not sent"
    assert any("made of first and its changes, byte for byte" in line for line in lines)
    assert delivered(serving, "second")
    again, _ = pull(serving, tmp_path / "dest")
    assert (again.files, again.maps) == (0, [])


def test_changes_that_are_longer_than_a_pass_come_over_several(serving: Aboard, maps: Path, tmp_path: Path) -> None:
    """They have no leading part that is of use, so no plan of so few bytes names them."""
    budget = 2_000
    assert (maps / "second" / "changes.tif").stat().st_size > budget
    assert "changes.tif" not in planned(serving, bytes=budget, changes="true")
    for _ in range(30):
        with Link(serving.url, window=Window(bytes=budget)) as link:
            report = Station(link, tmp_path / "dest").pull()
        assert report.received_bytes <= budget
        if not (report.left or report.window_closed):
            break
        assert report.received_bytes > 0
    assert report.rebuilt == ["second"]
    assert sha256(tmp_path / "dest" / "second" / "map.tif") == sha256(maps / "second" / "map.tif")
    assert delivered(serving, "second")


def test_without_the_earlier_map_the_whole_comes_and_until_then_it_stays_aboard(
    serving: Aboard, maps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(tmp_path / "dest" / "first")
    # First a pass that ends with the changes: they are no map, so nothing aboard counts as delivered.
    with monkeypatch.context() as patch:
        patch.setattr("ground.station.MOST_PLANS", 1)
        report, lines = pull(serving, tmp_path / "dest")
    assert report.receipts == []
    assert any("the earlier map first is not here" in line for line in lines)
    assert not delivered(serving, "second")
    with serving.ledger() as ledger:
        settings = Settings(data_dir=serving.data, disk_reserve_bytes=1 << 60)
        make_room(settings, ledger, 0)
        assert ledger.maps.holds("second"), "retention took a map that the ground does not have"
    report, _ = pull(serving, tmp_path / "dest")
    assert (report.maps, report.rebuilt) == (["second"], [])
    assert sha256(tmp_path / "dest" / "second" / "map.tif") == sha256(maps / "second" / "map.tif")
    assert delivered(serving, "second")


def test_other_bytes_than_aboard_have_the_whole_fetched(
    serving: Aboard, maps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("products.map_blocks.ZSTANDARD", {})
    report, lines = pull(serving, tmp_path / "dest")
    assert any("other bytes than aboard" in line and "the whole map is fetched" in line for line in lines)
    assert (report.maps, report.rebuilt) == (["second"], [])
    assert sha256(tmp_path / "dest" / "second" / "map.tif") == sha256(maps / "second" / "map.tif")


def test_damaged_changes_on_the_ground_are_fetched_again(
    serving: Aboard, maps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:  # the station is killed when the changes have come
        patch.setattr(Station, "_rebuild", lambda *_: None)
        patch.setattr("ground.station.MOST_PLANS", 1)
        pull(serving, tmp_path / "dest")
    path = tmp_path / "dest" / "second" / "changes.tif"
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    report, lines = pull(serving, tmp_path / "dest")
    assert any("is not what the satellite sent; it is fetched again" in line for line in lines)
    assert (report.rebuilt, report.files) == (["second"], 1)
    assert sha256(tmp_path / "dest" / "second" / "map.tif") == sha256(maps / "second" / "map.tif")


def test_an_earlier_map_that_was_erased_aboard_still_counts_as_the_grounds(serving: Aboard, tmp_path: Path) -> None:
    with serving.ledger() as ledger:
        assert ledger.maps.remove("first")
    shutil.rmtree(serving.data / "maps" / "first")
    assert pull(serving, tmp_path / "dest")[0].rebuilt == ["second"]


def test_a_damaged_earlier_map_on_the_ground_has_the_whole_fetched(serving: Aboard, maps: Path, tmp_path: Path) -> None:
    path = tmp_path / "dest" / "first" / "map.tif"
    path.write_bytes(path.read_bytes() + b"\0")
    report, lines = pull(serving, tmp_path / "dest")
    assert any("is not the map that changes.tif is counted from" in line for line in lines)
    assert (report.maps, report.rebuilt) == (["second"], [])
    assert sha256(tmp_path / "dest" / "second" / "map.tif") == sha256(maps / "second" / "map.tif")


def test_whole_asks_for_no_changes(serving: Aboard, tmp_path: Path) -> None:
    report, _ = pull(serving, tmp_path / "dest", takes_changes=False)
    assert (report.maps, report.rebuilt) == (["second"], [])
    assert not (tmp_path / "dest" / "second" / "changes.tif").exists()


def test_without_the_setting_maps_go_whole(maps: Path, tmp_path: Path) -> None:
    with served(maps, tmp_path, changes_first=False) as service:
        assert planned(service, changes="true") == {"map.tif", "map.json", "quicklook.webp"}


def test_changes_since_a_map_that_the_ground_does_not_have_stand_in_for_nothing(maps: Path, tmp_path: Path) -> None:
    with served(maps, tmp_path, receipt=False) as service:
        assert planned(service, changes="true") == {"map.tif", "map.json", "quicklook.webp"}


def test_changes_longer_than_the_map_stand_in_for_nothing(maps: Path) -> None:
    """As of two dates whose pixels lie half a pixel apart."""
    row = map_row_of(maps / "second")
    assert row is not None
    assert held_of(row, lambda *_: True).since == "first"
    row.assets["changes.tif"]["bytes"] = row.assets["map.tif"]["bytes"]  # type: ignore[index]
    held = held_of(row, lambda *_: True)
    assert held.since == ""
    assert "changes.tif" not in held.files


def test_maps_of_all_heads_are_made_of_their_changes(maps_of_heads: Path, tmp_path: Path) -> None:
    names = {path.name for path in (maps_of_heads / "second").glob("*.tif")}
    assert len(names) == 4
    assert "changes.tif" in names
    with served(maps_of_heads, tmp_path) as service:
        assert pull(service, tmp_path / "dest")[0].rebuilt == ["second"]
        for name in sorted(names):
            assert sha256(tmp_path / "dest" / "second" / name) == sha256(maps_of_heads / "second" / name)


def changes_of_size(path: Path, side: int, before: Path) -> Path:
    """A sparse file of changes that says it belongs to a map: a few kilobytes, whatever its size."""
    with rasterio.open(
        path, "w", "GTiff", side, side, 1, dtype="uint8", tiled=True, SPARSE_OK="TRUE", BIGTIFF="YES", **GRID
    ) as file:
        file.update_tags(BEFORE_SHA256=hashlib.sha256(before.read_bytes()).hexdigest())
    return path


def test_changes_that_would_fill_the_disk_are_refused(
    maps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = maps / "first" / "map.tif"
    changes = changes_of_size(tmp_path / "changes.tif", 12_000, before)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=200_000_000))
    with pytest.raises(ProductRefused, match="12000 x 12000 pixels do not fit"):
        rebuild(before, changes, tmp_path / "map.tif")
    assert [path.name for path in tmp_path.iterdir()] == ["changes.tif"]


def test_an_earlier_file_that_is_no_class_map_is_refused(tmp_path: Path) -> None:
    before = tmp_path / "before.tif"
    with rasterio.open(before, "w", "GTiff", 64, 64, 1, dtype="uint8", **GRID) as file:
        file.write(np.ones((1, 64, 64), np.uint8))
    changes = changes_of_size(tmp_path / "changes.tif", 64, before)
    with pytest.raises(ProductError, match="the map cannot be made of it"):
        rebuild(before, changes, tmp_path / "map.tif")
