"""Maps that wait for the ground are read again, on a real ledger and folder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from onboard.downlink.check import check_map
from onboard.downlink.map_scrub import MapScrub
from onboard.jobs.ledger import Ledger
from onboard.jobs.map_store import MapRow
from onboard.settings import Settings

CONTENT = b"map" * 1000


@dataclass
class Waiting:
    """Three published maps of 3,000 bytes, a scrub of 1,000 bytes a second, and its clock."""

    settings: Settings
    ledger: Ledger
    now: list[float] = field(default_factory=lambda: [0.0])

    def __post_init__(self) -> None:
        self.scrub = MapScrub(self.settings, lambda: self.now[0])
        for name in ("one", "two", "three"):
            folder = self.settings.maps_dir / name
            folder.mkdir(parents=True)
            (folder / "map.tif").write_bytes(CONTENT)
            assets = {"map.tif": {"bytes": len(CONTENT), "sha256": hashlib.sha256(CONTENT).hexdigest()}}
            self.ledger.maps.adopt(MapRow(id=name, sequence=0, priority="routine", assets=assets, item={}), {})

    def damage(self, name: str) -> None:
        (self.settings.maps_dir / name / "map.tif").write_bytes(b"x" + CONTENT[1:])

    def steps(self, count: int, seconds: float) -> list[list[str]]:
        results = []
        for _ in range(count):
            results.append(self.scrub.step(self.ledger))
            self.now[0] += seconds
        return results


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[Waiting]:
    settings = Settings(data_dir=tmp_path, map_scrub_bytes_per_s=1000)
    with Ledger(settings.ledger_path) as ledger:
        yield Waiting(settings, ledger)


def test_a_damaged_map_is_found_without_the_ground(waiting: Waiting) -> None:
    waiting.damage("two")
    waiting.steps(4, 3.0)
    assert not waiting.ledger.maps.holds("two")
    assert waiting.ledger.maps.holds("one")
    assert [event.kind for event in waiting.ledger.events.page()] == ["map-damaged"]


def test_a_map_is_found_that_is_damaged_after_it_was_read(waiting: Waiting) -> None:
    waiting.steps(4, 3.0)
    waiting.damage("one")
    assert ["map.tif"] in waiting.steps(4, 3.0)


def test_no_more_is_read_than_the_rate_allows(waiting: Waiting) -> None:
    for name in ("one", "two", "three"):
        waiting.damage(name)
    assert waiting.steps(5, 0.5) == [["map.tif"], [], [], [], []]
    assert waiting.steps(2, 3.0)[1] == ["map.tif"]


def test_a_delivered_map_is_left_alone_and_a_rate_of_nothing_reads_nothing(tmp_path: Path, waiting: Waiting) -> None:
    waiting.damage("one")
    waiting.ledger.maps.record_receipt("one")
    assert waiting.steps(4, 3.0) == [[], [], [], []]
    waiting.damage("two")
    off = MapScrub(Settings(data_dir=tmp_path, map_scrub_bytes_per_s=0), lambda: waiting.now[0])
    assert [off.step(waiting.ledger) for _ in range(4)] == [[], [], [], []]


def test_what_cannot_be_read_does_not_end_the_scrub(waiting: Waiting) -> None:
    path = waiting.settings.maps_dir / "one" / "map.tif"
    path.unlink()
    path.mkdir()
    waiting.damage("three")
    assert ["map.tif"] in waiting.steps(4, 3.0)
    assert waiting.ledger.maps.holds("one")


def test_a_map_that_was_erased_while_it_was_read_is_no_damage(waiting: Waiting) -> None:
    row = waiting.ledger.maps.get("one")
    assert row is not None
    waiting.ledger.maps.remove("one")
    (waiting.settings.maps_dir / "one" / "map.tif").unlink()
    assert check_map(waiting.settings, waiting.ledger, row) == []
    assert waiting.ledger.events.page() == []
