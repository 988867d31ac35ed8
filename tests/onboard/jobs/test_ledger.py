from __future__ import annotations

import multiprocessing
import sqlite3
from pathlib import Path

import pytest

from onboard.errors import LedgerDamaged
from onboard.jobs.ledger import Ledger
from onboard.jobs.map_store import MapRow
from onboard.jobs.scene_store import SceneRow


def row(ledger: Ledger, sha: str = "a", priority: str = "routine") -> SceneRow:
    number = ledger.next_sequence()
    return SceneRow(
        f"s{number}", number, sha * 64, 10, "a scene", priority, None, "m" * 64, "{}", {"utc": "1970-01-01T00:00:00Z"}
    )


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.sqlite")


def test_the_most_urgent_goes_first_and_the_oldest_of_those(ledger: Ledger) -> None:
    for sha, priority in (("a", "routine"), ("b", "high"), ("c", "urgent"), ("d", "urgent"), ("e", "routine")):
        ledger.scenes.add(row(ledger, sha, priority))
    order = []
    while (waiting := ledger.scenes.next_queued()) is not None:
        order.append(waiting.sha256[0])
        assert ledger.scenes.start(waiting.id)
    assert order == ["c", "d", "b", "a", "e"]


def test_the_same_work_is_one_row_and_other_options_are_another(ledger: Ledger) -> None:
    first = ledger.scenes.add(row(ledger))
    assert ledger.scenes.add(row(ledger)).id == first.id
    other = row(ledger)
    assert ledger.scenes.add(SceneRow(**{**other.__dict__, "options": '{"halo":1}'})).id == other.id
    assert len(ledger.scenes.page()) == 2


def test_states_change_only_along_their_ways(ledger: Ledger) -> None:
    scene = ledger.scenes.add(row(ledger))
    assert not ledger.scenes.requeue(scene.id)
    assert ledger.scenes.start(scene.id)
    assert not ledger.scenes.start(scene.id)
    assert ledger.scenes.retry(scene.id, "urgent") is None
    assert ledger.scenes.cancel(scene.id)
    assert not ledger.scenes.cancel(scene.id)
    assert not ledger.scenes.requeue(scene.id)
    again = ledger.scenes.retry(scene.id, "urgent")
    assert again is not None
    assert (again.state, again.priority, again.problem) == ("queued", "urgent", None)
    assert ledger.scenes.fail(scene.id, "it is empty; send another")
    assert (ledger.scenes.get(scene.id) or again).problem == "it is empty; send another"
    assert ledger.scenes.get("nothing") is None


def test_the_third_death_is_one_too_many(ledger: Ledger) -> None:
    scene = ledger.scenes.add(row(ledger))
    assert [ledger.scenes.record_crash(scene.id, 3) for _ in range(3)] == [False, False, True]
    found = ledger.scenes.get(scene.id)
    assert found is not None
    assert (found.state, found.crashes) == ("quarantined", 3)
    assert "crashed on it 3 times" in (found.problem or "")
    again = ledger.scenes.retry(scene.id, "routine")
    assert again is not None
    assert again.crashes == 0


def test_a_map_and_its_scene_change_together_and_a_cancelled_one_stays_cancelled(ledger: Ledger) -> None:
    scenes = [ledger.scenes.add(row(ledger, sha)) for sha in "ab"]
    ledger.scenes.cancel(scenes[1].id)
    for scene in scenes:
        ledger.maps.adopt(
            MapRow(scene.id, 0, "high", {"map.tif": {"bytes": 1, "sha256": "x"}}, {"id": 1}), {"tiles": 4}
        )
    assert [ledger.scenes.state_of(scene.id) for scene in scenes] == ["mapped", "cancelled"]
    assert (ledger.scenes.get(scenes[0].id) or scenes[0]).figures == {"tiles": 4}
    assert ledger.maps.record_receipt(scenes[0].id)
    assert not ledger.maps.record_receipt(scenes[0].id)
    assert [found.id for found in ledger.maps.page(undelivered=True)] == [scenes[1].id]
    assert ledger.maps.remove(scenes[0].id)
    assert ledger.maps.get(scenes[0].id) is None


def test_events_are_read_from_where_one_was(ledger: Ledger) -> None:
    numbers = [ledger.events.log("info", "test", f"event {n}") for n in range(5)]
    assert numbers == sorted(set(numbers))
    assert [event.text for event in ledger.events.page(after=numbers[2])] == ["event 3", "event 4"]
    assert ledger.events.page()[0].at["boot_id"]


def _count(path: Path, times: int) -> list[int]:
    with Ledger(path) as ledger:
        return [ledger.next_sequence() for _ in range(times)]


def test_numbers_given_to_several_processes_are_all_different(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        told = pool.starmap(_count, [(path, 50)] * 3)
    assert sorted(number for part in told for number in part) == list(range(1, 151))
    assert all(part == sorted(part) for part in told)


def test_what_was_committed_is_durable(ledger: Ledger) -> None:
    with sqlite3.connect(ledger.path) as base:
        assert base.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert ledger._database.connection.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"SQLite format 3\0" + bytes(5000)])
def test_what_is_no_ledger_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ledger.sqlite").write_bytes(content)
    with pytest.raises(LedgerDamaged, match="sets it aside"):
        Ledger(tmp_path / "ledger.sqlite").check()


def test_a_ledger_of_a_later_version_is_refused(ledger: Ledger) -> None:
    ledger.close()
    with sqlite3.connect(ledger.path) as base:
        base.execute("PRAGMA user_version=7")
    base.close()
    with pytest.raises(LedgerDamaged, match="version 7"):
        Ledger(ledger.path)


EARLIER = {1: "", 2: ", pixels INTEGER NOT NULL DEFAULT 0, waiting_reason TEXT"}


@pytest.mark.parametrize("version", EARLIER)
def test_a_ledger_of_an_earlier_version_is_opened_with_what_it_holds(tmp_path: Path, version: int) -> None:
    """Its tables as they flew, word for word: not as the program of today writes them."""
    path = tmp_path / "ledger.sqlite"
    with sqlite3.connect(path) as file:
        file.executescript(f"""
            CREATE TABLE counter (only INTEGER PRIMARY KEY CHECK (only = 1), value INTEGER NOT NULL);
            INSERT INTO counter VALUES (1, 9);
            CREATE TABLE scenes (
                id TEXT PRIMARY KEY, sequence INTEGER NOT NULL UNIQUE, key TEXT NOT NULL UNIQUE,
                sha256 TEXT NOT NULL, bytes INTEGER NOT NULL, name TEXT NOT NULL, priority INTEGER NOT NULL,
                acquired TEXT, model TEXT NOT NULL, options TEXT NOT NULL, received TEXT NOT NULL,
                state TEXT NOT NULL, changed INTEGER NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,
                deaths INTEGER NOT NULL DEFAULT 0, problem TEXT,
                figures TEXT NOT NULL DEFAULT '{{}}'{EARLIER[version]});
            CREATE INDEX waiting ON scenes (state, priority, sequence);
            CREATE TABLE maps (
                id TEXT PRIMARY KEY, sequence INTEGER NOT NULL UNIQUE, priority INTEGER NOT NULL,
                assets TEXT NOT NULL, item TEXT NOT NULL, delivered INTEGER);
            CREATE TABLE events (
                sequence INTEGER PRIMARY KEY, severity TEXT NOT NULL, kind TEXT NOT NULL, about TEXT,
                text TEXT NOT NULL, at TEXT NOT NULL);
            CREATE TABLE acknowledged (only INTEGER PRIMARY KEY CHECK (only = 1), value INTEGER NOT NULL);
            INSERT INTO acknowledged VALUES (1, 4);
            INSERT INTO scenes (id, sequence, key, sha256, bytes, name, priority, model, options, received, state,
                changed, attempts, deaths)
            VALUES ('s1', 1, 'k', '{"a" * 64}', 10, 'old', 1, 'm', '{{}}', '{{}}', 'queued', 2, 3, 2);
            PRAGMA user_version = {version};
        """)
        if version == 2:
            file.execute("UPDATE scenes SET pixels = 4096")
    file.close()
    with Ledger(path) as ledger:
        kept = ledger.scenes.get("s1")
        assert kept is not None
        assert (kept.name, kept.priority, kept.attempts, kept.crashes, kept.pixels) == ("old", "high", 3, 2, 0)
        assert (ledger.reached(), ledger.events.acknowledged()) == (9, 4)
        assert ledger.scenes.start("s1")


def test_the_newest_maps_are_found_behind_any_number_of_events(ledger: Ledger) -> None:
    for number in range(9):
        ledger.maps.adopt(MapRow(f"m{number}", 0, "routine", {}, {}), {})
    for _ in range(230):
        ledger.events.write("info", "kind", "text")
    assert [row.id for row in ledger.maps.newest(3)] == ["m8", "m7", "m6"]


def test_another_model_has_a_scene_looked_at_again(ledger: Ledger) -> None:
    """It may be enlarged otherwise."""
    scene = ledger.scenes.add(row(ledger))
    ledger.scenes.set_pixels(scene.id, 100)
    assert ledger.scenes.retarget(scene.id, "n" * 64, "{}")
    changed = ledger.scenes.get(scene.id)
    assert changed is not None
    assert changed.pixels == 0
