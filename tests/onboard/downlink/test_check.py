"""A map's files held against their digests, on a real ledger and folder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from onboard.downlink.check import check_map
from onboard.jobs.ledger import Ledger
from onboard.jobs.map_store import MapRow
from onboard.settings import Settings

FILES = {"map.tif": b"map" * 500, "map.json": b"{}", "quicklook.webp": b"small"}


@dataclass
class Aboard:
    """A published map of three files."""

    settings: Settings
    ledger: Ledger
    folder: Path

    def check(self) -> list[str]:
        row = self.ledger.maps.get("one")
        assert row is not None
        return check_map(self.settings, self.ledger, row)

    def events(self) -> list[tuple[str, str]]:
        return [(event.severity, event.kind) for event in self.ledger.events.page()]


@pytest.fixture
def aboard(tmp_path: Path) -> Iterator[Aboard]:
    settings = Settings(data_dir=tmp_path)
    folder = settings.maps_dir / "one"
    folder.mkdir(parents=True)
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    assets = {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()} for name, content in FILES.items()
    }
    with Ledger(settings.ledger_path) as ledger:
        ledger.maps.adopt(MapRow(id="one", sequence=0, priority="routine", assets=assets, item={}), {})
        yield Aboard(settings, ledger, folder)


def test_a_whole_map_stays(aboard: Aboard) -> None:
    assert aboard.check() == []
    assert aboard.ledger.maps.holds("one")
    assert aboard.events() == []


@pytest.mark.parametrize("name", ["map.tif", "map.json"])
@pytest.mark.parametrize("delivered", [False, True])
def test_without_its_pixels_or_its_item_there_is_no_map(aboard: Aboard, name: str, delivered: bool) -> None:
    if delivered:
        aboard.ledger.maps.record_receipt("one")
    (aboard.folder / name).write_bytes(b"\0" + FILES[name][1:])
    assert aboard.check() == [name]
    assert not aboard.ledger.maps.holds("one")
    assert not aboard.folder.exists()
    assert aboard.events() == [("error", "map-damaged")]


def test_a_map_does_without_its_other_files(aboard: Aboard) -> None:
    (aboard.folder / "quicklook.webp").unlink()
    assert aboard.check() == ["quicklook.webp"]
    row = aboard.ledger.maps.get("one")
    assert row is not None
    assert set(row.assets) == {"map.tif", "map.json"}
    assert (aboard.folder / "map.tif").exists()
    assert aboard.events() == [("warning", "map-damaged")]
    assert aboard.check() == []


def test_what_cannot_be_read_decides_nothing(aboard: Aboard) -> None:
    (aboard.folder / "map.tif").unlink()
    (aboard.folder / "map.tif").mkdir()
    with pytest.raises(IsADirectoryError):
        aboard.check()
    assert aboard.ledger.maps.holds("one")
